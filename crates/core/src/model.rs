//! What there is: executions, calls, outcomes. The words are those of ARCHITECTURE.md.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    allow::Allow,
    id::{CallId, Epoch, ExecutionId, WorkerId},
    interpreter::value,
    quota::Used,
    time::Timestamp,
};

/// Declares an enum whose variants have one text form, the same in JSON, in the database and on
/// the screen.
macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// Every variant, in the order of its life.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The text form.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(UnknownName { what: stringify!($name), seen: text.to_owned() }),
                }
            }
        }
    };
}

/// A text that names none of an enum's variants.
#[derive(Debug, thiserror::Error)]
#[error("{seen:?} is no {what}")]
pub struct UnknownName {
    what: &'static str,
    seen: String,
}

text_enum! {
    /// Where an execution is in its life. Who moves it on is said in [`crate::state`].
    ExecutionStatus {
        /// Inserted, not yet claimed for the first time.
        Scheduled = "scheduled",
        /// Claimed: somebody is advancing it.
        Running = "running",
        /// Paused at an `await` until outcomes are in.
        Waiting = "waiting",
        /// Kept from going on until somebody lets it.
        Paused = "paused",
        /// Ended with an output.
        Completed = "completed",
        /// Ended with an uncaught exception.
        Failed = "failed",
        /// Ended because somebody cancelled it.
        Cancelled = "cancelled",
    }
}

impl ExecutionStatus {
    /// No more changes will come.
    pub fn is_final(self) -> bool {
        match self {
            Self::Scheduled | Self::Running | Self::Waiting | Self::Paused => false,
            Self::Completed | Self::Failed | Self::Cancelled => true,
        }
    }
}

text_enum! {
    /// Where a call is in its life.
    CallStatus {
        /// Waiting for a worker, for its retry, for its instant, or for somebody outside.
        Pending = "pending",
        /// A worker runs its function.
        Running = "running",
        /// Its result is recorded.
        Completed = "completed",
        /// Its last attempt failed.
        Failed = "failed",
        /// Its execution was cancelled, ended before it did, or gave it up.
        Cancelled = "cancelled",
    }
}

impl CallStatus {
    /// The outcome is recorded; nothing changes it any more.
    pub fn is_settled(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Completed | Self::Failed | Self::Cancelled => true,
        }
    }
}

text_enum! {
    /// What a workflow can wait for.
    CallKind {
        /// A function that a worker runs.
        Function = "function",
        /// An instant.
        Timer = "timer",
        /// Something that is sent to the execution.
        Signal = "signal",
        /// Whoever has its token.
        Callback = "callback",
        /// Another execution.
        Child = "child",
        /// That another execution has a signal of its.
        Send = "send",
        /// That functions whose calls were cancelled run no more.
        Drain = "drain",
    }
}

/// Whether a settled call wakes its execution. Chosen anew at each pause, from what each task of
/// the workflow waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wake {
    /// Some task waits for this call alone: any outcome wakes.
    Alone,
    /// A task waits for a whole gather of plain calls. The last of the group wakes, and so does the
    /// first that fails. The number is one more than the call id of the gather's first call.
    Group(i64),
    /// No outcome of this call alone lets a task go on, except perhaps a failure: it belongs to a
    /// gather that also waits for a coroutine, or nobody awaits it (yet).
    OnFailure,
}

impl Wake {
    /// The form of the database column: null, the group's number, or 0.
    pub(crate) fn to_column(self) -> Option<i64> {
        match self {
            Self::Alone => None,
            Self::Group(number) => Some(number),
            Self::OnFailure => Some(0),
        }
    }

    pub(crate) fn from_column(column: Option<i64>) -> Self {
        match column {
            None => Self::Alone,
            Some(0) => Self::OnFailure,
            Some(number) => Self::Group(number),
        }
    }
}

/// One run of a workflow, as shown to people and programs. Inputs and snapshot are apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execution {
    /// Its id.
    pub id: ExecutionId,
    /// The workflow's file name, as it stands in tracebacks.
    pub workflow: String,
    /// Identifies the workflow's text.
    pub source_hash: String,
    /// Where its function calls are queued.
    pub queue: String,
    /// Where it is in its life.
    pub status: ExecutionStatus,
    /// How often it has paused.
    pub suspension: i64,
    /// How often it was claimed; the fence of every write.
    pub epoch: Epoch,
    /// Who advances it now.
    pub claimed_by: Option<WorkerId>,
    /// The process that runs it with a queue of its own in memory; none when workers serve it.
    pub runner: Option<WorkerId>,
    /// When the clock looks at it: claim expired, start overdue, groups to be looked at again.
    pub due_at: Option<Timestamp>,
    /// The output in the JSON form of [`crate::interpreter::value`].
    pub output: Option<Json>,
    /// Why it failed or was cancelled.
    pub error: Option<Failure>,
    /// What its workflow last said of itself.
    pub progress: Option<Json>,
    /// Somebody paused it.
    pub held: bool,
    /// When somebody asked for its cancellation.
    pub cancel_requested_at: Option<Timestamp>,
    /// Its workflow has seen that request.
    #[serde(skip)]
    pub cancel_told: bool,
    /// When it is cancelled if it has not ended.
    pub deadline_at: Option<Timestamp>,
    /// The call that waits for it.
    pub parent: Option<Parent>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was first, or last, begun.
    pub started_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What it has used of its limits.
    #[serde(skip)]
    pub used: Used,
    /// How many parents are above it.
    #[serde(skip)]
    pub depth: u64,
    /// The execution at the top of its tree, unless it is that itself.
    #[serde(skip)]
    pub root: Option<ExecutionId>,
}

