//! The line from one claim to the next pause or the end: whoever claims, advances.

use std::{sync::Arc, time::Duration};

use super::{
    Engine, OrchestrationError,
    advance::advance,
    claim::{Claimed, claim},
    dispatch::dispatch,
    finish::{Anew, Finished, again, finish},
    pause::{Paused, TurnOutput, log_lines, look_again, pause},
    timers::WORKER_LOST,
};
use crate::{
    id::CallId,
    interpreter::{AdvanceError, End, NewCall, SnapshotError, Step},
    model::{Failure, Json, Stream},
    store::{claims, control, logs},
};

/// Claims in a row that may come to nothing.
const MAX_CLAIMS: i64 = 5;

/// Advances a claimed execution beside whatever else this process does. Nobody waits for it: should it fail, a clock takes the
/// execution up.
pub fn begin(engine: &Arc<Engine>, claimed: Claimed) {
    let (engine, room) = (engine.clone(), engine.try_room());
    tokio::spawn(async move {
        let id = claimed.id().clone();
        let _room = match room {
            None => engine.room().await,
            room => room,
        };
        if let Err(error) = drive(&engine, claimed).await {
            tracing::warn!(execution.id = %id, %error, "a turn failed; a clock takes it up");
        }
    });
}

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
            Turned::Stopped => return Ok(()),
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
    /// The process ends: others go on.
    Stopped,
}

async fn turn(engine: &Engine, mut claimed: Claimed) -> Result<Turned, OrchestrationError> {
    if claimed.won().claims > MAX_CLAIMS {
        let (failure, output) = (breaks_processes(&claimed), nothing_told(&claimed));
        return end(engine, claimed, Err(failure), Vec::new(), output).await;
    }
    let step = match advance(engine, &mut claimed).await {
        Ok(step) => step,
        Err(OrchestrationError::Advance { source, .. }) if is_final(&source) => {
            let failure = Failure::new("durable.StateError", source.to_string());
            return end(engine, claimed, Err(failure), Vec::new(), TurnOutput::default()).await;
        }
        Err(OrchestrationError::Advance { source: source @ AdvanceError::Diverged(_), .. }) => {
            return shelve(engine, claimed, &source).await;
        }
        Err(error @ OrchestrationError::Advance { source: AdvanceError::Unwanted, .. }) => {
            if !engine.stopping.is_cancelled() {
                return Ok(Turned::Lost);
            }
            if claimed.is_foreseen() {
                // Nothing is recorded yet, not even the outcome that it ran ahead of.
                return Err(error);
            }
            give_back(engine, &claimed, Duration::ZERO).await;
            return Ok(Turned::Stopped);
        }
        Err(OrchestrationError::Compile { source, .. }) => {
            let failure = Failure::new(source.kind.clone(), source.to_string());
            return end(engine, claimed, Err(failure), Vec::new(), TurnOutput::default()).await;
        }
        Err(error) => {
            // This program's or this machine's fault, so it is not counted.
            give_back(engine, &claimed, engine.settings.claim).await;
            return Err(error);
        }
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

/// The failure of an execution that nobody could move on: its turns end the processes that take them.
fn breaks_processes(claimed: &Claimed) -> Failure {
    let execution = &claimed.won().execution;
    let text = format!(
        "processes took it up {MAX_CLAIMS} times in a row to go on from pause {}, and each was gone, or could write nothing, \
         before the turn had ended: it seems to break them\nhint: look at the log of the workers and orchestrators for what \
         ended them, often memory; durable retry {} tries again",
        execution.suspension, execution.id
    );
    Failure::new(WORKER_LOST, text)
}

/// What is left of a turn that was not taken: nothing that came in was told.
fn nothing_told(claimed: &Claimed) -> TurnOutput {
    TurnOutput { unread: claimed.won().outcomes.iter().map(|(id, _)| *id).collect(), ..TurnOutput::default() }
}

/// Lets others take the execution up after `wait`, uncounted. That it cannot be said costs time: the claim expires.
async fn give_back(engine: &Engine, claimed: &Claimed, wait: Duration) {
    if claimed.is_foreseen() {
        return;
    }
    let (fence, at) = (claimed.fence().fence, engine.now().after(wait));
    if let Err(error) = engine.db.write(move |conn| claims::give_back(conn, &fence, at)).await {
        tracing::debug!(%error, "a claim could not be given back; it expires");
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
        | AdvanceError::Diverged(_)
        | AdvanceError::Passing(_)
        | AdvanceError::Crowded
        | AdvanceError::Unwanted => false,
    }
}
