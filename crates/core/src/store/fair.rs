//! Executions that the clock has to look at. Children that wait for their first turn are taken up by trees, some of each: one
//! tree with a hundred thousand of them does not hide the single child of another.

use diesel::{
    ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl, SelectableHelper, dsl::sql, expression::SqlLiteral,
    sql_types::Bool,
};

use super::{DbConnection, StoreError, claims::Due, executions::Whose, heads, rows::ExecutionRow, schema::executions};
use crate::{model::Execution, time::Timestamp};

/// In the words of its index: all that is due but children that wait for their first turn.
fn is_due() -> SqlLiteral<Bool> {
    sql("executions.due_at IS NOT NULL AND NOT (executions.status = 'scheduled' AND executions.root IS NOT NULL \
         AND executions.runner IS NULL)")
}

/// In the words of its index: those.
fn is_to_begin() -> SqlLiteral<Bool> {
    sql("executions.status = 'scheduled' AND executions.root IS NOT NULL AND executions.runner IS NULL")
}

/// Executions that the clock has to look at, those due longest first: at most `limit`, and as many children that wait for
/// their first turn; then the rows that cannot be read.
pub fn due(conn: &mut DbConnection, whose: &Whose, now: Timestamp, limit: i64) -> Result<Due<Execution>, StoreError> {
    let due = executions::table
        .filter(executions::due_at.le(now.0))
        .order(executions::due_at)
        .limit(limit)
        .select(ExecutionRow::as_select());
    let rows: Vec<ExecutionRow> = match whose {
        Whose::Served => {
            let mut rows = due.filter(is_due()).filter(executions::runner.is_null()).load(conn)?;
            rows.extend(to_begin(conn, now, limit)?);
            rows
        }
        // One tree.
        Whose::Run(runner) => due.filter(executions::runner.eq(Some(&runner.0))).load(conn)?,
    };
    Ok(Due::of(rows, |row| row.id.clone()))
}

fn to_begin(conn: &mut DbConnection, now: Timestamp, limit: i64) -> Result<Vec<ExecutionRow>, StoreError> {
    let trees = heads::trees(conn)?;
    let mut trees: Vec<_> = trees.into_iter().filter(|head| head.due().is_some_and(|due| due <= now)).collect();
    if trees.is_empty() {
        return Ok(Vec::new());
    }
    // Whose first child has waited longest.
    trees.sort_by_key(heads::Head::due);
    trees.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let each = (limit / i64::try_from(trees.len()).unwrap_or(limit)).max(1);
    let trees: Vec<String> = trees.into_iter().map(|head| head.name).collect();
    let ids = heads::to_begin(conn, &trees, now, each)?;
    Ok(executions::table.filter(executions::id.eq_any(ids)).select(ExecutionRow::as_select()).load(conn)?)
}

/// When the clock has to look at an execution next.
pub fn next_due(conn: &mut DbConnection, whose: &Whose) -> Result<Option<Timestamp>, StoreError> {
    let next = || {
        executions::table
            .filter(executions::due_at.is_not_null())
            .order(executions::due_at)
            .select(executions::due_at)
            .limit(1)
    };
    let next: [Option<Option<i64>>; 2] = match whose {
        Whose::Served => [
            next().filter(is_due()).filter(executions::runner.is_null()).first(conn).optional()?,
            next().filter(is_to_begin()).first(conn).optional()?,
        ],
        Whose::Run(runner) => [next().filter(executions::runner.eq(Some(&runner.0))).first(conn).optional()?, None],
    };
    Ok(next.into_iter().flatten().flatten().min().map(Timestamp))
}
