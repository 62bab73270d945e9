//! pause: the state, the new calls, what was delivered: one transaction.

use super::{
    Engine, Event, OrchestrationError,
    claim::{Claim, Claimed},
    foresee,
};
use crate::{
    id::{CallId, ExecutionId},
    interpreter::Pause,
    model::{CallKind, LogLine, Stream},
    store::{
        calls::{self, AttemptOf, Insertion, Work},
        executions, logs,
    },
    time::Timestamp,
};

/// What a pause leaves to be done.
#[derive(Debug)]
pub struct Paused {
    /// Function calls to be dispatched.
    pub work: Vec<Work>,
    /// Outcomes may have come in while the claim was held, see [`look_again`].
    pub look_again: bool,
}

/// Saves a pause and gives the claim up. None when the claim was lost: nothing was written, and
/// whoever holds the execution now makes the same calls.
#[tracing::instrument(name = "pause", level = "info", skip_all, fields(execution.id = %claimed.id(), epoch = claimed.epoch().0))]
pub async fn pause(
    engine: &Engine,
    claimed: Claimed,
    pause: Pause,
    log: Vec<LogLine>,
) -> Result<Option<Paused>, OrchestrationError> {
    let now = engine.now();
    let id = claimed.id().clone();
    let held = claimed.fence();
    let won = claimed.won().clone();
    let (suspension, queue) = (won.execution.suspension + 1, won.execution.queue.clone());
    let delivered: Vec<CallId> = won.outcomes.iter().map(|(id, _)| *id).collect();
    // Of several pending calls, the settler of one may find the execution held for another, and die before it can
    // claim once more: then nobody but the clock looks. A single call is settled while the execution waits, and
    // its settler claims in the same commit.
    let several = pause.has_groups || pause.waits_for_earlier || pause.new_calls.len() > 1;
    let due_at = several.then(|| now.after(engine.settings.look));
    let push_again = now.after(engine.settings.push_again);
    let (pause, log) = (std::sync::Arc::new(pause), std::sync::Arc::new(log));
    let (p, l, key, q, h) = (pause.clone(), log.clone(), id.clone(), queue.clone(), held.clone());
    engine.keep_hot(&id, None);
    let saved = engine
        .db
        .write(move |conn| {
            // First, because it is the fence.
            if !h.secure(conn)? || !executions::pause(conn, &h.fence, &p.snapshot, p.base.as_ref(), due_at, now)? {
                return Ok(false);
            }
            calls::mark_delivered(conn, &h.fence, &delivered)?;
            calls::rewake(conn, &key, &p.rewoken)?;
            let at = Insertion { execution: &key, suspension, queue: &q, now, push_again };
            calls::insert(conn, at, &p.new_calls, false)?;
            logs::append(conn, &key, &l)?;
            Ok(true)
        })
        .await?;
    if !saved {
        tracing::warn!(execution.id = %id, "the claim was lost before the pause; dropping this turn");
        return Ok(None);
    }
    engine.keep_hot(&id, foresee::keep(&won, &pause));
    held.observe(engine);
    let timers = pause.new_calls.iter().filter(|call| call.kind == CallKind::Timer).filter_map(|call| call.delay);
    if let Some(soonest) = timers.chain(due_at.map(|at| at.since(now))).min() {
        engine.sooner(soonest);
    }
    let snapshot_bytes = pause.snapshot.bytes.len();
    engine.observe(Event::Paused { execution: &id, new_calls: &pause.new_calls, snapshot_bytes, log: &log });
    let functions = pause.new_calls.iter().filter(|call| call.kind == CallKind::Function);
    let work = functions.map(|call| Work {
        attempt: AttemptOf { execution: id.clone(), call: call.id, number: 1 },
        function: call.function.clone(),
        queue: queue.clone(),
        args: call.args.clone(),
        kwargs: call.kwargs.clone(),
    });
    Ok(Some(Paused { work: work.collect(), look_again: pause.waits_for_earlier }))
}

/// The second look, after the pause has been committed.
///
/// Why none is missed: a settler tries to claim after its outcome is committed (also when it has tried
/// before, within its transaction). If it then found the execution running, its outcome was committed before our
/// pause was, so this look, which begins after our pause, sees it. If our pause came first, its claim finds the
/// execution waiting. Whoever dies in between leaves it to the clock: `due_at` is set while several calls are
/// pending. An execution that paused on new calls alone needs no look: nobody can have settled
/// calls that did not exist.
pub async fn look_again(engine: &Engine, id: &ExecutionId) -> Result<Option<Claimed>, OrchestrationError> {
    let key = id.clone();
    if !engine.db.read(move |conn| calls::is_woken(conn, &key)).await? {
        return Ok(None);
    }
    let (claim, key) = (Claim::of(engine), id.clone());
    let claimed = engine.db.write(move |conn| claim.make(conn, &key)).await?;
    if let Some(claimed) = &claimed {
        engine.observe(Event::Claimed(id, claimed.epoch()));
    }
    Ok(claimed)
}

/// A turn's output as lines of the execution's log.
pub(super) fn log_lines(log: Vec<(Stream, String)>, at: Timestamp) -> Vec<LogLine> {
    log.into_iter().map(|(stream, text)| LogLine { call_id: None, attempt: None, stream, text, at }).collect()
}