impl Execution {
    /// The execution at the top of its tree.
    pub fn top(&self) -> &ExecutionId {
        self.root.as_ref().unwrap_or(&self.id)
    }
}

/// The call that waits for a child execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Whose call it is.
    pub execution_id: ExecutionId,
    /// The call.
    pub call_id: CallId,
}

/// One thing that a workflow awaits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Whose call it is.
    pub execution_id: ExecutionId,
    /// Its id.
    pub id: CallId,
    /// The suspension at which it became pending.
    pub resume_group: i64,
    /// What is awaited.
    pub kind: CallKind,
    /// The name of the function, the signal or the child's workflow; in words for the others.
    pub function: String,
    /// Where it is queued.
    pub queue: String,
    /// The line of the workflow on which it was made.
    pub line: Option<u32>,
    /// Where it is in its life.
    pub status: CallStatus,
    /// The number of the present or last attempt, from 1.
    pub attempt: i64,
    /// The process that runs, or ran, its function.
    pub worker: Option<WorkerId>,
    /// What it returned.
    pub result: Option<Json>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// The claim that handed the outcome to the workflow.
    pub delivered_in: Option<Epoch>,
    /// When the clock acts on it: the timer fires, the retry starts, the job is pushed again, the
    /// silent worker is given up.
    pub due_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was first, or last, begun.
    pub started_at: Option<Timestamp>,
    /// When its outcome was recorded.
    pub completed_at: Option<Timestamp>,
    /// What was asked for this call alone.
    pub options: Option<Json>,
    /// When it fails if it has no outcome, whatever attempts are left; a timer's instant.
    pub deadline_at: Option<Timestamp>,
    /// When no attempt of it could run any more, if it was cancelled; none while one may.
    pub ended_at: Option<Timestamp>,
    /// What its function last said of itself.
    pub progress: Option<Json>,
}

/// Text that is valid JSON, kept as it came: large integers and key order survive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Json(pub String);

impl Json {
    /// The parsed form.
    pub fn parse(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}

impl From<&serde_json::Value> for Json {
    fn from(value: &serde_json::Value) -> Self {
        Self(value.to_string())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(|value| Self::from(&value))
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.parse().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

/// Why a call or an execution failed: a Python exception as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exception's type name, with its module unless it is builtin: `ValueError`, `tasks.Refused`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The exception's text.
    pub message: String,
    /// The traceback, as Python prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// The builtin types that it inherits from, nearest first, where the type is not builtin itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<String>,
}

/// Longest message of a failure, in bytes; of a longer one the first and the last part are kept.
pub const MAX_MESSAGE: usize = 16 << 10;

/// Longest name of an exception's type, in bytes.
const MAX_KIND: usize = 1 << 10;

/// Longest traceback of a failure, in bytes; of a longer one the first and the last part are kept.
pub const MAX_TRACEBACK: usize = 64 << 10;

/// A text of at most `most` bytes: of a longer one its first and its last part, with a line between them that says how
/// much was cut.
pub(crate) fn bounded(text: String, most: usize) -> String {
    /// What that line may take.
    const NOTE: usize = 64;
    if text.len() <= most {
        return text;
    }
    let half = most.saturating_sub(NOTE) / 2;
    let (head, tail) = (text.floor_char_boundary(half), text.ceil_char_boundary(text.len() - half));
    format!("{}\n[… {} bytes were cut here …]\n{}", &text[..head], tail - head, &text[tail..])
}

impl Failure {
    /// The same with texts of bounded length: what is recorded, shown, and handed to a workflow.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.message = bounded(self.message, MAX_MESSAGE);
        self.traceback = self.traceback.map(|traceback| bounded(traceback, MAX_TRACEBACK));
        self.kind = bounded(self.kind, MAX_KIND);
        self
    }

    /// Type and message for a line among others, of at most 1 KiB.
    pub fn in_short(&self) -> String {
        bounded(self.to_string(), 1 << 10)
    }

