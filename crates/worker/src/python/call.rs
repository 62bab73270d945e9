//! One call in a process, from the message that begins it to what it led to.

use std::time::{Duration, Instant};

use durable_core::model::{Failure, Json};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    blocked::LONG,
    death::Death,
    frame::{self, Outgoing},
    marks::Mark,
    process::{Inside, Mode, Process, Shared, lock},
    raw::{Ends, RawOutput},
};
use crate::{
    function::{FunctionError, Invocation},
    log::CallLog,
};

/// How long a call that is to end may take to clean up.
const GRACE: Duration = Duration::from_secs(5);

/// How long a call that is to end may hold up the event loop before it is interrupted.
const INTERRUPT: Duration = Duration::from_secs(1);

/// How often is looked whether a call that is to end does.
const LOOK: Duration = Duration::from_millis(250);

/// How a call ended.
#[derive(Debug)]
pub(super) enum CallEnd {
    Returned(Json),
    Raised(FunctionError),
    /// Its process ended while its function ran, and it is to blame.
    Crashed(FunctionError),
    /// Its process ended while its function ran; when that may have been for its sake, it is a suspect.
    Lost {
        error: FunctionError,
        suspect: bool,
    },
    /// Its function has not begun: the process had ended, or another call held it up.
    NotBegun,
    /// It was told to end, and did, or is left to itself.
    GivenUp,
}

impl Process {
    /// Runs a call to its end. When this future is dropped, a synchronous call has its process killed, an asynchronous
    /// one is cancelled there.
    pub(super) async fn call(&self, invocation: &Invocation, log: &CallLog) -> CallEnd {
        let id = self.number();
        let payload = call_frame(id, invocation);
        if payload.len() > frame::MAX_BYTES {
            return CallEnd::Raised(too_large(&invocation.function, payload.len()));
        }
        // Without pipes of its own (there may be no descriptors left), what its children write is nobody's.
        let (raw, ends) = RawOutput::new().map_or_else(
            |error| {
                tracing::warn!(%error, "the output of a function's child processes cannot be kept");
                (None, Vec::new())
            },
            |(raw, ends): (RawOutput, Ends)| (Some(raw), ends.into()),
        );
        let (sender, messages) = mpsc::unbounded_channel();
        let inside = Inside {
            sender,
            log: log.clone(),
            function: invocation.function.clone(),
            name: format!("call {} of {}", invocation.of.call, invocation.of.execution),
            clock: invocation.clock.clone(),
            progress: invocation.progress.clone(),
            given_up: false,
        };
        lock(&self.shared.inside).insert(id, inside);
        let mut stay = Stay { shared: &self.shared, id, invocation, log, raw, messages, over: false };
        // Registered first: whoever buries the process clears what is registered.
        if self.shared.has_ended() {
            stay.over = true;
            return CallEnd::NotBegun;
        }
        self.tell(Outgoing { payload: payload.into_bytes(), descriptors: ends });
        let end = stay.until_over().await;
        stay.over = true;
        end
    }
}

/// A call's place in a process. Left early, it frees that place.
struct Stay<'a> {
    shared: &'a Shared,
    id: u64,
    invocation: &'a Invocation,
    log: &'a CallLog,
    raw: Option<RawOutput>,
    messages: mpsc::UnboundedReceiver<Value>,
    over: bool,
}

/// A call that was told to end.
struct Told {
    at: Instant,
    overdue: bool,
    interrupted: bool,
    /// Whose turn it was at the last look.
    turn: Option<Mark>,
}

