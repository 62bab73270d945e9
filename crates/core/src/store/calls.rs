//! Calls: inserted by the pause that made them, settled once, delivered once.

use diesel::{
    BoolExpressionMethods, ExpressionMethods, Insertable, OptionalExtension, QueryDsl, RunQueryDsl, SelectableHelper,
    dsl::sql, expression::SqlLiteral, sql_types::Bool,
};

use super::{
    DbConnection, StoreError,
    executions::{Fence, Whose},
    pushes,
    rows::{self, AttemptRow, CallRow, failure_text},
    schema::{attempts, calls, executions},
};
use crate::{
    id::{CallId, Epoch, ExecutionId, WorkerId},
    interpreter::NewCall,
    model::{Attempt, Call, CallKind, CallStatus, Execution, Failure, Json, Outcome, Wake},
    options::CallOptions,
    time::Timestamp,
};

/// SQLite binds at most 32,766 values in a statement.
const ROWS_PER_STATEMENT: usize = 500;

/// Conditions on the status stand as text in the SQL, word for word as in the partial indexes of the
/// migrations: bound as values they would hide the indexes from the planner.
fn is_open() -> SqlLiteral<Bool> {
    sql("calls.status IN ('pending', 'running')")
}

/// The same for a call that is named by its key. In other words than the partial indexes, so that the planner
/// cannot take one of those, which would lead through all open calls of the execution.
fn is_open_one() -> SqlLiteral<Bool> {
    sql("calls.status NOT IN ('completed', 'failed', 'cancelled')")
}

/// See [`is_open`].
fn is_settled() -> SqlLiteral<Bool> {
    sql("calls.status IN ('completed', 'failed', 'cancelled')")
}

/// What the clock settles or gives up, see [`is_open`].
fn is_clocked() -> SqlLiteral<Bool> {
    sql("calls.due_at IS NOT NULL AND NOT (calls.status = 'pending' AND calls.kind = 'function')")
}

/// What waits to be pushed, or to be begun once it was, see [`is_open`].
pub(super) fn is_to_push() -> SqlLiteral<Bool> {
    sql("calls.status = 'pending' AND calls.kind = 'function'")
}

#[derive(Insertable)]
#[diesel(table_name = calls)]
struct NewRow<'a> {
    execution_id: &'a str,
    call_id: i64,
    resume_group: i64,
    kind: &'a str,
    function: &'a str,
    args: &'a str,
    kwargs: &'a str,
    line: Option<i64>,
    queue: &'a str,
    status: &'a str,
    wake_group: Option<i64>,
    attempt: i64,
    due_at: Option<i64>,
    created_at: i64,
    completed_at: Option<i64>,
    queued: bool,
    delivered_in: Option<i64>,
    options: Option<String>,
    deadline_at: Option<i64>,
}

/// What `delivered_in` says of calls whose outcome nobody waits for.
const TO_NOBODY: i64 = 0;

/// Where and when new calls are inserted.
#[derive(Debug, Clone, Copy)]
pub struct Insertion<'a> {
    /// The execution that made them.
    pub execution: &'a ExecutionId,
    /// The suspension at which they become pending.
    pub suspension: i64,
    /// Where function calls are queued.
    pub queue: &'a str,
    /// When they were made.
    pub now: Timestamp,
    /// When a function call is pushed again, if no worker has begun it.
    pub push_again: Timestamp,
}

