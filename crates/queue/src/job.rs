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

/// One attempt of one piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// The queue that it waits in.
    pub queue: String,
    /// Grows with each attempt: a job id is accepted again only with a higher generation, or when
    /// the queue no longer has it.
    pub generation: u64,
    /// What its worker reads: RQ's form of a call as JSON text,
    /// `["module.function", null, [arguments], {keyword arguments}]`.
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
    /// How often this generation has been handed out: more than once when a lease expired, so that
    /// an earlier holder may have done the work.
    pub deliveries: u64,
}

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The job is done with, whatever its outcome was.
    Done,
    /// Given back unrun, to the front of its queue; the delivery does not count.
    Front,
    /// Given back unrun, behind all others: somebody else may be able to run it.
    Back,
    /// Nobody can run it; kept for a day where people look for failed jobs.
    Refused,
}

/// What became of a lease's holder's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was done.
    Done,
    /// The lease had expired, or the job was taken away: the request changed nothing.
    Lost,
}

/// What a look at the time led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Jobs whose leases had expired and that are first in line again.
    pub put_back: usize,
    /// Jobs whose leases expired once too often, given up.
    pub given_up: usize,
    /// The queue has lost everything since the last look of any process: what is pending has to be
    /// pushed again.
    pub lost_everything: bool,
}

/// A worker as those see it who look at the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Its name, unlike any other.
    pub name: String,
    /// What it serves.
    pub queues: Vec<String>,
    /// The machine that it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Whether it runs a job.
    pub busy: bool,
}

/// Something that other processes would find out later by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bell {
    /// Something becomes due sooner than a clock may know.
    Sooner,
    /// Whatever is named so has ended.
    Ended(String),
    /// Some of the work for whatever is named so is not wanted any more.
    Cancelled(String),
}

/// What a worker that is not ours made of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignResult {
    /// The job.
    pub id: JobId,
    /// Which generation of it.
    pub generation: u64,
    /// Its result as JSON text, or why there is none.
    pub result: Result<String, ForeignFailure>,
}

/// Why a foreign worker's job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFailure {
    /// The exception's type.
    pub kind: String,
    /// Its text.
    pub message: String,
    /// The traceback, where there is one.
    pub traceback: Option<String>,
    /// Whether another attempt may help; not when somebody stopped the job.
    pub retryable: bool,
}
