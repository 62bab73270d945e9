//! What travels: a job, and the right to work on it.

use std::fmt;

/// Names a job; stable over all its generations.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One attempt of one piece of work. The queue never looks into `body`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// The queue that it waits in.
    pub queue: String,
    /// Grows with each attempt: a job id is accepted again only with a higher generation, or when
    /// the queue no longer knows it.
    pub generation: u64,
    /// What its worker reads.
    pub body: String,
}

/// What became of a pushed job. Each is a result, none an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits at the end of its queue.
    Queued,
    /// This generation, or a later one, is already waiting or being worked on.
    Duplicate,
    /// The queue holds as many jobs as it may; push again later.
    Full,
}

/// The right to work on a job until the lease expires. `token` is the fence: each lease has its own.
#[must_use = "a lease that is neither acknowledged nor released blocks its job until it expires"]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The job that is held.
    pub job: Job,
    /// Who holds it.
    pub worker: String,
    /// Told apart from every other lease of the job.
    pub token: String,
}

/// What became of a lease's holder's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was done.
    Done,
    /// The lease had expired, or the job was taken away: the request changed nothing.
    Lost,
}
