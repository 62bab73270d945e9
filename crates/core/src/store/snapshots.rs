//! Earlier states of executions, where the policy keeps them: what `fork` starts from.

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl, dsl::sql, sql_types::BigInt};

use super::{
    DbConnection, StoreError,
    executions::Fence,
    schema::{executions, snapshots},
};
use crate::{
    id::{Epoch, ExecutionId},
    interpreter::Snapshot,
    time::Timestamp,
};

/// Keeps the state of a pause.
pub fn keep(
    conn: &mut DbConnection,
    fence: &Fence,
    suspension: i64,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<(), StoreError> {
    diesel::insert_into(snapshots::table)
        .values((
            snapshots::execution_id.eq(fence.id.as_str()),
            snapshots::suspension.eq(suspension),
            snapshots::epoch.eq(fence.epoch.0),
            snapshots::snapshot.eq(&snapshot.bytes),
            snapshots::snapshot_format.eq(&snapshot.format),
            snapshots::created_at.eq(now.0),
        ))
        .execute(conn)?;
    Ok(())
}

/// A kept state: the pause's number, the claim under which it was saved, the state.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The pause.
    pub suspension: i64,
    /// The claim under which it was saved.
    pub epoch: Epoch,
    /// The state.
    pub snapshot: Snapshot,
    /// When it was saved.
    pub created_at: Timestamp,
}

type Row = (i64, i64, Vec<u8>, String, i64);

/// The state after a pause, if it is kept.
pub fn get(conn: &mut DbConnection, id: &ExecutionId, suspension: i64) -> Result<Option<Kept>, StoreError> {
    let row: Option<Row> = snapshots::table
        .find((id.as_str(), suspension))
        .select((
            snapshots::suspension,
            snapshots::epoch,
            snapshots::snapshot,
            snapshots::snapshot_format,
            snapshots::created_at,
        ))
        .first(conn)
        .optional()?;
    Ok(row.map(|(suspension, epoch, bytes, format, at)| Kept {
        suspension,
        epoch: Epoch(epoch),
        snapshot: Snapshot { format, bytes },
        created_at: Timestamp(at),
    }))
}

/// Which pauses of an execution are kept: number, size, time.
pub fn list(conn: &mut DbConnection, id: &ExecutionId) -> Result<Vec<(i64, i64, Timestamp)>, StoreError> {
    page(conn, id, -1, i64::MAX)
}

/// A part of them, at most `limit`: those after the pause `after`. The states themselves are not read.
pub fn page(
    conn: &mut DbConnection,
    id: &ExecutionId,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, i64, Timestamp)>, StoreError> {
    let bytes = sql::<BigInt>("CAST(octet_length(snapshots.snapshot) AS BIGINT)");
    let rows: Vec<(i64, i64, i64)> = snapshots::table
        .filter(snapshots::execution_id.eq(id.as_str()))
        .filter(snapshots::suspension.gt(after))
        .order(snapshots::suspension)
        .limit(limit)
        .select((snapshots::suspension, bytes, snapshots::created_at))
        .load(conn)?;
    Ok(rows.into_iter().map(|(number, bytes, at)| (number, bytes, Timestamp(at))).collect())
}

/// Drops a part of the states that are older than `before`; answers how many. None when none is left.
pub fn forget(conn: &mut DbConnection, before: Timestamp) -> Result<usize, StoreError> {
    let old = snapshots::table.filter(snapshots::created_at.lt(before.0)).order(snapshots::created_at).limit(500);
    let times: Vec<i64> = old.select(snapshots::created_at).load(conn)?;
    let Some(last) = times.last() else { return Ok(0) };
    Ok(diesel::delete(snapshots::table.filter(snapshots::created_at.le(*last))).execute(conn)?)
}

/// Drops the last state of an execution that has ended.
pub fn drop_last(conn: &mut DbConnection, id: &ExecutionId) -> Result<(), StoreError> {
    let ended = executions::table.find(id.as_str()).filter(executions::finished_at.is_not_null());
    diesel::update(ended)
        .set((executions::snapshot.eq(None::<Vec<u8>>), executions::snapshot_format.eq(None::<String>)))
        .execute(conn)?;
    Ok(())
}
