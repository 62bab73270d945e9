//! What becomes of claims that last, and of rows that the clock can do nothing with.

use diesel::{BoolExpressionMethods, ExpressionMethods, QueryDsl, RunQueryDsl};

use super::{
    DbConnection, StoreError,
    executions::{Fence, held},
    schema::{calls, executions},
};
use crate::{
    id::{Epoch, ExecutionId},
    model::ExecutionStatus,
    time::Timestamp,
};

/// What is due, and the rows that say nothing that this program understands.
#[derive(Debug)]
pub struct Due<T> {
    /// What can be acted on.
    pub rows: Vec<T>,
    /// The others: their keys, and why.
    pub unreadable: Vec<(String, StoreError)>,
}

impl<T> Due<T> {
    /// One row that cannot be read is no reason to leave the others.
    pub(super) fn of<R>(rows: Vec<R>, key: impl Fn(&R) -> String) -> Self
    where
        T: TryFrom<R, Error = StoreError>,
    {
        let mut due = Self::nothing();
        for row in rows {
            let key = key(&row);
            match T::try_from(row) {
                Ok(row) => due.rows.push(row),
                Err(error) => due.unreadable.push((key, error)),
            }
        }
        due
    }

    pub(super) fn nothing() -> Self {
        Self { rows: Vec::new(), unreadable: Vec::new() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len() + self.unreadable.len()
    }

    /// Whether nothing is due.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Makes a claim last longer. False when it is lost.
pub fn renew(conn: &mut DbConnection, fence: &Fence, until: Timestamp) -> Result<bool, StoreError> {
    Ok(diesel::update(held(fence)).set(executions::due_at.eq(Some(until.0))).execute(conn)? == 1)
}

/// Gives a claim up as if it had not been made: others may take the execution up from `at` on. What has been said against it
/// is not the execution's fault, so the claim is not counted.
pub fn give_back(conn: &mut DbConnection, fence: &Fence, at: Timestamp) -> Result<bool, StoreError> {
    let uncounted = (executions::due_at.eq(Some(at.0)), executions::claims.eq(executions::claims - 1));
    Ok(diesel::update(held(fence).filter(executions::claims.gt(0))).set(uncounted).execute(conn)? == 1)
}

/// Lets the clock come back later to an execution that it could do nothing with, unless somebody has moved it on.
pub fn put_off(conn: &mut DbConnection, id: &ExecutionId, epoch: Epoch, at: Timestamp) -> Result<(), StoreError> {
    let row = executions::table.find(id.as_str()).filter(executions::epoch.eq(epoch.0));
    diesel::update(row.filter(executions::finished_at.is_null()))
        .set(executions::due_at.eq(Some(at.0)))
        .execute(conn)?;
    Ok(())
}

/// Leaves an execution alone that a person keeps paused, until its deadline, unless that has changed meanwhile.
pub fn leave_paused(
    conn: &mut DbConnection,
    id: &ExecutionId,
    epoch: Epoch,
    deadline: Option<Timestamp>,
) -> Result<(), StoreError> {
    let row = executions::table.find(id.as_str()).filter(executions::epoch.eq(epoch.0));
    diesel::update(row.filter(executions::status.eq(ExecutionStatus::Paused.as_str())))
        .set(executions::due_at.eq(deadline.map(|at| at.0)))
        .execute(conn)?;
    Ok(())
}

/// The same for executions whose rows cannot be read, by their keys as [`Due`] gives them.
pub fn put_off_executions(conn: &mut DbConnection, keys: &[String], at: Timestamp) -> Result<(), StoreError> {
    let rows = executions::table.filter(executions::id.eq_any(keys)).filter(executions::due_at.is_not_null());
    diesel::update(rows).set(executions::due_at.eq(Some(at.0))).execute(conn)?;
    Ok(())
}

/// The same for calls.
pub fn put_off_calls(conn: &mut DbConnection, keys: &[String], at: Timestamp) -> Result<(), StoreError> {
    for (execution, call) in keys.iter().filter_map(|key| key.rsplit_once('-')) {
        let Ok(call) = call.parse::<i64>() else { continue };
        let row = calls::execution_id.eq(execution).and(calls::call_id.eq(call));
        diesel::update(calls::table.filter(row).filter(calls::due_at.is_not_null()))
            .set(calls::due_at.eq(Some(at.0)))
            .execute(conn)?;
    }
    Ok(())
}
