//! What workflows and functions wrote.

use diesel::{ExpressionMethods, Insertable, QueryDsl, RunQueryDsl, SelectableHelper};

use super::{DbConnection, StoreError, rows::LogRow, schema::logs};
use crate::{id::ExecutionId, model::LogLine};

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
