//! advance: from the saved state and the outcomes to the next pause or the end. No transaction is
//! open while Python runs.

use std::sync::Arc;

use super::{
    Engine, Event, OrchestrationError,
    claim::Claimed,
    rebuild::{Rebuilt, rebuild},
    watch::Watch,
};
use crate::{
    interpreter::{self, AdvanceError, End, Program, SnapshotError, Step},
    store::executions::Won,
};

/// Runs a claimed execution's workflow. Of the workflow it writes nothing: what it returns can be thrown away.
pub async fn advance(engine: &Engine, claimed: &mut Claimed) -> Result<Step, OrchestrationError> {
    let (id, won) = (claimed.id().clone(), claimed.won().clone());
    let program = engine.program(&id, &won.execution.workflow, &won.execution.source_hash).await?;
    let mut watch = Watch::new(engine, claimed);
    let step = match watch.take(won.clone(), program.clone()).await {
        Err(AdvanceError::Snapshot(SnapshotError::Foreign { .. } | SnapshotError::Unreadable(_))) => {
            let Rebuilt { snapshot, base, .. } = rebuilt(engine, &mut watch, &won, &program).await?;
            let rebuilt = Won { state: Some((snapshot, base.clone())), ..Won::clone(&won) };
            watch.take(Arc::new(rebuilt), program).await.map(|step| with_base(step, base))
        }
        step => step,
    };
    let step = step.map_err(|source| OrchestrationError::Advance { execution: id.clone(), source })?;
    engine.observe(Event::Advanced(&id));
    Ok(step)
}

async fn rebuilt(
    engine: &Engine,
    watch: &mut Watch<'_>,
    won: &Won,
    program: &Arc<Program>,
) -> Result<Rebuilt, OrchestrationError> {
    let rebuilt = watch.meanwhile(rebuild(engine, won, program)).await;
    rebuilt.map_err(|source| OrchestrationError::Advance { execution: won.execution.id.clone(), source })?
}

/// What later states are compressed against is another now.
fn with_base(mut step: Step, base: interpreter::Snapshot) -> Step {
    if let End::Pause(pause) = &mut step.end {
        pause.base = Some(base);
    }
    step
}
