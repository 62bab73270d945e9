//! Calls: inserted by the pause that made them, settled once, delivered once.

use diesel::{
    BoolExpressionMethods, ExpressionMethods, Insertable, IntoSql, OptionalExtension, QueryDsl, RunQueryDsl,
    SelectableHelper,
    dsl::{case_when, sql},
    expression::SqlLiteral,
    sql_types::{BigInt, Bool, Nullable},
};

pub(super) use super::attempts::{open_call, read_options};
pub use super::{
    attempts::{
        AttemptOf, Budget, Work, beat, begin, budget, failed_attempts, failures, insert_attempt, progress, release,
        retry, work,
    },
    record::{
        Identity, Past, Recorded, arguments, attempt_number, attempts, cancelled_among, first_with_status,
        last_delivery_before, list, list_with_status, past, recorded, shown, was_cancelled_last, workers_of,
    },
};

use super::{
    DbConnection, StoreError, children,
    claims::Due,
    executions::{Fence, Whose},
    heads,
    rows::{self, CallRow, failure_text},
    schema::{calls, executions},
};
use crate::{
    id::{CallId, ExecutionId, WorkerId},
    interpreter::NewCall,
    model::{Call, CallKind, CallStatus, Json, Outcome, Wake},
    time::Timestamp,
};

/// SQLite binds at most 32,766 values in a statement.
pub(super) const ROWS_PER_STATEMENT: usize = 500;

/// Conditions on the status stand as text in the SQL, word for word as in the partial indexes of the
/// migrations: bound as values they would hide the indexes from the planner.
fn is_open() -> SqlLiteral<Bool> {
    sql("calls.status IN ('pending', 'running')")
}

/// The same for a call that is named by its key. In other words than the partial indexes, so that the planner
/// cannot take one of those, which would lead through all open calls of the execution.
pub(super) fn is_open_one() -> SqlLiteral<Bool> {
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
    ended_at: Option<i64>,
}

/// What `delivered_in` says of calls whose outcome nobody waits for.
pub(super) const TO_NOBODY: i64 = 0;

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
    /// Before when no time ends, however short it is.
    pub not_before: Timestamp,
}

