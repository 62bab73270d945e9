//! The line from one claim to the next pause or the end: whoever claims, advances.

use super::{
    Engine, OrchestrationError,
    advance::advance,
    claim::Claimed,
    dispatch::dispatch,
    finish::finish,
    pause::{Paused, log_lines, look_again, pause},
};
use crate::{
    interpreter::{AdvanceError, End, NewCall, SnapshotError},
    model::{Failure, Json, LogLine},
};

/// Advances a claimed execution until it waits for something that is not in yet, or has ended.
pub async fn drive(engine: &Engine, mut claimed: Claimed) -> Result<(), OrchestrationError> {
    loop {
        let (id, foreseen) = (claimed.id().clone(), claimed.is_foreseen());
        let look = match turn(engine, claimed).await? {
            Turned::Waits { look } => look,
            Turned::Ended => return Ok(()),
            // A lost claim is its winner's business. A foreseen one may have failed because the
            // execution was claimed and paused again meanwhile: then nobody else looks.
            Turned::Lost => foreseen,
        };
        match if look { look_again(engine, &id).await? } else { None } {
            Some(again) => claimed = again,
            None => return Ok(()),
        }
    }
}

/// How a turn left its execution.
enum Turned {
    /// Outcomes of earlier calls may have come in while the claim was held.
    Waits {
        look: bool,
    },
    Ended,
    /// Nothing was written.
    Lost,
}

async fn turn(engine: &Engine, claimed: Claimed) -> Result<Turned, OrchestrationError> {
    let step = match advance(engine, &claimed).await {
        Ok(step) => step,
        Err(OrchestrationError::Advance { source, .. }) if is_final(&source) => {
            let failure = Failure::new("durable.StateError", source.to_string());
            return end(engine, claimed, Err(failure), Vec::new(), Vec::new()).await;
        }
        Err(OrchestrationError::Compile { source, .. }) => {
            let failure = Failure::new(source.kind.clone(), source.to_string());
            return end(engine, claimed, Err(failure), Vec::new(), Vec::new()).await;
        }
        Err(error) => return Err(error),
    };
    let log = log_lines(step.log, engine.now());
    match step.end {
        End::Finish { output, abandoned } => end(engine, claimed, Ok(output), abandoned, log).await,
        End::Fail { failure, abandoned } => end(engine, claimed, Err(failure), abandoned, log).await,
        End::Pause(waiting) => match pause(engine, claimed, waiting, log).await? {
            Some(Paused { work, look_again }) => {
                dispatch(engine, work).await;
                Ok(Turned::Waits { look: look_again })
            }
            None => Ok(Turned::Lost),
        },
    }
}

async fn end(
    engine: &Engine,
    claimed: Claimed,
    result: Result<Json, Failure>,
    abandoned: Vec<NewCall>,
    log: Vec<LogLine>,
) -> Result<Turned, OrchestrationError> {
    let ended = finish(engine, claimed, result, abandoned, log).await?;
    Ok(if ended { Turned::Ended } else { Turned::Lost })
}

/// Whether trying again, here or in another process, could not help. A format that this program
/// does not read may be read by another one, so that execution only waits for its claim to expire.
fn is_final(error: &AdvanceError) -> bool {
    match error {
        AdvanceError::Snapshot(SnapshotError::Corrupt) | AdvanceError::Crashed(_) => true,
        AdvanceError::Snapshot(SnapshotError::Foreign { .. } | SnapshotError::Unreadable(_)) => false,
    }
}
