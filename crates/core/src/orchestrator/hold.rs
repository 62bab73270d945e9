//! hold: somebody keeps an execution from going on, and lets it. Its running functions end, and their outcomes are kept.

use super::{Engine, OrchestrationError, children::AT_ONCE};
use crate::{
    id::ExecutionId,
    model::Execution,
    store::{DbConnection, StoreError, control, executions},
    time::Timestamp,
};

/// Keeps an execution from going on: at once, or when whoever advances it now pauses it.
#[tracing::instrument(name = "hold", level = "info", skip_all, fields(execution.id = %id))]
pub async fn hold(engine: &Engine, id: &ExecutionId) -> Result<Execution, OrchestrationError> {
    change(engine, id, "be paused", |conn, id, _| control::hold(conn, id)).await
}

/// Lets a held execution go on.
#[tracing::instrument(name = "release", level = "info", skip_all, fields(execution.id = %id))]
pub async fn release(engine: &Engine, id: &ExecutionId) -> Result<Execution, OrchestrationError> {
    change(engine, id, "be resumed", control::release).await
}

async fn change(
    engine: &Engine,
    id: &ExecutionId,
    wish: &'static str,
    to: impl Fn(&mut DbConnection, &ExecutionId, Timestamp) -> Result<bool, StoreError> + Send + 'static,
) -> Result<Execution, OrchestrationError> {
    let (key, now) = (id.clone(), engine.now());
    let done = engine.db.write(move |conn| {
        let Some(before) = control::lock(conn, &key)? else { return Ok(None) };
        if before.status.is_final() {
            return Ok(Some(before));
        }
        to(conn, &key, now)?;
        executions::get(conn, &key)
    });
    let execution = done.await?.ok_or_else(|| OrchestrationError::NotFound(id.clone()))?;
    if execution.status.is_final() {
        return Err(OrchestrationError::Ended { id: id.clone(), status: execution.status, wish });
    }
    engine.sooner(AT_ONCE);
    Ok(execution)
}
