//! The code of executions, by version: what each ran before it was mended, and since when it runs what it runs now.

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl};

use super::{
    DbConnection, StoreError,
    executions::source,
    files::{self, keep_source},
    schema::{executions, origins, snapshots, versions},
};
use crate::{
    id::ExecutionId,
    interpreter::{Program, Snapshot},
    model::{Execution, ExecutionStatus, Files, Json, Version},
    shown::Code,
    time::Timestamp,
};

/// Other code for an execution, and where it stands with it.
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'a> {
    /// The code.
    pub program: &'a Program,
    /// The files that its children run.
    pub files: &'a Files,
    /// The state that it has led to, and the first one; none when the execution has not paused yet.
    pub state: Option<(&'a Snapshot, &'a Snapshot)>,
    /// What whoever started the execution left to be found again, if that is another now.
    pub launch: Option<&'a Json>,
}

/// Gives a locked execution other code. Its epoch moves on, so that whoever computes with the former has lost it. False
/// when it is not as it was seen: nothing was written.
pub fn replace(
    conn: &mut DbConnection,
    seen: &Execution,
    new: Replacement<'_>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let row = executions::table
        .find(seen.id.as_str())
        .filter(executions::epoch.eq(seen.epoch.0))
        .filter(executions::status.eq(seen.status.as_str()))
        .filter(executions::suspension.eq(seen.suspension))
        .filter(executions::source_hash.eq(&seen.source_hash));
    keep_source(conn, &new.program.hash, &new.program.source, now)?;
    let (state, base) = new.state.unzip();
    // The clock looks whether what has come in lets the new code go on.
    let wakes = matches!(seen.status, ExecutionStatus::Waiting | ExecutionStatus::Scheduled);
    let due = if wakes { Some(now) } else { seen.due_at };
    let replaced = diesel::update(row)
        .set((
            executions::workflow.eq(&new.program.name),
            executions::source_hash.eq(&new.program.hash),
            executions::epoch.eq(executions::epoch + 1),
            executions::snapshot.eq(state.map(|state| &state.bytes)),
            executions::snapshot_format.eq(state.map(|state| &state.format)),
            executions::due_at.eq(due.map(|at| at.0)),
            executions::updated_at.eq(now.0),
        ))
        .execute(conn)?;
    if replaced == 0 {
        return Ok(false);
    }
    note_former(conn, seen, now)?;
    let files = files::keep(conn, new.files, now)?;
    if let Some(files) = &files {
        files::tie(conn, files, &new.program.hash)?;
    }
    diesel::update(origins::table.find(seen.id.as_str()))
        .set((
            origins::base_snapshot.eq(base.map(|base| &base.bytes)),
            origins::base_format.eq(base.map(|base| &base.format)),
            origins::files.eq(files.map(|files| files.0)),
        ))
        .execute(conn)?;
    if let Some(launch) = new.launch {
        diesel::update(origins::table.find(seen.id.as_str())).set(origins::launch.eq(Some(&launch.0))).execute(conn)?;
    }
    if let Some(state) = state {
        // Where it is kept, the last state is that of the new code too.
        diesel::update(snapshots::table.find((seen.id.as_str(), seen.suspension)))
            .set((snapshots::snapshot.eq(&state.bytes), snapshots::snapshot_format.eq(&state.format)))
            .execute(conn)?;
    }
    Ok(true)
}

fn note_former(conn: &mut DbConnection, seen: &Execution, now: Timestamp) -> Result<(), StoreError> {
    type Base = (Option<Vec<u8>>, Option<String>, Option<String>);
    let base: Base = origins::table
        .find(seen.id.as_str())
        .select((origins::base_snapshot, origins::base_format, origins::files))
        .first(conn)?;
    let formers: i64 = versions::table.filter(versions::execution_id.eq(seen.id.as_str())).count().get_result(conn)?;
    diesel::insert_into(versions::table)
        .values((
            versions::execution_id.eq(seen.id.as_str()),
            versions::number.eq(formers + 1),
            versions::workflow.eq(&seen.workflow),
            versions::source_hash.eq(&seen.source_hash),
            versions::base_snapshot.eq(base.0),
            versions::base_format.eq(base.1),
            versions::files.eq(base.2),
            versions::until_pause.eq(seen.suspension),
            versions::until_at.eq(now.0),
        ))
        .execute(conn)?;
    Ok(())
}

/// All code that an execution has had, in order; the last is what it runs now.
pub fn list(conn: &mut DbConnection, execution: &Execution) -> Result<Vec<Version>, StoreError> {
    let rows: Vec<(i64, String, String, i64)> = versions::table
        .filter(versions::execution_id.eq(execution.id.as_str()))
        .order(versions::number)
        .select((versions::number, versions::workflow, versions::source_hash, versions::until_at))
        .load(conn)?;
    let mut since = execution.created_at;
    let mut all = Vec::new();
    for (number, workflow, source_hash, until) in rows {
        all.push(Version { number, workflow, source_hash, since, until: Some(Timestamp(until)) });
        since = Timestamp(until);
    }
    let number = i64::try_from(all.len()).unwrap_or(0) + 1;
    let (workflow, source_hash) = (execution.workflow.clone(), execution.source_hash.clone());
    all.push(Version { number, workflow, source_hash, since, until: None });
    Ok(all)
}

/// The text of a version of an execution's code; none when there is no such version.
pub fn code(conn: &mut DbConnection, execution: &Execution, number: Option<i64>) -> Result<Option<Code>, StoreError> {
    let mut all = list(conn, execution)?;
    let version = match number {
        Some(number) => all.into_iter().find(|version| version.number == number),
        None => all.pop(),
    };
    let Some(version) = version else { return Ok(None) };
    let source = source(conn, &version.source_hash)?.unwrap_or_default();
    Ok(Some(Code { version, source }))
}

/// Code that an execution ran before its own was mended.
#[derive(Debug, Clone)]
pub struct Former {
    /// The file name in tracebacks.
    pub workflow: String,
    /// Identifies the text.
    pub source_hash: String,
    /// The files that its children run.
    pub files: Option<Json>,
    /// What its states are compressed against.
    pub base: Option<Snapshot>,
}

/// Whose the state after a pause is, if not the present code's.
pub fn of_pause(conn: &mut DbConnection, id: &ExecutionId, pause: i64) -> Result<Option<Former>, StoreError> {
    type Row = (String, String, Option<Vec<u8>>, Option<String>, Option<String>);
    let row: Option<Row> = versions::table
        .filter(versions::execution_id.eq(id.as_str()))
        .filter(versions::until_pause.gt(pause))
        .order(versions::number)
        .select((
            versions::workflow,
            versions::source_hash,
            versions::base_snapshot,
            versions::base_format,
            versions::files,
        ))
        .first(conn)
        .optional()?;
    Ok(row.map(|(workflow, source_hash, bytes, format, files)| Former {
        workflow,
        source_hash,
        files: files.map(Json),
        base: bytes.zip(format).map(|(bytes, format)| Snapshot { format, bytes }),
    }))
}

/// An execution begins anew, and counts its pauses from there: no former code has any of them.
pub fn begin_anew(conn: &mut DbConnection, id: &ExecutionId) -> Result<(), StoreError> {
    diesel::update(versions::table.filter(versions::execution_id.eq(id.as_str())))
        .set(versions::until_pause.eq(0))
        .execute(conn)?;
    Ok(())
}
