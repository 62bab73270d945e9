//! The job protocol: how one attempt of one call travels from whoever dispatches it to whichever
//! worker runs it.
//!
//! A queue is a conveyor belt and a doorbell, never the truth: losing everything in it makes work
//! late, not lost, because the dispatcher pushes again. What a queue does promise is in [`Queue`],
//! and [`conformance`] tests it for every implementation.

#[cfg(feature = "conformance")]
pub mod conformance;
mod job;
mod memory;

pub use job::{Enqueued, Fate, Job, JobId, Lease};
pub use memory::MemoryQueue;

use std::time::Duration;

/// Why a queue could not do what it was asked. Nothing was half-done.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue could not be reached; the same request may succeed later.
    #[error("the job queue is unavailable: {0}")]
    Unavailable(String),
}

/// A job queue with leases.
///
/// * A job is handed to one holder at a time, at least once; the holder's right is a [`Lease`].
/// * A lease that is not renewed by [`beat`](Queue::beat) expires, and [`reap`](Queue::reap) puts
///   its job back at the front. Whatever the old holder does afterwards is answered [`Fate::Lost`].
/// * A job id is present at most once per generation: pushing it again is answered
///   [`Enqueued::Duplicate`], so that dispatching twice is safe.
/// * Queues are served in the order in which they are named to [`pop`](Queue::pop).
#[async_trait::async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Puts jobs at the end of their queues; answers one [`Enqueued`] per job, in order.
    async fn enqueue(&self, jobs: Vec<Job>) -> Result<Vec<Enqueued>, QueueError>;

    /// Takes up to `max` jobs under leases held by `worker`, waiting up to `wait` for the first.
    /// An empty answer means that nothing came in that time.
    async fn pop(&self, queues: &[String], worker: &str, max: usize, wait: Duration) -> Result<Vec<Lease>, QueueError>;

    /// Renews leases; answers those that are no longer held, whose work should be dropped.
    async fn beat(&self, leases: &[Lease]) -> Result<Vec<Lease>, QueueError>;

    /// The job is done with, whatever its outcome was.
    async fn ack(&self, lease: &Lease) -> Result<Fate, QueueError>;

    /// Gives the job back unrun, to the front of its queue.
    async fn release(&self, lease: &Lease) -> Result<Fate, QueueError>;

    /// Puts jobs whose leases have expired back at the front; answers how many.
    async fn reap(&self) -> Result<usize, QueueError>;

    /// Removes a job that nobody holds; answers whether it was waiting.
    async fn cancel(&self, queue: &str, id: &JobId) -> Result<bool, QueueError>;

    /// How many jobs wait in a queue, those under lease not counted.
    async fn depth(&self, queue: &str) -> Result<usize, QueueError>;
}
