//! Flat rows and their translation, which names whatever contradicts itself.

use diesel::prelude::{Queryable, Selectable};

use super::{
    StoreError,
    schema::{attempts, calls, executions, logs},
};
use crate::{
    allow::Allowed,
    id::{CallId, Epoch, ExecutionId, WorkerId},
    model::{Attempt, Call, Execution, Failure, Json, LogLine, Parent},
    quota::Used,
    time::Timestamp,
};

pub(super) fn call_id(column: i64) -> Result<CallId, StoreError> {
    u32::try_from(column).map(CallId).map_err(|_| StoreError::Inconsistent(format!("call_id {column}")))
}

pub(super) fn failure(column: &str) -> Result<Failure, StoreError> {
    serde_json::from_str(column).map_err(|error| StoreError::Inconsistent(format!("error: {error}")))
}

/// The text of a column; whoever made the failure, its length is bounded.
pub(super) fn failure_text(failure: &Failure) -> String {
    let failure = &failure.clone().bounded();
    serde_json::to_string(failure).unwrap_or_else(|error| unreachable!("texts are always JSON: {error}"))
}

/// What an execution may do.
pub(super) fn allowed(column: Option<String>) -> Result<Allowed, StoreError> {
    let Some(text) = column else { return Ok(Allowed::default()) };
    serde_json::from_str(&text).map_err(|error| StoreError::Inconsistent(format!("allowed: {error}")))
}

/// What an execution has used, as its column; none where that is nothing.
pub(super) fn used_text(used: &Used) -> Option<String> {
    if *used == Used::default() { None } else { serde_json::to_string(used).ok() }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(column: &str) -> Result<T, StoreError> {
    column.parse().map_err(|error: T::Err| StoreError::Inconsistent(error.to_string()))
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = executions)]
pub(super) struct ExecutionRow {
    pub(super) id: String,
    workflow: String,
    source_hash: String,
    queue: String,
    status: String,
    suspension: i64,
    epoch: i64,
    claimed_by: Option<String>,
    runner: Option<String>,
    due_at: Option<i64>,
    created_at: i64,
    started_at: Option<i64>,
    updated_at: i64,
    finished_at: Option<i64>,
    held: bool,
    cancel_requested_at: Option<i64>,
    cancel_told: bool,
    deadline_at: Option<i64>,
    parent_execution_id: Option<String>,
    parent_call_id: Option<i64>,
    used: Option<String>,
    depth: i64,
    root: Option<String>,
}

/// Output, error and progress of an execution, which may be large: read only for whoever shows them.
pub(super) type Large = (Option<String>, Option<String>, Option<String>);

impl ExecutionRow {
    pub(super) fn with(self, (output, error, progress): Large) -> Result<Execution, StoreError> {
        let mut execution = Execution::try_from(self)?;
        execution.output = output.map(Json);
        execution.error = error.as_deref().map(failure).transpose()?;
        execution.progress = progress.map(Json);
        Ok(execution)
    }
}

impl TryFrom<ExecutionRow> for Execution {
    type Error = StoreError;

    fn try_from(row: ExecutionRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parse::<ExecutionId>(&row.id)?,
            workflow: row.workflow,
            source_hash: row.source_hash,
            queue: row.queue,
            status: parse(&row.status)?,
            suspension: row.suspension,
            epoch: Epoch(row.epoch),
            claimed_by: row.claimed_by.map(WorkerId),
            runner: row.runner.map(WorkerId),
            due_at: row.due_at.map(Timestamp),
            output: None,
            error: None,
            created_at: Timestamp(row.created_at),
            started_at: row.started_at.map(Timestamp),
            updated_at: Timestamp(row.updated_at),
            finished_at: row.finished_at.map(Timestamp),
            held: row.held,
            cancel_requested_at: row.cancel_requested_at.map(Timestamp),
            cancel_told: row.cancel_told,
            deadline_at: row.deadline_at.map(Timestamp),
            parent: match (row.parent_execution_id, row.parent_call_id) {
                (Some(id), Some(call)) => Some(Parent { execution_id: parse(&id)?, call_id: call_id(call)? }),
                _ => None,
            },
            progress: None,
            used: match row.used {
                Some(text) => {
                    serde_json::from_str(&text).map_err(|error| StoreError::Inconsistent(format!("used: {error}")))?
                }
                None => Used::default(),
            },
            depth: u64::try_from(row.depth).unwrap_or(0),
            root: row.root.as_deref().map(parse::<ExecutionId>).transpose()?,
        })
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = calls)]
pub(super) struct CallRow {
    pub(super) execution_id: String,
    pub(super) call_id: i64,
    resume_group: i64,
    kind: String,
    function: String,
    queue: String,
    line: Option<i64>,
    status: String,
    attempt: i64,
    worker: Option<String>,
    result: Option<String>,
    error: Option<String>,
    delivered_in: Option<i64>,
    due_at: Option<i64>,
    created_at: i64,
    started_at: Option<i64>,
    completed_at: Option<i64>,
    options: Option<String>,
    deadline_at: Option<i64>,
    ended_at: Option<i64>,
    progress: Option<String>,
}

impl TryFrom<CallRow> for Call {
    type Error = StoreError;

    fn try_from(row: CallRow) -> Result<Self, StoreError> {
        Ok(Self {
            execution_id: parse(&row.execution_id)?,
            id: call_id(row.call_id)?,
            resume_group: row.resume_group,
            kind: parse(&row.kind)?,
            function: row.function,
            queue: row.queue,
            line: row.line.and_then(|line| u32::try_from(line).ok()),
            status: parse(&row.status)?,
            attempt: row.attempt,
            worker: row.worker.map(WorkerId),
            result: row.result.map(Json),
            error: row.error.as_deref().map(failure).transpose()?,
            delivered_in: row.delivered_in.map(Epoch),
            due_at: row.due_at.map(Timestamp),
            created_at: Timestamp(row.created_at),
            started_at: row.started_at.map(Timestamp),
            completed_at: row.completed_at.map(Timestamp),
            options: row.options.map(Json),
            deadline_at: row.deadline_at.map(Timestamp),
            ended_at: row.ended_at.map(Timestamp),
            progress: row.progress.map(Json),
        })
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = attempts)]
pub(super) struct AttemptRow {
    call_id: i64,
    number: i64,
    worker: Option<String>,
    error: String,
    lost: bool,
    started_at: Option<i64>,
    finished_at: i64,
}

impl TryFrom<AttemptRow> for Attempt {
    type Error = StoreError;

    fn try_from(row: AttemptRow) -> Result<Self, StoreError> {
        Ok(Self {
            call_id: call_id(row.call_id)?,
            number: row.number,
            worker: row.worker.map(WorkerId),
            error: failure(&row.error)?,
            lost: row.lost,
            started_at: row.started_at.map(Timestamp),
            finished_at: Timestamp(row.finished_at),
        })
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = logs)]
pub(super) struct LogRow {
    call_id: Option<i64>,
    attempt: Option<i64>,
    stream: String,
    text: String,
    at: i64,
}

impl TryFrom<LogRow> for LogLine {
    type Error = StoreError;

    fn try_from(row: LogRow) -> Result<Self, StoreError> {
        Ok(Self {
            call_id: row.call_id.map(call_id).transpose()?,
            attempt: row.attempt,
            stream: parse(&row.stream)?,
            text: row.text,
            at: Timestamp(row.at),
        })
    }
}