impl Stay<'_> {
    async fn until_over(&mut self) -> CallEnd {
        let mut told: Option<Told> = None;
        let (came, mut asked_back) = (Instant::now(), false);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let overdue = told.as_ref().is_some_and(|told| told.overdue);
            let raw = async {
                match &mut self.raw {
                    Some(raw) => raw.read(self.log).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.messages.recv() => {
                    if let Some(end) = self.heard(message, told.is_some()).await {
                        return end;
                    }
                }
                () = raw => {}
                () = self.invocation.cancelled.cancelled(), if told.is_none() => told = Some(self.give_up(false)),
                () = self.invocation.overdue.cancelled(), if !overdue => told = Some(self.give_up(true)),
                _ = looks.tick(), if self.shared.mode == Mode::Async || told.is_some() => {
                    let nobody_waits = told.as_mut().is_some_and(|told| self.insist(told));
                    if nobody_waits {
                        return CallEnd::GivenUp;
                    }
                    if told.is_none() && !asked_back && came.elapsed() > LONG && self.is_held_up() {
                        asked_back = true;
                        self.say("withdraw");
                    }
                }
            }
        }
    }

    /// What a message, or the end of the process, means.
    async fn heard(&self, message: Option<Value>, told: bool) -> Option<CallEnd> {
        let Some(message) = message else {
            let death = self.shared.dead().await;
            return Some(if told { CallEnd::GivenUp } else { self.lost(&death) });
        };
        let progress = &self.invocation.progress;
        Some(match message["op"].as_str() {
            Some("began") => return None,
            Some("heartbeat") => {
                progress.report(message["fraction"].as_f64(), message["message"].as_str());
                return None;
            }
            Some("done") => CallEnd::Returned(Json::from(&message["result"])),
            Some("error") => CallEnd::Raised(raised(message)),
            Some("withdrawn") => CallEnd::NotBegun,
            _ => CallEnd::Raised(FunctionError::new("durable.Cancelled", "the call was cancelled")),
        })
    }

    fn say(&self, op: &str) {
        self.shared.tell(Outgoing::plain(&json!({"op": op, "id": self.id})));
    }

    /// Nothing but its end stops a busy synchronous function; one that is only cancelled may ask for it.
    fn give_up(&self, overdue: bool) -> Told {
        if overdue && self.shared.mode == Mode::Sync {
            self.shared.kill_for(self.id);
        } else {
            self.say("cancel");
        }
        Told { at: Instant::now(), overdue, interrupted: false, turn: None }
    }

    /// Whether it has not begun for another's sake.
    fn is_held_up(&self) -> bool {
        let held_up = lock(&self.shared.blocked).as_ref().is_some_and(|blocked| blocked.by != self.id);
        held_up && !self.invocation.clock.has_started()
    }

    /// A call does not end that was told to. True when nobody waits for it any longer.
    fn insist(&self, told: &mut Told) -> bool {
        if self.shared.mode == Mode::Sync {
            if told.at.elapsed() >= GRACE {
                self.shared.kill_for(self.id);
            }
            return false;
        }
        let turn = self.shared.marks.turn().filter(|mark| mark.call == self.id);
        let holds_up = turn.is_some() && turn == std::mem::replace(&mut told.turn, turn);
        if holds_up && !told.interrupted && told.at.elapsed() >= INTERRUPT {
            told.interrupted = true;
            self.say("interrupt");
        }
        if told.at.elapsed() < GRACE {
            return false;
        }
        let nobody_else = {
            let mut inside = lock(&self.shared.inside);
            inside.get_mut(&self.id).into_iter().for_each(|inside| inside.given_up = true);
            inside.values().all(|inside| inside.given_up)
        };
        if holds_up || nobody_else {
            self.shared.kill_for(self.id);
            return false;
        }
        // The others go on to their ends; then the process, which gets no more calls, ends with what is left in it.
        if self.shared.is_open() {
            let (function, of) = (&self.invocation.function, &self.invocation.of);
            tracing::warn!(function, execution.id = %of.execution, call.id = of.call.0,
                           "an asynchronous function does not heed its cancellation; its process gets no more calls");
            self.shared.retire();
        }
        told.overdue
    }

    fn lost(&self, death: &Death) -> CallEnd {
        if !self.invocation.clock.has_started() {
            return CallEnd::NotBegun;
        }
        let (function, how) = (&self.invocation.function, &death.how);
        let mut error = FunctionError::new(super::LOST, "");
        let failure = &mut error.failure;
        match &death.culprit {
            Some((id, _)) if *id == self.id => {
                failure.message = format!("the process that ran {function} {how}");
                failure.traceback = death.traceback.clone();
                CallEnd::Crashed(error)
            }
            Some((_, by)) => {
                failure.message = format!("the process that ran {function} {how}, because of {by}, which shared it");
                error.innocent = true;
                CallEnd::Lost { error, suspect: false }
            }
            None => {
                failure.message = format!(
                    "the process that ran {function} {how}; it is not known which of the functions in it was the cause"
                );
                failure.traceback = death.traceback.clone();
                error.innocent = true;
                CallEnd::Lost { error, suspect: true }
            }
        }
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        if !self.over {
            match self.shared.mode {
                Mode::Sync => self.shared.kill_for(self.id),
                Mode::Async => self.say("cancel"),
            }
        }
        if let Some(mut raw) = self.raw.take() {
            raw.drain(self.log);
            raw.abandon();
        }
        lock(&self.shared.inside).remove(&self.id);
        self.shared.used();
    }
}

fn call_frame(id: u64, invocation: &Invocation) -> String {
    let head = json!({
        "op": "call", "id": id, "function": invocation.function,
        "key": invocation.idempotency_key(), "attempt": invocation.of.number,
    });
    // The arguments are JSON already, and may be large.
    let head = head.to_string();
    format!("{},\"args\":{},\"kwargs\":{}}}", &head[..head.len() - 1], invocation.args, invocation.kwargs)
}

fn too_large(function: &str, bytes: usize) -> FunctionError {
    let message = format!(
        "the arguments of {function} take {} MiB, and at most {} MiB can be sent: store them in a file or an object \
         store and send their name",
        bytes >> 20,
        frame::MAX_BYTES >> 20
    );
    FunctionError::new("ValueError", message).not_retryable()
}

fn raised(mut message: Value) -> FunctionError {
    let failure = serde_json::from_value(message["error"].take())
        .unwrap_or_else(|error| Failure::new("RuntimeError", format!("an unreadable exception: {error}")));
    let retryable = message["retryable"].as_bool().unwrap_or(true);
    FunctionError { failure, retryable, innocent: false }
}
