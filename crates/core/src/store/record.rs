//! What stands on record of an execution's calls: for people, for a state that is made again, for whoever takes over.

use std::collections::BTreeMap;

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl, SelectableHelper};

use super::{
    DbConnection, StoreError,
    calls::{TO_NOBODY, ended, outcome},
    rows::{self, AttemptRow, CallRow},
    schema::{attempts, calls, executions, origins},
};
use crate::{
    allow::Allowed,
    id::{CallId, Epoch, ExecutionId, WorkerId},
    model::{Attempt, Call, CallKind, CallStatus, Execution, Json, Outcome},
    shown::ShownCall,
    time::Timestamp,
};

/// The processes that hold running calls of an execution.
pub fn workers_of(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<WorkerId>, StoreError> {
    let workers: Vec<Option<String>> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::status.eq(CallStatus::Running.as_str()))
        .select(calls::worker)
        .distinct()
        .load(conn)?;
    Ok(workers.into_iter().flatten().map(WorkerId).collect())
}

/// All calls of an execution, in order.
pub fn list(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<Call>, StoreError> {
    let rows: Vec<CallRow> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .order(calls::call_id)
        .select(CallRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Call::try_from).collect()
}

/// The calls of an execution that have this status, in order.
pub fn list_with_status(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    status: CallStatus,
) -> Result<Vec<Call>, StoreError> {
    first_with_status(conn, execution, status, i64::MAX)
}

/// The first of them, at most `limit`.
pub fn first_with_status(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    status: CallStatus,
    limit: i64,
) -> Result<Vec<Call>, StoreError> {
    let rows: Vec<CallRow> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::status.eq(status.as_str()))
        .order(calls::call_id)
        .limit(limit)
        .select(CallRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Call::try_from).collect()
}

/// A part of an execution's calls with all that is told of them: those after one, at most `limit`.
pub fn shown(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    after: Option<CallId>,
    limit: Option<i64>,
) -> Result<Vec<ShownCall>, StoreError> {
    let after = after.map_or(-1, |after| i64::from(after.0));
    let rows: Vec<(CallRow, String, String)> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::call_id.gt(after))
        .order(calls::call_id)
        .limit(limit.unwrap_or(i64::MAX))
        .select((CallRow::as_select(), calls::args, calls::kwargs))
        .load(conn)?;
    let mut failed: BTreeMap<CallId, Vec<Attempt>> = BTreeMap::new();
    for attempt in attempts(conn, execution)? {
        failed.entry(attempt.call_id).or_default().push(attempt);
    }
    rows.into_iter()
        .map(|(row, args, kwargs)| {
            let call = Call::try_from(row)?;
            let failed_attempts = failed.remove(&call.id).unwrap_or_default();
            Ok(ShownCall { call, args: Json(args), kwargs: Json(kwargs), failed_attempts, waiting: None })
        })
        .collect()
}

/// The arguments of a call: a JSON array and a JSON object.
pub fn arguments(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    call: CallId,
) -> Result<Option<(Json, Json)>, StoreError> {
    let row: Option<(String, String)> = calls::table
        .find((execution.as_str(), i64::from(call.0)))
        .select((calls::args, calls::kwargs))
        .first(conn)
        .optional()?;
    Ok(row.map(|(args, kwargs)| (Json(args), Json(kwargs))))
}

/// The failed attempts of an execution's calls, in order.
pub fn attempts(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<Attempt>, StoreError> {
    let rows: Vec<AttemptRow> = attempts::table
        .filter(attempts::execution_id.eq(execution.as_str()))
        .order((attempts::call_id, attempts::number))
        .select(AttemptRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Attempt::try_from).collect()
}

/// The number of a call's present or last attempt; none when there is no such call.
pub fn attempt_number(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    call: CallId,
) -> Result<Option<i64>, StoreError> {
    let row = calls::table.find((execution.as_str(), i64::from(call.0)));
    Ok(row.select(calls::attempt).first(conn).optional()?)
}

/// Which of these calls of an execution are cancelled.
pub fn cancelled_among(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    ids: &[CallId],
) -> Result<Vec<CallId>, StoreError> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(id.0)).collect();
    let open: Vec<i64> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .filter(calls::call_id.eq_any(&ids))
        .filter(calls::status.ne(CallStatus::Cancelled.as_str()))
        .select(calls::call_id)
        .load(conn)?;
    ids.into_iter().filter(|id| !open.contains(id)).map(rows::call_id).collect()
}

/// The last claim whose outcomes an execution's present state has seen: of one that has ended, not the last, which
/// saved no state.
pub fn last_delivery_before(
    conn: &mut DbConnection,
    id: &ExecutionId,
    execution: &Execution,
) -> Result<Epoch, StoreError> {
    let seen = calls::table.filter(calls::execution_id.eq(id.as_str())).filter(calls::delivered_in.is_not_null());
    let last: Option<Option<i64>> = if execution.status.is_final() {
        let before = seen.filter(calls::delivered_in.lt(Some(execution.epoch.0)));
        before.order(calls::delivered_in.desc()).select(calls::delivered_in).first(conn).optional()?
    } else {
        seen.order(calls::delivered_in.desc()).select(calls::delivered_in).first(conn).optional()?
    };
    Ok(Epoch(last.flatten().unwrap_or(0)))
}

/// Whether the last that an ended execution was told is its cancellation: it has saved no state since.
pub fn was_cancelled_last(conn: &mut DbConnection, execution: &Execution) -> Result<bool, StoreError> {
    let told = calls::table
        .filter(calls::execution_id.eq(execution.id.as_str()))
        .filter(calls::status.eq(CallStatus::Cancelled.as_str()))
        .filter(calls::delivered_in.eq(Some(execution.epoch.0)))
        .filter(calls::completed_at.ge(execution.cancel_requested_at.map(|at| at.0)));
    Ok(diesel::select(diesel::dsl::exists(told)).get_result(conn)?)
}

