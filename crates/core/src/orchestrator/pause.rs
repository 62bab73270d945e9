//! pause: the state, the new calls, what was delivered: one transaction.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Engine, Event, History, OrchestrationError, cancel,
    children::{self, AT_ONCE},
    claim::{Claim, Claimed},
    foresee,
    limits::{self, Room},
};
use crate::{
    id::{CallId, ExecutionId},
    interpreter::{NewCall, Pause},
    model::{CallKind, Failure, Json, LogLine, Outcome, Stream},
    quota::Quota,
    store::{
        DbConnection, StoreError, callbacks,
        calls::{self, AttemptOf, Insertion, Withdrawn, Work},
        control,
        executions::{self, Asked, Pausing, Won},
        files, logs, signals, snapshots,
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
    output: TurnOutput,
) -> Result<Option<Paused>, OrchestrationError> {
    let now = engine.now();
    let id = claimed.id().clone();
    let held = claimed.fence();
    let won = claimed.won().clone();
    let (suspension, queue) = (won.execution.suspension + 1, won.execution.queue.clone());
    let delivered = output.taken(&won);
    // Of several pending calls, the settler of one may find the execution held for another, and die before it can
    // claim once more: then nobody but the clock looks. A single call is settled while the execution waits, and
    // its settler claims in the same commit.
    let several = pause.has_groups || pause.waits_for_earlier || pause.new_calls.len() > 1;
    let soon = now.after(engine.settings.look);
    let look = several.then_some(soon);
    let due_at = look.into_iter().chain(won.execution.deadline_at).min();
    let push_again = now.after(engine.settings.push_again);
    let keeps = engine.settings.history == History::All;
    let weighed = limits::weigh(engine, &won, &pause, now).await?;
    let (mut unlisted, quota) = (unlisted(engine, &won, &pause), engine.settings.quota);
    unlisted.extend(weighed.refused);
    let (used, not_before) = (weighed.used, weighed.not_before);
    let pause = Arc::new(pause);
    let TurnOutput { log, progress, withdrawn, .. } = output;
    let log = Arc::new(log);
    let (p, l, key, q, h, w) = (pause.clone(), log.clone(), id.clone(), queue.clone(), held.clone(), won.clone());
    let (refused, spent) = (unlisted.clone(), used.clone());
    engine.keep_hot(&id, None);
    let saved = engine.db.write(move |conn| {
        let pausing =
            Pausing { snapshot: &p.snapshot, base: p.base.as_ref(), due_at, progress: progress.as_ref(), used: &spent };
        // First, because it is the fence.
        if !h.secure(conn)? {
            return Ok(None);
        }
        let Some(asked) = executions::pause(conn, &h.fence, pausing, now)? else { return Ok(None) };
        calls::mark_delivered(conn, &h.fence, &delivered)?;
        calls::rewake(conn, &key, &p.rewoken)?;
        let at = Insertion { execution: &key, suspension, queue: &q, now, push_again, not_before };
        calls::insert(conn, at, &p.new_calls)?;
        let mut woken = begin(conn, &w, &p, quota, now)?;
        woken |= refuse(conn, &key, &refused, now)?;
        let (mut jobs, returned) = give_up(conn, &key, &withdrawn, now)?;
        woken |= hand_out_signals(conn, &key, &p.new_calls, returned, now)?;
        if asked == Asked::ToCancel {
            jobs.extend(cancel::tell(conn, &key, now)?);
            woken = true;
        }
        if woken {
            // Whoever looks after this commit may die before it does, or find the store away.
            executions::look_again(conn, &key, h.fence.epoch, due_at.unwrap_or(soon).min(soon))?;
        }
        if keeps {
            snapshots::keep(conn, &h.fence, suspension, &p.snapshot, now)?;
        }
        logs::append(conn, &key, &l, quota.log)?;
        Ok(Some((woken, jobs)))
    });
    let Some((woken, jobs)) = saved.await? else {
        tracing::warn!(execution.id = %id, "the claim was lost before the pause; dropping this turn");
        return Ok(None);
    };
    cancel::withdraw(engine, &id, jobs);
    engine.keep_hot(&id, foresee::keep(&won, &pause, &used).filter(|_| !woken));
    held.observe(engine);
    let at_once = |call: &&NewCall| matches!(call.kind, CallKind::Child | CallKind::Send | CallKind::Drain);
    let children = pause.new_calls.iter().filter(at_once).map(|_| AT_ONCE);
    let timers = pause.new_calls.iter().filter(|call| !call.abandoned).filter_map(|call| call.delay);
    if let Some(soonest) = timers.chain(children).chain(due_at.map(|at| at.since(now))).min() {
        engine.sooner(soonest);
    }
    let snapshot_bytes = pause.snapshot.bytes.len();
    engine.observe(Event::Paused { execution: &id, new_calls: &pause.new_calls, snapshot_bytes, log: &log });
    let unlisted = |call: &NewCall| unlisted.iter().any(|(id, _)| *id == call.id);
    let functions = pause.new_calls.iter().filter(|call| call.kind == CallKind::Function && !call.abandoned);
    let functions = functions.filter(|call| !unlisted(call));
    let work = functions.map(|call| Work {
        attempt: AttemptOf { execution: id.clone(), call: call.id, number: 1 },
        function: call.function.clone(),
        queue: call.queue.clone().unwrap_or_else(|| queue.clone()),
        args: call.args.clone(),
        kwargs: call.kwargs.clone(),
        options: call.options.clone(),
        deadline: call.options.total_timeout.map(|time| now.after(time)),
    });
    Ok(Some(Paused { work: work.collect(), look_again: pause.waits_for_earlier || woken }))
}

/// Calls that may not be made where the workflow wants them made: whoever serves a foreign queue runs whatever a job names.
fn unlisted(engine: &Engine, won: &Won, pause: &Pause) -> Vec<(CallId, Failure)> {
    let own = &won.execution.queue;
    let functions = pause.new_calls.iter().filter(|call| call.kind == CallKind::Function && !call.abandoned);
    let refused = functions.filter_map(|call| {
        let queue = call.queue.as_ref().unwrap_or(own);
        let foreign = engine.queue.foreign().contains(queue);
        let why = if foreign && queue != own && !won.allowed.names_queue(queue) {
            format!(
                "only executions that are started in the queue {queue}, or whose start or deployment names it \
                 (--allow-queue {queue}), reach the stock workers that serve it"
            )
        } else if foreign && !engine.queue.takes(queue, &call.function) {
            format!("{} may not be called in the queue {queue}: --rq-queue does not list it", call.function)
        } else {
            return None;
        };
        Some((call.id, Failure::new("PermissionError", why)))
    });
    refused.collect()
}

/// Settles them as failed, where the workflow awaits them. Answers whether there are any.
fn refuse(
    conn: &mut DbConnection,
    id: &ExecutionId,
    refused: &[(CallId, Failure)],
    now: Timestamp,
) -> Result<bool, StoreError> {
    for (call, failure) in refused {
        let of = AttemptOf { execution: id.clone(), call: *call, number: 1 };
        calls::settle(conn, &of, &Outcome::Failed(failure.clone()), now)?;
    }
    Ok(!refused.is_empty())
}

/// Begins what is neither a function's nor the clock's: tokens, children. Answers whether any call has its outcome already.
fn begin(conn: &mut DbConnection, won: &Won, pause: &Pause, quota: Quota, now: Timestamp) -> Result<bool, StoreError> {
    let mut woken = false;
    let starts_children = pause.new_calls.iter().any(|call| call.child.is_some());
    let files = if starts_children { files::of(conn, &won.execution.id)? } else { None };
    let mut room = if starts_children { Some(Room::of(conn, won, quota)?) } else { None };
    let parent =
        children::Of { execution: &won.execution, secret: &won.secret, files: files.as_ref(), allowed: &won.allowed };
    for call in pause.new_calls.iter().filter(|call| !call.abandoned) {
        let of = AttemptOf { execution: won.execution.id.clone(), call: call.id, number: 1 };
        let outcome = match call.kind {
            CallKind::Function | CallKind::Timer | CallKind::Signal | CallKind::Send | CallKind::Drain => None,
            CallKind::Callback => {
                callbacks::insert(conn, call.token.as_deref().unwrap_or_default(), &of, now)?;
                None
            }
            CallKind::Child => match &call.child {
                Some(child) => match room.as_mut().map_or(Ok(()), Room::take) {
                    Ok(()) => children::begin(conn, &parent, call, child, now)?,
                    Err(failure) => Some(Outcome::Failed(failure)),
                },
                None => None,
            },
        };
        if let Some(outcome) = outcome {
            calls::settle(conn, &of, &outcome, now)?;
            woken = true;
        }
    }
    Ok(woken)
}

/// Cancels what the workflow gave up; answers what workers may have of it, and the names of signals that came to nobody and
/// are there again.
pub(super) fn give_up(
    conn: &mut DbConnection,
    id: &ExecutionId,
    withdrawn: &[CallId],
    now: Timestamp,
) -> Result<(Vec<Withdrawn>, BTreeSet<String>), StoreError> {
    if withdrawn.is_empty() {
        return Ok((Vec::new(), BTreeSet::new()));
    }
    let jobs = calls::give_up(conn, id, withdrawn, now)?;
    control::request_cancel_of_awaited(conn, id, withdrawn, now)?;
    Ok((jobs, signals::give_back(conn, id, withdrawn, now)?))
}

/// Signals that are there go to the calls that wait for them, each to the one that has waited longest. Answers whether any
/// did.
pub(super) fn hand_out_signals(
    conn: &mut DbConnection,
    id: &ExecutionId,
    new_calls: &[NewCall],
    returned: BTreeSet<String>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut names = returned;
    let new = new_calls.iter().filter(|call| call.kind == CallKind::Signal && !call.abandoned);
    names.extend(new.map(|call| call.function.clone()));
    let mut woken = false;
    for name in names {
        while let Some(call) = calls::waits_for_signal(conn, id, &name, now)? {
            let Some(payload) = signals::take(conn, id, &name, call)? else { break };
            let of = AttemptOf { execution: id.clone(), call, number: 1 };
            calls::settle(conn, &of, &Outcome::Completed(payload), now)?;
            woken = true;
        }
    }
    Ok(woken)
}

/// What a turn leaves beside the way in which it ended.
#[derive(Debug, Default)]
pub struct TurnOutput {
    /// What it wrote.
    pub log: Vec<LogLine>,
    /// What it last said of itself.
    pub progress: Option<Json>,
    /// Calls that it gave up: what they were given, it did not take.
    pub withdrawn: Vec<CallId>,
    /// Signals that are in and that it was not told of, because nobody has awaited them yet.
    pub unread: Vec<CallId>,
}

impl TurnOutput {
    /// The calls whose outcomes the workflow was told of.
    pub(super) fn taken(&self, won: &Won) -> Vec<CallId> {
        let not_told = |id: &CallId| self.withdrawn.contains(id) || self.unread.contains(id);
        won.outcomes.iter().map(|(id, _)| *id).filter(|id| !not_told(id)).collect()
    }
}

/// The second look, after the pause has been committed.
///
/// Why none is missed: a settler tries to claim after its outcome is committed (also when it has tried
/// before, within its transaction). If it then found the execution running, its outcome was committed before our
/// pause was, so this look, which begins after our pause, sees it. If our pause came first, its claim finds the
/// execution waiting. Whoever dies in between leaves it to the clock: `due_at` is set while several calls are
/// pending, and where the pause itself found an outcome. An execution that paused on new calls alone needs no look: nobody can have settled
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
