//! Named workflows, by version. What runs carries its text with it, so a new version touches nothing that runs.

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl};

use super::{
    DbConnection, StoreError,
    files::{self, keep_source},
    schema::workflows,
};
use crate::{
    allow::Allow,
    id::check_name,
    interpreter::Program,
    model::{Deployed, Files, Json},
    time::Timestamp,
};

type Row = (String, i64, String, String, i64, Option<String>, Option<String>);

/// How many versions of a name are kept. Nothing starts an older one.
const VERSIONS: i64 = 100;

fn deployed((name, version, file, source_hash, created_at, files, allowed): Row) -> Result<Deployed, StoreError> {
    let files = files.map(Json);
    let allow = allowed.map(|text| serde_json::from_str(&text)).transpose();
    let allow = allow.map_err(|error| StoreError::Inconsistent(format!("the workflow {name}: allowed: {error}")))?;
    Ok(Deployed { name, version, file, source_hash, created_at: Timestamp(created_at), files, allow })
}

/// Makes a workflow, with the files that its children run, the newest version of that name; the same texts again are the
/// same version.
pub fn deploy(
    conn: &mut DbConnection,
    name: &str,
    code: (&Program, &Files),
    now: Timestamp,
) -> Result<Deployed, StoreError> {
    deploy_allowing(conn, name, code, None, now)
}

/// The same, with what its executions may do. Another list is another version.
pub fn deploy_allowing(
    conn: &mut DbConnection,
    name: &str,
    (program, files): (&Program, &Files),
    allow: Option<&Allow>,
    now: Timestamp,
) -> Result<Deployed, StoreError> {
    check_name("the workflow", name).map_err(|invalid| StoreError::Refused(invalid.to_string()))?;
    let allow = allow.filter(|allow| !allow.is_empty());
    allow.map_or(Ok(()), Allow::check).map_err(|invalid| StoreError::Refused(invalid.to_string()))?;
    let newest = newest(conn, name)?;
    let files = files::keep(conn, files, now)?;
    let same = |newest: &Deployed| {
        newest.source_hash == program.hash && newest.files == files && newest.allow.as_ref() == allow
    };
    if let Some(newest) = newest.clone().filter(same) {
        return Ok(newest);
    }
    keep_source(conn, &program.hash, &program.source, now)?;
    if let Some(files) = &files {
        files::tie(conn, files, &program.hash)?;
    }
    let row: Row = (
        name.to_owned(),
        newest.map_or(1, |newest| newest.version + 1),
        program.name.clone(),
        program.hash.clone(),
        now.0,
        files.map(|files| files.0),
        allow.and_then(|allow| serde_json::to_string(allow).ok()),
    );
    diesel::insert_into(workflows::table)
        .values((
            workflows::name.eq(&row.0),
            workflows::version.eq(row.1),
            workflows::file.eq(&row.2),
            workflows::source_hash.eq(&row.3),
            workflows::created_at.eq(row.4),
            workflows::files.eq(&row.5),
            workflows::allowed.eq(&row.6),
        ))
        .execute(conn)?;
    let old = workflows::table.filter(workflows::name.eq(name)).filter(workflows::version.le(row.1 - VERSIONS));
    diesel::delete(old).execute(conn)?;
    deployed(row)
}

/// The newest version of that name.
pub fn newest(conn: &mut DbConnection, name: &str) -> Result<Option<Deployed>, StoreError> {
    let row: Option<Row> = workflows::table
        .filter(workflows::name.eq(name))
        .order(workflows::version.desc())
        .select(workflows::all_columns)
        .first(conn)
        .optional()?;
    row.map(deployed).transpose()
}

/// All versions of all names, the newest of each first: at most `limit`, without the first `after`.
pub fn list(conn: &mut DbConnection, after: i64, limit: i64) -> Result<Vec<Deployed>, StoreError> {
    let rows: Vec<Row> = workflows::table
        .order((workflows::name, workflows::version.desc()))
        .offset(after)
        .limit(limit)
        .select(workflows::all_columns)
        .load(conn)?;
    rows.into_iter().map(deployed).collect()
}
