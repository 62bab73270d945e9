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
    interpreter::{AdvanceError, End, SnapshotError},
    model::Failure,
};

/// Advances a claimed execution until it waits for something that is not in yet, or has ended.
pub async fn drive(engine: &Engine, mut claimed: Claimed) -> Result<(), OrchestrationError> {
    loop {
        let id = claimed.id().clone();
        let step = match advance(engine, &claimed).await {
            Ok(step) => step,
            Err(OrchestrationError::Advance { source, .. }) if is_final(&source) => {
                let failure = Failure::new("durable.StateError", source.to_string());
                finish(engine, claimed, Err(failure), Vec::new(), Vec::new()).await?;
                return Ok(());
            }
            Err(OrchestrationError::Compile { source, .. }) => {
                let failure = Failure::new(source.kind.clone(), source.to_string());
                finish(engine, claimed, Err(failure), Vec::new(), Vec::new()).await?;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let log = log_lines(step.log, engine.now());
        let waiting = match step.end {
            End::Pause(waiting) => waiting,
            End::Finish { output, abandoned } => {
                finish(engine, claimed, Ok(output), abandoned, log).await?;
                return Ok(());
            }
            End::Fail { failure, abandoned } => {
                finish(engine, claimed, Err(failure), abandoned, log).await?;
                return Ok(());
            }
        };
        let Some(Paused { work, look_again: look }) = pause(engine, claimed, waiting, log).await? else {
            return Ok(());
        };
        dispatch(engine, &id, work).await?;
        match if look { look_again(engine, &id).await? } else { None } {
            Some(again) => claimed = again,
            None => return Ok(()),
        }
    }
}

/// Whether trying again, here or in another process, could not help. A format that this program
/// does not read may be read by another one, so that execution only waits for its claim to expire.
fn is_final(error: &AdvanceError) -> bool {
    match error {
        AdvanceError::Snapshot(SnapshotError::Corrupt) | AdvanceError::Crashed(_) => true,
        AdvanceError::Snapshot(SnapshotError::Foreign { .. } | SnapshotError::Unreadable(_)) => false,
    }
}
