//! cancel: an execution's open calls are cancelled, which its workflow sees where it awaits them; it may clean up, and
//! ends. By force it ends at once, whatever it does. Both reach down to its children.

use durable_queue::{Bell, JobId};

use super::{
    Engine, Event, OrchestrationError,
    children::{self, AT_ONCE},
    claim::{Claim, Claimed},
    drain,
    finish::note_untaken_signals,
    settle::{Next, follow},
};
use crate::{
    id::ExecutionId,
    model::{Execution, ExecutionStatus, Failure},
    store::{
        DbConnection, StoreError,
        calls::{self, Seen, Withdrawn},
        control,
        executions::{self, Ending},
    },
    time::Timestamp,
};

/// The type of the failure of what was cancelled.
pub const CANCELLED: &str = "durable.Cancelled";

/// What a wish to cancel came to.
#[derive(Debug)]
pub enum Cancelled {
    /// The workflow sees it now: the caller advances the execution, if the claim is here.
    Told(Option<Claimed>),
    /// The workflow sees it when it pauses, or has seen it already.
    Asked,
    /// The execution has ended by it. With a claim, its parent can go on.
    Ended(Option<Claimed>),
    /// It had ended before.
    TooLate(ExecutionStatus),
}

enum Verdict {
    Told(Box<Option<Claimed>>),
    Asked,
    Ended(Option<(ExecutionId, Next)>),
    TooLate(ExecutionStatus),
}

/// Cancels an execution; by `force` without asking its workflow.
#[tracing::instrument(name = "cancel", level = "info", skip_all, fields(execution.id = %id, force))]
pub async fn cancel(engine: &Engine, id: &ExecutionId, force: bool) -> Result<Cancelled, OrchestrationError> {
    let (claim, key, now) = (Claim::of(engine), id.clone(), engine.now());
    let done = engine.db.write(move |conn| decide(conn, &key, force, &claim)).await?;
    let (verdict, calls) = done.ok_or_else(|| OrchestrationError::NotFound(id.clone()))?;
    withdraw(engine, id, calls);
    engine.sooner(AT_ONCE);
    tracing::info!(execution.id = %id, at = %now, "cancellation asked for");
    Ok(match verdict {
        Verdict::Told(claimed) => {
            if let Some(claimed) = claimed.as_ref() {
                engine.observe(Event::Claimed(id, claimed.epoch()));
            }
            Cancelled::Told(*claimed)
        }
        Verdict::Asked => Cancelled::Asked,
        Verdict::TooLate(status) => Cancelled::TooLate(status),
        Verdict::Ended(parent) => {
            engine.ring(Bell::Ended(id.to_string()));
            engine.observe(Event::Finished { execution: id, failure: None, log: &[] });
            Cancelled::Ended(match parent {
                Some((parent, next)) => follow(engine, &parent, next).await?,
                None => None,
            })
        }
    })
}

type Decided = (Verdict, Vec<Withdrawn>);

fn decide(
    conn: &mut DbConnection,
    id: &ExecutionId,
    force: bool,
    claim: &Claim,
) -> Result<Option<Decided>, StoreError> {
    let now = claim.now;
    let Some(execution) = control::lock(conn, id)? else { return Ok(None) };
    let claim = &claim.on(&execution);
    if execution.status.is_final() {
        return Ok(Some((Verdict::TooLate(execution.status), Vec::new())));
    }
    // What has no state has run nothing that it could clean up.
    let unbegun = execution.suspension == 0 && execution.status != ExecutionStatus::Running;
    if force || unbegun {
        let how = if force { "it was ended by force" } else { "it was cancelled before it had begun" };
        return end(conn, &execution, how, claim).map(Some);
    }
    control::request_cancel(conn, id, now)?;
    if execution.cancel_told || execution.status == ExecutionStatus::Running {
        return Ok(Some((Verdict::Asked, Vec::new())));
    }
    if claim.leaves_word() {
        // Whoever claims it tells it, because only that process can tell its workers.
        executions::due_now(conn, id, now)?;
        return Ok(Some((Verdict::Told(Box::new(None)), Vec::new())));
    }
    let calls = tell(conn, id, now)?;
    Ok(Some((Verdict::Told(Box::new(claim.make(conn, id)?)), calls)))
}

/// Cancels everything that a locked, waiting execution waits for, where its workflow sees it.
pub(super) fn tell(conn: &mut DbConnection, id: &ExecutionId, now: Timestamp) -> Result<Vec<Withdrawn>, StoreError> {
    control::told(conn, id)?;
    control::request_cancel_of_children(conn, id, now)?;
    calls::cancel_open(conn, id, Seen::ByWorkflow, now)
}

fn end(conn: &mut DbConnection, execution: &Execution, how: &str, claim: &Claim) -> Result<Decided, StoreError> {
    let failure = Failure::new(CANCELLED, how);
    control::end_by_force(conn, &execution.id, &failure, claim.now)?;
    let calls = calls::cancel_open(conn, &execution.id, Seen::ByNobody, claim.now)?;
    note_untaken_signals(conn, &execution.id, claim.now)?;
    control::request_cancel_of_children(conn, &execution.id, claim.now)?;
    let parent = match &execution.parent {
        Some(parent) => children::report(conn, &execution.id, parent, &Ending::Cancelled(failure), claim)?
            .map(|next| (parent.execution_id.clone(), next)),
        None => None,
    };
    Ok((Verdict::Ended(parent), calls))
}

/// Takes jobs that nobody waits for out of their queues, and tells workers that run them. Lost, this costs work, and makes
/// nothing wrong.
pub(super) fn withdraw(engine: &Engine, id: &ExecutionId, calls: Vec<Withdrawn>) {
    if calls.is_empty() {
        return;
    }
    engine.ring(Bell::Cancelled(id.to_string()));
    let (queue, db, id, now) = (engine.queue.clone(), engine.db.clone(), id.clone(), engine.now());
    tokio::spawn(async move {
        for (call, name) in calls {
            match queue.cancel(&name, &JobId(format!("{id}-{call}"))).await {
                // Nobody had it.
                Ok(true) => drain::note(&db, &id, call, now),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, "a job of a cancelled call is still in its queue");
                    return;
                }
            }
        }
    });
}
