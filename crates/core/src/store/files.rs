//! The files beside a workflow that its children run: texts among the sources, and for each execution and each deployed
//! workflow a JSON object of their paths and hashes.

use std::collections::BTreeMap;

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl};

use super::{
    DbConnection, StoreError,
    executions::source,
    schema::{bundles, origins, sources},
};
use crate::{
    id::ExecutionId,
    model::{Files, Json},
    time::Timestamp,
};

/// Keeps a workflow's text, once per content.
pub fn keep_source(conn: &mut DbConnection, hash: &str, code: &str, now: Timestamp) -> Result<(), StoreError> {
    let known = sources::table.find(hash).select(sources::hash);
    let known: Option<String> = match conn {
        // Nobody forgets it until whoever needs it is committed.
        DbConnection::Postgres(conn) => known.for_key_share().first(conn).optional()?,
        DbConnection::Sqlite(conn) => known.first(conn).optional()?,
    };
    if known.is_none() {
        let row = (sources::hash.eq(hash), sources::code.eq(code), sources::kept_at.eq(now.0));
        diesel::insert_into(sources::table).values(row).execute(conn)?;
    }
    Ok(())
}

/// Keeps the texts; answers what stands for them. None when there are none.
pub fn keep(conn: &mut DbConnection, files: &Files, now: Timestamp) -> Result<Option<Json>, StoreError> {
    let Some(set) = hashes(files) else { return Ok(None) };
    for text in files.values() {
        let hash = hash_of(text);
        keep_source(conn, &hash, text, now)?;
        put(conn, &hash_of(&set.0), &hash, false)?;
    }
    Ok(Some(set))
}

/// Notes that a text runs with these files: they are kept as long as it is needed.
pub fn tie(conn: &mut DbConnection, files: &Json, hash: &str) -> Result<(), StoreError> {
    put(conn, &hash_of(&files.0), hash, true)
}

fn put(conn: &mut DbConnection, id: &str, hash: &str, uses: bool) -> Result<(), StoreError> {
    let known = bundles::table.find((id, hash, uses)).select(bundles::id).first::<String>(conn).optional()?;
    if known.is_none() {
        let row = (bundles::id.eq(id), bundles::hash.eq(hash), bundles::uses.eq(uses));
        diesel::insert_into(bundles::table).values(row).execute(conn)?;
    }
    Ok(())
}

/// What stands for files. None when there are none.
pub fn hashes(files: &Files) -> Option<Json> {
    let hashes: BTreeMap<&str, String> = files.iter().map(|(path, text)| (path.as_str(), hash_of(text))).collect();
    (!files.is_empty()).then(|| Json::from(&serde_json::json!(hashes)))
}

fn hash_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// The files of an execution.
pub fn of(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Json>, StoreError> {
    let files = origins::table.find(id.as_str()).select(origins::files).first::<Option<String>>(conn).optional()?;
    Ok(files.flatten().map(Json))
}

/// The hash of one of them.
pub fn hash(files: Option<&Json>, path: &str) -> Result<Option<String>, StoreError> {
    Ok(read(files)?.remove(path))
}

/// Their texts.
pub fn texts(conn: &mut DbConnection, files: Option<&Json>) -> Result<Files, StoreError> {
    let mut texts = Files::new();
    for (path, hash) in read(files)? {
        let text = source(conn, &hash)?;
        let text = text.ok_or_else(|| StoreError::Inconsistent(format!("the source {hash} of {path} is missing")))?;
        texts.insert(path, text);
    }
    Ok(texts)
}

fn read(files: Option<&Json>) -> Result<BTreeMap<String, String>, StoreError> {
    let Some(files) = files else { return Ok(BTreeMap::new()) };
    serde_json::from_str(&files.0).map_err(|error| StoreError::Inconsistent(format!("files of a workflow: {error}")))
}
