//! What workflows and functions wrote.

use diesel::{
    ExpressionMethods, Insertable, OptionalExtension, QueryDsl, RunQueryDsl, SelectableHelper, dsl::sql,
    sql_types::BigInt,
};

use super::{
    DbConnection, StoreError,
    rows::LogRow,
    schema::{executions, logs},
};
use crate::{
    id::ExecutionId,
    model::{LogLine, Stream},
    quota::option,
    shown::Page,
    time::Timestamp,
};

#[derive(Insertable)]
#[diesel(table_name = logs)]
struct NewRow<'a> {
    execution_id: &'a str,
    call_id: Option<i64>,
    attempt: Option<i64>,
    stream: &'a str,
    text: &'a str,
    at: i64,
}

/// The log's length is counted in steps of so many bytes. What is shorter counts as a whole step as often as its length is a
/// part of one: most lines then change nothing but the log.
const STEP: u64 = 4096;

/// Appends lines to an execution's log, which becomes no longer than `most` bytes: what goes beyond is cut, and the last line
/// says so.
pub fn append(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    lines: &[LogLine],
    most: u64,
) -> Result<(), StoreError> {
    if lines.is_empty() {
        return Ok(());
    }
    let bytes = lines.iter().map(|line| line.text.len() as u64).sum();
    let counted = counted(&lines[0], bytes);
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let row = executions::table.filter(executions::id.eq(execution.as_str())).filter(executions::log_bytes.lt(limit));
    let after: Option<i64> = if counted == 0 {
        row.select(executions::log_bytes).first(conn).optional()?
    } else {
        let more = executions::log_bytes.eq(executions::log_bytes + counted);
        diesel::update(row).set(more).returning(executions::log_bytes).get_result(conn).optional()?
    };
    let Some(after) = after else { return Ok(()) };
    if after < limit {
        return insert(conn, execution, lines);
    }
    let mut room = usize::try_from(limit - (after - counted)).unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    for line in lines {
        let fits = line.text.floor_char_boundary(room);
        room -= fits;
        kept.push(LogLine { text: line.text[..fits].to_owned(), ..line.clone() });
    }
    kept.retain(|line| !line.text.is_empty());
    let text = format!("\n[the log is full {}: nothing more is kept]\n", option("log", most));
    kept.push(LogLine { stream: Stream::Stderr, text, ..lines[lines.len() - 1].clone() });
    insert(conn, execution, &kept)
}

fn counted(first: &LogLine, bytes: u64) -> i64 {
    if bytes >= STEP {
        return i64::try_from(bytes).unwrap_or(i64::MAX);
    }
    // As good as a throw of dice, and the same when it is written again.
    let call = first.call_id.map_or(0, |id| u64::from(id.0));
    let mixed = (first.at.0.cast_unsigned() ^ call.rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    if mixed % STEP < bytes { i64::try_from(STEP).unwrap_or(i64::MAX) } else { 0 }
}

fn insert(conn: &mut DbConnection, execution: &ExecutionId, lines: &[LogLine]) -> Result<(), StoreError> {
    for line in lines {
        // Postgres has no NUL in texts.
        let text = line.text.replace('\0', "\u{fffd}");
        let row = NewRow {
            execution_id: execution.as_str(),
            call_id: line.call_id.map(|id| i64::from(id.0)),
            attempt: line.attempt,
            stream: line.stream.as_str(),
            text: &text,
            at: line.at.0,
        };
        diesel::insert_into(logs::table).values(&row).execute(conn)?;
    }
    Ok(())
}

/// An execution begins anew: of a log that is half full, the last quarter is kept.
pub fn shorten(conn: &mut DbConnection, execution: &ExecutionId, most: u64, now: Timestamp) -> Result<(), StoreError> {
    /// Most rows that are kept then.
    const ROWS: i64 = 10_000;
    let row = || executions::table.find(execution.as_str());
    let bytes: i64 = row().select(executions::log_bytes).first(conn)?;
    if u64::try_from(bytes).unwrap_or(0) < most / 2 {
        return Ok(());
    }
    let length = sql::<BigInt>("CAST(octet_length(logs.text) AS BIGINT)");
    let newest: Vec<(i64, i64)> = logs::table
        .filter(logs::execution_id.eq(execution.as_str()))
        .order(logs::id.desc())
        .limit(ROWS)
        .select((logs::id, length))
        .load(conn)?;
    let (room, mut kept, mut first) = (i64::try_from(most / 4).unwrap_or(i64::MAX), 0, i64::MAX);
    for (id, length) in newest {
        if kept + length > room {
            break;
        }
        (kept, first) = (kept + length, id);
    }
    let old = logs::table.filter(logs::execution_id.eq(execution.as_str())).filter(logs::id.lt(first));
    if diesel::delete(old).execute(conn)? > 0 {
        let text = "[of what was written in former lives only the end is kept]\n".to_owned();
        insert(conn, execution, &[LogLine { call_id: None, attempt: None, stream: Stream::Stderr, text, at: now }])?;
    }
    diesel::update(row()).set(executions::log_bytes.eq(kept)).execute(conn)?;
    Ok(())
}

/// An execution's log, in the order in which it was written.
pub fn list(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<LogLine>, StoreError> {
    let rows: Vec<LogRow> = logs::table
        .filter(logs::execution_id.eq(execution.as_str()))
        .order(logs::id)
        .select(LogRow::as_select())
        .load(conn)?;
    rows.into_iter().map(LogLine::try_from).collect()
}

/// A part of an execution's log: what follows the entry that `after` names, at most `limit` entries.
pub fn page(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    after: i64,
    limit: i64,
) -> Result<Page<LogLine>, StoreError> {
    let rows: Vec<(i64, LogRow)> = logs::table
        .filter(logs::execution_id.eq(execution.as_str()))
        .filter(logs::id.gt(after))
        .order(logs::id)
        .limit(limit)
        .select((logs::id, LogRow::as_select()))
        .load(conn)?;
    let full = usize::try_from(limit).is_ok_and(|limit| rows.len() >= limit);
    let next = rows.last().filter(|_| full).map(|(id, _)| id.to_string());
    let items = rows.into_iter().map(|(_, row)| LogLine::try_from(row)).collect::<Result<_, _>>()?;
    Ok(Page { items, next })
}
