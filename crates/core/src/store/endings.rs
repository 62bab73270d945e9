//! Cancelled functions that may still run, and calls that wait for the end of them.

use diesel::{ExpressionMethods, QueryDsl, RunQueryDsl, dsl::sql, expression::SqlLiteral, sql_types::Bool};

use super::{DbConnection, StoreError, calls::AttemptOf, rows, schema::calls};
use crate::{
    id::{CallId, ExecutionId, WorkerId},
    model::{CallKind, CallStatus},
    time::Timestamp,
};

/// In the words of its index.
fn is_ending() -> SqlLiteral<Bool> {
    sql("calls.status = 'cancelled' AND calls.kind = 'function' AND calls.ended_at IS NULL")
}

/// A cancelled function that may still run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Its call.
    pub call: CallId,
    /// The function's name.
    pub function: String,
    /// The process that ran it, if it said so before the call was cancelled.
    pub worker: Option<WorkerId>,
    /// When its call was cancelled.
    pub cancelled_at: Option<Timestamp>,
}

/// The cancelled functions of an execution that may still run.
pub fn ending(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<Ending>, StoreError> {
    type Row = (i64, String, Option<String>, Option<i64>);
    let rows: Vec<Row> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(is_ending())
        .order(calls::call_id)
        .select((calls::call_id, calls::function, calls::worker, calls::completed_at))
        .load(conn)?;
    rows.into_iter()
        .map(|(id, function, worker, at)| {
            let (call, cancelled_at) = (rows::call_id(id)?, at.map(Timestamp));
            Ok(Ending { call, function, worker: worker.map(WorkerId), cancelled_at })
        })
        .collect()
}

/// A cancelled function runs no more; who waits for that is looked at now. Answers whether anybody does.
pub fn has_ended(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    call: CallId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let cancelled = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::call_id.eq(i64::from(call.0)))
        .filter(is_ending());
    if diesel::update(cancelled).set(calls::ended_at.eq(Some(now.0))).execute(conn)? == 0 {
        return Ok(false);
    }
    let waiting = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(sql::<Bool>("calls.status IN ('pending', 'running')"))
        .filter(calls::kind.eq(CallKind::Drain.as_str()));
    Ok(diesel::update(waiting).set(calls::due_at.eq(Some(now.0))).execute(conn)? > 0)
}

/// Whoever ran an execution by itself is dead, and its functions with it.
pub fn all_have_ended(conn: &mut DbConnection, execution: &ExecutionId, now: Timestamp) -> Result<(), StoreError> {
    let cancelled = calls::table.filter(calls::execution_id.eq(execution.as_str())).filter(is_ending());
    diesel::update(cancelled).set(calls::ended_at.eq(Some(now.0))).execute(conn)?;
    Ok(())
}

/// Those of these calls of an execution that are open: none of them was cancelled.
pub fn open_among(conn: &mut DbConnection, execution: &ExecutionId, ids: &[CallId]) -> Result<Vec<String>, StoreError> {
    let ids = ids.iter().map(|id| i64::from(id.0));
    Ok(calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::call_id.eq_any(ids))
        .filter(sql::<Bool>("calls.status NOT IN ('completed', 'failed', 'cancelled')"))
        .select(calls::function)
        .load(conn)?)
}

/// Lets the clock look again at what waits, at that instant.
pub fn look_at(conn: &mut DbConnection, of: &AttemptOf, at: Timestamp) -> Result<(), StoreError> {
    let waiting = calls::table
        .filter(calls::execution_id.eq(of.execution.as_str()))
        .filter(calls::call_id.eq(i64::from(of.call.0)))
        .filter(calls::status.eq(CallStatus::Pending.as_str()));
    diesel::update(waiting).set(calls::due_at.eq(Some(at.0))).execute(conn)?;
    Ok(())
}
