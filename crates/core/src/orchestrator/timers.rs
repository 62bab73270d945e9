//! timers: what becomes due. A timer fires, a retry starts, a call that nobody began is pushed
//! again, a call whose worker is silent is given up.

use super::{
    Engine, OrchestrationError,
    dispatch::dispatch,
    drive::drive,
    settle::{Attempted, Retry, Settled, settle},
};
use crate::{
    model::{Call, CallKind, CallStatus, Failure, Json, Outcome},
    store::calls::{self, AttemptOf},
    time::Timestamp,
};

/// Most calls that one tick acts on; the rest is due at the next, at once.
const AT_ONCE: i64 = 500;

/// The type of the failure of an attempt whose worker died or fell silent.
pub const WORKER_LOST: &str = "durable.WorkerLost";

/// Acts on every call that is due at `now`; answers how many.
pub async fn tick(engine: &Engine, now: Timestamp) -> Result<usize, OrchestrationError> {
    let whose = engine.whose.clone();
    let due = engine.db.read(move |conn| calls::due(conn, &whose, now, AT_ONCE)).await?;
    let count = due.len();
    let mut pushes = Vec::new();
    for call in due {
        match (call.kind, call.status) {
            (CallKind::Function, CallStatus::Pending) => pushes.push(call),
            (CallKind::Timer, _) => fire(engine, call).await?,
            (CallKind::Function, _) => give_up(engine, call).await?,
        }
    }
    for call in pushes {
        push(engine, call, now).await?;
    }
    Ok(count)
}

fn attempt_of(call: &Call) -> AttemptOf {
    AttemptOf { execution: call.execution_id.clone(), call: call.id, number: call.attempt }
}

async fn fire(engine: &Engine, call: Call) -> Result<(), OrchestrationError> {
    let of = attempt_of(&call);
    let outcome = Outcome::Completed(Json("null".into()));
    settle_and_drive(
        engine,
        Attempted { of, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() },
    )
    .await
}

async fn give_up(engine: &Engine, call: Call) -> Result<(), OrchestrationError> {
    let worker = call.worker.as_ref().map_or_else(|| "its worker".to_owned(), ToString::to_string);
    if call.worker.as_ref() == Some(&engine.worker) {
        // This process itself, after the machine slept or was too busy to beat: it still runs the call.
        let (of, me, until) = (attempt_of(&call), engine.worker.clone(), engine.now().after(engine.settings.lease));
        engine.db.write(move |conn| calls::beat(conn, &of, &me, until)).await?;
        return Ok(());
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

async fn settle_and_drive(engine: &Engine, attempted: Attempted) -> Result<(), OrchestrationError> {
    match settle(engine, attempted).await? {
        Settled::Recorded(Some(claimed)) => drive(engine, claimed).await,
        Settled::Recorded(None) | Settled::Retrying | Settled::Ignored => Ok(()),
    }
}

async fn push(engine: &Engine, call: Call, now: Timestamp) -> Result<(), OrchestrationError> {
    let of = attempt_of(&call);
    let again = now.after(engine.settings.push_again);
    let id = call.execution_id.clone();
    // First the date, then the push: if this process dies in between, the push comes at that date.
    let work = engine
        .db
        .write(move |conn| {
            calls::push_again(conn, &of, again)?;
            calls::work(conn, &of)
        })
        .await?;
    dispatch(engine, &id, work.into_iter().collect()).await
}
