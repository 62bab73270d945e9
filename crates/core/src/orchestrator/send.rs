//! send: a workflow sends another execution a signal. The clock does it, as often as it takes: the signal carries the call's
//! name, so it is there once.

use super::{
    Engine, OrchestrationError,
    drive::drive,
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

/// Sends what a call says, and records that.
pub(super) async fn act(engine: &Engine, call: Call) -> Result<(), OrchestrationError> {
    let of = AttemptOf { execution: call.execution_id.clone(), call: call.id, number: call.attempt };
    let (execution, payload) = read(engine, &of).await?;
    let key = Some(format!("call {} of {}", of.call, of.execution));
    let sent = signal(engine, Signalling { execution, name: call.function, payload, key }).await;
    let (outcome, claimed) = match sent {
        Ok(Sent::Taken(claimed)) => (Outcome::Completed(Json("null".into())), claimed),
        Ok(Sent::Kept | Sent::Repeated) => (Outcome::Completed(Json("null".into())), None),
        Err(error @ (OrchestrationError::NotFound(_) | OrchestrationError::Ended { .. })) => {
            (Outcome::Failed(Failure::new("RuntimeError", error.to_string())), None)
        }
        Err(error) => return Err(error),
    };
    let attempted = Attempted { of, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() };
    let settled = settle_and_drive(engine, attempted).await;
    // The receiver's turn is taken whatever became of the sender's.
    if let Some(claimed) = claimed {
        drive(engine, claimed).await?;
    }
    settled
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
