//! The line from one claim to the next pause or the end: whoever claims, advances.

use super::{
    Engine, OrchestrationError,
    advance::advance,
    claim::{Claimed, claim},
    dispatch::dispatch,
    finish::{Anew, Finished, again, finish},
    pause::{Paused, TurnOutput, log_lines, look_again, pause},
};
use crate::{
    id::CallId,
    interpreter::{AdvanceError, End, NewCall, SnapshotError, Step},
    model::{Failure, Json, Stream},
    store::{control, logs},
};

/// Advances a claimed execution until it waits for something that is not in yet, or has ended.
pub async fn drive(engine: &Engine, mut claimed: Claimed) -> Result<(), OrchestrationError> {
    loop {
        let (id, foreseen) = (claimed.id().clone(), claimed.is_foreseen());
        let look = match turn(engine, claimed).await? {
            Turned::Waits { look } => look,
            Turned::Ended { parent: Some(parent) } => {
                claimed = *parent;
                continue;
            }
            Turned::Ended { parent: None } => return Ok(()),
            Turned::Again => match claim(engine, &id).await? {
                Some(anew) => {
                    claimed = anew;
                    continue;
                }
                None => return Ok(()),
            },
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
    Waits { look: bool },
    /// Whoever waited for it may go on.
    Ended { parent: Option<Box<Claimed>> },
    /// It begins anew.
    Again,
    /// Nothing was written.
    Lost,
}

async fn turn(engine: &Engine, claimed: Claimed) -> Result<Turned, OrchestrationError> {
    let step = match advance(engine, &claimed).await {
        Ok(step) => step,
        Err(OrchestrationError::Advance { source, .. }) if is_final(&source) => {
            let failure = Failure::new("durable.StateError", source.to_string());
            return end(engine, claimed, Err(failure), Vec::new(), TurnOutput::default()).await;
        }
        Err(OrchestrationError::Advance { source: source @ AdvanceError::Diverged(_), .. }) => {
            return shelve(engine, claimed, &source).await;
        }
        Err(OrchestrationError::Compile { source, .. }) => {
            let failure = Failure::new(source.kind.clone(), source.to_string());
            return end(engine, claimed, Err(failure), Vec::new(), TurnOutput::default()).await;
        }
        Err(error) => return Err(error),
    };
    let spare = claimed.once_more();
    match write(engine, claimed, step).await {
        // It would never take it, so whoever is next would come to the same.
        Err(OrchestrationError::Store(error)) if error.is_refusal() => {
            let failure = Failure::new("durable.StateError", format!("what this turn did cannot be recorded: {error}"));
            end(engine, spare, Err(failure), Vec::new(), TurnOutput::default()).await
        }
        turned => turned,
    }
}

/// Writes down what a turn came to.
async fn write(engine: &Engine, claimed: Claimed, step: Step) -> Result<Turned, OrchestrationError> {
    let output = TurnOutput {
        log: log_lines(step.log, engine.now()),
        progress: step.progress,
        withdrawn: step.withdrawn,
        unread: step.unread,
    };
    match step.end {
        End::Finish { output: value, abandoned } => end(engine, claimed, Ok(value), abandoned, output).await,
        End::Fail { failure, abandoned } => end(engine, claimed, Err(failure), abandoned, output).await,
        End::Again { inputs, first_call } => {
            Ok(match again(engine, claimed, inputs, CallId(first_call), output).await? {
                Some(Anew::Now) => Turned::Again,
                Some(Anew::Later) => Turned::Waits { look: false },
                None => Turned::Lost,
            })
        }
        End::Pause(waiting) => match pause(engine, claimed, waiting, output).await? {
            Some(Paused { work, look_again }) => {
                dispatch(engine, work).await;
                Ok(Turned::Waits { look: look_again })
            }
            None => Ok(Turned::Lost),
        },
    }
}

/// Keeps an execution as it was that this program cannot go on with, and tells people why.
async fn shelve(engine: &Engine, claimed: Claimed, why: &AdvanceError) -> Result<Turned, OrchestrationError> {
    let (held, now) = (claimed.fence(), engine.now());
    tracing::error!(execution.id = %claimed.id(), %why, "the execution is paused");
    let text = format!("{why}: it is paused. durable resume lets it go on, with a program that can\n");
    let log = log_lines(vec![(Stream::Stderr, text)], now);
    let shelved = engine.db.write(move |conn| {
        if !held.secure(conn)? || !control::shelve(conn, &held.fence, now)? {
            return Ok(false);
        }
        logs::append(conn, &held.fence.id, &log, u64::MAX)?;
        Ok(true)
    });
    Ok(if shelved.await? { Turned::Waits { look: false } } else { Turned::Lost })
}

async fn end(
    engine: &Engine,
    claimed: Claimed,
    result: Result<Json, Failure>,
    abandoned: Vec<NewCall>,
    output: TurnOutput,
) -> Result<Turned, OrchestrationError> {
    Ok(match finish(engine, claimed, result, abandoned, output).await? {
        Some(Finished { parent }) => Turned::Ended { parent: parent.map(Box::new) },
        None => Turned::Lost,
    })
}

/// Whether trying again, here or in another process, could not help. A format that this program
/// does not read may be read by another one, so that execution only waits for its claim to expire.
fn is_final(error: &AdvanceError) -> bool {
    match error {
        AdvanceError::Snapshot(SnapshotError::Corrupt) | AdvanceError::Crashed(_) => true,
        AdvanceError::Snapshot(SnapshotError::Foreign { .. } | SnapshotError::Unreadable(_))
        | AdvanceError::Diverged(_) => false,
    }
}
