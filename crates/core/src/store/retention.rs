//! What goes when nobody needs it any more: by sets, a bounded number of rows in each transaction, found by indexes.

use diesel::{
    ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl, sql_query, sql_types::BigInt, sql_types::Text,
};

use super::{
    DbConnection, StoreError, logs as log_store,
    schema::{calls, executions, logs, signals, snapshots, sources},
};
use crate::{id::ExecutionId, time::Timestamp};

/// Most rows that one transaction deletes, looks at, or finds in one go.
const ROWS: i64 = 500;

/// Of the signals that former lives took, so many are still known by their keys.
const KNOWN_KEYS: i64 = 1000;

/// An execution has begun anew: what its former lives wrote and were sent is kept in bounds.
pub fn former_life(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    log: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    log_store::shorten(conn, execution, log, now)?;
    let taken =
        || signals::table.filter(signals::execution_id.eq(execution.as_str())).filter(signals::call_id.is_not_null());
    diesel::delete(taken().filter(signals::dedupe_key.is_null())).execute(conn)?;
    let old = taken().order(signals::id.desc()).offset(KNOWN_KEYS).select(signals::id);
    if let Some(last) = old.first::<i64>(conn).optional()? {
        diesel::delete(taken().filter(signals::id.le(last))).execute(conn)?;
    }
    // The same key once more is the same signal; what it said is nobody's any more.
    diesel::update(taken().filter(signals::payload.ne("null"))).set(signals::payload.eq("null")).execute(conn)?;
    Ok(())
}

/// Deletes executions that ended before an instant, the oldest first, with all that belongs to them: a part of what there
/// is. Answers how many rows went, and how many executions; none when none is left.
pub fn ended(conn: &mut DbConnection, before: Timestamp) -> Result<(usize, usize), StoreError> {
    let (mut gone, mut whole) = (0, 0);
    for id in ended_before(conn, before)? {
        match piece(conn, &id)? {
            0 => whole += diesel::delete(executions::table.find(&id)).execute(conn)?,
            rows => gone += rows,
        }
        if gone + 10 * whole >= usize::try_from(ROWS).unwrap_or(usize::MAX) {
            break;
        }
    }
    Ok((gone + whole, whole))
}

/// Locked, so that nobody has them tried again meanwhile.
fn ended_before(conn: &mut DbConnection, before: Timestamp) -> Result<Vec<String>, StoreError> {
    let old = executions::table
        .filter(executions::finished_at.lt(before.0))
        .order(executions::finished_at)
        .limit(ROWS / 10)
        .select(executions::id);
    Ok(match conn {
        DbConnection::Postgres(conn) => old.for_update().skip_locked().load(conn)?,
        DbConnection::Sqlite(conn) => old.load(conn)?,
    })
}

/// Deletes a part of what belongs to an execution, unless that is so little that it may go with it; answers how many rows.
fn piece(conn: &mut DbConnection, id: &str) -> Result<usize, StoreError> {
    let many = |rows: usize| rows >= usize::try_from(ROWS).unwrap_or(usize::MAX);
    let mine = calls::table.filter(calls::execution_id.eq(id)).order(calls::call_id).limit(ROWS);
    let numbers: Vec<i64> = mine.select(calls::call_id).load(conn)?;
    if many(numbers.len()) {
        let until = numbers.last().copied().unwrap_or(0);
        let first = calls::table.filter(calls::execution_id.eq(id)).filter(calls::call_id.le(until));
        return Ok(diesel::delete(first).execute(conn)?);
    }
    let lines: Vec<i64> =
        logs::table.filter(logs::execution_id.eq(id)).order(logs::id).limit(ROWS).select(logs::id).load(conn)?;
    if many(lines.len()) {
        return Ok(diesel::delete(logs::table.filter(logs::id.eq_any(lines))).execute(conn)?);
    }
    let sent: Vec<i64> =
        signals::table.filter(signals::execution_id.eq(id)).limit(ROWS).select(signals::id).load(conn)?;
    if many(sent.len()) {
        return Ok(diesel::delete(signals::table.filter(signals::id.eq_any(sent))).execute(conn)?);
    }
    let kept = snapshots::table.filter(snapshots::execution_id.eq(id)).order(snapshots::suspension).limit(ROWS);
    let states: Vec<i64> = kept.select(snapshots::suspension).load(conn)?;
    if many(states.len()) {
        let until = states.last().copied().unwrap_or(0);
        let first = snapshots::table.filter(snapshots::execution_id.eq(id)).filter(snapshots::suspension.le(until));
        return Ok(diesel::delete(first).execute(conn)?);
    }
    Ok(0)
}

