//! finish: the workflow returned, or raised. What it no longer waits for is cancelled.

use std::sync::Arc;

use durable_queue::Bell;

use super::{Engine, Event, OrchestrationError, claim::Claimed};
use crate::{
    id::{CallId, ExecutionId},
    interpreter::{NewCall, is_same_failure},
    model::{CallStatus, Failure, Json, LogLine},
    store::{
        DbConnection, StoreError,
        calls::{self, Insertion},
        executions, logs,
    },
};

/// Ends a claimed execution. False when the claim was lost: nothing was written.
#[tracing::instrument(name = "finish", level = "info", skip_all, fields(execution.id = %claimed.id(), epoch = claimed.epoch().0))]
pub async fn finish(
    engine: &Engine,
    claimed: Claimed,
    result: Result<Json, Failure>,
    abandoned: Vec<NewCall>,
    log: Vec<LogLine>,
) -> Result<bool, OrchestrationError> {
    let now = engine.now();
    let id = claimed.id().clone();
    let held = claimed.fence();
    let won = claimed.won();
    let (suspension, queue) = (won.execution.suspension, won.execution.queue.clone());
    let delivered: Vec<CallId> = won.outcomes.iter().map(|(id, _)| *id).collect();
    let result = match result {
        Err(failure) => Err(with_cause(engine, &id, failure).await?),
        output => output,
    };
    let result = Arc::new(result);
    let log = Arc::new(log);
    let (r, l, key, h) = (result.clone(), log.clone(), id.clone(), held.clone());
    engine.keep_hot(&id, None);
    let ended = engine
        .db
        .write(move |conn| {
            if !h.secure(conn)? || !executions::end(conn, &h.fence, &r, now)? {
                return Ok(false);
            }
            calls::mark_delivered(conn, &h.fence, &delivered)?;
            let at = Insertion { execution: &key, suspension, queue: &queue, now, push_again: now };
            calls::insert(conn, at, &abandoned, true)?;
            calls::cancel_open(conn, &key, now)?;
            logs::append(conn, &key, &l)?;
            Ok(true)
        })
        .await?;
    if ended {
        held.observe(engine);
        let failure = result.as_ref().as_ref().err();
        tracing::info!(execution.id = %id, failed = failure.is_some(), "execution finished");
        engine.ring(Bell::Ended(id.to_string()));
        engine.observe(Event::Finished { execution: &id, failure, log: &log });
    } else {
        tracing::warn!(execution.id = %id, "the claim was lost before the end; dropping this turn");
    }
    Ok(ended)
}

/// Puts the traceback of the function whose failure the workflow passed on below the workflow's own.
async fn with_cause(engine: &Engine, id: &ExecutionId, mut failure: Failure) -> Result<Failure, OrchestrationError> {
    let key = id.clone();
    let failed = engine.db.read(move |conn: &mut DbConnection| failed_calls(conn, &key)).await?;
    let cause = failed.into_iter().rev().find(|(_, _, cause)| is_same_failure(&failure, cause));
    if let Some((call, function, Failure { traceback: Some(below), .. })) = cause {
        let above = failure.traceback.take().unwrap_or_default();
        failure.traceback = Some(format!("{}\n\nIn {function} (call {call}):\n\n{below}", above.trim_end()));
    }
    Ok(failure)
}

fn failed_calls(conn: &mut DbConnection, id: &ExecutionId) -> Result<Vec<(CallId, String, Failure)>, StoreError> {
    let calls = calls::list_with_status(conn, id, CallStatus::Failed)?;
    Ok(calls.into_iter().filter_map(|call| Some((call.id, call.function, call.error?))).collect())
}