    /// A failure without a traceback.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), traceback: None, bases: Vec::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { f.write_str(&self.kind) } else { write!(f, "{}: {}", self.kind, self.message) }
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this.
    Completed(Json),
    /// It raised this.
    Failed(Failure),
    /// Its execution was cancelled while it waited for it.
    Cancelled,
}

impl Outcome {
    /// A result of `function`, unless no workflow could take it: then the call fails, and says where in the result why.
    pub fn of(function: &str, result: Json) -> Self {
        match value::check(&result) {
            Ok(()) => Self::Completed(result),
            Err(refusal) => {
                let message = format!("the result of {function}: {}", refusal.of("result"));
                Self::Failed(Failure::new("TypeError", message))
            }
        }
    }

    /// The same with texts of bounded length.
    #[must_use]
    pub fn bounded(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(failure.bounded()),
            Self::Completed(_) | Self::Cancelled => self,
        }
    }
}

/// Something that was sent to an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Which kind; calls wait for one by its name.
    pub name: String,
    /// What was sent.
    pub payload: Json,
    /// When.
    pub sent_at: Timestamp,
    /// The call that took it; none yet.
    pub call_id: Option<CallId>,
}

/// A version of a named workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// What it is started by.
    pub name: String,
    /// From 1.
    pub version: i64,
    /// The file name in tracebacks.
    pub file: String,
    /// Identifies its text.
    pub source_hash: String,
    /// When it was deployed.
    pub created_at: Timestamp,
    /// The files that its children run: their paths, and the hashes of their texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Json>,
    /// What its executions may do, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
}

/// Texts of files beside a workflow that its children run, by their paths from there.
pub type Files = std::collections::BTreeMap<String, String>;

/// Code that an execution runs, or ran before that was mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// From 1.
    pub number: i64,
    /// The file name in tracebacks.
    pub workflow: String,
    /// Identifies its text.
    pub source_hash: String,
    /// When it became the execution's code.
    pub since: Timestamp,
    /// When another took its place; not yet, if it is what the execution runs now.
    pub until: Option<Timestamp>,
}

text_enum! {
    /// What other code has come to, for an execution.
    Mending {
        /// It had failed or was cancelled, and goes on from there with the new code.
        Retrying = "retrying",
        /// It waits, scheduled or paused as before, with the new code.
        Mended = "mended",
        /// It had that code already.
        Unchanged = "unchanged",
        /// Another execution begins with the new code.
        Forked = "forked",
    }
}

/// Other code for an execution, gone through with what is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// Which execution.
    pub id: ExecutionId,
    /// What it has come to, or would.
    pub status: Mending,
    /// Nothing was changed: this is what would be.
    pub dry_run: bool,
    /// How many calls are run again.
    pub calls: usize,
    /// How many recorded outcomes the new code was led through.
    pub outcomes: usize,
    /// The pause from which it goes on; 0 is its beginning.
    pub pause: i64,
    /// What it waits for there.
    pub waits: Vec<Awaited>,
    /// The version of its code, from 1.
    pub version: i64,
    /// Somebody has paused it: it goes on when it is resumed.
    pub held: bool,
}

/// A call that new code waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Which.
    pub call: CallId,
    /// What is awaited.
    pub kind: CallKind,
    /// Its name.
    pub function: String,
    /// The line of the new code on which it is made.
    pub line: Option<u32>,
}

/// What a workflow or function wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The call whose function wrote it; none for the workflow itself.
    pub call_id: Option<CallId>,
    /// Which attempt of the call wrote it.
    pub attempt: Option<i64>,
    /// Where it was written to.
    pub stream: Stream,
    /// What was written.
    pub text: String,
    /// When that was recorded.
    pub at: Timestamp,
}

text_enum! {
    /// Which stream was written to.
    Stream {
        /// Standard output.
        Stdout = "stdout",
        /// Standard error.
        Stderr = "stderr",
    }
}

/// A process that runs functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name, unlike any other.
    pub name: WorkerId,
    /// The machine that it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// What it serves, the most urgent first.
    pub queues: Vec<String>,
    /// What it offers.
    pub functions: Vec<String>,
    /// How many functions it runs at the same time.
    pub concurrency: u32,
    /// When it came.
    pub started_at: Timestamp,
    /// When it counts as gone, unless it says otherwise before.
    pub due_at: Timestamp,
}

/// An attempt that failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// The call.
    pub call_id: CallId,
    /// From 1.
    pub number: i64,
    /// The process that runs, or ran, its function.
    pub worker: Option<WorkerId>,
    /// Why it failed.
    pub error: Failure,
    /// The worker was lost, which the retry policy does not count.
    pub lost: bool,
    /// When it was first, or last, begun.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}
