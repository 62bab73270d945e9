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
mod redis;

pub use job::{Bell, Enqueued, Fate, ForeignFailure, ForeignResult, Job, JobId, Lease, Presence, Swept, Way};
pub use memory::MemoryQueue;
pub use redis::{ForeignQueue, InvalidRedisSettings, RedisQueue, RedisSettings, Serializer, check_queue, shown_url};

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast;

/// Why a queue could not do what it was asked. Nothing was half-done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The queue could not be reached, or refused; the same request may succeed later.
    #[error("the job queue is unavailable: {0}")]
    Unavailable(String),
}

/// A job queue with leases.
///
/// * A job is handed to one holder at a time, at least once; the holder's right is a [`Lease`].
/// * A lease that is not renewed by [`beat`](Queue::beat) expires, and [`sweep`](Queue::sweep) puts
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

    /// Ends a lease.
    async fn end(&self, lease: &Lease, way: Way) -> Result<Fate, QueueError>;

    /// Does what time asks for: jobs whose leases have expired are first in line again.
    async fn sweep(&self) -> Result<Swept, QueueError>;

    /// Removes a job that nobody holds; answers whether it was waiting.
    async fn cancel(&self, queue: &str, id: &JobId) -> Result<bool, QueueError>;

    /// How many jobs wait in a queue, those under lease not counted.
    async fn depth(&self, queue: &str) -> Result<usize, QueueError>;

    /// How many jobs may wait in a queue.
    fn capacity(&self) -> usize;

    /// Shows a worker for a while; to be repeated with its heartbeat.
    async fn show(&self, worker: &Presence) -> Result<(), QueueError>;

    /// The worker has ended.
    async fn leave(&self, worker: &Presence) -> Result<(), QueueError>;

    /// Tells the other processes. May be lost.
    async fn ring(&self, bell: Bell) -> Result<(), QueueError>;

    /// The bells that ring from now on, those of this process too.
    fn bells(&self) -> broadcast::Receiver<Bell>;

    /// The queues that workers serve which are not ours. Their jobs carry all of their arguments, and
    /// their results come through [`foreign_result`](Queue::foreign_result).
    fn foreign(&self) -> &[String];

    /// Whether a function may be called in a queue. Whoever serves a foreign one runs what a job names, without asking
    /// whether that was ever meant to be called.
    fn takes(&self, queue: &str, function: &str) -> bool {
        let _ = function;
        !self.foreign().iter().any(|foreign| foreign == queue)
    }

    /// Where jobs arrive that tell of a foreign worker's result.
    fn results_queue(&self) -> &'static str {
        "durable-resume"
    }

    /// The result that a job of the results queue tells of; none when it is gone.
    async fn foreign_result(&self, lease: &Lease) -> Result<Option<ForeignResult>, QueueError>;

    /// The same queue through connections of their own, for a thread that must not wait for others.
    fn apart(&self) -> Arc<dyn Queue>;
}