/// Inserts calls.
pub fn insert(conn: &mut DbConnection, at: Insertion<'_>, new: &[NewCall]) -> Result<(), StoreError> {
    let due = |call: &NewCall, deadline: Option<Timestamp>| match call.kind {
        CallKind::Function => Some(deadline.map_or(at.push_again, |deadline| deadline.min(at.push_again))),
        CallKind::Timer | CallKind::Signal | CallKind::Callback => {
            call.delay.map(|delay| at.now.after(delay).max(at.not_before))
        }
        CallKind::Send | CallKind::Drain => Some(at.now.max(at.not_before)),
        CallKind::Child => None,
    };
    let deadline = |call: &NewCall| match call.kind {
        CallKind::Function => call.options.total_timeout.map(|time| at.now.after(time)),
        _ => call.delay.map(|delay| at.now.after(delay)),
    };
    for chunk in new.chunks(ROWS_PER_STATEMENT) {
        let rows: Vec<NewRow<'_>> = chunk
            .iter()
            .map(|call| {
                let open = !call.abandoned;
                let deadline = deadline(call);
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
                    options: call.child.as_ref().map_or_else(|| call.options.to_json(), children::options),
                    deadline_at: deadline.map(|at| at.0),
                    ended_at: call.abandoned.then_some(at.now.0),
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
    // What no worker can have had does not run.
    let never_queued: SqlLiteral<Bool> = sql("(calls.status = 'pending' AND NOT calls.queued)");
    let ended = case_when(never_queued, at.into_sql::<Nullable<BigInt>>()).otherwise(calls::ended_at);
    (
        calls::status.eq(status),
        calls::completed_at.eq(at),
        calls::due_at.eq(none),
        calls::delivered_in.eq(delivered),
        calls::ended_at.eq(ended),
    )
}

/// A cancelled function call that workers may have, and its queue.
pub type Withdrawn = (CallId, String);

fn withdrawn(rows: Vec<(i64, String, String, Option<i64>)>) -> Result<Vec<Withdrawn>, StoreError> {
    let functions =
        rows.into_iter().filter(|(_, kind, _, ended)| kind == CallKind::Function.as_str() && ended.is_none());
    functions.map(|(id, _, queue, _)| Ok((rows::call_id(id)?, queue))).collect()
}

/// Cancels every open call of an execution; answers what workers may have of them, and whether there were any.
pub fn cancel_open(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    seen: Seen,
    now: Timestamp,
) -> Result<Vec<Withdrawn>, StoreError> {
    let open = calls::table.filter(calls::execution_id.eq(execution.as_str())).filter(is_open());
    let rows = diesel::update(open)
        .set(cancelled(now, seen))
        .returning((calls::call_id, calls::kind, calls::queue, calls::ended_at))
        .get_results(conn)?;
    withdrawn(rows)
}

/// Withdraws calls that a workflow gave up: open ones are cancelled, and outcomes that it was not told of are nobody's.
/// Signals among them are to be [given back](super::signals::give_back). Answers what workers may have of them.
pub fn give_up(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    ids: &[CallId],
    now: Timestamp,
) -> Result<Vec<Withdrawn>, StoreError> {
    let mut all = Vec::new();
    for chunk in ids.chunks(ROWS_PER_STATEMENT) {
        let ids: Vec<i64> = chunk.iter().map(|id| i64::from(id.0)).collect();
        let given_up =
            || calls::table.filter(calls::execution_id.eq(execution.as_str())).filter(calls::call_id.eq_any(&ids));
        let rows = diesel::update(given_up().filter(is_open()))
            .set(cancelled(now, Seen::ByNobody))
            .returning((calls::call_id, calls::kind, calls::queue, calls::ended_at))
            .get_results(conn)?;
        let settled_before = rows.len() < chunk.len();
        all.extend(withdrawn(rows)?);
        if settled_before {
            // From now on, which is what states that were saved before go by.
            diesel::update(given_up().filter(calls::delivered_in.is_null()))
                .set((calls::delivered_in.eq(Some(TO_NOBODY)), calls::completed_at.eq(Some(now.0))))
                .execute(conn)?;
        }
    }
    Ok(all)
}

/// Signals that were taken by these calls are not theirs any more.
pub(super) fn untake(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    ids: &[i64],
    now: Timestamp,
) -> Result<(), StoreError> {
    let taken = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::call_id.eq_any(ids))
        .filter(calls::status.eq(CallStatus::Completed.as_str()));
    diesel::update(taken)
        .set((
            calls::status.eq(CallStatus::Cancelled.as_str()),
            calls::result.eq(None::<String>),
            calls::delivered_in.eq(Some(TO_NOBODY)),
            calls::completed_at.eq(Some(now.0)),
        ))
        .execute(conn)?;
    Ok(())
}

/// Calls that a signal has settled and no advance was told of.
pub(super) fn untold_signals(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<CallId>, StoreError> {
    let ids: Vec<i64> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::delivered_in.is_null())
        .filter(is_settled())
        .filter(calls::kind.eq(CallKind::Signal.as_str()))
        .select(calls::call_id)
        .load(conn)?;
    ids.into_iter().map(rows::call_id).collect()
}

/// The call that has waited longest for a signal of that name, and whose time is not over.
pub fn waits_for_signal(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    name: &str,
    now: Timestamp,
) -> Result<Option<CallId>, StoreError> {
    let id: Option<i64> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(is_open())
        .filter(calls::kind.eq(CallKind::Signal.as_str()))
        .filter(calls::function.eq(name))
        .filter(calls::due_at.is_null().or(calls::due_at.ge(now.0)))
        .order(calls::call_id)
        .select(calls::call_id)
        .first(conn)
        .optional()?;
    id.map(rows::call_id).transpose()
}

/// The signals that an execution sends and that were asked for before this one.
pub fn sends_before(conn: &mut DbConnection, of: &AttemptOf) -> Result<Vec<Call>, StoreError> {
    let rows: Vec<CallRow> = calls::table
        .filter(calls::execution_id.eq(of.execution.as_str()))
        .filter(calls::call_id.lt(i64::from(of.call.0)))
        .filter(is_open())
        .filter(calls::kind.eq(CallKind::Send.as_str()))
        .order(calls::call_id)
        .select(CallRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Call::try_from).collect()
}

/// What an execution waits for whose time is over, though no clock has come to it yet.
pub fn overdue(conn: &mut DbConnection, execution: &ExecutionId, now: Timestamp) -> Result<Vec<Call>, StoreError> {
    let rows: Vec<CallRow> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(sql::<Bool>("calls.status = 'pending' AND calls.kind IN ('timer', 'signal', 'callback')"))
        .filter(calls::due_at.le(now.0))
        .select(CallRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Call::try_from).collect()
}

/// Outcomes that came in.
pub(super) struct Undelivered {
    /// In order.
    pub(super) outcomes: Vec<(CallId, Outcome)>,
    /// When the last of them did.
    pub(super) last: Option<Timestamp>,
    /// Whether nothing but time has led to some of them.
    pub(super) by_time: bool,
}

/// Whether a call of this kind that ended so did by nothing but the time, or by the clock at once.
fn is_by_time(kind: &str, status: &str) -> bool {
    let is = |known: CallKind| known.as_str() == kind;
    let waited = is(CallKind::Signal) || is(CallKind::Callback);
    is(CallKind::Timer) || is(CallKind::Send) || is(CallKind::Drain) || waited && status == CallStatus::Failed.as_str()
}

/// Settled calls that no advance has delivered, in the order in which they ended: a wait that ran out at its instant, however
/// late somebody came to it.
pub(super) fn undelivered(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Undelivered, StoreError> {
    type Row = (i64, String, String, Option<String>, Option<String>, Option<i64>, Option<i64>);
    let mut rows: Vec<Row> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::delivered_in.is_null())
        .filter(is_settled())
        .select((
            calls::call_id,
            calls::kind,
            calls::status,
            calls::result,
            calls::error,
            calls::completed_at,
            calls::deadline_at,
        ))
        .load(conn)?;
    let last = rows.iter().filter_map(|row| row.5).max().map(Timestamp);
    let by_time = rows.iter().any(|(_, kind, status, ..)| is_by_time(kind, status));
    rows.sort_by_key(|(id, kind, .., completed, deadline)| (ended(kind, *completed, *deadline), *id));
    let outcomes = rows.into_iter().map(|(id, _, status, result, error, ..)| {
        let outcome = outcome(&status, result, error)
            .map_err(|error| StoreError::Inconsistent(format!("call {id} of {execution}: {error}")))?;
        Ok((rows::call_id(id)?, outcome))
    });
    Ok(Undelivered { outcomes: outcomes.collect::<Result<_, StoreError>>()?, last, by_time })
}

/// When a settled call ended. The clock may come to a timer late, which then fired at its instant all the same.
pub(super) fn ended(kind: &str, completed: Option<i64>, deadline: Option<i64>) -> Option<i64> {
    let runs_out = [CallKind::Timer, CallKind::Signal, CallKind::Callback].iter().any(|known| known.as_str() == kind);
    match deadline.filter(|_| runs_out) {
        Some(deadline) => completed.map(|completed| completed.min(deadline)),
        None => completed,
    }
}

pub(super) fn outcome(status: &str, result: Option<String>, error: Option<String>) -> Result<Outcome, StoreError> {
    match (result, error) {
        (Some(result), None) => Ok(Outcome::Completed(Json(result))),
        (None, Some(error)) => Ok(Outcome::Failed(rows::failure(&error)?)),
        (None, None) if status == CallStatus::Cancelled.as_str() => Ok(Outcome::Cancelled),
        _ => Err(StoreError::Inconsistent("it has no single outcome".into())),
    }
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

/// Calls that the clock has to settle or to give up, those due longest first; then the rows that cannot be read.
pub fn due(conn: &mut DbConnection, whose: &Whose, now: Timestamp, limit: i64) -> Result<Due<Call>, StoreError> {
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
    Ok(Due::of(rows, |row| format!("{}-{}", row.execution_id, row.call_id)))
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
    let to_push = heads::queues(conn, whose)?.into_iter().filter(|head| !full.contains(&head.name));
    let to_push = to_push.filter_map(|head| head.due());
    Ok(soonest.flatten().map(Timestamp).into_iter().chain(to_push).min())
}

/// Lets every running call of a process that is known to be dead be given up now; answers how many.
pub fn expire_leases_of(conn: &mut DbConnection, owner: &WorkerId, now: Timestamp) -> Result<usize, StoreError> {
    let running = calls::table.filter(calls::worker.eq(Some(&owner.0))).filter(sql::<Bool>("calls.status = 'running'"));
    Ok(diesel::update(running).set(calls::due_at.eq(Some(now.0))).execute(conn)?)
}
