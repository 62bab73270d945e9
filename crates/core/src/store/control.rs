//! What people ask of executions: cancel, hold, let go on, begin anew, try again. Each begins with the write that locks the
//! execution's row, so that whoever pauses or ends it at the same moment comes before or after, never between.

use std::collections::BTreeSet;

use diesel::{
    BoolExpressionMethods, ExpressionMethods, IntoSql, OptionalExtension, QueryDsl, RunQueryDsl,
    dsl::{AsExprOf, case_when, sql},
    sql_types::{Bool, Text},
};

use super::{
    DbConnection, StoreError, calls as calls_store, executions,
    executions::Fence,
    rows::{self, failure_text},
    schema::{calls, executions as table, origins},
    versions,
};
use crate::{
    id::{CallId, Epoch, ExecutionId},
    interpreter::Snapshot,
    model::{CallKind, CallStatus, Execution, ExecutionStatus, Failure, Json},
    quota::Used,
    time::Timestamp,
};

fn text(status: ExecutionStatus) -> AsExprOf<&'static str, Text> {
    status.as_str().into_sql::<Text>()
}

/// Locks an execution until the transaction ends; then it as it is, without what may be large. None when there is none.
pub fn lock(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Execution>, StoreError> {
    let row = table::table.find(id.as_str());
    let found = diesel::update(row).set(table::suspension.eq(table::suspension)).execute(conn)?;
    if found == 0 { Ok(None) } else { executions::brief(conn, id) }
}

/// Notes that somebody wants a locked execution cancelled, unless somebody did before.
pub fn request_cancel(conn: &mut DbConnection, id: &ExecutionId, now: Timestamp) -> Result<bool, StoreError> {
    let open = table::table
        .find(id.as_str())
        .filter(table::finished_at.is_null())
        .filter(table::cancel_requested_at.is_null());
    Ok(diesel::update(open).set(table::cancel_requested_at.eq(Some(now.0))).execute(conn)? == 1)
}

/// The same for all children of an execution that somebody waits for; a clock tells them.
pub fn request_cancel_of_children(
    conn: &mut DbConnection,
    id: &ExecutionId,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let open = table::table
        .filter(table::parent_execution_id.eq(Some(id.as_str())))
        .filter(table::finished_at.is_null())
        .filter(table::cancel_requested_at.is_null());
    // A claimed one is told when it pauses, and its `due_at` is the end of its claim.
    let running = table::status.eq(ExecutionStatus::Running.as_str());
    let due = case_when(running, table::due_at).otherwise(Some(now.0));
    Ok(diesel::update(open).set((table::cancel_requested_at.eq(Some(now.0)), table::due_at.eq(due))).execute(conn)?)
}

/// The same for the children that these calls wait for.
pub fn request_cancel_of_awaited(
    conn: &mut DbConnection,
    id: &ExecutionId,
    calls: &[CallId],
    now: Timestamp,
) -> Result<(), StoreError> {
    let calls = calls.iter().map(|call| Some(i64::from(call.0)));
    let open = table::table
        .filter(table::parent_execution_id.eq(Some(id.as_str())))
        .filter(table::parent_call_id.eq_any(calls))
        .filter(table::finished_at.is_null())
        .filter(table::cancel_requested_at.is_null());
    let running = table::status.eq(ExecutionStatus::Running.as_str());
    let due = case_when(running, table::due_at).otherwise(Some(now.0));
    diesel::update(open).set((table::cancel_requested_at.eq(Some(now.0)), table::due_at.eq(due))).execute(conn)?;
    Ok(())
}

/// A locked execution's workflow is about to see its cancellation: it may be claimed, also if it was held.
pub fn told(conn: &mut DbConnection, id: &ExecutionId) -> Result<(), StoreError> {
    let waiting = sql::<Bool>("executions.status IN ('waiting', 'paused')");
    diesel::update(table::table.find(id.as_str()).filter(waiting))
        .set((table::cancel_told.eq(true), table::held.eq(false), table::status.eq(ExecutionStatus::Waiting.as_str())))
        .execute(conn)?;
    Ok(())
}

/// Ends an execution whatever it does: its epoch moves on, so whoever holds it has lost it.
pub fn end_by_force(
    conn: &mut DbConnection,
    id: &ExecutionId,
    failure: &Failure,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let open = table::table.find(id.as_str()).filter(table::finished_at.is_null());
    let ended = diesel::update(open)
        .set((
            table::status.eq(ExecutionStatus::Cancelled.as_str()),
            table::epoch.eq(table::epoch + 1),
            table::claimed_by.eq(None::<String>),
            table::claims.eq(0),
            table::due_at.eq(None::<i64>),
            table::error.eq(Some(failure_text(failure))),
            table::updated_at.eq(now.0),
            table::finished_at.eq(Some(now.0)),
        ))
        .execute(conn)?;
    Ok(ended == 1)
}

/// Keeps an execution from going on: at once, or when whoever advances it pauses it.
pub fn hold(conn: &mut DbConnection, id: &ExecutionId) -> Result<bool, StoreError> {
    let free = sql::<Bool>("executions.status IN ('scheduled', 'waiting')");
    let open = table::table.find(id.as_str()).filter(table::finished_at.is_null()).filter(table::held.eq(false));
    let status = case_when(free, text(ExecutionStatus::Paused)).otherwise(table::status);
    let free = sql::<Bool>("executions.status IN ('scheduled', 'waiting')");
    // Nothing but its deadline is the clock's business then, and a cancellation that is still to be told.
    let untold = table::cancel_requested_at.is_not_null().and(table::cancel_told.eq(false));
    let due = case_when(untold, table::due_at).when(free, table::deadline_at).otherwise(table::due_at);
    Ok(diesel::update(open)
        .set((table::held.eq(true), table::due_at.eq(due), table::status.eq(status)))
        .execute(conn)?
        == 1)
}

/// Lets a held execution go on; the clock looks at it now.
pub fn release(conn: &mut DbConnection, id: &ExecutionId, now: Timestamp) -> Result<bool, StoreError> {
    let held = table::table.find(id.as_str()).filter(table::finished_at.is_null()).filter(table::held.eq(true));
    let paused = || table::status.eq(ExecutionStatus::Paused.as_str());
    let due = case_when(paused(), Some(now.0)).otherwise(table::due_at);
    let status = case_when(paused().and(table::snapshot.is_null()), text(ExecutionStatus::Scheduled))
        .when(paused(), text(ExecutionStatus::Waiting))
        .otherwise(table::status);
    Ok(diesel::update(held)
        .set((table::held.eq(false), table::due_at.eq(due), table::status.eq(status)))
        .execute(conn)?
        == 1)
}

/// Keeps a claimed execution as it was, paused. False when the claim was lost.
pub fn shelve(conn: &mut DbConnection, fence: &Fence, now: Timestamp) -> Result<bool, StoreError> {
    let held = table::table
        .find(fence.id.as_str())
        .filter(table::epoch.eq(fence.epoch.0))
        .filter(table::status.eq(ExecutionStatus::Running.as_str()));
    let shelved = diesel::update(held)
        .set((
            table::status.eq(ExecutionStatus::Paused.as_str()),
            table::held.eq(true),
            table::claimed_by.eq(None::<String>),
            table::claims.eq(0),
            table::due_at.eq(table::deadline_at),
            table::updated_at.eq(now.0),
        ))
        .execute(conn)?;
    Ok(shelved == 1)
}

/// Lets a claimed execution begin anew at an instant, with other inputs; its past is to be forgotten then. False when the claim was lost.
pub fn again(
    conn: &mut DbConnection,
    fence: &Fence,
    (inputs, first_call): (&Json, CallId),
    (used, begins): (&Used, Timestamp),
    now: Timestamp,
) -> Result<bool, StoreError> {
    let held = table::table
        .find(fence.id.as_str())
        .filter(table::epoch.eq(fence.epoch.0))
        .filter(table::status.eq(ExecutionStatus::Running.as_str()));
    let status = case_when(table::held, text(ExecutionStatus::Paused)).otherwise(text(ExecutionStatus::Scheduled));
    let begun = diesel::update(held)
        .set((
            table::status.eq(status),
            table::claimed_by.eq(None::<String>),
            table::claims.eq(0),
            table::due_at.eq(case_when(table::held, table::deadline_at).otherwise(Some(begins.0))),
            table::used.eq(rows::used_text(used)),
            table::suspension.eq(0),
            table::snapshot.eq(None::<Vec<u8>>),
            table::snapshot_format.eq(None::<String>),
            table::started_at.eq(None::<i64>),
            table::updated_at.eq(now.0),
        ))
        .execute(conn)?;
    if begun == 0 {
        return Ok(false);
    }
    diesel::update(origins::table.find(fence.id.as_str()))
        .set((origins::inputs_anew.eq(Some(&inputs.0)), origins::first_call.eq(i64::from(first_call.0))))
        .execute(conn)?;
    Ok(true)
}

/// Forgets an execution's calls and states.
pub fn forget_past(conn: &mut DbConnection, id: &ExecutionId) -> Result<(), StoreError> {
    use super::schema::snapshots;
    diesel::delete(calls::table.filter(calls::execution_id.eq(id.as_str()))).execute(conn)?;
    diesel::delete(snapshots::table.filter(snapshots::execution_id.eq(id.as_str()))).execute(conn)?;
    diesel::update(origins::table.find(id.as_str()))
        .set((
            origins::base_snapshot.eq(None::<Vec<u8>>),
            origins::base_format.eq(None::<String>),
            // Nothing of its present life is another's.
            origins::forked_at.eq(None::<i64>),
        ))
        .execute(conn)?;
    versions::begin_anew(conn, id)
}

/// Lets a failed or cancelled execution go on from its last state: what failed or was cancelled then is run again, what
/// succeeded is not. The execution is locked. Answers how many calls are run again.
pub fn revive(conn: &mut DbConnection, execution: &Execution, now: Timestamp) -> Result<usize, StoreError> {
    let id = &execution.id;
    let has_state: bool = table::table.find(id.as_str()).select(table::snapshot.is_not_null()).first(conn)?;
    let status = if has_state { ExecutionStatus::Waiting } else { ExecutionStatus::Scheduled };
    let rows = unseen(conn, execution)?;
    diesel::update(table::table.find(id.as_str()))
        .set((
            table::status.eq(status.as_str()),
            table::error.eq(None::<String>),
            table::finished_at.eq(None::<i64>),
            table::cancel_requested_at.eq(None::<i64>),
            table::cancel_told.eq(false),
            table::held.eq(false),
            // One that is over would end it at once.
            table::deadline_at.eq(execution.deadline_at.filter(|at| *at > now).map(|at| at.0)),
            table::due_at.eq(Some(now.0)),
            table::updated_at.eq(now.0),
        ))
        .execute(conn)?;
    let mine = || calls::table.filter(calls::execution_id.eq(id.as_str()));
    if !has_state {
        return Ok(diesel::delete(mine()).execute(conn)?);
    }
    // The last turn is taken again, and makes these again.
    diesel::delete(mine().filter(calls::resume_group.gt(execution.suspension))).execute(conn)?;
    let mut again = 0;
    for (call, kind, status, attempt) in rows {
        let row = mine().filter(calls::call_id.eq(call));
        if status == CallStatus::Completed.as_str() {
            diesel::update(row).set(calls::delivered_in.eq(None::<i64>)).execute(conn)?;
            continue;
        }
        let kind: CallKind = kind.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))?;
        if kind == CallKind::Child
            && let Some(output) = revive_child(conn, id, rows::call_id(call)?, now)?
        {
            let completed = (
                calls::status.eq(CallStatus::Completed.as_str()),
                calls::result.eq(Some(output)),
                calls::error.eq(None::<String>),
                calls::delivered_in.eq(None::<i64>),
            );
            diesel::update(row).set(completed).execute(conn)?;
            continue;
        }
        again += 1;
        let lost: i64 = row.select(calls::lost).first(conn)?;
        let times =
            row.select((calls::function, calls::options, calls::created_at, calls::started_at, calls::deadline_at));
        let Again { due, deadline } = Again::of(kind, times.first(conn)?, now)?;
        diesel::update(row)
            .set((
                calls::status.eq(CallStatus::Pending.as_str()),
                calls::attempt.eq(attempt + 1),
                // All that failed until now.
                calls::forgiven.eq(attempt - lost),
                calls::worker.eq(None::<String>),
                calls::error.eq(None::<String>),
                calls::completed_at.eq(None::<i64>),
                calls::delivered_in.eq(None::<i64>),
                calls::started_at.eq(Some(now.0)),
                calls::deadline_at.eq(deadline),
                calls::queued.eq(false),
                calls::due_at.eq(due),
            ))
            .execute(conn)?;
    }
    Ok(again)
}