/// A call as it stands on record, for making a state again.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its id.
    pub id: CallId,
    /// The pause at which it became pending.
    pub resume_group: i64,
    /// What is awaited.
    pub kind: CallKind,
    /// The function's name, or what stands for it.
    pub function: String,
    /// A JSON array.
    pub args: Json,
    /// A JSON object.
    pub kwargs: Json,
    /// When it ended: the order in which outcomes are delivered together.
    pub ended_at: Option<Timestamp>,
    /// The line on which it was made.
    pub line: Option<u32>,
    /// The claim under which its outcome was delivered, when it came in, and what it is.
    pub delivered: Option<(Epoch, Timestamp, Outcome)>,
    /// Since when nobody waits for it any more, without having been told its outcome.
    pub dropped: Option<Timestamp>,
}

/// All calls of an execution as they stand on record, in order.
pub fn recorded(conn: &mut DbConnection, execution: &ExecutionId) -> Result<Vec<Recorded>, StoreError> {
    type Head = (i64, i64, String, String, String, String, Option<i64>);
    type Tail = (String, Option<String>, Option<String>, Option<i64>, Option<i64>, Option<i64>);
    let rows: Vec<(Head, Tail)> = calls::table
        .filter(calls::execution_id.eq(execution.as_str()))
        .order(calls::call_id)
        .select((
            (
                calls::call_id,
                calls::resume_group,
                calls::kind,
                calls::function,
                calls::args,
                calls::kwargs,
                calls::line,
            ),
            (calls::status, calls::result, calls::error, calls::delivered_in, calls::completed_at, calls::deadline_at),
        ))
        .load(conn)?;
    rows.into_iter()
        .map(
            |((id, resume_group, kind, function, args, kwargs, line), (status, result, error, epoch, at, deadline))| {
                let ended_at = ended(&kind, at, deadline).map(Timestamp);
                let delivered = match (epoch.filter(|epoch| *epoch != TO_NOBODY), at) {
                    (Some(epoch), Some(at)) => Some((Epoch(epoch), Timestamp(at), outcome(&status, result, error)?)),
                    _ => None,
                };
                let dropped = at.filter(|_| epoch == Some(TO_NOBODY)).map(Timestamp);
                Ok(Recorded {
                    id: rows::call_id(id)?,
                    resume_group,
                    kind: kind.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))?,
                    function,
                    args: Json(args),
                    kwargs: Json(kwargs),
                    ended_at,
                    line: line.and_then(|line| u32::try_from(line).ok()),
                    delivered,
                    dropped,
                })
            },
        )
        .collect()
}

/// Whose turns those up to a pause were: of a fork, the first are those of the execution that it was forked from.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The last pause.
    pub until_pause: i64,
    /// What its workflow knew itself as.
    pub id: ExecutionId,
    /// Makes the tokens of its callbacks unguessable.
    pub secret: String,
    /// When its first turn was.
    pub began: Timestamp,
}

/// What it takes to run an execution's present life again.
#[derive(Debug, Clone)]
pub struct Past {
    /// What it began with: a JSON object.
    pub inputs: Json,
    /// The id of its first call.
    pub first_call: CallId,
    /// Its calls, in order.
    pub recorded: Vec<Recorded>,
    /// Whose its turns were, the earliest first.
    pub identities: Vec<Identity>,
    /// What it may do.
    pub allowed: Allowed,
    /// The queue in which it was started.
    pub queue: String,
}

/// Everything on record of an execution's present life.
pub fn past(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Past>, StoreError> {
    type Origin = (String, Option<String>, i64, Option<String>, String);
    let origin: Option<Origin> = origins::table
        .inner_join(executions::table)
        .filter(origins::execution_id.eq(id.as_str()))
        .select((origins::inputs, origins::inputs_anew, origins::first_call, origins::allowed, executions::queue))
        .first(conn)
        .optional()?;
    let Some((inputs, anew, first_call, allowed, queue)) = origin else { return Ok(None) };
    Ok(Some(Past {
        allowed: rows::allowed(allowed)?,
        queue,
        inputs: Json(anew.unwrap_or(inputs)),
        first_call: rows::call_id(first_call)?,
        recorded: recorded(conn, id)?,
        identities: identities(conn, id)?,
    }))
}

fn identities(conn: &mut DbConnection, id: &ExecutionId) -> Result<Vec<Identity>, StoreError> {
    type Row = (Option<String>, Option<String>, Option<i64>, Option<i64>, i64);
    let (mut found, mut next, mut until_pause) = (Vec::new(), Some(id.as_str().to_owned()), i64::MAX);
    while let Some(key) = next.take() {
        let row: Option<Row> = origins::table
            .inner_join(executions::table)
            .filter(origins::execution_id.eq(&key))
            .select((
                origins::secret,
                origins::forked_from,
                origins::forked_at,
                executions::started_at,
                executions::created_at,
            ))
            .first(conn)
            .optional()?;
        // One that was forked from may be gone.
        let Some((secret, from, at, started, created)) = row else { break };
        let id = key.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))?;
        let began = Timestamp(started.unwrap_or(created));
        found.push(Identity { until_pause, id, secret: secret.unwrap_or_default(), began });
        if let (Some(from), Some(at)) = (from, at) {
            until_pause = until_pause.min(at);
            next = Some(from);
        }
    }
    found.reverse();
    Ok(found)
}
