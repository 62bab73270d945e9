//! Calls that start children: what it takes to begin one again.

use std::time::Duration;

use diesel::{
    ExpressionMethods, NullableExpressionMethods, QueryDsl, RunQueryDsl,
    dsl::{exists, not},
};
use serde::{Deserialize, Serialize};

use super::{
    DbConnection, StoreError, executions, rows,
    schema::{calls, executions as table},
};
use crate::{
    id::ExecutionId,
    interpreter::{NewCall, NewChild},
    model::{CallKind, CallStatus, Json},
};

/// What the row of a call keeps of its child beside name and inputs.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<ExecutionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_hash: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    own: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    detached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Duration>,
}

/// The options of a call that starts a child.
pub(super) fn options(child: &NewChild) -> Option<String> {
    let NewChild { id, source, own, inputs: _, detached, deadline } = child;
    let source_hash = source.as_ref().map(|source| blake3::hash(source.as_bytes()).to_hex().to_string());
    let kept = Kept { id: id.clone(), source_hash, own: *own, detached: *detached, deadline: *deadline };
    if kept == Kept::default() { None } else { serde_json::to_string(&kept).ok() }
}

/// The open calls of an execution whose children have not begun.
pub fn not_begun(conn: &mut DbConnection, id: &ExecutionId) -> Result<Vec<NewCall>, StoreError> {
    type Row = (i64, String, String, Option<i64>, Option<String>);
    let children = diesel::alias!(table as children);
    let begun = children
        .filter(children.field(table::parent_execution_id).eq(calls::execution_id.nullable()))
        .filter(children.field(table::parent_call_id).eq(calls::call_id.nullable()));
    let rows: Vec<Row> = calls::table
        .filter(calls::execution_id.eq(id.as_str()))
        .filter(calls::kind.eq(CallKind::Child.as_str()))
        .filter(calls::status.eq(CallStatus::Pending.as_str()))
        .filter(not(exists(begun)))
        .order(calls::call_id)
        .select((calls::call_id, calls::function, calls::args, calls::line, calls::options))
        .load(conn)?;
    rows.into_iter().map(|row| call(conn, row)).collect()
}

fn call(
    conn: &mut DbConnection,
    (call, function, args, line, options): (i64, String, String, Option<i64>, Option<String>),
) -> Result<NewCall, StoreError> {
    let unreadable = |error: serde_json::Error| StoreError::Inconsistent(format!("call {call}: {error}"));
    let kept: Kept =
        options.map_or_else(|| Ok(Kept::default()), |text| serde_json::from_str(&text)).map_err(unreadable)?;
    let args: serde_json::Value = serde_json::from_str(&args).map_err(unreadable)?;
    let source = match &kept.source_hash {
        Some(hash) => executions::source(conn, hash)?,
        None => None,
    };
    let Kept { id, own, detached, deadline, .. } = kept;
    let child = NewChild { id, source, own, inputs: Json::from(&args[0]), detached, deadline };
    let line = line.and_then(|line| u32::try_from(line).ok());
    let made = NewCall::new(rows::call_id(call)?, CallKind::Child, &function, line);
    Ok(NewCall { args: Json(args.to_string()), child: Some(child), ..made })
}
