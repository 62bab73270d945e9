//! Signals: kept in the order in which they were sent until a call of the same name takes them, each once.

use std::collections::{BTreeMap, BTreeSet};

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl};

use super::{
    DbConnection, StoreError,
    calls::{self, ROWS_PER_STATEMENT},
    rows,
    schema::signals,
};
use crate::{
    id::{CallId, ExecutionId},
    model::{Json, Signal},
    time::Timestamp,
};

/// Whether a signal of that key was sent before.
pub fn is_known(conn: &mut DbConnection, execution: &ExecutionId, key: Option<&str>) -> Result<bool, StoreError> {
    let Some(key) = key else { return Ok(false) };
    let known = signals::table
        .filter(signals::execution_id.eq(execution.as_str()))
        .filter(signals::dedupe_key.eq(Some(key)))
        .select(signals::id)
        .first::<i64>(conn)
        .optional()?;
    Ok(known.is_some())
}

/// Keeps a signal; false when one of that key is there already.
pub fn insert(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    (name, payload): (&str, &Json),
    key: Option<&str>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if is_known(conn, execution, key)? {
        return Ok(false);
    }
    diesel::insert_into(signals::table)
        .values((
            signals::execution_id.eq(execution.as_str()),
            signals::name.eq(name),
            signals::payload.eq(&payload.0),
            signals::dedupe_key.eq(key),
            signals::sent_at.eq(now.0),
        ))
        .execute(conn)?;
    Ok(true)
}

/// Gives the oldest signal of that name that nobody has taken to a call.
pub fn take(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    name: &str,
    call: CallId,
) -> Result<Option<Json>, StoreError> {
    let oldest: Option<(i64, String)> = signals::table
        .filter(signals::execution_id.eq(execution.as_str()))
        .filter(signals::name.eq(name))
        .filter(signals::call_id.is_null())
        .order(signals::id)
        .select((signals::id, signals::payload))
        .first(conn)
        .optional()?;
    let Some((id, payload)) = oldest else { return Ok(None) };
    diesel::update(signals::table.find(id)).set(signals::call_id.eq(Some(i64::from(call.0)))).execute(conn)?;
    Ok(Some(Json(payload)))
}

/// Gives signals back that were taken by calls which nobody waits for any more; answers their names. They keep their place in
/// the order.
pub fn give_back(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    calls: &[CallId],
    now: Timestamp,
) -> Result<BTreeSet<String>, StoreError> {
    let mut names = BTreeSet::new();
    for chunk in calls.chunks(ROWS_PER_STATEMENT) {
        let ids: Vec<i64> = chunk.iter().map(|id| i64::from(id.0)).collect();
        let taken = signals::table
            .filter(signals::execution_id.eq(execution.as_str()))
            .filter(signals::call_id.eq_any(ids.iter().copied().map(Some)));
        let back: Vec<String> =
            diesel::update(taken).set(signals::call_id.eq(None::<i64>)).returning(signals::name).get_results(conn)?;
        if !back.is_empty() {
            calls::untake(conn, execution, &ids, now)?;
        }
        names.extend(back);
    }
    Ok(names)
}

/// The same for all calls of an execution that were not told of theirs, because it goes on without them.
pub fn give_back_untold(conn: &mut DbConnection, execution: &ExecutionId, now: Timestamp) -> Result<(), StoreError> {
    let untold = calls::untold_signals(conn, execution)?;
    give_back(conn, execution, &untold, now).map(drop)
}

/// Signals that the workflow was not told of: how many of each name.
pub fn untaken(conn: &mut DbConnection, execution: &ExecutionId) -> Result<BTreeMap<String, i64>, StoreError> {
    let sent = || signals::table.filter(signals::execution_id.eq(execution.as_str()));
    let mut names: Vec<String> = sent().filter(signals::call_id.is_null()).select(signals::name).load(conn)?;
    let untold = calls::untold_signals(conn, execution)?;
    for chunk in untold.chunks(ROWS_PER_STATEMENT) {
        let ids = chunk.iter().map(|id| Some(i64::from(id.0)));
        names.extend(sent().filter(signals::call_id.eq_any(ids)).select(signals::name).load::<String>(conn)?);
    }
    let mut counts = BTreeMap::new();
    names.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
    Ok(counts)
}

/// What was sent to an execution, in order: at most `limit`, without the first `after`.
pub fn list(
    conn: &mut DbConnection,
    execution: &ExecutionId,
    after: i64,
    limit: i64,
) -> Result<Vec<Signal>, StoreError> {
    type Row = (String, String, i64, Option<i64>);
    let rows: Vec<Row> = signals::table
        .filter(signals::execution_id.eq(execution.as_str()))
        .order(signals::id)
        .offset(after)
        .limit(limit)
        .select((signals::name, signals::payload, signals::sent_at, signals::call_id))
        .load(conn)?;
    rows.into_iter()
        .map(|(name, payload, sent_at, call)| {
            let call_id = call.map(rows::call_id).transpose()?;
            Ok(Signal { name, payload: Json(payload), sent_at: Timestamp(sent_at), call_id })
        })
        .collect()
}