/// When a call that is waited for anew is looked at by the clock, and when it is over.
struct Again {
    due: Option<i64>,
    deadline: Option<i64>,
}

/// A call's function, options, and when it was made, begun and over.
type Times = (String, Option<String>, i64, Option<i64>, Option<i64>);

impl Again {
    /// It has as much time as it had.
    fn of(kind: CallKind, (function, options, made, begun, over): Times, now: Timestamp) -> Result<Self, StoreError> {
        let length = over.map(|over| over.saturating_sub(begun.unwrap_or(made)).max(0));
        let anew = length.map(|length| now.0.saturating_add(length));
        Ok(match kind {
            CallKind::Function => {
                let total = calls_store::read_options(&function, options)?.total_timeout;
                Self { due: Some(now.0), deadline: total.map(|total| now.after(total).0) }
            }
            CallKind::Timer => Self { due: Some(now.0), deadline: Some(now.0) },
            CallKind::Signal | CallKind::Callback => Self { due: anew, deadline: anew },
            CallKind::Send | CallKind::Drain => Self { due: Some(now.0), deadline: anew },
            CallKind::Child => Self { due: None, deadline: None },
        })
    }
}

/// What the last turn of an execution that has ended was told, and what it still waited for then: call, kind, status and
/// attempt. None of it has gone into its last state.
fn unseen(conn: &mut DbConnection, execution: &Execution) -> Result<Vec<(i64, String, String, i64)>, StoreError> {
    let finished = execution.finished_at.unwrap_or(execution.updated_at);
    let last = calls::delivered_in
        .eq(Some(execution.epoch.0))
        .or(calls::delivered_in.eq(Some(0)).and(calls::completed_at.ge(Some(finished.0))));
    Ok(calls::table
        .filter(calls::execution_id.eq(execution.id.as_str()))
        .filter(calls::resume_group.le(execution.suspension))
        .filter(last)
        .select((calls::call_id, calls::kind, calls::status, calls::attempt))
        .load(conn)?)
}

