//! The files beside a workflow that its children run: texts among the sources, and for each execution and each deployed
//! workflow a JSON object of their paths and hashes.

use std::collections::BTreeMap;

use diesel::{OptionalExtension, QueryDsl, RunQueryDsl};

use super::{
    DbConnection, StoreError,
    executions::{keep_source, source},
    schema::origins,
};
use crate::{
    id::ExecutionId,
    model::{Files, Json},
};

/// Keeps the texts; answers what stands for them. None when there are none.
pub fn keep(conn: &mut DbConnection, files: &Files) -> Result<Option<Json>, StoreError> {
    for text in files.values() {
        keep_source(conn, &hash_of(text), text)?;
    }
    Ok(hashes(files))
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