/// Inserts calls.
pub fn insert(conn: &mut DbConnection, at: Insertion<'_>, new: &[NewCall]) -> Result<(), StoreError> {
    let due = |call: &NewCall, deadline: Option<Timestamp>| match call.kind {
        CallKind::Function => Some(deadline.map_or(at.push_again, |deadline| deadline.min(at.push_again))),
        CallKind::Timer | CallKind::Signal | CallKind::Callback => call.delay.map(|delay| at.now.after(delay)),
        CallKind::Child => None,
    };
    for chunk in new.chunks(ROWS_PER_STATEMENT) {
        let rows: Vec<NewRow<'_>> = chunk
            .iter()
            .map(|call| {
                let open = !call.abandoned;
                let deadline = call.options.total_timeout.map(|time| at.now.after(time));
                let status = if open { CallStatus::Pending } else { CallStatus::Cancelled };
                NewRow {
                    execution_id: at.execution.as_str(),
                    call_id: i64::from(call.id.0),
                    resume_group: at.suspension,
                    kind: call.kind.as_str(),
                    function: &call.function,
                    args: &call.args.0,
                    kwargs: &call.kwargs.0,
                    line: call.line.map(i64::from),
                    queue: call.queue.as_deref().unwrap_or(at.queue),
                    status: status.as_str(),
                    wake_group: call.wake.to_column(),
                    attempt: 1,
                    due_at: due(call, deadline).filter(|_| open).map(|at| at.0),
                    created_at: at.now.0,
                    completed_at: call.abandoned.then_some(at.now.0),
                    queued: call.kind == CallKind::Function && open,
                    delivered_in: call.abandoned.then_some(TO_NOBODY),
                    options: call.options.to_json(),
                    deadline_at: deadline.map(|at| at.0),
                }
            })
            .collect();
        match conn {
            DbConnection::Postgres(conn) => diesel::insert_into(calls::table).values(&rows).execute(conn)?,
            DbConnection::Sqlite(conn) => diesel::insert_into(calls::table).values(&rows).execute(conn)?,
        };
    }
    Ok(())
}

/// Gives undelivered calls another wake rule.
pub fn rewake(conn: &mut DbConnection, execution: &ExecutionId, changes: &[(CallId, Wake)]) -> Result<(), StoreError> {
    let mut groups: Vec<(Option<i64>, Vec<i64>)> = Vec::new();
    for (id, wake) in changes {
        let (column, id) = (wake.to_column(), i64::from(id.0));
        match groups.iter_mut().find(|(group, ids)| *group == column && ids.len() < ROWS_PER_STATEMENT) {
            Some((_, ids)) => ids.push(id),
            None => groups.push((column, vec![id])),
        }
    }
    for (group, ids) in groups {
        // Settled ones too: a settle that came just before must be found by the look after the pause.
        let undelivered = calls::table
            .filter(calls::execution_id.eq(execution.as_str()))
            .filter(calls::call_id.eq_any(ids))
            .filter(calls::delivered_in.is_null());
        diesel::update(undelivered).set(calls::wake_group.eq(group)).execute(conn)?;
    }
    Ok(())
}

/// Notes that an advance handed these outcomes to the workflow.
pub fn mark_delivered(conn: &mut DbConnection, fence: &Fence, ids: &[CallId]) -> Result<(), StoreError> {
    let delivered =
        || calls::table.filter(calls::execution_id.eq(fence.id.as_str())).filter(calls::delivered_in.is_null());
    let epoch = calls::delivered_in.eq(Some(fence.epoch.0));
    // A statement for one id is prepared once, a statement for a list each time.
    if let [id] = ids {
        diesel::update(delivered().filter(calls::call_id.eq(i64::from(id.0)))).set(epoch).execute(conn)?;
        return Ok(());
    }
    for chunk in ids.chunks(ROWS_PER_STATEMENT) {
        let ids: Vec<i64> = chunk.iter().map(|id| i64::from(id.0)).collect();
        diesel::update(delivered().filter(calls::call_id.eq_any(ids))).set(epoch).execute(conn)?;
    }
    Ok(())
}

/// Whether the workflow is to see that its calls were cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Where it awaits them.
    ByWorkflow,
    /// It waits for them no more.
    ByNobody,
}

#[diesel::dsl::auto_type(no_type_alias)]
fn cancelled(now: Timestamp, seen: Seen) -> _ {
    let delivered: Option<i64> = (seen == Seen::ByNobody).then_some(TO_NOBODY);
    let at: Option<i64> = Some(now.0);
    let none: Option<i64> = None;
    let status: &'static str = CallStatus::Cancelled.as_str();
    (calls::status.eq(status), calls::completed_at.eq(at), calls::due_at.eq(none), calls::delivered_in.eq(delivered))
}

/// Cancels every open call of an execution; answers how many.
pub fn cancel_open(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    seen: Seen,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let open = calls::table.filter(calls::execution_id.eq(execution.as_str())).filter(is_open());
    Ok(diesel::update(open).set(cancelled(now, seen)).execute(conn)?)
}

