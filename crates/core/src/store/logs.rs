//! What workflows and functions wrote.

use diesel::{ExpressionMethods, Insertable, QueryDsl, RunQueryDsl, SelectableHelper};

use super::{DbConnection, StoreError, rows::LogRow, schema::logs};
use crate::{id::ExecutionId, model::LogLine, shown::Page};

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

/// Appends lines to an execution's log.
pub fn append(conn: &mut DbConnection, execution: &ExecutionId, lines: &[LogLine]) -> Result<(), StoreError> {
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
