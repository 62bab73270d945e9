//! advance: from the saved state and the outcomes to the next pause or the end. No transaction is
//! open while Python runs.

use super::{Engine, Event, OrchestrationError, claim::Claimed};
use crate::interpreter::{self, AdvanceError, Origin, Step, Turn};

/// Runs a claimed execution's workflow. Writes nothing: what it returns can be thrown away.
pub async fn advance(engine: &Engine, claimed: &Claimed) -> Result<Step, OrchestrationError> {
    let won = claimed.won().clone();
    let id = claimed.id().clone();
    let program = engine.program(&id, &won.execution.workflow, &won.execution.source_hash).await?;
    let (offers, limits) = (engine.offers.clone(), engine.settings.limits);
    let span = tracing::info_span!("advance", execution.id = %id, epoch = claimed.epoch().0);
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
            None => interpreter::advance(&turn, Origin::Start { inputs: &won.inputs }),
            Some((snapshot, base)) => {
                interpreter::advance(&turn, Origin::Paused { snapshot, base, outcomes: &won.outcomes })
            }
        }
    };
    let step = match tokio::task::spawn_blocking(run).await {
        Ok(step) => step,
        Err(panic) => Err(AdvanceError::Crashed(panic.to_string())),
    };
    let step = step.map_err(|source| OrchestrationError::Advance { execution: id.clone(), source })?;
    engine.observe(Event::Advanced(&id));
    Ok(step)
}
