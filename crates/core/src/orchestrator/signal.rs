//! signal: something is sent to an execution. It is kept, in order, until a call of its name takes it.

use super::{
    Engine, OrchestrationError,
    claim::{Claim, Claimed},
    settle::{Next, follow, settle_in},
};
use crate::{
    id::{ExecutionId, check_name},
    model::{ExecutionStatus, Json, Outcome},
    store::{
        DbConnection, StoreError,
        calls::{self, AttemptOf},
        control, signals,
    },
};

/// A signal to be sent.
#[derive(Debug, Clone)]
pub struct Signalling {
    /// To whom.
    pub execution: ExecutionId,
    /// Which.
    pub name: String,
    /// What.
    pub payload: Json,
    /// The sender's: the same key again is the same signal.
    pub key: Option<String>,
}

/// What became of a signal.
#[derive(Debug)]
pub enum Sent {
    /// A call has it. With a claim, the execution can go on and the caller advances it.
    Taken(Option<Claimed>),
    /// It is kept until somebody waits for it.
    Kept,
    /// One of that key had been sent before.
    Repeated,
}

enum Verdict {
    Taken(Next),
    Kept,
    Repeated,
    Ended(ExecutionStatus),
}

/// Sends a signal.
///
/// It and a pause that begins to wait for it both lock the execution's row first: so either this sees the call, or the
/// pause sees the signal.
#[tracing::instrument(name = "signal", level = "info", skip_all, fields(execution.id = %signalling.execution, signal.name = signalling.name))]
pub async fn signal(engine: &Engine, signalling: Signalling) -> Result<Sent, OrchestrationError> {
    check_name("the signal", &signalling.name)?;
    if let Some(key) = &signalling.key {
        check_name("the key", key)?;
    }
    let (claim, id) = (Claim::of(engine), signalling.execution.clone());
    let done = engine.db.write(move |conn| send(conn, &signalling, &claim)).await?;
    match done.ok_or_else(|| OrchestrationError::NotFound(id.clone()))? {
        Verdict::Taken(next) => Ok(Sent::Taken(follow(engine, &id, next).await?)),
        Verdict::Kept => Ok(Sent::Kept),
        Verdict::Repeated => Ok(Sent::Repeated),
        Verdict::Ended(status) => Err(OrchestrationError::Ended { id, status, wish: "take a signal" }),
    }
}

fn send(conn: &mut DbConnection, s: &Signalling, claim: &Claim) -> Result<Option<Verdict>, StoreError> {
    let id = &s.execution;
    let Some(execution) = control::lock(conn, id)? else { return Ok(None) };
    if execution.status.is_final() {
        // One that it took before it ended was sent all the same.
        let repeated = signals::is_known(conn, id, s.key.as_deref())?;
        return Ok(Some(if repeated { Verdict::Repeated } else { Verdict::Ended(execution.status) }));
    }
    if !signals::insert(conn, id, (&s.name, &s.payload), s.key.as_deref(), claim.now)? {
        return Ok(Some(Verdict::Repeated));
    }
    let Some(call) = calls::waits_for_signal(conn, id, &s.name, claim.now)? else { return Ok(Some(Verdict::Kept)) };
    let Some(payload) = signals::take(conn, id, &s.name, call)? else { return Ok(Some(Verdict::Kept)) };
    let of = AttemptOf { execution: id.clone(), call, number: 1 };
    let next = settle_in(conn, &of, &Outcome::Completed(payload), &claim.on(&execution))?;
    Ok(Some(Verdict::Taken(next.unwrap_or(Next::Nothing))))
}