/// How many calls [`revive`] would run again.
pub fn to_be_run_again(conn: &mut DbConnection, execution: &Execution) -> Result<usize, StoreError> {
    let rows = unseen(conn, execution)?;
    let mut again = 0;
    for (call, kind, status, _) in rows {
        let ended = status == CallStatus::Completed.as_str()
            || kind == CallKind::Child.as_str()
                && matches!(child_of(conn, &execution.id, rows::call_id(call)?)?, Some((_, status))
                    if status == ExecutionStatus::Completed.as_str());
        again += usize::from(!ended);
    }
    Ok(again)
}

fn child_of(
    conn: &mut DbConnection,
    parent: &ExecutionId,
    call: CallId,
) -> Result<Option<(String, String)>, StoreError> {
    Ok(table::table
        .filter(table::parent_execution_id.eq(Some(parent.as_str())))
        .filter(table::parent_call_id.eq(Some(i64::from(call.0))))
        .select((table::id, table::status))
        .first(conn)
        .optional()?)
}

/// Lets a call's child go on; its output, if it has completed: somebody had it tried again by itself.
fn revive_child(
    conn: &mut DbConnection,
    parent: &ExecutionId,
    call: CallId,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let Some((child, _)) = child_of(conn, parent, call)? else { return Ok(None) };
    let id: ExecutionId = child.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))?;
    let Some(child) = lock(conn, &id)? else { return Ok(None) };
    match child.status {
        ExecutionStatus::Failed | ExecutionStatus::Cancelled => revive(conn, &child, now).map(|_| None),
        ExecutionStatus::Completed => {
            Ok(executions::get(conn, &id)?.and_then(|child| child.output).map(|output| output.0))
        }
        _ => Ok(None),
    }
}

