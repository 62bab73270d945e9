//! send: a workflow sends another execution a signal. The clock does it, as often as it takes: the signal carries the call's
//! name, so it is there once.

use std::sync::Arc;

use super::{
    Engine, OrchestrationError, drive,
    settle::{Attempted, Retry},
    signal::{Sent, Signalling, signal},
    timers::settle_and_drive,
};
use crate::{
    id::ExecutionId,
    model::{Call, Failure, Json, Outcome},
    store::{
        StoreError,
        calls::{self, AttemptOf},
    },
};

/// Sends what a call says, and records that. What was asked for before it is sent before it: the clock acts on several calls
/// at a time, and whoever has sent one already finds it there.
pub(super) async fn act(engine: &Arc<Engine>, call: Call) -> Result<(), OrchestrationError> {
    let of = AttemptOf { execution: call.execution_id.clone(), call: call.id, number: call.attempt };
    let key = of.clone();
    for earlier in engine.db.read(move |conn| calls::sends_before(conn, &key)).await? {
        if let Ok(Sent::Taken(Some(claimed))) = send(engine, &earlier).await? {
            drive::begin(engine, claimed);
        }
    }
    let sent = send(engine, &call).await?;
    let (outcome, claimed) = match sent {
        Ok(Sent::Taken(claimed)) => (Outcome::Completed(Json("null".into())), claimed),
        Ok(Sent::Kept | Sent::Repeated) => (Outcome::Completed(Json("null".into())), None),
        Err(refusal) => (Outcome::Failed(Failure::new("RuntimeError", refusal)), None),
    };
    let attempted = Attempted { of, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() };
    let settled = settle_and_drive(engine, attempted).await;
    // The receiver's turn is taken whatever became of the sender's.
    if let Some(claimed) = claimed {
        drive::begin(engine, claimed);
    }
    settled
}

/// Sends what a call says; or why that cannot be.
async fn send(engine: &Engine, call: &Call) -> Result<Result<Sent, String>, OrchestrationError> {
    let of = AttemptOf { execution: call.execution_id.clone(), call: call.id, number: call.attempt };
    let (execution, payload) = read(engine, &of).await?;
    let key = Some(format!("call {} of {}", of.call, of.execution));
    match signal(engine, Signalling { execution, name: call.function.clone(), payload, key }).await {
        Ok(sent) => Ok(Ok(sent)),
        Err(error @ (OrchestrationError::NotFound(_) | OrchestrationError::Ended { .. })) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// To whom, and what.
async fn read(engine: &Engine, of: &AttemptOf) -> Result<(ExecutionId, Json), OrchestrationError> {
    let (execution, call) = (of.execution.clone(), of.call);
    let strange = |why: &dyn std::fmt::Display| StoreError::Inconsistent(format!("call {call} of {execution}: {why}"));
    let (id, number) = (execution.clone(), call);
    let args = engine.db.read(move |conn| calls::arguments(conn, &id, number)).await?;
    let (args, _) = args.ok_or_else(|| strange(&"it is gone"))?;
    let (id, payload): (String, serde_json::Value) = serde_json::from_str(&args.0).map_err(|error| strange(&error))?;
    let id = id.parse().map_err(|error| strange(&error))?;
    Ok((id, Json::from(&payload)))
}
