//! Pending function calls on their way to a queue: which are to be pushed, and when again.

use diesel::{ExpressionMethods, NullableExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl};

use super::{
    DbConnection, StoreError,
    calls::{AttemptOf, Work, is_to_push, open_call, read_options},
    executions::Whose,
    rows,
    schema::{calls, executions},
};
use crate::{
    id::ExecutionId,
    model::{CallKind, CallStatus, Json},
    time::Timestamp,
};

/// The queues that calls wait to be pushed to, or to be begun in. From one to the next by the index, so
/// that a long backlog is not walked through.
pub(super) fn queues(conn: &mut DbConnection) -> Result<Vec<String>, StoreError> {
    let mut queues: Vec<String> = Vec::new();
    loop {
        let last = queues.last().map_or("", String::as_str);
        let next = calls::table.filter(is_to_push()).filter(calls::queue.gt(last)).order(calls::queue).limit(1);
        match next.select(calls::queue).first::<String>(conn).optional()? {
            Some(queue) => queues.push(queue),
            None => return Ok(queues),
        }
    }
}

/// Function calls to be pushed to their queues, the oldest of each first; none of those queues that are full.
pub fn to_push(
    conn: &mut DbConnection,
    whose: &Whose,
    now: Timestamp,
    full: &[String],
    limit: i64,
) -> Result<Vec<Work>, StoreError> {
    let mut found = Vec::new();
    for queue in queues(conn)?.iter().filter(|queue| !full.contains(queue)) {
        found.extend(to_push_in(conn, whose, now, queue, limit)?);
    }
    Ok(found)
}

fn to_push_in(
    conn: &mut DbConnection,
    whose: &Whose,
    now: Timestamp,
    queue: &str,
    limit: i64,
) -> Result<Vec<Work>, StoreError> {
    let due = calls::table
        .filter(is_to_push())
        .filter(calls::queue.eq(queue))
        .filter(calls::due_at.le(now.0))
        .order((calls::due_at, calls::created_at))
        .limit(limit);
    let columns = (
        (calls::execution_id, calls::call_id, calls::attempt),
        (calls::function, calls::args, calls::kwargs, calls::options, calls::deadline_at),
    );
    type Row = ((String, i64, i64), (String, String, String, Option<String>, Option<i64>));
    let rows: Vec<Row> = match whose {
        Whose::Served => {
            due.inner_join(executions::table).filter(executions::runner.is_null()).select(columns).load(conn)?
        }
        Whose::Run(runner) => due
            .inner_join(executions::table)
            .filter(executions::runner.eq(Some(&runner.0)))
            .select(columns)
            .load(conn)?,
    };
    rows.into_iter()
        .map(|((execution, call, number), (function, args, kwargs, options, deadline))| {
            let execution = execution.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))?;
            Ok(Work {
                attempt: AttemptOf { execution, call: rows::call_id(call)?, number },
                options: read_options(&function, options)?,
                function,
                queue: queue.to_owned(),
                args: Json(args),
                kwargs: Json(kwargs),
                deadline: deadline.map(Timestamp),
            })
        })
        .collect()
}

/// Lets every function call that waits for a worker be pushed now, the oldest first: the queue has
/// lost everything.
pub fn push_everything(conn: &mut DbConnection, whose: &Whose, now: Timestamp) -> Result<usize, StoreError> {
    // A retry that is not due yet was in no queue.
    let queued = calls::table.filter(is_to_push()).filter(calls::queued).filter(calls::due_at.gt(now.0));
    let oldest_first = (calls::due_at.eq(calls::created_at.nullable()), calls::queued.eq(false));
    Ok(match whose {
        Whose::Served => diesel::update(queued).set(oldest_first).execute(conn)?,
        // Its queue is in its own memory.
        Whose::Run(_) => 0,
    })
}

/// Notes that a pending call is about to be pushed, and when it is pushed again if nobody begins it.
/// False when it is no longer due: somebody else pushes it, or it has been begun.
pub fn pushed(conn: &mut DbConnection, of: &AttemptOf, now: Timestamp, again: Timestamp) -> Result<bool, StoreError> {
    let due = open_call(of)
        .filter(calls::attempt.eq(of.number))
        .filter(calls::status.eq(CallStatus::Pending.as_str()))
        .filter(calls::due_at.le(now.0));
    let updated = diesel::update(due).set((calls::due_at.eq(Some(again.0)), calls::queued.eq(true))).execute(conn)?;
    Ok(updated == 1)
}

/// The queue did not take a pending call, or nobody there can run it: it is pushed at `at`.
pub fn not_queued(conn: &mut DbConnection, of: &AttemptOf, at: Timestamp) -> Result<(), StoreError> {
    let pending =
        open_call(of).filter(calls::attempt.eq(of.number)).filter(calls::status.eq(CallStatus::Pending.as_str()));
    diesel::update(pending).set((calls::due_at.eq(Some(at.0)), calls::queued.eq(false))).execute(conn)?;
    Ok(())
}

/// Lets every call of an execution that waits for a worker be pushed now.
pub fn push_all_now(conn: &mut DbConnection, execution: &ExecutionId, now: Timestamp) -> Result<usize, StoreError> {
    let pending = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::status.eq(CallStatus::Pending.as_str()))
        .filter(calls::kind.eq(CallKind::Function.as_str()));
    Ok(diesel::update(pending).set(calls::due_at.eq(Some(now.0))).execute(conn)?)
}