/// A state to start another execution from.
#[derive(Debug, Clone)]
pub struct Fork<'a> {
    /// The new execution.
    pub id: &'a ExecutionId,
    /// The pause of the old one.
    pub suspension: i64,
    /// The claim under which that pause was saved.
    pub epoch: Epoch,
    /// When that was: what was given up later is waited for.
    pub saved_at: Timestamp,
    /// What it waits for, where that is known better.
    pub waits: Option<&'a BTreeSet<CallId>>,
    /// The state.
    pub snapshot: &'a Snapshot,
    /// What the state is compressed against; none: as that of the old one's present states.
    pub base: Option<&'a Snapshot>,
    /// Outcomes that it shall have instead of those on record: a call and JSON.
    pub set: &'a [(CallId, Json)],
}

impl Fork<'_> {
    /// Whether the state was told how this call ended, or had given it up: by the claim that delivered its outcome and when
    /// that came in.
    pub fn has_seen(&self, call: CallId, delivered: Option<Epoch>, completed: Option<Timestamp>) -> bool {
        match (self.waits, delivered) {
            (Some(waits), _) => !waits.contains(&call),
            (None, Some(TO_NOBODY)) => completed.is_some_and(|at| at <= self.saved_at),
            (None, delivered) => delivered.is_some_and(|epoch| epoch <= self.epoch),
        }
    }
}

