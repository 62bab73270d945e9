//! revive: an execution that failed goes on from its last state, or another begins from one of its states.

use super::{Engine, OrchestrationError, children::AT_ONCE};
use crate::{
    id::{CallId, ExecutionId, WorkerId},
    model::{CallKind, Execution, ExecutionStatus, Json},
    store::{
        DbConnection, StoreError, calls, control,
        executions::{self, NewExecution},
        snapshots::{self, Kept},
    },
    time::Timestamp,
};

/// Lets a failed or cancelled execution go on: what failed is run again, what succeeded is not. Answers how many calls
/// are run again; a clock takes the execution up.
#[tracing::instrument(name = "retry", level = "info", skip_all, fields(execution.id = %id))]
pub async fn retry(engine: &Engine, id: &ExecutionId) -> Result<usize, OrchestrationError> {
    let (key, now) = (id.clone(), engine.now());
    let done = engine.db.write(move |conn| {
        let Some(execution) = control::lock(conn, &key)? else { return Ok(None) };
        match execution.status {
            ExecutionStatus::Failed | ExecutionStatus::Cancelled => Ok(Some(Ok(match obstacle(conn, &execution)? {
                Some(why) => Err(why),
                None => Ok(control::revive(conn, &execution, now)?),
            }))),
            other => Ok(Some(Err(other))),
        }
    });
    match done.await?.ok_or_else(|| OrchestrationError::NotFound(id.clone()))? {
        Ok(Ok(again)) => {
            engine.sooner(AT_ONCE);
            Ok(again)
        }
        Ok(Err(why)) => Err(OrchestrationError::NoState { id: id.clone(), wish: "retried", why }),
        Err(status) => Err(OrchestrationError::NotFailed { id: id.clone(), status }),
    }
}

/// Why an execution that has ended cannot go on from its last state.
fn obstacle(conn: &mut DbConnection, execution: &Execution) -> Result<Option<Refused>, StoreError> {
    if execution.suspension == 0 {
        return Ok(None);
    }
    // From its beginning it would do again what succeeded.
    if control::last_state(conn, &execution.id)?.is_none() {
        return Ok(Some("its last state was not kept (--history none)".into()));
    }
    if execution.cancel_told && !calls::was_cancelled_last(conn, execution)? {
        return Ok(Some(
            "its last state is in the middle of cleaning up after its cancellation; with --history all or --keep-all, \
             durable fork begins from a state before it"
                .into(),
        ));
    }
    Ok(None)
}

/// Another execution that begins in the middle of one.
#[derive(Debug, Clone)]
pub struct Forking {
    /// The execution whose state it begins from.
    pub from: ExecutionId,
    /// The new one's id; generated when there is none.
    pub id: Option<ExecutionId>,
    /// After which pause; the last, when there is none.
    pub at: Option<i64>,
    /// Outcomes that it shall find instead of those on record.
    pub set: Vec<(CallId, Json)>,
    /// The process that runs it by itself, if one does.
    pub runner: Option<WorkerId>,
}

/// Why there is no fork: a sentence.
type Refused = String;

/// Starts an execution from a kept state of another. What that one had been told stays; of what it still waited for,
/// successes are kept and everything else is run again. A clock takes the new execution up.
#[tracing::instrument(name = "fork", level = "info", skip_all, fields(execution.id = %forking.from))]
pub async fn fork(engine: &Engine, forking: Forking) -> Result<ExecutionId, OrchestrationError> {
    let (from, now) = (forking.from.clone(), engine.now());
    let id = forking.id.clone().unwrap_or_else(ExecutionId::generate);
    let (new, secret) = (id.clone(), super::start::secret());
    let done = engine.db.write(move |conn| copy(conn, &forking, &new, &secret, now)).await?;
    match done.ok_or(OrchestrationError::NotFound(from.clone()))? {
        Ok(()) => {
            engine.sooner(AT_ONCE);
            Ok(id)
        }
        Err(why) => Err(OrchestrationError::NoState { id: from, wish: "forked", why }),
    }
}

fn copy(
    conn: &mut DbConnection,
    forking: &Forking,
    id: &ExecutionId,
    secret: &str,
    now: Timestamp,
) -> Result<Option<Result<(), Refused>>, StoreError> {
    let from = &forking.from;
    let Some(execution) = control::lock(conn, from)? else { return Ok(None) };
    let at = forking.at.unwrap_or(execution.suspension);
    let Some(kept) = state(conn, &execution, at)? else {
        let kept: Vec<String> = snapshots::list(conn, from)?.iter().map(|(number, ..)| number.to_string()).collect();
        let others = if kept.is_empty() { "none is".to_owned() } else { format!("kept are {}", kept.join(", ")) };
        return Ok(Some(Err(format!("its state after pause {at} is not kept; {others} (see --history)"))));
    };
    let open = calls::list(conn, from)?;
    let at_pause = |call: &crate::model::Call| {
        call.resume_group <= at && call.delivered_in.is_none_or(|epoch| epoch.0 == 0 || epoch > kept.epoch)
    };
    let waited: Vec<_> = open.iter().filter(|call| at_pause(call)).collect();
    if let Some((unknown, _)) = forking.set.iter().find(|(id, _)| !waited.iter().any(|call| call.id == *id)) {
        let ids: Vec<String> = waited.iter().map(|call| call.id.to_string()).collect();
        return Ok(Some(Err(format!(
            "after pause {at} it did not wait for call {unknown}, but for {}",
            ids.join(", ")
        ))));
    }
    let set = |call: CallId| forking.set.iter().any(|(id, _)| *id == call);
    if let Some(child) =
        waited.iter().find(|call| call.kind == CallKind::Child && call.result.is_none() && !set(call.id))
    {
        return Ok(Some(Err(format!(
            "it waits for the child of call {0}: give its outcome with --set {0}=JSON",
            child.id
        ))));
    }
    let new = NewExecution {
        id: id.clone(),
        workflow: execution.workflow.clone(),
        source: executions::source(conn, &execution.source_hash)?.unwrap_or_default(),
        source_hash: execution.source_hash.clone(),
        queue: execution.queue.clone(),
        runner: forking.runner.clone(),
        inputs: executions::inputs(conn, from)?.unwrap_or_else(|| Json("{}".into())),
        launch: executions::launch(conn, from)?,
        now,
        due_at: now,
        deadline_at: None,
        parent: None,
        secret: secret.to_owned(),
    };
    if !executions::insert(conn, &new)? {
        return Ok(Some(Err(format!("execution {id} exists already: choose another id"))));
    }
    let fork = control::Fork { id, suspension: kept.suspension, epoch: kept.epoch, set: &forking.set };
    control::copy_calls(conn, from, &fork, now)?;
    control::set_state(conn, from, &fork, &kept.snapshot, now)?;
    Ok(Some(Ok(())))
}

fn state(conn: &mut DbConnection, execution: &Execution, at: i64) -> Result<Option<Kept>, StoreError> {
    if let Some(kept) = snapshots::get(conn, &execution.id, at)? {
        return Ok(Some(kept));
    }
    if at != execution.suspension {
        return Ok(None);
    }
    let Some(snapshot) = control::last_state(conn, &execution.id)? else { return Ok(None) };
    // The claim under which it was saved is the last whose outcomes that state has seen.
    let epoch = calls::last_delivery_before(conn, &execution.id, execution)?;
    Ok(Some(Kept { suspension: at, epoch, snapshot, created_at: execution.updated_at }))
}
