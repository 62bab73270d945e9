//! The adapter to Monty, the interpreter: the only place that names it.
//!
//! [`advance`] is a pure function: from a state and outcomes to the next [`Step`]. It reads no
//! clock, no database, no environment, so it can run anywhere, and again.

mod advice;
mod allowance;
mod calendar;
pub mod children;
mod compile_error;
mod control;
mod entry;
mod exception;
mod folds;
mod handlers;
mod ids;
mod imports;
mod incoming;
mod layout;
mod limits;
mod lint;
mod own;
mod plainly;
mod prelude;
mod program;
mod quiescent;
mod reach;
mod refs;
mod refusal;
mod snapshot;
mod thread;
mod traceback;
mod tries;
mod turn;
pub mod value;
mod waits;

pub use allowance::Allowance;
pub use compile_error::CompileError;
pub use control::{Control, StopReason};
pub use entry::{Entry, InputError, Parameter, ParameterKind, split_name};
pub(crate) use limits::never_stopped;
pub use program::{Known, Program, check, forbidden};
pub use snapshot::{Snapshot, SnapshotError, format as snapshot_format};
pub use thread::{STACK, begin};
pub(crate) use turn::in_words;
pub use turn::{Origin, Turn, advance, advance_here, take_again};

use std::time::Duration;

use crate::{
    id::{CallId, ExecutionId},
    model::{CallKind, Failure, Json, Stream, Wake, bounded},
    options::CallOptions,
};

/// What a workflow may use up before its execution fails.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Processor time that it may use between two pauses.
    pub turn: Duration,
    /// Memory that it may hold, in bytes. Kept only where [`TurnAllocator`](durable_memory::TurnAllocator) is the
    /// global allocator.
    pub memory: usize,
    /// What a turn may print before the rest is dropped, in bytes.
    pub log: usize,
    /// What it may ask for.
    pub allowance: Allowance,
}

impl Default for Limits {
    fn default() -> Self {
        Self { turn: Duration::from_secs(5), memory: 1 << 30, log: 1 << 20, allowance: Allowance::default() }
    }
}

/// What a turn of a workflow led to.
#[derive(Debug)]
pub struct Step {
    /// What it printed.
    pub log: Vec<(Stream, String)>,
    /// What it last said of itself in this turn.
    pub progress: Option<Json>,
    /// Calls that it gave up: nobody waits for them any more, and what they were given is not taken.
    pub withdrawn: Vec<CallId>,
    /// Signals that are in and that nobody has awaited yet: it was not told of them.
    pub unread: Vec<CallId>,
    /// How it ended.
    pub end: End,
}

/// How a turn ended.
#[derive(Debug)]
pub enum End {
    /// It waits for calls.
    Pause(Pause),
    /// It returned.
    Finish {
        /// What it returned.
        output: Json,
        /// Calls that it made in this turn and never awaited.
        abandoned: Vec<NewCall>,
    },
    /// It raised, or broke a limit.
    Fail {
        /// The exception.
        failure: Failure,
        /// Calls that it made in this turn and did not come to await.
        abandoned: Vec<NewCall>,
    },
    /// It wants to begin anew, with these inputs and without its past.
    Again {
        /// A JSON object.
        inputs: Json,
        /// The id of the new life's first call.
        first_call: u32,
    },
}

/// A workflow that waits.
#[derive(Debug)]
pub struct Pause {
    /// The state, sealed.
    pub snapshot: Snapshot,
    /// The first state of the execution, present at its first pause only.
    pub base: Option<Snapshot>,
    /// Calls that it made, in order.
    pub new_calls: Vec<NewCall>,
    /// Calls of earlier turns whose wake rule is now another.
    pub rewoken: Vec<(CallId, Wake)>,
    /// Whether calls of earlier turns are still unsettled: their outcomes may have come in meanwhile.
    pub waits_for_earlier: bool,
    /// Whether any wake rule spans several calls.
    pub has_groups: bool,
}

/// A call that a turn made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewCall {
    /// Its number.
    pub id: CallId,
    /// What is awaited.
    pub kind: CallKind,
    /// The name of the function as the workflow wrote it, of the signal, of the child's workflow; in words otherwise.
    pub function: String,
    /// A JSON array.
    pub args: Json,
    /// A JSON object.
    pub kwargs: Json,
    /// The line of the workflow on which it was made.
    pub line: Option<u32>,
    /// Whether its outcome lets the workflow go on.
    pub wake: Wake,
    /// A timer's length; for a signal or callback, how long it is waited for.
    pub delay: Option<Duration>,
    /// Where its function is queued, if not where the execution's are.
    pub queue: Option<String>,
    /// What was asked for this call alone.
    pub options: CallOptions,
    /// The right to complete a callback.
    pub token: Option<String>,
    /// The execution that a child call starts.
    pub child: Option<NewChild>,
    /// Nobody waits for it: it is cancelled from the start.
    pub abandoned: bool,
}

impl NewCall {
    pub(crate) fn new(id: CallId, kind: CallKind, function: &str, line: Option<u32>) -> Self {
        Self {
            id,
            kind,
            function: function.to_owned(),
            args: Json("[]".into()),
            kwargs: Json("{}".into()),
            line,
            wake: Wake::Alone,
            delay: None,
            queue: None,
            options: CallOptions::default(),
            token: None,
            child: None,
            abandoned: false,
        }
    }

    /// The same with arguments as people look at them: for a call that nobody will ever run.
    #[must_use]
    pub(crate) fn in_short(mut self) -> Self {
        const MOST: usize = 4 << 10;
        if self.args.0.len() > MOST {
            self.args = Json::from(&serde_json::json!([bounded(self.args.0, MOST)]));
        }
        if self.kwargs.0.len() > MOST {
            self.kwargs = Json::from(&serde_json::json!({ "…": bounded(self.kwargs.0, MOST) }));
        }
        self
    }
}

/// An execution that a workflow starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewChild {
    /// Its id, if the workflow chose one.
    pub id: Option<ExecutionId>,
    /// The text of its workflow, if it has one of its own.
    pub source: Option<String>,
    /// It runs the code of its parent, from a function that the call's name says.
    pub own: bool,
    /// A JSON object.
    pub inputs: Json,
    /// Nobody waits for it, and it outlives its parent.
    pub detached: bool,
    /// How long it may take.
    pub deadline: Option<Duration>,
}

/// Why a turn could not be taken. The execution is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvanceError {
    /// The state was refused.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The workflow does not do again what it did.
    #[error("its state could not be rebuilt from its record: {0}. Nothing was changed")]
    Diverged(String),
    /// The interpreter failed in itself.
    #[error("the interpreter crashed: {0}")]
    Crashed(String),
    /// The machine lacks what it takes: it can be taken later.
    #[error("{0}")]
    Passing(String),
    /// Beside other turns it cannot be told whether it held too much memory: it has to be looked at exactly.
    #[error("it held much memory beside others that did")]
    Crowded,
    /// It was told to stop, because nobody wants what it comes to.
    #[error("it was told to stop")]
    Unwanted,
}

/// The last line of the traceback of a function's failure, as a workflow raises it.
pub fn as_raised(failure: &Failure) -> String {
    exception::raise(failure).summary()
}

/// Whether an exception that ended a workflow is this failure of a function, passed on: then the
/// function's traceback belongs below the workflow's.
pub fn is_same_failure(error: &Failure, failure: &Failure) -> bool {
    exception::is_same(error, failure)
}