/// What `delivered_in` says of calls whose outcome nobody waits for.
const TO_NOBODY: Epoch = Epoch(calls_store::TO_NOBODY);

/// Copies the calls that an execution knew of at a pause. What it had been told stays; of the rest, successes are kept
/// and everything else is run again.
pub fn copy_calls(
    conn: &mut DbConnection,
    from: &ExecutionId,
    fork: &Fork<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    type Head = (i64, i64, String, String, String, String, Option<i64>, String);
    type Tail = (String, Option<i64>, i64, Option<String>, Option<String>, Option<i64>, Option<i64>, Option<String>);
    type Clocks = (i64, Option<i64>, Option<i64>);
    let rows: Vec<(Head, Tail, Clocks)> = calls::table
        .filter(calls::execution_id.eq(from.as_str()))
        .filter(calls::resume_group.le(fork.suspension))
        .order(calls::call_id)
        .select((
            (
                calls::call_id,
                calls::resume_group,
                calls::kind,
                calls::function,
                calls::args,
                calls::kwargs,
                calls::line,
                calls::queue,
            ),
            (
                calls::status,
                calls::wake_group,
                calls::attempt,
                calls::result,
                calls::error,
                calls::delivered_in,
                calls::completed_at,
                calls::options,
            ),
            (calls::created_at, calls::started_at, calls::deadline_at),
        ))
        .load(conn)?;
    for ((call, group, kind, function, args, kwargs, line, queue), tail, (made, begun, over)) in rows {
        let (status, wake, attempt, result, error, delivered, completed, options) = tail;
        let told = fork.has_seen(rows::call_id(call)?, delivered.map(Epoch), completed.map(Timestamp));
        let set =
            fork.set.iter().find(|(id, _)| i64::from(id.0) == call).filter(|_| !told).map(|(_, json)| json.0.clone());
        let keeps = told || status == CallStatus::Completed.as_str();
        let (status, result, error) = match set {
            Some(json) => (CallStatus::Completed.as_str().to_owned(), Some(json), None),
            // The new code has given up what the former still waits for.
            None if told && completed.is_none() => (CallStatus::Cancelled.as_str().to_owned(), None, None),
            None if keeps => (status, result, error),
            None => (CallStatus::Pending.as_str().to_owned(), None, None),
        };
        let open = status == CallStatus::Pending.as_str();
        let again = match kind.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))? {
            kind if open => Again::of(kind, (function.clone(), options.clone(), made, begun, over), now)?,
            _ => Again { due: None, deadline: None },
        };
        diesel::insert_into(calls::table)
            .values((
                (
                    calls::execution_id.eq(fork.id.as_str()),
                    calls::call_id.eq(call),
                    calls::resume_group.eq(group),
                    calls::kind.eq(kind),
                    calls::function.eq(function),
                    calls::args.eq(args),
                    calls::kwargs.eq(kwargs),
                    calls::line.eq(line),
                    calls::queue.eq(queue),
                ),
                (
                    calls::status.eq(status),
                    // Which gathers are complete is not known here: any outcome wakes.
                    calls::wake_group.eq(wake.filter(|_| told)),
                    calls::attempt.eq(if open { 1 } else { attempt }),
                    calls::result.eq(result),
                    calls::error.eq(error),
                    calls::delivered_in.eq(told.then(|| delivered.unwrap_or(TO_NOBODY.0))),
                    calls::due_at.eq(again.due),
                    calls::deadline_at.eq(again.deadline),
                    calls::created_at.eq(now.0),
                    calls::completed_at.eq((!open).then(|| completed.unwrap_or(now.0))),
                    calls::options.eq(options),
                ),
            ))
            .execute(conn)?;
    }
    Ok(())
}

