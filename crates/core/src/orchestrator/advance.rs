//! advance: from the saved state and the outcomes to the next pause or the end. No transaction is
//! open while Python runs.

use std::sync::Arc;

use super::{
    Engine, Event, OrchestrationError,
    claim::Claimed,
    limits,
    rebuild::{Rebuilt, rebuild},
};
use crate::{
    interpreter::{self, AdvanceError, End, Origin, Program, SnapshotError, Step, Turn},
    store::executions::Won,
};

/// Runs a claimed execution's workflow. Writes nothing: what it returns can be thrown away.
pub async fn advance(engine: &Engine, claimed: &Claimed) -> Result<Step, OrchestrationError> {
    let won = claimed.won();
    let id = claimed.id();
    let program = engine.program(id, &won.execution.workflow, &won.execution.source_hash).await?;
    let step = match take(engine, won.clone(), program.clone()).await {
        Err(AdvanceError::Snapshot(SnapshotError::Foreign { .. } | SnapshotError::Unreadable(_))) => {
            let Rebuilt { snapshot, base, .. } = rebuild(engine, won, &program).await?;
            let rebuilt = Won { state: Some((snapshot, base.clone())), ..Won::clone(won) };
            take(engine, Arc::new(rebuilt), program).await.map(|step| with_base(step, base))
        }
        step => step,
    };
    let step = step.map_err(|source| OrchestrationError::Advance { execution: id.clone(), source })?;
    engine.observe(Event::Advanced(id));
    Ok(step)
}

/// One turn, off the async threads.
async fn take(engine: &Engine, won: Arc<Won>, program: Arc<Program>) -> Result<Step, AdvanceError> {
    let (offers, limits) = (engine.offers.clone(), limits::of_turn(engine, &won));
    let span = tracing::info_span!("advance", execution.id = %won.execution.id, epoch = won.execution.epoch.0);
    let run = move || {
        let _entered = span.entered();
        let turn = Turn {
            program: &program,
            execution: &won.execution.id,
            now: won.at,
            secret: &won.secret,
            offers: &offers,
            limits,
        };
        match &won.state {
            None => interpreter::advance(&turn, Origin::Start { inputs: &won.inputs, first_call: won.first_call.0 }),
            Some((snapshot, base)) => {
                interpreter::advance(&turn, Origin::Paused { snapshot, base, outcomes: &won.outcomes })
            }
        }
    };
    match tokio::task::spawn_blocking(run).await {
        Ok(step) => step,
        Err(panic) => Err(AdvanceError::Crashed(panic.to_string())),
    }
}

/// What later states are compressed against is another now.
fn with_base(mut step: Step, base: interpreter::Snapshot) -> Step {
    if let End::Pause(pause) = &mut step.end {
        pause.base = Some(base);
    }
    step
}
