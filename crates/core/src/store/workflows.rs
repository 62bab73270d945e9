//! Named workflows, by version. What runs carries its text with it, so a new version touches nothing that runs.

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl};

use super::{DbConnection, StoreError, executions::keep_source, schema::workflows};
use crate::{id::check_name, interpreter::Program, model::Deployed, time::Timestamp};

type Row = (String, i64, String, String, i64);

fn deployed((name, version, file, source_hash, created_at): Row) -> Deployed {
    Deployed { name, version, file, source_hash, created_at: Timestamp(created_at) }
}

/// Makes a workflow the newest version of that name; the same text again is the same version.
pub fn deploy(conn: &mut DbConnection, name: &str, program: &Program, now: Timestamp) -> Result<Deployed, StoreError> {
    check_name("the workflow", name).map_err(|invalid| StoreError::Refused(invalid.to_string()))?;
    let newest = newest(conn, name)?;
    if let Some(newest) = newest.clone().filter(|newest| newest.source_hash == program.hash) {
        return Ok(newest);
    }
    keep_source(conn, &program.hash, &program.source)?;
    let row: Row = (
        name.to_owned(),
        newest.map_or(1, |newest| newest.version + 1),
        program.name.clone(),
        program.hash.clone(),
        now.0,
    );
    diesel::insert_into(workflows::table)
        .values((
            workflows::name.eq(&row.0),
            workflows::version.eq(row.1),
            workflows::file.eq(&row.2),
            workflows::source_hash.eq(&row.3),
            workflows::created_at.eq(row.4),
        ))
        .execute(conn)?;
    Ok(deployed(row))
}

/// The newest version of that name.
pub fn newest(conn: &mut DbConnection, name: &str) -> Result<Option<Deployed>, StoreError> {
    let row: Option<Row> = workflows::table
        .filter(workflows::name.eq(name))
        .order(workflows::version.desc())
        .select(workflows::all_columns)
        .first(conn)
        .optional()?;
    Ok(row.map(deployed))
}

/// All versions of all names, the newest of each first.
pub fn list(conn: &mut DbConnection) -> Result<Vec<Deployed>, StoreError> {
    let rows: Vec<Row> = workflows::table
        .order((workflows::name, workflows::version.desc()))
        .select(workflows::all_columns)
        .load(conn)?;
    Ok(rows.into_iter().map(deployed).collect())
}
