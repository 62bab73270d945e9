//! rescue: executions that somebody should have moved on. An expired claim is free again, a start
//! that nobody claimed is taken up, and a waiting gather is looked at in case the process that
//! settled its last call died before it could claim.

use std::{sync::Arc, time::Duration};

use super::{
    Engine, OrchestrationError,
    cancel::{Cancelled, cancel},
    claim::{Claimed, claim},
    drive,
    pause::look_again,
    timers::{PUT_OFF, all, told},
};
use crate::{
    id::{ExecutionId, WorkerId},
    model::{Execution, ExecutionStatus},
    store::{
        calls,
        claims::{self, Due},
        endings, executions, pushes,
    },
    time::Timestamp,
};

/// Most executions that one tick looks at.
const AT_ONCE: i64 = 100;

/// Looks at every execution that is due at `now`; answers how many. What can go on goes on by itself: no tick waits for a
/// turn. An execution that nothing can be done with is left alone for a while, so that the others get their look.
pub async fn tick(engine: &Arc<Engine>, now: Timestamp) -> Result<usize, OrchestrationError> {
    let whose = engine.whose.clone();
    let due = engine.db.read(move |conn| executions::due(conn, &whose, now, AT_ONCE)).await?;
    let (count, Due { rows, unreadable }) = (due.len(), due);
    if !unreadable.is_empty() {
        let keys = told(unreadable, "an execution");
        engine.db.write(move |conn| claims::put_off_executions(conn, &keys, now.after(PUT_OFF))).await?;
    }
    all(rows, |execution| act_or_put_off(engine, execution, now)).await?;
    Ok(count)
}

async fn act_or_put_off(engine: &Arc<Engine>, execution: Execution, now: Timestamp) -> Result<(), OrchestrationError> {
    let (id, epoch) = (execution.id.clone(), execution.epoch);
    match act(engine, execution, now).await {
        Ok(Some(claimed)) => drive::begin(engine, claimed),
        Ok(None) => {}
        Err(OrchestrationError::Store(error)) if error.is_passing() => return Err(error.into()),
        Err(error) => {
            tracing::error!(execution.id = %id, %error, "nothing can be done with an execution: it is left alone for a while");
            let at = now.after(PUT_OFF);
            engine.db.write(move |conn| claims::put_off(conn, &id, epoch, at)).await?;
        }
    }
    Ok(())
}

async fn act(engine: &Engine, execution: Execution, now: Timestamp) -> Result<Option<Claimed>, OrchestrationError> {
    let late = execution.deadline_at.is_some_and(|deadline| deadline <= now);
    let asked = execution.cancel_requested_at.is_some() || late;
    match execution.status {
        ExecutionStatus::Waiting | ExecutionStatus::Paused | ExecutionStatus::Scheduled
            if asked && !execution.cancel_told =>
        {
            match cancel(engine, &execution.id, false).await? {
                Cancelled::Told(claimed) | Cancelled::Ended(claimed) => Ok(claimed),
                Cancelled::Asked | Cancelled::TooLate(_) => Ok(None),
            }
        }
        ExecutionStatus::Waiting => look(engine, &execution, now).await,
        ExecutionStatus::Paused => {
            // Whoever paused it lets it go on; until then only its deadline matters.
            let at = execution.deadline_at.filter(|_| !execution.cancel_told);
            let (id, epoch) = (execution.id, execution.epoch);
            engine.db.write(move |conn| claims::leave_paused(conn, &id, epoch, at)).await?;
            Ok(None)
        }
        _ => claim(engine, &execution.id).await,
    }
}

async fn look(engine: &Engine, execution: &Execution, now: Timestamp) -> Result<Option<Claimed>, OrchestrationError> {
    // Twice the time that it has waited already: few looks at long waits, early ones at short.
    let settings = &engine.settings;
    let wait = now.since(execution.updated_at).clamp(settings.look, settings.look_at_most);
    let (id, epoch) = (execution.id.clone(), execution.epoch);
    let deadline = execution.deadline_at.filter(|_| !execution.cancel_told);
    let next = std::iter::once(now.after(wait)).chain(deadline).min().unwrap_or(now);
    engine.db.write(move |conn| executions::look_again(conn, &id, epoch, next)).await?;
    look_again(engine, &execution.id).await
}

/// The queue has lost everything: what was in it is pushed again.
pub async fn push_everything(engine: &Engine, now: Timestamp) -> Result<usize, OrchestrationError> {
    let whose = engine.whose.clone();
    Ok(engine.db.write(move |conn| pushes::push_everything(conn, &whose, now)).await?)
}

/// Takes an execution over from the process that ran it by itself and is known to be dead, or that
/// never was: its claim and its calls are due at once. False when somebody else took it over first.
pub async fn take_over(engine: &Engine, id: &ExecutionId, from: Option<&WorkerId>) -> Result<bool, OrchestrationError> {
    let (now, id, from, me) = (engine.now(), id.clone(), from.cloned(), engine.worker.clone());
    let adopted = engine
        .db
        .write(move |conn| {
            if !executions::adopt(conn, &id, from.as_ref(), &me)? {
                return Ok(false);
            }
            let mut adopted = vec![id.clone()];
            if let Some(dead) = &from {
                calls::expire_leases_of(conn, dead, now)?;
                // Its children, and theirs.
                for (child, _) in executions::run_by(conn, dead)? {
                    executions::adopt(conn, &child, Some(dead), &me)?;
                    adopted.push(child);
                }
            }
            for id in &adopted {
                endings::all_have_ended(conn, id, now)?;
                executions::due_now(conn, id, now)?;
                // Whatever was queued was queued in the memory of the dead.
                pushes::push_all_now(conn, id, now)?;
            }
            Ok(true)
        })
        .await?;
    engine.sooner(Duration::ZERO);
    Ok(adopted)
}
