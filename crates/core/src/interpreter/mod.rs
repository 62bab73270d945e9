//! The adapter to Monty, the interpreter: the only place that names it.
//!
//! [`advance`] is a pure function: from a state and outcomes to the next [`Step`]. It reads no
//! clock, no database, no environment, so it can run anywhere, and again.

mod advice;
mod calendar;
mod exception;
mod program;
mod snapshot;
mod turn;
pub mod value;
mod waits;

pub use program::{CompileError, Entry, InputError, Parameter, ParameterKind, Program};
pub use snapshot::{Snapshot, SnapshotError, format as snapshot_format};
pub use turn::{Origin, Turn, advance};

use std::time::Duration;

use crate::{
    id::CallId,
    model::{CallKind, Failure, Json, Stream, Wake},
};

/// What a workflow may use up before its execution fails.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time that the interpreter may run between two pauses.
    pub turn: Duration,
    /// Memory that it may hold, in bytes. Kept only where `monty_alloc::LimitedAllocator` is the
    /// global allocator; one budget for all turns that run at the same time in a process.
    pub memory: usize,
    /// What a turn may print before the rest is dropped, in bytes.
    pub log: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { turn: Duration::from_secs(5), memory: 1 << 30, log: 1 << 20 }
    }
}

/// What a turn of a workflow led to.
#[derive(Debug)]
pub struct Step {
    /// What it printed.
    pub log: Vec<(Stream, String)>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCall {
    /// Its number.
    pub id: CallId,
    /// What is awaited.
    pub kind: CallKind,
    /// The function's name as the workflow wrote it; for a timer, the sleep in words.
    pub function: String,
    /// A JSON array.
    pub args: Json,
    /// A JSON object.
    pub kwargs: Json,
    /// The line of the workflow on which it was made.
    pub line: Option<u32>,
    /// Whether its outcome lets the workflow go on.
    pub wake: Wake,
    /// A timer's length.
    pub delay: Option<Duration>,
}

/// Why a turn could not be taken. The execution is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvanceError {
    /// The state was refused.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The interpreter failed in itself.
    #[error("the interpreter crashed: {0}")]
    Crashed(String),
}

/// Whether an exception that ended a workflow is this failure of a function, passed on: then the
/// function's traceback belongs below the workflow's.
pub fn is_same_failure(error: &Failure, failure: &Failure) -> bool {
    exception::is_same(error, failure)
}
