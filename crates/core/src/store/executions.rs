//! Executions: one row each, moved on only under a claim.

use std::sync::Arc;

use diesel::{
    BoolExpressionMethods, ExpressionMethods, IntoSql, NullableExpressionMethods, OptionalExtension, QueryDsl,
    RunQueryDsl, SelectableHelper,
    dsl::{case_when, sql},
    expression::SqlLiteral,
    sql_types::{BigInt, Bool, Nullable, Text},
};

pub use super::{
    fair::{due, next_due},
    files::keep_source,
    heads::open_in_tree,
};

use super::{
    DbConnection, StoreError, calls, files,
    rows::{self, ExecutionRow, Large, failure_text},
    schema::{executions, origins, sources},
};
use crate::{
    allow::Allowed,
    id::{CallId, Epoch, ExecutionId, WorkerId},
    interpreter::Snapshot,
    model::{Execution, ExecutionStatus, Failure, Json, Outcome, Parent},
    quota::Used,
    shown::Page,
    time::Timestamp,
};

/// Whose due rows a clock acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Everything that workers serve.
    Served,
    /// What this process runs by itself: an execution with its children.
    Run(WorkerId),
}

/// An execution to be started.
#[derive(Debug, Clone)]
pub struct NewExecution {
    /// Its id, generated or chosen.
    pub id: ExecutionId,
    /// The workflow's file name.
    pub workflow: String,
    /// The workflow's text, kept once per content.
    pub source: String,
    /// Identifies the text.
    pub source_hash: String,
    /// The files that its children run, as [`files::keep`](super::files::keep) answers them.
    pub files: Option<Json>,
    /// Where its function calls are queued.
    pub queue: String,
    /// The process that runs it with a queue of its own, if one does.
    pub runner: Option<WorkerId>,
    /// A JSON object.
    pub inputs: Json,
    /// JSON that whoever starts it wants to find again.
    pub launch: Option<Json>,
    /// When it is started.
    pub now: Timestamp,
    /// When somebody else takes it up, if whoever starts it has not claimed it by then.
    pub due_at: Timestamp,
    /// When it is cancelled if it has not ended.
    pub deadline_at: Option<Timestamp>,
    /// The call that waits for it.
    pub parent: Option<Parent>,
    /// How many parents are above it.
    pub depth: u64,
    /// The execution at the top of its tree, unless it is that itself.
    pub root: Option<ExecutionId>,
    /// Makes the tokens of its callbacks unguessable.
    pub secret: String,
    /// What it may do.
    pub allowed: Allowed,
}

/// Inserts an execution; false when one of that id is there already, which is left as it is.
pub fn insert(conn: &mut DbConnection, new: &NewExecution) -> Result<bool, StoreError> {
    if brief(conn, &new.id)?.is_some() {
        return Ok(false);
    }
    keep_source(conn, &new.source_hash, &new.source, new.now)?;
    if let Some(files) = &new.files {
        files::tie(conn, files, &new.source_hash)?;
    }
    diesel::insert_into(executions::table)
        .values((
            executions::id.eq(new.id.as_str()),
            executions::workflow.eq(&new.workflow),
            executions::source_hash.eq(&new.source_hash),
            executions::queue.eq(&new.queue),
            executions::runner.eq(new.runner.as_ref().map(|runner| runner.0.as_str())),
            executions::status.eq(ExecutionStatus::Scheduled.as_str()),
            executions::suspension.eq(0),
            executions::epoch.eq(0),
            executions::due_at.eq(new.due_at.0),
            executions::created_at.eq(new.now.0),
            executions::updated_at.eq(new.now.0),
            executions::deadline_at.eq(new.deadline_at.map(|at| at.0)),
            executions::parent_execution_id.eq(new.parent.as_ref().map(|parent| parent.execution_id.as_str())),
            executions::parent_call_id.eq(new.parent.as_ref().map(|parent| i64::from(parent.call_id.0))),
            executions::depth.eq(i64::try_from(new.depth).unwrap_or(i64::MAX)),
            executions::root.eq(new.root.as_ref().map(ExecutionId::as_str)),
        ))
        .execute(conn)?;
    diesel::insert_into(origins::table)
        .values((
            origins::execution_id.eq(new.id.as_str()),
            origins::inputs.eq(&new.inputs.0),
            origins::launch.eq(new.launch.as_ref().map(|launch| launch.0.as_str())),
            origins::secret.eq(Some(&new.secret)),
            origins::files.eq(new.files.as_ref().map(|files| files.0.as_str())),
            origins::allowed.eq(new.allowed.column()),
        ))
        .execute(conn)?;
    Ok(true)
}

