//! Attempts: one of a call's at a time, each with a number that every write of its worker repeats.

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl, expression::SqlLiteral, sql_types::Bool};

use super::{
    DbConnection, StoreError,
    calls::is_open_one,
    rows::{failure, failure_text},
    schema::{attempts, calls},
};
use crate::{
    id::{CallId, ExecutionId, WorkerId},
    model::{CallStatus, Failure, Json},
    options::CallOptions,
    time::Timestamp,
};

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
    if lost {
        let call = calls::table.find((of.execution.as_str(), i64::from(of.call.0)));
        diesel::update(call).set(calls::lost.eq(calls::lost + 1)).execute(conn)?;
    }
    if of.number - LAST_KEPT > FIRST_KEPT {
        let old = (of.execution.as_str(), i64::from(of.call.0), of.number - LAST_KEPT);
        diesel::delete(attempts::table.find(old)).execute(conn)?;
    }
    Ok(())
}

/// Of a call's failed attempts the first and the last ones are kept.
const FIRST_KEPT: i64 = 10;
const LAST_KEPT: i64 = 90;

/// How many attempts of a call have failed before this one: those that count, and those whose worker was lost.
pub fn failed_attempts(conn: &mut DbConnection, of: &AttemptOf) -> Result<(i64, i64), StoreError> {
    let call = calls::table.find((of.execution.as_str(), i64::from(of.call.0)));
    let lost: i64 = call.select(calls::lost).first(conn).optional()?.unwrap_or(0);
    Ok((of.number - 1 - lost, lost))
}

/// Why earlier attempts of a call failed, and whether that was by the loss of a worker or process.
pub fn failures(conn: &mut DbConnection, of: &AttemptOf) -> Result<Vec<(bool, Failure)>, StoreError> {
    let rows: Vec<(bool, String)> = attempts::table
        .filter(attempts::execution_id.eq(of.execution.as_str()))
        .filter(attempts::call_id.eq(i64::from(of.call.0)))
        .select((attempts::lost, attempts::error))
        .load(conn)?;
    rows.into_iter().map(|(lost, error)| Ok((lost, failure(&error)?))).collect()
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

/// What a call may still be attempted for; none when it is gone.
pub fn budget(conn: &mut DbConnection, of: &AttemptOf) -> Result<Option<Budget>, StoreError> {
    type Row = (String, Option<String>, Option<i64>, i64);
    let row: Option<Row> = calls::table
        .find((of.execution.as_str(), i64::from(of.call.0)))
        .select((calls::function, calls::options, calls::deadline_at, calls::forgiven))
        .first(conn)
        .optional()?;
    row.map(|(function, options, deadline, forgiven)| {
        Ok(Budget { options: read_options(&function, options)?, deadline: deadline.map(Timestamp), forgiven })
    })
    .transpose()
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
