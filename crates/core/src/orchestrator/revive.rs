//! revive: an execution that failed goes on from its last state, or another begins from one of its states.

use std::collections::BTreeSet;

use super::{
    Engine, OrchestrationError,
    children::{AT_ONCE, begin_again},
    mend::{self, ForFork, NewCode},
};
use crate::{
    id::{CallId, Epoch, ExecutionId, WorkerId},
    interpreter::Snapshot,
    model::{CallKind, Execution, ExecutionStatus, Json},
    store::{
        DbConnection, StoreError, calls, control,
        executions::{self, NewExecution},
        files,
        snapshots::{self, Kept},
        versions,
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
            ExecutionStatus::Failed | ExecutionStatus::Cancelled => {
                Ok(Some(Ok(match obstacle(conn, &execution, false)? {
                    Some(why) => Err(why),
                    None => {
                        let again = control::revive(conn, &execution, now)?;
                        begin_again(conn, &key, now)?;
                        Ok(again)
                    }
                })))
            }
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

/// Why an execution that has ended cannot go on from its last state; with other code, that is made from the record.
pub(super) fn obstacle(
    conn: &mut DbConnection,
    execution: &Execution,
    with_code: bool,
) -> Result<Option<Refused>, StoreError> {
    if execution.suspension == 0 {
        return Ok(None);
    }
    // From its beginning it would do again what succeeded.
    if !with_code && control::last_state(conn, &execution.id)?.is_none() {
        return Ok(Some(
            "its last state was not kept (--history none); durable retry --with FILE makes one from the record".into(),
        ));
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
    /// Other code that it begins with. Then the state is made from the record, and need not be kept.
    pub with: Option<NewCode>,
}

/// Why there is no fork: a sentence.
type Refused = String;

/// Starts an execution from a kept state of another. What that one had been told stays; of what it still waited for,
/// successes are kept and everything else is run again. A clock takes the new execution up.
#[tracing::instrument(name = "fork", level = "info", skip_all, fields(execution.id = %forking.from))]
pub async fn fork(engine: &Engine, mut forking: Forking) -> Result<ExecutionId, OrchestrationError> {
    if let Some(code) = forking.with.take() {
        forking.with = Some(mend::fitting(engine, &forking.from, code).await?);
    }
    let (from, now) = (forking.from.clone(), engine.now());
    let id = forking.id.clone().unwrap_or_else(ExecutionId::generate);
    let (new, secret) = (id.clone(), super::start::secret());
    let made = match &forking.with {
        Some(code) => Some(mend::for_fork(engine, &forking, &code.program).await?),
        None => None,
    };
    let done = engine.db.write(move |conn| copy(conn, &forking, (&new, &secret), made.as_ref(), now)).await?;
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
    (id, secret): (&ExecutionId, &str),
    made: Option<&ForFork>,
    now: Timestamp,
) -> Result<Option<Result<(), Refused>>, StoreError> {
    let from = &forking.from;
    let Some(execution) = control::lock(conn, from)? else { return Ok(None) };
    let begun = match made {
        Some(made) => made_anew(conn, &execution, made)?,
        None => kept(conn, &execution, forking.at.unwrap_or(execution.suspension))?,
    };
    let Begun { at, epoch, saved_at, snapshot, base, waits, workflow, source_hash, files } = match begun {
        Ok(begun) => begun,
        Err(why) => return Ok(Some(Err(why))),
    };
    let (base, waits) = (base.as_ref(), waits.as_ref());
    let fork =
        control::Fork { id, suspension: at, epoch, saved_at, waits, snapshot: &snapshot, base, set: &forking.set };
    let open = calls::list(conn, from)?;
    let at_pause = |call: &crate::model::Call| {
        call.resume_group <= at && !fork.has_seen(call.id, call.delivered_in, call.completed_at)
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
    let (workflow, source, source_hash, files) = match &forking.with {
        Some(NewCode { program, files, .. }) => {
            (program.name.clone(), program.source.clone(), program.hash.clone(), files::keep(conn, files, now)?)
        }
        None => (workflow, executions::source(conn, &source_hash)?.unwrap_or_default(), source_hash, files),
    };
    let launch = match forking.with.as_ref().and_then(|code| code.launch.clone()) {
        Some(launch) => Some(launch),
        None => executions::launch(conn, from)?,
    };
    let new = NewExecution {
        id: id.clone(),
        workflow,
        source,
        source_hash,
        files,
        queue: execution.queue.clone(),
        runner: forking.runner.clone(),
        inputs: executions::inputs(conn, from)?.unwrap_or_else(|| Json("{}".into())),
        launch,
        now,
        due_at: now,
        deadline_at: None,
        parent: None,
        depth: 0,
        root: None,
        secret: secret.to_owned(),
        allowed: executions::allowed(conn, from)?,
    };
    if !executions::insert(conn, &new)? {
        return Ok(Some(Err(format!("execution {id} exists already: choose another id"))));
    }
    control::copy_calls(conn, from, &fork, now)?;
    control::set_state(conn, from, &fork, now)?;
    Ok(Some(Ok(())))
}

/// What another execution begins from.
struct Begun {
    at: i64,
    epoch: Epoch,
    saved_at: Timestamp,
    snapshot: Snapshot,
    base: Option<Snapshot>,
    waits: Option<BTreeSet<CallId>>,
    workflow: String,
    source_hash: String,
    files: Option<Json>,
}

/// A state that other code has led to.
fn made_anew(
    conn: &mut DbConnection,
    execution: &Execution,
    made: &ForFork,
) -> Result<Result<Begun, Refused>, StoreError> {
    let ForFork { pause, rebuilt, first_call } = made;
    if execution.suspension < *pause || executions::first_call(conn, &execution.id)? != *first_call {
        return Ok(Err("it has begun anew meanwhile: try again".into()));
    }
    Ok(Ok(Begun {
        at: *pause,
        epoch: execution.epoch,
        saved_at: execution.updated_at,
        snapshot: rebuilt.snapshot.clone(),
        base: Some(rebuilt.base.clone()),
        waits: Some(rebuilt.waits.keys().copied().collect()),
        workflow: execution.workflow.clone(),
        source_hash: execution.source_hash.clone(),
        files: None,
    }))
}

/// A state that is kept, with the code that it is of.
fn kept(conn: &mut DbConnection, execution: &Execution, at: i64) -> Result<Result<Begun, Refused>, StoreError> {
    let Some(kept) = state(conn, execution, at)? else {
        let kept = snapshots::list(conn, &execution.id)?;
        let kept: Vec<String> = kept.iter().map(|(number, ..)| number.to_string()).collect();
        let others = if kept.is_empty() { "none is".to_owned() } else { format!("kept are {}", kept.join(", ")) };
        return Ok(Err(format!("its state after pause {at} is not kept; {others} (see --history)")));
    };
    let former = versions::of_pause(conn, &execution.id, at)?;
    let (workflow, source_hash, files, base) = match former {
        Some(former) => (former.workflow, former.source_hash, former.files, former.base),
        None => (execution.workflow.clone(), execution.source_hash.clone(), files::of(conn, &execution.id)?, None),
    };
    let Kept { epoch, snapshot, created_at: saved_at, .. } = kept;
    Ok(Ok(Begun { at, epoch, saved_at, snapshot, base, waits: None, workflow, source_hash, files }))
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
    // Whatever was open when it ended is waited for by that state.
    let created_at = execution.finished_at.map_or(execution.updated_at, |end| Timestamp(end.0 - 1));
    Ok(Some(Kept { suspension: at, epoch, snapshot, created_at }))
}