/// Cancels calls that a workflow gave up, as far as they are open.
pub fn give_up(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    ids: &[CallId],
    now: Timestamp,
) -> Result<(), StoreError> {
    for chunk in ids.chunks(ROWS_PER_STATEMENT) {
        let ids: Vec<i64> = chunk.iter().map(|id| i64::from(id.0)).collect();
        let given_up = calls::table
            .filter(calls::execution_id.eq(execution.as_str()))
            .filter(calls::call_id.eq_any(ids))
            .filter(is_open());
        diesel::update(given_up).set(cancelled(now, Seen::ByNobody)).execute(conn)?;
    }
    Ok(())
}

/// Open calls of these kinds.
pub fn open_of_kind(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    kind: CallKind,
) -> Result<Vec<(CallId, String)>, StoreError> {
    let rows: Vec<(i64, String)> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(is_open())
        .filter(calls::kind.eq(kind.as_str()))
        .order(calls::call_id)
        .select((calls::call_id, calls::queue))
        .load(conn)?;
    rows.into_iter().map(|(id, queue)| Ok((rows::call_id(id)?, queue))).collect()
}

/// The call that has waited longest for a signal of that name.
pub fn waits_for_signal(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    name: &str,
) -> Result<Option<CallId>, StoreError> {
    let id: Option<i64> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(is_open())
        .filter(calls::kind.eq(CallKind::Signal.as_str()))
        .filter(calls::function.eq(name))
        .order(calls::call_id)
        .select(calls::call_id)
        .first(conn)
        .optional()?;
    id.map(rows::call_id).transpose()
}

/// Outcomes that came in, and when the last of them did.
pub(super) type Undelivered = (Vec<(CallId, Outcome)>, Option<Timestamp>);

/// Settled calls that no advance has delivered, in order of their ids.
pub(super) fn undelivered(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Undelivered, StoreError> {
    type Row = (i64, String, Option<String>, Option<String>, Option<i64>);
    let rows: Vec<Row> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::delivered_in.is_null())
        .filter(is_settled())
        .order(calls::call_id)
        .select((calls::call_id, calls::status, calls::result, calls::error, calls::completed_at))
        .load(conn)?;
    let last = rows.iter().filter_map(|row| row.4).max().map(Timestamp);
    let outcomes = rows.into_iter().map(|(id, status, result, error, _)| {
        let outcome = outcome(&status, result, error)
            .map_err(|error| StoreError::Inconsistent(format!("call {id} of {execution}: {error}")))?;
        Ok((rows::call_id(id)?, outcome))
    });
    Ok((outcomes.collect::<Result<_, StoreError>>()?, last))
}

pub(super) fn outcome(status: &str, result: Option<String>, error: Option<String>) -> Result<Outcome, StoreError> {
    match (result, error) {
        (Some(result), None) => Ok(Outcome::Completed(Json(result))),
        (None, Some(error)) => Ok(Outcome::Failed(rows::failure(&error)?)),
        (None, None) if status == CallStatus::Cancelled.as_str() => Ok(Outcome::Cancelled),
        _ => Err(StoreError::Inconsistent("it has no single outcome".into())),
    }
}

/// Names one attempt of one call: the fence of whatever its worker writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptOf {
    /// Whose call it is.
    pub execution: ExecutionId,
    /// The call.
    pub call: CallId,
    /// The attempt's number, from 1.
    pub number: i64,
}

#[diesel::dsl::auto_type(no_type_alias)]
pub(super) fn open_call(of: &AttemptOf) -> _ {
    let execution: &str = of.execution.as_str();
    let call: i64 = of.call.0 as i64;
    let open: SqlLiteral<Bool> = is_open_one();
    calls::table.filter(calls::execution_id.eq(execution)).filter(calls::call_id.eq(call)).filter(open)
}

/// Marks that a worker runs the attempt. Lost or late, it makes nothing wrong.
pub fn begin(
    conn: &mut DbConnection,
    of: &AttemptOf,
    worker: &WorkerId,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let pending =
        open_call(of).filter(calls::attempt.eq(of.number)).filter(calls::status.eq(CallStatus::Pending.as_str()));
    let updated = diesel::update(pending)
        .set((
            calls::status.eq(CallStatus::Running.as_str()),
            calls::worker.eq(Some(&worker.0)),
            calls::started_at.eq(Some(now.0)),
            calls::due_at.eq(Some(until.0)),
        ))
        .execute(conn)?;
    Ok(updated == 1)
}

