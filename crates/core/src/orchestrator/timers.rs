//! timers: what becomes due. A timer fires, a retry starts, a call that nobody began is pushed
//! again, a call whose worker is silent is given up.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};

use super::{
    Engine, OrchestrationError,
    dispatch::dispatch,
    drain, drive, send,
    settle::{Attempted, Retry, Settled, settle},
};
use crate::{
    interpreter::in_words,
    model::{Call, CallKind, Failure, Json, Outcome},
    retry::RetryPolicy,
    store::{
        StoreError,
        calls::{self, AttemptOf, Work},
        claims::{self, Due},
        pushes,
    },
    time::Timestamp,
};

/// Most calls that one tick settles or gives up; the rest is due at the next, at once.
const AT_ONCE: i64 = 500;

/// Most calls that one tick pushes.
const PUSHED_AT_ONCE: i64 = 1000;

/// A call whose deadline is over, and that could not be settled, is looked at again after this.
const AFTER_DEADLINE: Duration = Duration::from_secs(1);

/// How many executions one tick moves on at the same time.
const SIDE_BY_SIDE: usize = 16;

/// The type of the failure of an attempt whose worker died or fell silent.
pub const WORKER_LOST: &str = "durable.WorkerLost";

/// Stands for the worker of a call that somebody outside completes.
pub const CALLBACK: &str = "callback";

/// How long a row that nothing can be done with is left alone.
pub(super) const PUT_OFF: Duration = Duration::from_secs(30);

/// Settles or gives up every call that is due at `now`; answers how many. What that lets go on goes on by itself: no tick
/// waits for a turn.
pub async fn tick(engine: &Arc<Engine>, now: Timestamp) -> Result<usize, OrchestrationError> {
    let whose = engine.whose.clone();
    let due = engine.db.read(move |conn| calls::due(conn, &whose, now, AT_ONCE)).await?;
    let (count, Due { rows, unreadable }) = (due.len(), due);
    if !unreadable.is_empty() {
        let keys = told(unreadable, "a call");
        engine.db.write(move |conn| claims::put_off_calls(conn, &keys, now.after(PUT_OFF))).await?;
    }
    all(rows, |call| act(engine, call)).await?;
    Ok(count)
}

/// Tells of rows that cannot be read; answers their keys.
pub(super) fn told(unreadable: Vec<(String, StoreError)>, what: &str) -> Vec<String> {
    let tell = |(key, error)| {
        tracing::error!(%key, %error, "{what} is due and cannot be read: it is left alone for a while");
        key
    };
    unreadable.into_iter().map(tell).collect()
}

async fn act(engine: &Arc<Engine>, call: Call) -> Result<(), OrchestrationError> {
    match (call.kind, call.status) {
        (CallKind::Timer, _) => fire(engine, call).await,
        (CallKind::Function, _) => give_up(engine, call).await,
        (CallKind::Signal | CallKind::Callback, _) => nobody_came(engine, call).await,
        (CallKind::Send, _) => send::act(engine, call).await,
        (CallKind::Drain, _) => drain::act(engine, call).await,
        // Its execution has a clock of its own.
        (CallKind::Child, _) => Ok(()),
    }
}

/// Acts on each, some of them side by side. What one fails at does not keep the others; the first
/// failure is answered in the end.
pub(super) async fn all<T, F: Future<Output = Result<(), OrchestrationError>>>(
    things: Vec<T>,
    act: impl Fn(T) -> F,
) -> Result<(), OrchestrationError> {
    let mut acts = stream::iter(things).map(act).buffer_unordered(SIDE_BY_SIDE);
    let mut first = Ok(());
    while let Some(done) = acts.next().await {
        if first.is_ok() {
            first = done;
        }
    }
    first
}

/// What a push came to.
#[derive(Debug, Default)]
pub struct Pushed {
    /// Calls that were due.
    pub calls: usize,
    /// Queues that had no room for all of theirs.
    pub full: Vec<String>,
}

