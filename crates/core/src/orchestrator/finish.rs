//! finish: the workflow returned, or raised. What it no longer waits for is cancelled.

use std::sync::Arc;

use durable_queue::Bell;

use super::{
    Engine, Event, History, OrchestrationError, cancel,
    children::{self, AT_ONCE},
    claim::{Claim, Claimed},
    pause::{TurnOutput, log_lines},
    settle::follow,
};
use crate::{
    id::{CallId, ExecutionId},
    interpreter::{self, NewCall, is_same_failure},
    model::{CallStatus, Execution, Failure, Json, Stream},
    store::{
        DbConnection, StoreError,
        calls::{self, Insertion, Seen},
        control,
        executions::{self, Ending},
        logs, retention, signals, snapshots,
    },
    time::Timestamp,
};

/// An execution that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The claim of the execution that waited for it, if that can go on.
    pub parent: Option<Claimed>,
}

/// Ends a claimed execution. None when the claim was lost: nothing was written.
#[tracing::instrument(name = "finish", level = "info", skip_all, fields(execution.id = %claimed.id(), epoch = claimed.epoch().0))]
pub async fn finish(
    engine: &Engine,
    claimed: Claimed,
    result: Result<Json, Failure>,
    abandoned: Vec<NewCall>,
    output: TurnOutput,
) -> Result<Option<Finished>, OrchestrationError> {
    let now = engine.now();
    let id = claimed.id().clone();
    let held = claimed.fence();
    let won = claimed.won().clone();
    let (suspension, queue) = (won.execution.suspension + 1, won.execution.queue.clone());
    let delivered = output.taken(&won);
    let ending = match result {
        Ok(output) => Ending::Completed(output),
        Err(failure) => ending(&won.execution, with_cause(engine, &id, failure).await?),
    };
    let ending = Arc::new(ending);
    let TurnOutput { log, progress, .. } = output;
    let log = Arc::new(log);
    let (e, l, key, h, claim) = (ending.clone(), log.clone(), id.clone(), held.clone(), Claim::of(engine));
    let (drops, most_log) = (engine.settings.history == History::None, engine.settings.quota.log);
    let abandoned: Vec<NewCall> = abandoned.into_iter().map(NewCall::in_short).collect();
    engine.keep_hot(&id, None);
    let ended = engine.db.write(move |conn| {
        if !h.secure(conn)? || !executions::end(conn, &h.fence, &e, now)? {
            return Ok(None);
        }
        calls::mark_delivered(conn, &h.fence, &delivered)?;
        let at = Insertion { execution: &key, suspension, queue: &queue, now, push_again: now, not_before: now };
        calls::insert(conn, at, &abandoned)?;
        // What it gave up in this turn it waits for again, should it be retried.
        let jobs = calls::cancel_open(conn, &key, Seen::ByNobody, now)?;
        control::request_cancel_of_children(conn, &key, now)?;
        if let Some(progress) = &progress {
            executions::set_progress(conn, &key, progress)?;
        }
        if drops {
            snapshots::drop_last(conn, &key)?;
        }
        logs::append(conn, &key, &l, most_log)?;
        note_untaken_signals(conn, &key, now)?;
        let next = match &won.execution.parent {
            Some(parent) => children::report(conn, &key, parent, &e, &claim)?.map(|next| (parent.clone(), next)),
            None => None,
        };
        Ok(Some((jobs, next)))
    });
    let Some((jobs, next)) = ended.await? else {
        tracing::warn!(execution.id = %id, "the claim was lost before the end; dropping this turn");
        return Ok(None);
    };
    held.observe(engine);
    let failure = match &*ending {
        Ending::Completed(_) => None,
        Ending::Failed(failure) | Ending::Cancelled(failure) => Some(failure),
    };
    tracing::info!(execution.id = %id, failed = failure.is_some(), "execution finished");
    if !jobs.is_empty() {
        cancel::withdraw(engine, &id, jobs);
        engine.sooner(AT_ONCE);
    }
    engine.ring(Bell::Ended(id.to_string()));
    engine.observe(Event::Finished { execution: &id, failure, log: &log });
    let parent = match next {
        Some((parent, next)) => follow(engine, &parent.execution_id, next).await?,
        None => None,
    };
    Ok(Some(Finished { parent }))
}