/// Gives a new execution the state that it goes on from.
pub fn set_state(
    conn: &mut DbConnection,
    from: &ExecutionId,
    fork: &Fork<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    type Origin = (Option<Vec<u8>>, Option<String>, i64, Option<String>);
    let (base, format, first_call, anew): Origin = origins::table
        .find(from.as_str())
        .select((origins::base_snapshot, origins::base_format, origins::first_call, origins::inputs_anew))
        .first(conn)?;
    let (base, format) = match fork.base {
        Some(base) => (Some(base.bytes.clone()), Some(base.format.clone())),
        None => (base, format),
    };
    diesel::update(origins::table.find(fork.id.as_str()))
        .set((
            origins::first_call.eq(first_call),
            origins::inputs_anew.eq(anew),
            origins::base_snapshot.eq(base),
            origins::base_format.eq(format),
            origins::forked_from.eq(Some(from.as_str())),
            origins::forked_at.eq(Some(fork.suspension)),
        ))
        .execute(conn)?;
    diesel::update(table::table.find(fork.id.as_str()))
        .set((
            table::status.eq(ExecutionStatus::Waiting.as_str()),
            table::suspension.eq(fork.suspension),
            table::epoch.eq(fork.epoch.0),
            table::snapshot.eq(Some(&fork.snapshot.bytes)),
            table::snapshot_format.eq(Some(&fork.snapshot.format)),
            table::started_at.eq(Some(now.0)),
            table::due_at.eq(Some(now.0)),
        ))
        .execute(conn)?;
    Ok(())
}

/// An execution's last state, with the claim under which it was saved.
pub fn last_state(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Snapshot>, StoreError> {
    let (bytes, format): (Option<Vec<u8>>, Option<String>) =
        table::table.find(id.as_str()).select((table::snapshot, table::snapshot_format)).first(conn)?;
    Ok(bytes.zip(format).map(|(bytes, format)| Snapshot { format, bytes }))
}