/// Renews the lease of a running attempt; false when it is not this worker's any more.
pub fn beat(conn: &mut DbConnection, of: &AttemptOf, worker: &WorkerId, until: Timestamp) -> Result<bool, StoreError> {
    let mine = open_call(of)
        .filter(calls::attempt.eq(of.number))
        .filter(calls::status.eq(CallStatus::Running.as_str()))
        .filter(calls::worker.eq(Some(&worker.0)));
    Ok(diesel::update(mine).set(calls::due_at.eq(Some(until.0))).execute(conn)? == 1)
}

/// Records a call's outcome, once. A result is taken from any attempt, a failure from the present
/// attempt only. None when the call was settled already or the attempt is over: nothing changed.
pub fn settle(
    conn: &mut DbConnection,
    of: &AttemptOf,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<Option<Wake>, StoreError> {
    let common = (calls::completed_at.eq(Some(now.0)), calls::due_at.eq(None::<i64>));
    let updated = match outcome {
        Outcome::Completed(result) => diesel::update(open_call(of))
            .set((common, calls::status.eq(CallStatus::Completed.as_str()), calls::result.eq(Some(&result.0))))
            .execute(conn)?,
        Outcome::Failed(failure) => diesel::update(open_call(of).filter(calls::attempt.eq(of.number)))
            .set((common, calls::status.eq(CallStatus::Failed.as_str()), calls::error.eq(Some(failure_text(failure)))))
            .execute(conn)?,
        Outcome::Cancelled => diesel::update(open_call(of)).set(cancelled(now, Seen::ByWorkflow)).execute(conn)?,
    };
    if updated == 0 {
        return Ok(None);
    }
    let group = calls::table
        .find((of.execution.as_str(), i64::from(of.call.0)))
        .select(calls::wake_group)
        .first::<Option<i64>>(conn)?;
    Ok(Some(Wake::from_column(group)))
}

/// Records a failed attempt.
pub fn insert_attempt(
    conn: &mut DbConnection,
    of: &AttemptOf,
    worker: Option<&WorkerId>,
    failure: &Failure,
    lost: bool,
    (started, now): (Option<Timestamp>, Timestamp),
) -> Result<(), StoreError> {
    diesel::insert_into(attempts::table)
        .values((
            attempts::execution_id.eq(of.execution.as_str()),
            attempts::call_id.eq(i64::from(of.call.0)),
            attempts::number.eq(of.number),
            attempts::worker.eq(worker.map(|worker| worker.0.as_str())),
            attempts::error.eq(failure_text(failure)),
            attempts::lost.eq(lost),
            attempts::started_at.eq(started.map(|at| at.0)),
            attempts::finished_at.eq(now.0),
        ))
        .execute(conn)?;
    Ok(())
}

/// How many attempts of a call have failed: those that count, and those whose worker was lost.
pub fn failed_attempts(conn: &mut DbConnection, of: &AttemptOf) -> Result<(i64, i64), StoreError> {
    let flags: Vec<bool> = attempts::table
        .filter(attempts::execution_id.eq(of.execution.as_str()))
        .filter(attempts::call_id.eq(i64::from(of.call.0)))
        .select(attempts::lost)
        .load(conn)?;
    let lost = flags.iter().filter(|lost| **lost).count();
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    Ok((count(flags.len() - lost), count(lost)))
}

/// What a call may still be attempted for.
#[derive(Debug, Clone)]
pub struct Budget {
    /// What was asked for it alone.
    pub options: CallOptions,
    /// When it fails.
    pub deadline: Option<Timestamp>,
    /// Failed attempts that do not count.
    pub forgiven: i64,
}

/// What a call may still be attempted for.
pub fn budget(conn: &mut DbConnection, of: &AttemptOf) -> Result<Budget, StoreError> {
    let (function, options, deadline, forgiven): (String, Option<String>, Option<i64>, i64) = calls::table
        .find((of.execution.as_str(), i64::from(of.call.0)))
        .select((calls::function, calls::options, calls::deadline_at, calls::forgiven))
        .first(conn)?;
    Ok(Budget { options: read_options(&function, options)?, deadline: deadline.map(Timestamp), forgiven })
}

pub(super) fn read_options(function: &str, column: Option<String>) -> Result<CallOptions, StoreError> {
    let Some(text) = column else { return Ok(CallOptions::default()) };
    let strange = |error: &dyn std::fmt::Display| StoreError::Inconsistent(format!("options: {error}"));
    let options = serde_json::from_str(&text).map_err(|error| strange(&error))?;
    CallOptions::read(function, &options).map_err(|error| strange(&error))
}

/// What a running attempt's function says of itself. Lost or late, it makes nothing wrong.
pub fn progress(conn: &mut DbConnection, of: &AttemptOf, progress: &Json) -> Result<(), StoreError> {
    let present = open_call(of).filter(calls::attempt.eq(of.number));
    diesel::update(present).set(calls::progress.eq(Some(&progress.0))).execute(conn)?;
    Ok(())
}

/// Makes a call pending again for its next attempt. False when the attempt was over already.
pub fn retry(conn: &mut DbConnection, of: &AttemptOf, due_at: Timestamp) -> Result<bool, StoreError> {
    let present = open_call(of).filter(calls::attempt.eq(of.number));
    let updated = diesel::update(present)
        .set((
            calls::status.eq(CallStatus::Pending.as_str()),
            calls::attempt.eq(of.number + 1),
            calls::worker.eq(None::<String>),
            calls::queued.eq(false),
            calls::due_at.eq(Some(due_at.0)),
        ))
        .execute(conn)?;
    Ok(updated == 1)
}

/// Gives an attempt back unmade: it is pending again under the same number.
pub fn release(conn: &mut DbConnection, of: &AttemptOf, now: Timestamp) -> Result<bool, StoreError> {
    let running =
        open_call(of).filter(calls::attempt.eq(of.number)).filter(calls::status.eq(CallStatus::Running.as_str()));
    let updated = diesel::update(running)
        .set((
            calls::status.eq(CallStatus::Pending.as_str()),
            calls::worker.eq(None::<String>),
            calls::queued.eq(false),
            calls::due_at.eq(Some(now.0)),
        ))
        .execute(conn)?;
    Ok(updated == 1)
}

/// Whether a call of this group is still unsettled.
pub fn group_is_open(conn: &mut DbConnection, execution: &ExecutionId, group: i64) -> Result<bool, StoreError> {
    let open = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::wake_group.eq(Some(group)))
        .filter(is_open())
        .select(calls::call_id)
        .first::<i64>(conn)
        .optional()?;
    Ok(open.is_some())
}