/// Pushes function calls that became due, those of `full` queues excepted.
pub async fn push(engine: &Arc<Engine>, now: Timestamp, full: Vec<String>) -> Result<Pushed, OrchestrationError> {
    let (whose, again) = (engine.whose.clone(), now.after(engine.settings.push_again));
    let due = engine.db.read(move |conn| pushes::to_push(conn, &whose, now, &full, PUSHED_AT_ONCE)).await?;
    if due.is_empty() {
        return Ok(Pushed::default());
    }
    let Due { rows, unreadable } = due;
    let unreadable = told(unreadable, "a call to be pushed");
    // First the dates, then the push: if this process dies in between, the push comes at that date.
    let mine = engine
        .db
        .write(move |conn| {
            let mut mine = Vec::new();
            claims::put_off_calls(conn, &unreadable, now.after(PUT_OFF))?;
            for work in &rows {
                let again = work.deadline.map_or(again, |deadline| deadline.max(now.after(AFTER_DEADLINE)).min(again));
                if pushes::pushed(conn, &work.attempt, now, again)? {
                    mine.push(work.clone());
                }
            }
            Ok(mine)
        })
        .await?;
    let calls = mine.len();
    let (late, mine): (Vec<Work>, Vec<Work>) =
        mine.into_iter().partition(|work| work.deadline.is_some_and(|deadline| deadline <= now));
    all(late, |work| too_late(engine, work)).await?;
    Ok(Pushed { calls, full: dispatch(engine, mine).await })
}

fn attempt_of(call: &Call) -> AttemptOf {
    AttemptOf { execution: call.execution_id.clone(), call: call.id, number: call.attempt }
}

async fn fire(engine: &Arc<Engine>, call: Call) -> Result<(), OrchestrationError> {
    let of = attempt_of(&call);
    let outcome = Outcome::Completed(Json("null".into()));
    settle_and_drive(
        engine,
        Attempted { of, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() },
    )
    .await
}

/// A signal or callback was not there in its time.
async fn nobody_came(engine: &Arc<Engine>, call: Call) -> Result<(), OrchestrationError> {
    let (of, outcome) = (attempt_of(&call), ran_out(&call));
    let attempted = Attempted { of, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() };
    settle_and_drive(engine, attempted).await
}

/// How a wait ends whose time is over.
pub(super) fn ran_out(call: &Call) -> Outcome {
    let waited = call.due_at.map_or_else(String::new, |at| format!(" within {}", in_words(at.since(call.created_at))));
    let what = match call.kind {
        CallKind::Signal => format!("no signal {}", call.function),
        CallKind::Callback => "no callback".into(),
        _ => return Outcome::Completed(Json("null".into())),
    };
    Outcome::Failed(Failure::new("TimeoutError", format!("{what}{waited}")))
}

/// A call was not done in all the time that it had.
async fn too_late(engine: &Arc<Engine>, work: Work) -> Result<(), OrchestrationError> {
    let message = format!("{} was not done within its total_timeout", work.function);
    let outcome = Outcome::Failed(Failure::new("TimeoutError", message));
    let (of, worker) = (work.attempt, None);
    settle_and_drive(engine, Attempted { of, outcome, retry: Retry::No, started_at: None, worker, log: Vec::new() })
        .await
}

async fn give_up(engine: &Arc<Engine>, call: Call) -> Result<(), OrchestrationError> {
    let worker = call.worker.as_ref().map_or_else(|| "its worker".to_owned(), ToString::to_string);
    if call.worker.as_ref() == Some(&engine.worker) {
        // This process itself, after the machine slept or was too busy to beat: it still runs the call.
        let (of, me, until) = (attempt_of(&call), engine.worker.clone(), engine.now().after(engine.settings.lease));
        engine.db.write(move |conn| calls::beat(conn, &of, &me, until)).await?;
        return Ok(());
    }
    if worker == CALLBACK {
        let message = format!("nobody completed {} in its time (attempt {})", call.function, call.attempt);
        let outcome = Outcome::Failed(Failure::new("TimeoutError", message));
        let (of, started_at, retry) = (attempt_of(&call), call.started_at, Retry::By(RetryPolicy::default()));
        let attempted = Attempted { of, outcome, retry, started_at, worker: call.worker, log: Vec::new() };
        return settle_and_drive(engine, attempted).await;
    }
    let message = format!("{worker} was lost while it ran {} (attempt {})", call.function, call.attempt);
    tracing::info!(execution.id = %call.execution_id, call.id = call.id.0, "{message}");
    settle_and_drive(
        engine,
        Attempted {
            of: attempt_of(&call),
            outcome: Outcome::Failed(Failure::new(WORKER_LOST, message)),
            retry: Retry::Lost,
            started_at: call.started_at,
            worker: call.worker,
            log: Vec::new(),
        },
    )
    .await
}

/// Records an outcome; what that lets go on goes on by itself.
pub(super) async fn settle_and_drive(engine: &Arc<Engine>, attempted: Attempted) -> Result<(), OrchestrationError> {
    if let Settled::Recorded(Some(claimed)) = settle(engine, attempted).await? {
        drive::begin(engine, claimed);
    }
    Ok(())
}