/// Begins a claimed execution anew, without its past. None when the claim was lost.
pub async fn again(
    engine: &Engine,
    claimed: Claimed,
    inputs: Json,
    first_call: CallId,
    output: TurnOutput,
) -> Result<Option<Anew>, OrchestrationError> {
    let (now, id, held) = (engine.now(), claimed.id().clone(), claimed.fence());
    let (quota, mut used) = (engine.settings.quota, claimed.won().execution.used.clone());
    let begins = used.begin_anew(&quota, now);
    let told = output.taken(claimed.won());
    let TurnOutput { log, progress, withdrawn, .. } = output;
    let log = Arc::new(log);
    let (key, h, l) = (id.clone(), held.clone(), log.clone());
    engine.keep_hot(&id, None);
    let begun = engine.db.write(move |conn| {
        if !h.secure(conn)? {
            return Ok(None);
        }
        if !control::again(conn, &h.fence, (&inputs, first_call), (&used, begins), now)? {
            return Ok(None);
        }
        control::request_cancel_of_children(conn, &key, now)?;
        // What this life was told is not the next one's.
        calls::mark_delivered(conn, &h.fence, &told)?;
        calls::give_up(conn, &key, &withdrawn, now)?;
        signals::give_back(conn, &key, &withdrawn, now)?;
        // What came while this turn ran is for the next life.
        signals::give_back_untold(conn, &key, now)?;
        let jobs = calls::cancel_open(conn, &key, Seen::ByNobody, now)?;
        control::forget_past(conn, &key)?;
        retention::former_life(conn, &key, quota.log, now)?;
        logs::append(conn, &key, &l, quota.log)?;
        if let Some(progress) = &progress {
            executions::set_progress(conn, &key, progress)?;
        }
        Ok(Some(jobs))
    });
    let Some(jobs) = begun.await? else { return Ok(None) };
    held.observe(engine);
    tracing::info!(execution.id = %id, "begins anew");
    engine.observe(Event::Again { execution: &id, log: &log });
    cancel::withdraw(engine, &id, jobs);
    if begins <= now {
        return Ok(Some(Anew::Now));
    }
    engine.sooner(begins.since(now));
    Ok(Some(Anew::Later))
}

/// When an execution that begins anew does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anew {
    /// At once.
    Now,
    /// Its clock lets it: it has begun too often lately.
    Later,
}

/// Whoever sent something wants to know that it had no effect.
pub(super) fn note_untaken_signals(
    conn: &mut DbConnection,
    id: &ExecutionId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let untaken = signals::untaken(conn, id)?;
    if untaken.is_empty() {
        return Ok(());
    }
    let count =
        |(name, count): (&String, &i64)| if *count == 1 { name.clone() } else { format!("{name} ({count} times)") };
    let names: Vec<String> = untaken.iter().map(count).collect();
    let text = format!("it ended without taking these signals: {}\n", names.join(", "));
    logs::append(conn, id, &log_lines(vec![(Stream::Stderr, text)], now), u64::MAX)
}

/// How an exception that ended a workflow ends its execution.
fn ending(execution: &Execution, failure: Failure) -> Ending {
    if failure.kind != "KeyboardInterrupt" || !execution.cancel_told {
        return Ending::Failed(failure);
    }
    let over = execution.deadline_at.filter(|deadline| execution.cancel_requested_at >= Some(*deadline));
    match over {
        Some(deadline) => Ending::Failed(known_as(
            "TimeoutError",
            &format!("not done by its deadline, {deadline}"),
            failure.traceback,
        )),
        None => Ending::Cancelled(known_as(cancel::CANCELLED, "it was cancelled", failure.traceback)),
    }
}

/// A failure under the name that people know it by, also in the last line of its traceback.
fn known_as(kind: &str, message: &str, traceback: Option<String>) -> Failure {
    let named = |text: String| {
        let frames = text.trim_end().rsplit_once('\n').map_or("", |(frames, _)| frames);
        format!("{frames}\n{kind}: {message}").trim_start().to_owned()
    };
    Failure { traceback: traceback.map(named), ..Failure::new(kind, message) }
}

/// Puts the traceback of the function whose failure the workflow passed on below the workflow's own.
async fn with_cause(engine: &Engine, id: &ExecutionId, mut failure: Failure) -> Result<Failure, OrchestrationError> {
    let key = id.clone();
    let failed = engine.db.read(move |conn: &mut DbConnection| failed_calls(conn, &key)).await?;
    let cause = failed.iter().rev().find(|(_, _, cause)| is_same_failure(&failure, cause));
    if let Some(text) = &mut failure.traceback {
        *text = below_causes(text, &failed);
    }
    let cause = cause.cloned();
    if let Some((call, at, Failure { traceback: Some(below), .. })) = cause {
        let above = failure.traceback.take().unwrap_or_default();
        failure.traceback = Some(format!("{}\n\nIn {at} (call {call}):\n\n{below}", above.trim_end()));
    }
    Ok(failure)
}

/// The same where such a failure is what another exception followed from.
fn below_causes(traceback: &str, failed: &[(CallId, String, Failure)]) -> String {
    let mut text = traceback.to_owned();
    for (call, at, cause) in failed.iter().rev() {
        let Some(below) = &cause.traceback else { continue };
        for sentence in ["\n\nThe above exception was", "\n\nDuring handling of"] {
            let shown = interpreter::as_raised(cause);
            let whole = format!("{shown}\n\nIn {at} (call {call}):\n\n{}{sentence}", below.trim_end());
            text = text.replacen(&format!("\n{shown}{sentence}"), &format!("\n{whole}"), 1);
        }
    }
    text
}

fn failed_calls(conn: &mut DbConnection, id: &ExecutionId) -> Result<Vec<(CallId, String, Failure)>, StoreError> {
    let calls = calls::list_with_status(conn, id, CallStatus::Failed)?;
    let at = |line: Option<u32>| line.map_or_else(String::new, |line| format!(", called on line {line}"));
    Ok(calls.into_iter().filter_map(|call| Some((call.id, call.function + &at(call.line), call.error?))).collect())
}