/// Whether some outcome that is in, and not delivered, lets the execution go on.
pub fn is_woken(conn: &mut DbConnection, execution: &ExecutionId) -> Result<bool, StoreError> {
    let settled = || {
        calls::table
            .filter(calls::execution_id.eq(execution.as_str()))
            .filter(calls::delivered_in.is_null())
            .filter(is_settled())
    };
    let at_once = settled()
        .filter(calls::wake_group.is_null().or(calls::status.ne(CallStatus::Completed.as_str())))
        .select(calls::call_id)
        .first::<i64>(conn)
        .optional()?;
    if at_once.is_some() {
        return Ok(true);
    }
    let groups: Vec<Option<i64>> =
        settled().filter(calls::wake_group.gt(0)).select(calls::wake_group).distinct().load(conn)?;
    for group in groups.into_iter().flatten() {
        if !group_is_open(conn, execution, group)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A function call as a worker gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Which attempt this would be.
    pub attempt: AttemptOf,
    /// The function's name as the workflow wrote it.
    pub function: String,
    /// Where it is queued.
    pub queue: String,
    /// A JSON array.
    pub args: Json,
    /// A JSON object.
    pub kwargs: Json,
    /// What was asked for this call alone.
    pub options: CallOptions,
    /// When the call fails, whatever attempts are left.
    pub deadline: Option<Timestamp>,
}

/// What a call's attempt needs; none when the call is settled or the attempt is over.
pub fn work(conn: &mut DbConnection, of: &AttemptOf) -> Result<Option<Work>, StoreError> {
    type Row = (String, String, String, String, Option<String>, Option<i64>);
    let row: Option<Row> = open_call(of)
        .filter(calls::attempt.eq(of.number))
        .select((calls::function, calls::queue, calls::args, calls::kwargs, calls::options, calls::deadline_at))
        .first(conn)
        .optional()?;
    row.map(|(function, queue, args, kwargs, options, deadline)| {
        Ok(Work {
            attempt: of.clone(),
            options: read_options(&function, options)?,
            function,
            queue,
            args: Json(args),
            kwargs: Json(kwargs),
            deadline: deadline.map(Timestamp),
        })
    })
    .transpose()
}

/// Calls that the clock has to settle or to give up, those due longest first.
pub fn due(conn: &mut DbConnection, whose: &Whose, now: Timestamp, limit: i64) -> Result<Vec<Call>, StoreError> {
    let due = calls::table.filter(is_clocked()).filter(calls::due_at.le(now.0)).order(calls::due_at).limit(limit);
    let rows: Vec<CallRow> = match whose {
        Whose::Served => due
            .inner_join(executions::table)
            .filter(executions::runner.is_null())
            .select(CallRow::as_select())
            .load(conn)?,
        Whose::Run(runner) => due
            .inner_join(executions::table)
            .filter(executions::runner.eq(Some(&runner.0)))
            .select(CallRow::as_select())
            .load(conn)?,
    };
    rows.into_iter().map(Call::try_from).collect()
}

/// When the clock has to act on a call next: to settle it, to give it up, to push it.
pub fn next_due(conn: &mut DbConnection, whose: &Whose, full: &[String]) -> Result<Option<Timestamp>, StoreError> {
    let clocked = calls::table.filter(is_clocked()).order(calls::due_at).limit(1);
    let soonest: Option<Option<i64>> = match whose {
        Whose::Served => clocked
            .inner_join(executions::table)
            .filter(executions::runner.is_null())
            .select(calls::due_at)
            .first(conn)
            .optional()?,
        Whose::Run(runner) => clocked
            .inner_join(executions::table)
            .filter(executions::runner.eq(Some(&runner.0)))
            .select(calls::due_at)
            .first(conn)
            .optional()?,
    };
    let mut next = vec![soonest.flatten()];
    for queue in pushes::queues(conn)?.iter().filter(|queue| !full.contains(queue)) {
        let to_push = calls::table
            .filter(is_to_push())
            .filter(calls::queue.eq(queue))
            .order((calls::due_at, calls::created_at))
            .limit(1);
        let soonest: Option<Option<i64>> = match whose {
            Whose::Served => to_push
                .inner_join(executions::table)
                .filter(executions::runner.is_null())
                .select(calls::due_at)
                .first(conn)
                .optional()?,
            Whose::Run(runner) => to_push
                .inner_join(executions::table)
                .filter(executions::runner.eq(Some(&runner.0)))
                .select(calls::due_at)
                .first(conn)
                .optional()?,
        };
        next.push(soonest.flatten());
    }
    Ok(next.into_iter().flatten().min().map(Timestamp))
}

/// Lets every running call of a process that is known to be dead be given up now; answers how many.
pub fn expire_leases_of(conn: &mut DbConnection, owner: &WorkerId, now: Timestamp) -> Result<usize, StoreError> {
    let running = calls::table.filter(calls::worker.eq(Some(&owner.0))).filter(sql::<Bool>("calls.status = 'running'"));
    Ok(diesel::update(running).set(calls::due_at.eq(Some(now.0))).execute(conn)?)
}

/// The processes that hold running calls of an execution.
pub fn workers_of(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<WorkerId>, StoreError> {
    let workers: Vec<Option<String>> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::status.eq(CallStatus::Running.as_str()))
        .select(calls::worker)
        .distinct()
        .load(conn)?;
    Ok(workers.into_iter().flatten().map(WorkerId).collect())
}

/// All calls of an execution, in order.
pub fn list(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<Call>, StoreError> {
    let rows: Vec<CallRow> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .order(calls::call_id)
        .select(CallRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Call::try_from).collect()
}

/// The calls of an execution that have this status, in order.
pub fn list_with_status(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    status: CallStatus,
) -> Result<Vec<Call>, StoreError> {
    let rows: Vec<CallRow> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::status.eq(status.as_str()))
        .order(calls::call_id)
        .select(CallRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Call::try_from).collect()
}

/// The arguments of a call: a JSON array and a JSON object.
pub fn arguments(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    call: CallId,
) -> Result<Option<(Json, Json)>, StoreError> {
    let row: Option<(String, String)> = calls::table
        .find((execution.as_str(), i64::from(call.0)))
        .select((calls::args, calls::kwargs))
        .first(conn)
        .optional()?;
    Ok(row.map(|(args, kwargs)| (Json(args), Json(kwargs))))
}

/// The failed attempts of an execution's calls, in order.
pub fn attempts(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<Attempt>, StoreError> {
    let rows: Vec<AttemptRow> = attempts::table
        .filter(attempts::execution_id.eq(execution.as_str()))
        .order((attempts::call_id, attempts::number))
        .select(AttemptRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Attempt::try_from).collect()
}

/// The number of a call's present or last attempt; none when there is no such call.
pub fn attempt_number(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    call: CallId,
) -> Result<Option<i64>, StoreError> {
    let row = calls::table.find((execution.as_str(), i64::from(call.0)));
    Ok(row.select(calls::attempt).first(conn).optional()?)
}

/// Function calls that were cancelled at that instant, with their queues: workers may have them.
pub fn cancelled_at(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    at: Timestamp,
) -> Result<Vec<(CallId, String)>, StoreError> {
    let rows: Vec<(i64, String)> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::status.eq(CallStatus::Cancelled.as_str()))
        .filter(calls::kind.eq(CallKind::Function.as_str()))
        .filter(calls::completed_at.eq(Some(at.0)))
        .select((calls::call_id, calls::queue))
        .load(conn)?;
    rows.into_iter().map(|(id, queue)| Ok((rows::call_id(id)?, queue))).collect()
}

/// Which of these calls of an execution are cancelled.
pub fn cancelled_among(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    ids: &[CallId],
) -> Result<Vec<CallId>, StoreError> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(id.0)).collect();
    let open: Vec<i64> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::call_id.eq_any(&ids))
        .filter(calls::status.ne(CallStatus::Cancelled.as_str()))
        .select(calls::call_id)
        .load(conn)?;
    ids.into_iter().filter(|id| !open.contains(id)).map(rows::call_id).collect()
}

