//! What has just happened, told to whoever watches: a progress display, a test.

use std::time::Duration;

use crate::{
    id::{Epoch, ExecutionId},
    interpreter::NewCall,
    model::{Failure, LogLine, Outcome},
    store::calls::AttemptOf,
};

/// Told after each step, once it is durable. Called on the thread that took the step, so it
/// should return soon.
pub trait Observer: Send + Sync + 'static {
    /// A step has been taken.
    fn observe(&self, event: &Event<'_>);
}

/// Nobody watches.
impl Observer for () {
    fn observe(&self, _: &Event<'_>) {}
}

/// A step that has been taken, in the order of the line.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The execution is inserted.
    Started(&'a ExecutionId),
    /// Somebody won the right to advance it.
    Claimed(&'a ExecutionId, Epoch),
    /// The interpreter ran to its next pause or end; nothing of that is saved yet.
    Advanced(&'a ExecutionId),
    /// Snapshot and new calls are saved.
    Paused {
        /// Whose.
        execution: &'a ExecutionId,
        /// The calls that it now waits for in addition.
        new_calls: &'a [NewCall],
        /// What its state takes in the database.
        snapshot_bytes: usize,
        /// What the workflow wrote in this turn.
        log: &'a [LogLine],
    },
    /// Jobs are in the queue.
    Dispatched(&'a ExecutionId),
    /// A worker starts the function.
    Began(&'a AttemptOf),
    /// The function has returned or raised; that is not recorded yet.
    Ran(&'a AttemptOf),
    /// The call's outcome is recorded.
    Settled {
        /// Which call, and the attempt that settled it.
        of: &'a AttemptOf,
        /// How it ended.
        outcome: &'a Outcome,
        /// What the function wrote.
        log: &'a [LogLine],
    },
    /// An attempt failed and another will be made.
    Retrying {
        /// The attempt that failed.
        of: &'a AttemptOf,
        /// Why.
        failure: &'a Failure,
        /// How long until the next.
        wait: Duration,
    },
    /// The execution begins anew, without its past.
    Again {
        /// Which.
        execution: &'a ExecutionId,
        /// What the workflow wrote in the last turn of that past.
        log: &'a [LogLine],
    },
    /// Its code was replaced, and its state is that of the new code.
    Mended(&'a ExecutionId),
    /// The execution has ended.
    Finished {
        /// Which.
        execution: &'a ExecutionId,
        /// Why it failed, if it did.
        failure: Option<&'a Failure>,
        /// What the workflow wrote in its last turn.
        log: &'a [LogLine],
    },
}