/// One execution, if there is one of that id, with all that it shows.
pub fn get(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Execution>, StoreError> {
    let large = (executions::output, executions::error, executions::progress);
    let row: Option<(ExecutionRow, Large)> =
        executions::table.find(id.as_str()).select((ExecutionRow::as_select(), large)).first(conn).optional()?;
    row.map(|(row, large)| row.with(large)).transpose()
}

/// The same without output, error and progress, which may be large: for whoever moves it on.
pub fn brief(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Execution>, StoreError> {
    let row: Option<ExecutionRow> =
        executions::table.find(id.as_str()).select(ExecutionRow::as_select()).first(conn).optional()?;
    row.map(Execution::try_from).transpose()
}

/// What a list shows of columns that may be large: they are left out where they are longer than 4 KiB. A length is told
/// without reading the value.
#[diesel::dsl::auto_type(no_type_alias)]
fn short() -> _ {
    let output: SqlLiteral<Nullable<Text>> =
        sql("CASE WHEN octet_length(executions.output) <= 4096 THEN executions.output END");
    let progress: SqlLiteral<Nullable<Text>> =
        sql("CASE WHEN octet_length(executions.progress) <= 4096 THEN executions.progress END");
    (output, executions::error, progress)
}

/// The newest executions, at most `limit`, without large outputs and progress.
pub fn list(
    conn: &mut DbConnection,
    status: Option<ExecutionStatus>,
    limit: i64,
) -> Result<Vec<Execution>, StoreError> {
    let newest = executions::table
        .order((executions::created_at.desc(), executions::id.desc()))
        .limit(limit)
        .select((ExecutionRow::as_select(), short()));
    let rows: Vec<(ExecutionRow, Large)> = match status {
        Some(status) => newest.filter(executions::status.eq(status.as_str())).load(conn)?,
        None => newest.load(conn)?,
    };
    rows.into_iter().map(|(row, large)| row.with(large)).collect()
}

/// A part of the newest executions, at most `limit`: those after the one that `after` names, as a former part gave it.
/// None when it names none. Large outputs and progress are left out, as in [`list`].
pub fn page(
    conn: &mut DbConnection,
    status: Option<ExecutionStatus>,
    after: Option<&str>,
    limit: i64,
) -> Result<Option<Page<Execution>>, StoreError> {
    let mut newest = executions::table
        .order((executions::created_at.desc(), executions::id.desc()))
        .limit(limit)
        .select((ExecutionRow::as_select(), short()))
        .into_boxed();
    if let Some(status) = status {
        newest = newest.filter(executions::status.eq(status.as_str()));
    }
    if let Some(after) = after {
        let place = after.split_once('.').and_then(|(at, id)| Some((at.parse::<i64>().ok()?, id)));
        let Some((at, id)) = place else { return Ok(None) };
        let older = executions::created_at.eq(at).and(executions::id.lt(id.to_owned()));
        // The first bound is what the index is looked up by.
        newest = newest.filter(executions::created_at.le(at)).filter(executions::created_at.lt(at).or(older));
    }
    let rows: Vec<(ExecutionRow, Large)> = newest.load(conn)?;
    let items: Vec<Execution> = rows.into_iter().map(|(row, large)| row.with(large)).collect::<Result<_, _>>()?;
    let full = usize::try_from(limit).is_ok_and(|limit| items.len() >= limit);
    let last = items.last().filter(|_| full);
    let next = last.map(|last| format!("{}.{}", last.created_at.0, last.id));
    Ok(Some(Page { items, next }))
}

/// The text of a workflow.
pub fn source(conn: &mut DbConnection, hash: &str) -> Result<Option<String>, StoreError> {
    Ok(sources::table.find(hash).select(sources::code).first(conn).optional()?)
}

/// The inputs that the execution began with.
pub fn inputs(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Json>, StoreError> {
    Ok(origins::table.find(id.as_str()).select(origins::inputs).first(conn).optional()?.map(Json))
}

/// The id of the first call of an execution's present life.
pub fn first_call(conn: &mut DbConnection, id: &ExecutionId) -> Result<CallId, StoreError> {
    rows::call_id(origins::table.find(id.as_str()).select(origins::first_call).first(conn)?)
}

/// What makes the tokens of its callbacks, and its children's secrets.
pub fn secret(conn: &mut DbConnection, id: &ExecutionId) -> Result<String, StoreError> {
    let secret = origins::table.find(id.as_str()).select(origins::secret).first::<Option<String>>(conn)?;
    Ok(secret.unwrap_or_default())
}

/// What it may do.
pub fn allowed(conn: &mut DbConnection, id: &ExecutionId) -> Result<Allowed, StoreError> {
    let allowed = origins::table.find(id.as_str()).select(origins::allowed).first::<Option<String>>(conn).optional()?;
    rows::allowed(allowed.flatten())
}

/// What whoever started the execution left to be found again.
pub fn launch(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Json>, StoreError> {
    let launch = origins::table.find(id.as_str()).select(origins::launch).first::<Option<String>>(conn).optional()?;
    Ok(launch.flatten().map(Json))
}

/// What the winner of a claim needs to advance the execution.
#[derive(Debug, Clone)]
pub struct Won {
    /// The execution, already running under the winner's epoch.
    pub execution: Execution,
    /// What it began with: a JSON object.
    pub inputs: Json,
    /// The id of its first call.
    pub first_call: CallId,
    /// Its state with the first state, unless it never paused.
    pub state: Option<(Snapshot, Snapshot)>,
    /// Settled calls that no advance has delivered yet, in order.
    pub outcomes: Vec<(CallId, Outcome)>,
    /// The instant of this turn: when the last of those outcomes came in, or when the execution began. Not when it is
    /// taken up, so that a turn that is repeated sees the same clock.
    pub at: Timestamp,
    /// Makes the tokens of its callbacks unguessable.
    pub secret: String,
    /// Claims in a row, this one counted, since it last paused or began.
    pub claims: i64,
    /// What it may do.
    pub allowed: Arc<Allowed>,
    /// Whether nothing but time has led to some of those outcomes.
    pub by_time: bool,
}

/// Takes the right to advance an execution, if it is free: compare and swap, the row count decides. What the winner may work
/// with is [`won`].
pub fn claim(
    conn: &mut DbConnection,
    id: &ExecutionId,
    worker: &WorkerId,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let free = sql::<Bool>("executions.status IN ('scheduled', 'waiting')").or(executions::status
        .eq(ExecutionStatus::Running.as_str())
        .and(executions::due_at.le(now.0).assume_not_null()));
    let span = until.0.saturating_sub(now.0);
    let won = diesel::update(executions::table.filter(executions::id.eq(id.as_str())).filter(free))
        .set((
            executions::status.eq(ExecutionStatus::Running.as_str()),
            executions::epoch.eq(executions::epoch + 1),
            executions::claimed_by.eq(&worker.0),
            // The more often it came to nothing, the longer until somebody else tries.
            executions::due_at.eq((executions::claims * span + until.0).nullable()),
            executions::claims.eq(executions::claims + 1),
            executions::started_at.eq(case_when(
                executions::started_at.is_null(),
                now.0.into_sql::<Nullable<BigInt>>(),
            )
            .otherwise(executions::started_at)),
            executions::updated_at.eq(now.0),
        ))
        .execute(conn)?;
    Ok(won == 1)
}

/// Takes the right to advance a waiting execution whose last epoch was the one before the fence's.
pub fn claim_at(
    conn: &mut DbConnection,
    fence: &Fence,
    worker: &WorkerId,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let waiting = executions::table
        .filter(executions::id.eq(fence.id.as_str()))
        .filter(executions::epoch.eq(fence.epoch.0 - 1))
        .filter(executions::status.eq(ExecutionStatus::Waiting.as_str()));
    let won = diesel::update(waiting)
        .set((
            executions::status.eq(ExecutionStatus::Running.as_str()),
            executions::epoch.eq(fence.epoch.0),
            executions::claimed_by.eq(Some(&worker.0)),
            executions::due_at.eq(Some(until.0)),
            executions::claims.eq(executions::claims + 1),
            executions::updated_at.eq(now.0),
        ))
        .execute(conn)?;
    Ok(won == 1)
}

/// What the winner of a claim may work with.
pub fn won(conn: &mut DbConnection, id: &ExecutionId) -> Result<Won, StoreError> {
    let gone = || StoreError::Inconsistent(format!("execution {id} has no origin"));
    let execution = brief(conn, id)?.ok_or_else(gone)?;
    let (bytes, format, claims): (Option<Vec<u8>>, Option<String>, i64) = executions::table
        .find(id.as_str())
        .select((executions::snapshot, executions::snapshot_format, executions::claims))
        .first(conn)?;
    type Origin = (String, Option<String>, i64, Option<Vec<u8>>, Option<String>, Option<String>, Option<String>);
    let (inputs, anew, first_call, base, base_format, secret, allowed): Origin = origins::table
        .find(id.as_str())
        .select((
            origins::inputs,
            origins::inputs_anew,
            origins::first_call,
            origins::base_snapshot,
            origins::base_format,
            origins::secret,
            origins::allowed,
        ))
        .first(conn)
        .optional()?
        .ok_or_else(gone)?;
    let sealed = |bytes: Option<Vec<u8>>, format: Option<String>| Some(Snapshot { bytes: bytes?, format: format? });
    let state = sealed(bytes, format).zip(sealed(base, base_format));
    let calls::Undelivered { outcomes, last, by_time } = calls::undelivered(conn, id)?;
    let at = last.or(execution.started_at).unwrap_or(execution.created_at);
    let (inputs, first_call, secret) =
        (Json(anew.unwrap_or(inputs)), rows::call_id(first_call)?, secret.unwrap_or_default());
    let allowed = Arc::new(rows::allowed(allowed)?);
    Ok(Won { execution, inputs, first_call, state, outcomes, at, secret, claims, allowed, by_time })
}

/// The part of a pause, finish or failure that every write under a claim repeats.
#[derive(Debug, Clone)]
pub struct Fence {
    /// The claimed execution.
    pub id: ExecutionId,
    /// The claim's epoch.
    pub epoch: Epoch,
}

/// What a claimed execution's pause writes.
#[derive(Debug, Clone, Copy)]
pub struct Pausing<'a> {
    /// Its state.
    pub snapshot: &'a Snapshot,
    /// Its first state, at the first pause.
    pub base: Option<&'a Snapshot>,
    /// When the clock looks at it.
    pub due_at: Option<Timestamp>,
    /// What it says of itself, if that is new.
    pub progress: Option<&'a Json>,
    /// What it has used of its limits.
    pub used: &'a Used,
}

/// How a pause found the execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To wait.
    Nothing,
    /// Somebody has asked for its cancellation, which its workflow has not seen.
    ToCancel,
}

/// Lets a claimed execution wait, or keeps it paused. None when the claim was lost: nothing was written.
pub fn pause(
    conn: &mut DbConnection,
    fence: &Fence,
    Pausing { snapshot, base, due_at, progress, used }: Pausing<'_>,
    now: Timestamp,
) -> Result<Option<Asked>, StoreError> {
    let status = case_when(executions::held, ExecutionStatus::Paused.as_str().into_sql::<Text>())
        .otherwise(ExecutionStatus::Waiting.as_str().into_sql::<Text>());
    let paused = diesel::update(held(fence)).set((
        executions::status.eq(status),
        executions::claimed_by.eq(None::<String>),
        executions::claims.eq(0),
        // While a person keeps it paused, nothing but its deadline is the clock's business.
        executions::due_at.eq(case_when(executions::held, executions::deadline_at).otherwise(due_at.map(|at| at.0))),
        executions::suspension.eq(executions::suspension + 1),
        executions::snapshot.eq(Some(&snapshot.bytes)),
        executions::snapshot_format.eq(Some(&snapshot.format)),
        executions::updated_at.eq(now.0),
        executions::used.eq(rows::used_text(used)),
    ));
    let found: Option<(Option<i64>, bool)> =
        paused.returning((executions::cancel_requested_at, executions::cancel_told)).get_result(conn).optional()?;
    let Some((requested, told)) = found else { return Ok(None) };
    if let Some(progress) = progress {
        set_progress(conn, &fence.id, progress)?;
    }
    if let Some(base) = base {
        diesel::update(origins::table.find(fence.id.as_str()))
            .set((origins::base_snapshot.eq(Some(&base.bytes)), origins::base_format.eq(Some(&base.format))))
            .execute(conn)?;
    }
    Ok(Some(if requested.is_some() && !told { Asked::ToCancel } else { Asked::Nothing }))
}

/// What an execution says of itself.
pub fn set_progress(conn: &mut DbConnection, id: &ExecutionId, progress: &Json) -> Result<(), StoreError> {
    diesel::update(executions::table.find(id.as_str()))
        .set(executions::progress.eq(Some(&progress.0)))
        .execute(conn)?;
    Ok(())
}

/// How an execution ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With this output.
    Completed(Json),
    /// By this exception.
    Failed(Failure),
    /// Because somebody cancelled it; the failure says who or how.
    Cancelled(Failure),
}

/// Ends a claimed execution. The snapshot is kept unless it completed. False when the claim was lost.
pub fn end(conn: &mut DbConnection, fence: &Fence, ending: &Ending, now: Timestamp) -> Result<bool, StoreError> {
    let (status, output, error) = match ending {
        Ending::Completed(output) => (ExecutionStatus::Completed, Some(output.0.as_str()), None),
        Ending::Failed(failure) => (ExecutionStatus::Failed, None, Some(failure_text(failure))),
        Ending::Cancelled(failure) => (ExecutionStatus::Cancelled, None, Some(failure_text(failure))),
    };
    let common = (
        executions::status.eq(status.as_str()),
        executions::claimed_by.eq(None::<String>),
        executions::claims.eq(0),
        executions::due_at.eq(None::<i64>),
        executions::output.eq(output),
        executions::error.eq(error),
        executions::updated_at.eq(now.0),
        executions::finished_at.eq(Some(now.0)),
    );
    let updated = if matches!(ending, Ending::Completed(_)) {
        let no_snapshot = (executions::snapshot.eq(None::<Vec<u8>>), executions::snapshot_format.eq(None::<String>));
        diesel::update(held(fence)).set((common, no_snapshot)).execute(conn)?
    } else {
        diesel::update(held(fence)).set(common).execute(conn)?
    };
    Ok(updated == 1)
}

#[diesel::dsl::auto_type(no_type_alias)]
pub(super) fn held(fence: &Fence) -> _ {
    let id: &str = fence.id.as_str();
    let epoch: i64 = fence.epoch.0;
    let running: &'static str = ExecutionStatus::Running.as_str();
    executions::table
        .filter(executions::id.eq(id))
        .filter(executions::epoch.eq(epoch))
        .filter(executions::status.eq(running))
}

/// Makes this process the one that runs the execution, with its children, if nobody else became that meanwhile.
pub fn adopt(
    conn: &mut DbConnection,
    id: &ExecutionId,
    from: Option<&WorkerId>,
    runner: &WorkerId,
) -> Result<bool, StoreError> {
    let row = executions::table.filter(executions::id.eq(id.as_str()));
    let new = executions::runner.eq(Some(&runner.0));
    let updated = match from {
        Some(from) => diesel::update(row.filter(executions::runner.eq(Some(&from.0)))).set(new).execute(conn)?,
        None => diesel::update(row.filter(executions::runner.is_null())).set(new).execute(conn)?,
    };
    Ok(updated == 1)
}

/// Lets the clock look now at an execution that nobody holds.
pub fn wake(conn: &mut DbConnection, id: &ExecutionId, now: Timestamp) -> Result<(), StoreError> {
    let free = executions::table
        .filter(executions::id.eq(id.as_str()))
        .filter(sql::<Bool>("executions.status IN ('scheduled', 'waiting')"));
    diesel::update(free).set(executions::due_at.eq(Some(now.0))).execute(conn)?;
    Ok(())
}

/// What a process runs by itself and has not ended.
pub fn run_by(conn: &mut DbConnection, runner: &WorkerId) -> Result<Vec<(ExecutionId, ExecutionStatus)>, StoreError> {
    let rows: Vec<(String, String)> = executions::table
        .filter(executions::runner.eq(Some(&runner.0)))
        .filter(executions::finished_at.is_null())
        .select((executions::id, executions::status))
        .load(conn)?;
    let strange = |error: &dyn std::fmt::Display| StoreError::Inconsistent(error.to_string());
    rows.iter()
        .map(|(id, status)| {
            let status = status.parse().map_err(|error| strange(&error))?;
            Ok((id.parse().map_err(|error| strange(&error))?, status))
        })
        .collect()
}

/// Puts off the next look at a waiting execution.
pub fn look_again(conn: &mut DbConnection, id: &ExecutionId, epoch: Epoch, at: Timestamp) -> Result<(), StoreError> {
    let waiting = executions::table
        .filter(executions::id.eq(id.as_str()))
        .filter(executions::epoch.eq(epoch.0))
        .filter(executions::status.eq(ExecutionStatus::Waiting.as_str()));
    diesel::update(waiting).set(executions::due_at.eq(Some(at.0))).execute(conn)?;
    Ok(())
}

/// Lets the clock look at an execution that has not ended: its claim, if there is one, has expired.
pub fn due_now(conn: &mut DbConnection, id: &ExecutionId, now: Timestamp) -> Result<(), StoreError> {
    let open = executions::table.filter(executions::id.eq(id.as_str())).filter(executions::finished_at.is_null());
    diesel::update(open).set(executions::due_at.eq(Some(now.0))).execute(conn)?;
    Ok(())
}

/// Removes an execution with everything that belongs to it; answers whether there was one.
pub fn delete(conn: &mut DbConnection, id: &ExecutionId) -> Result<bool, StoreError> {
    Ok(diesel::delete(executions::table.find(id.as_str())).execute(conn)? == 1)
}
