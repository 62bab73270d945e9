//! Pending function calls on their way to a queue: which are to be pushed, and when again.

use diesel::{ExpressionMethods, NullableExpressionMethods, QueryDsl, RunQueryDsl};

use super::{
    DbConnection, StoreError,
    calls::{AttemptOf, Work, is_to_push, open_call, read_options},
    claims::Due,
    executions::Whose,
    heads::{self, ToPush},
    rows,
    schema::calls,
    workers,
};
use crate::{
    id::ExecutionId,
    model::{CallKind, CallStatus, Json},
    time::Timestamp,
};

/// Most calls that are pushed in one go, of all queues together.
const PUSHED: usize = 10_000;

/// Function calls to be pushed to their queues, the oldest of each first, at most `limit` of each; none of those queues
/// that are full. Then the rows that cannot be read.
pub fn to_push(
    conn: &mut DbConnection,
    whose: &Whose,
    now: Timestamp,
    full: &[String],
    limit: i64,
) -> Result<Due<Work>, StoreError> {
    let due = heads::queues(conn, whose)?.into_iter().filter(|head| head.due().is_some_and(|due| due <= now));
    let queues: Vec<String> = due.map(|head| head.name).filter(|queue| !full.contains(queue)).collect();
    if queues.is_empty() {
        return Ok(Due::nothing());
    }
    let each = limit.min(i64::try_from(PUSHED / queues.len()).unwrap_or(limit)).max(1);
    let rows = heads::to_push(conn, whose, &queues, now, each)?;
    Ok(Due::of(rows, |row| format!("{}-{}", row.execution_id, row.call_id)))
}

impl TryFrom<ToPush> for Work {
    type Error = StoreError;

    fn try_from(row: ToPush) -> Result<Self, StoreError> {
        let execution = row.execution_id.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))?;
        Ok(Self {
            attempt: AttemptOf { execution, call: rows::call_id(row.call_id)?, number: row.attempt },
            options: read_options(&row.function, row.options)?,
            function: row.function,
            queue: row.queue,
            args: Json(row.args),
            kwargs: Json(row.kwargs),
            deadline: row.deadline_at.map(Timestamp),
        })
    }
}

/// Those of these queues that would be too many: calls wait in `most` others already, and no live worker serves them.
pub fn too_many(
    conn: &mut DbConnection,
    queues: &[String],
    most: u64,
    now: Timestamp,
) -> Result<Vec<String>, StoreError> {
    let known = heads::queue_names(conn, most)?;
    if (known.len() as u64) < most {
        return Ok(Vec::new());
    }
    let served = workers::live(conn, now)?;
    let is_served = |queue: &String| served.iter().any(|worker| worker.queues.contains(queue));
    Ok(queues.iter().filter(|queue| !known.contains(queue) && !is_served(queue)).cloned().collect())
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