/// The last claim whose outcomes an execution's present state has seen: of one that has ended, not the last, which
/// saved no state.
pub fn last_delivery_before(
    conn: &mut DbConnection,
    id: &ExecutionId,
    execution: &Execution,
) -> Result<Epoch, StoreError> {
    let seen = calls::table.filter(calls::execution_id.eq(id.as_str())).filter(calls::delivered_in.is_not_null());
    let last: Option<Option<i64>> = if execution.status.is_final() {
        let before = seen.filter(calls::delivered_in.lt(Some(execution.epoch.0)));
        before.order(calls::delivered_in.desc()).select(calls::delivered_in).first(conn).optional()?
    } else {
        seen.order(calls::delivered_in.desc()).select(calls::delivered_in).first(conn).optional()?
    };
    Ok(Epoch(last.flatten().unwrap_or(0)))
}

/// A call as it stands on record, for making a state again.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its id.
    pub id: CallId,
    /// The pause at which it became pending.
    pub resume_group: i64,
    /// What is awaited.
    pub kind: CallKind,
    /// The function's name, or what stands for it.
    pub function: String,
    /// A JSON array.
    pub args: Json,
    /// A JSON object.
    pub kwargs: Json,
    /// The claim under which its outcome was delivered, when it came in, and what it is.
    pub delivered: Option<(Epoch, Timestamp, Outcome)>,
}

/// All calls of an execution as they stand on record, in order.
pub fn recorded(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<Recorded>, StoreError> {
    type Head = (i64, i64, String, String, String, String);
    type Tail = (String, Option<String>, Option<String>, Option<i64>, Option<i64>);
    let rows: Vec<(Head, Tail)> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .order(calls::call_id)
        .select((
            (calls::call_id, calls::resume_group, calls::kind, calls::function, calls::args, calls::kwargs),
            (calls::status, calls::result, calls::error, calls::delivered_in, calls::completed_at),
        ))
        .load(conn)?;
    rows.into_iter()
        .map(|((id, resume_group, kind, function, args, kwargs), (status, result, error, epoch, at))| {
            let delivered = match (epoch.filter(|epoch| *epoch != TO_NOBODY), at) {
                (Some(epoch), Some(at)) => Some((Epoch(epoch), Timestamp(at), outcome(&status, result, error)?)),
                _ => None,
            };
            Ok(Recorded {
                id: rows::call_id(id)?,
                resume_group,
                kind: kind.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))?,
                function,
                args: Json(args),
                kwargs: Json(kwargs),
                delivered,
            })
        })
        .collect()
}
