//! The memory queue keeps every promise of [`Queue`](durable_queue::Queue).

use durable_queue::{MemoryQueue, conformance};

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_queue_conforms() {
    conformance::run(async |lease, capacity| MemoryQueue::new(lease, capacity)).await;
}