/// Deletes an execution that has ended, with all that belongs to it: a part of that. None when there is no such execution;
/// otherwise whether it is gone.
pub fn one(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<bool>, StoreError> {
    let row = executions::table.filter(executions::id.eq(id.as_str())).filter(executions::finished_at.is_not_null());
    if diesel::update(row).set(executions::suspension.eq(executions::suspension)).execute(conn)? == 0 {
        return Ok(None);
    }
    if piece(conn, id.as_str())? > 0 {
        return Ok(Some(false));
    }
    diesel::delete(executions::table.find(id.as_str())).execute(conn)?;
    Ok(Some(true))
}

/// A round through a table: where it stands, and how many rows went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round<T> {
    /// The last that was looked at; none at the end of the table.
    pub at: Option<T>,
    /// How many of what was looked at nobody needed.
    pub gone: usize,
}

/// Whether something that runs, ran or is deployed is of the text with this hash. By the least hash from this one on, which
/// is always looked up in an index: where nearly all executions are of one text, EXISTS would walk through them.
fn is_run(hash: &str) -> String {
    let in_table = |table: &str| {
        format!("coalesce((SELECT min(t.source_hash) FROM {table} AS t WHERE t.source_hash >= {hash}), '') = {hash}")
    };
    format!("({} OR {} OR {})", in_table("executions"), in_table("workflows"), in_table("versions"))
}

/// Looks at the next texts after one, and deletes those among them that have been kept since before an instant and that
/// nobody refers to.
pub fn texts(conn: &mut DbConnection, after: &str, before: Timestamp) -> Result<Round<String>, StoreError> {
    let next = sources::table.filter(sources::hash.gt(after)).order(sources::hash).limit(ROWS).select(sources::hash);
    let Some(last) = next.load::<String>(conn)?.pop() else { return Ok(Round { at: None, gone: 0 }) };
    let statement = |p: char| {
        format!(
            "DELETE FROM sources WHERE hash > {p}1 AND hash <= {p}2 AND kept_at < {p}3 AND NOT {}
            AND NOT EXISTS (SELECT 1 FROM bundles AS f JOIN bundles AS u ON u.id = f.id AND u.uses
                WHERE f.hash = sources.hash AND NOT f.uses AND {})",
            is_run("sources.hash"),
            is_run("u.hash")
        )
    };
    let gone = match conn {
        DbConnection::Postgres(conn) => {
            // For the checks of foreign keys, which would walk through all executions for the same reason.
            sql_query("SET LOCAL enable_seqscan = off").execute(conn)?;
            let delete = sql_query(statement('$')).bind::<Text, _>(after).bind::<Text, _>(&last);
            let gone = delete.bind::<BigInt, _>(before.0).execute(conn)?;
            sql_query("SET LOCAL enable_seqscan = DEFAULT").execute(conn)?;
            gone
        }
        DbConnection::Sqlite(conn) => sql_query(statement('?'))
            .bind::<Text, _>(after)
            .bind::<Text, _>(&last)
            .bind::<BigInt, _>(before.0)
            .execute(conn)?,
    };
    Ok(Round { at: Some(last), gone })
}

/// Looks at the next signals after one, and deletes those among them that were taken by executions which ended before an
/// instant.
pub fn taken_signals(conn: &mut DbConnection, after: i64, before: Timestamp) -> Result<Round<i64>, StoreError> {
    let next = signals::table.filter(signals::id.gt(after)).order(signals::id).limit(ROWS).select(signals::id);
    let Some(last) = next.load::<i64>(conn)?.pop() else { return Ok(Round { at: None, gone: 0 }) };
    let ended = executions::table.filter(executions::id.eq(signals::execution_id));
    let ended = ended.filter(executions::finished_at.lt(before.0)).select(executions::id);
    let seen = signals::table.filter(signals::id.gt(after)).filter(signals::id.le(last));
    let old = seen.filter(signals::call_id.is_not_null()).filter(diesel::dsl::exists(ended));
    Ok(Round { at: Some(last), gone: diesel::delete(old).execute(conn)? })
}
