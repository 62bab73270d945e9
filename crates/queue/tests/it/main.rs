//! The conformance suite, over every implementation, and what only Redis can do wrong.

mod redis;

use durable_queue::{MemoryQueue, conformance};

#[tokio::test]
async fn memory_queue_conforms() {
    conformance::run(|lease, capacity| async move { MemoryQueue::new(lease, capacity) }).await;
}
