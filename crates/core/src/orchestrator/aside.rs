//! What takes long and never waits: away from the threads that serve everybody.

use std::sync::Arc;

use super::OrchestrationError;
use crate::{
    id::ExecutionId,
    interpreter::{AdvanceError, Program},
};

/// Runs work that computes.
pub(super) async fn aside<T: Send + 'static>(
    execution: &ExecutionId,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OrchestrationError> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.map_err(|panic| OrchestrationError::Advance {
        execution: execution.clone(),
        source: AdvanceError::Crashed(panic.to_string()),
    })
}

/// Compiles the workflow of an execution.
pub(super) async fn compile(
    execution: &ExecutionId,
    name: &str,
    source: String,
) -> Result<Arc<Program>, OrchestrationError> {
    let name = name.to_owned();
    let compiled = aside(execution, move || Program::compile(&name, &source)).await?;
    let refused = |error| OrchestrationError::Compile { execution: execution.clone(), source: Box::new(error) };
    Ok(Arc::new(compiled.map_err(refused)?))
}
