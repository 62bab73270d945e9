//! drain: a workflow waits until functions whose calls were cancelled run no more, before it undoes what they did.
//!
//! The process that runs a function says when it has ended. If that process dies, its functions die with it: the clock,
//! which looks from time to time, goes by the workers' signs of life.

use std::{sync::Arc, time::Duration};

use super::{
    Engine, OrchestrationError,
    settle::{Attempted, Retry},
    timers::settle_and_drive,
};
use crate::{
    id::{CallId, ExecutionId},
    interpreter::in_words,
    model::{Call, Failure, Json, Outcome},
    store::{
        Db, StoreError,
        calls::{self, AttemptOf},
        endings::{self, Ending},
        workers,
    },
    time::Timestamp,
};

/// How long until the clock looks again, at the least and at the most.
const LOOK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A cancelled function has ended. Lost, this is found out by the clock.
pub fn note_end(engine: &Engine, execution: &ExecutionId, call: CallId) {
    note(&engine.db, execution, call, engine.now());
    engine.sooner(Duration::ZERO);
}

/// The same, in a task without an engine.
pub(super) fn note(db: &Db, execution: &ExecutionId, call: CallId, now: Timestamp) {
    let id = execution.clone();
    db.write_lazily(move |conn| endings::has_ended(conn, &id, call, now).map(drop));
}

/// Looks whether what a call waits for has ended.
pub(super) async fn act(engine: &Arc<Engine>, call: Call) -> Result<(), OrchestrationError> {
    let (now, me, lease) = (engine.now(), engine.worker.clone(), engine.settings.lease);
    let of = AttemptOf { execution: call.execution_id.clone(), call: call.id, number: call.attempt };
    let key = of.clone();
    let left: Result<Vec<String>, StoreError> = engine
        .db
        .read(move |conn| {
            let wanted = wanted(conn, &key)?;
            let live = workers::live(conn, now)?;
            let runs = |ending: &Ending| match &ending.worker {
                Some(worker) => *worker == me || live.iter().any(|live| live.name == *worker),
                // A worker may have it that could not say so before it was cancelled.
                None => ending.cancelled_at.is_some_and(|at| now < at.after(lease)),
            };
            let ending = endings::ending(conn, &key.execution)?.into_iter();
            let ending = ending.filter(|ending| wanted.is_empty() || wanted.contains(&ending.call)).filter(runs);
            // What was not cancelled at all has not ended either.
            let open = endings::open_among(conn, &key.execution, &wanted)?;
            Ok(ending.map(|ending| ending.function).chain(open).collect())
        })
        .await;
    let left = left?;
    let over = call.deadline_at.is_some_and(|deadline| deadline <= now);
    let outcome = if left.is_empty() {
        Outcome::Completed(Json("null".into()))
    } else if over {
        let waited = in_words(now.since(call.created_at));
        Outcome::Failed(Failure::new("TimeoutError", format!("after {waited} still running: {}", left.join(", "))))
    } else {
        let wait = now.since(call.created_at).clamp(LOOK.0, LOOK.1);
        let next = std::iter::once(now.after(wait)).chain(call.deadline_at).min().unwrap_or(now);
        engine.db.write(move |conn| endings::look_at(conn, &of, next)).await?;
        engine.sooner(wait);
        return Ok(());
    };
    settle_and_drive(
        engine,
        Attempted { of, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() },
    )
    .await
}

/// The calls that it asks about; none when it asks about all that were cancelled.
fn wanted(conn: &mut crate::store::DbConnection, of: &AttemptOf) -> Result<Vec<CallId>, StoreError> {
    let Some((args, _)) = calls::arguments(conn, &of.execution, of.call)? else { return Ok(Vec::new()) };
    let strange = |error: serde_json::Error| StoreError::Inconsistent(format!("call {}: {error}", of.call));
    let ids: Vec<u32> = serde_json::from_str(&args.0).map_err(strange)?;
    Ok(ids.into_iter().map(CallId).collect())
}
