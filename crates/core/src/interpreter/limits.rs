//! Whether a turn that was ended by a limit has broken it.

use std::time::Duration;

use durable_memory::Account;
use monty_types::{ExcType, MontyException};

use super::{AdvanceError, Control, Limits, StopReason, Turn, advice};
use crate::model::Failure;

/// How much longer than its processor time a turn may take by the clock on the wall between two answers of the host, before
/// the interpreter ends it by itself: nobody watched it, or the machine stood still. Where the system does not tell of other
/// threads' times, nobody can watch it.
pub(super) const WALL: u32 = if cfg!(target_os = "linux") { 120 } else { 2 };

/// What ended a turn, as its workflow's failure; or that it is not the workflow's. The turn computed for `took`.
pub(super) fn judge(
    turn: &Turn<'_>,
    control: &Control,
    account: Option<&Account>,
    took: Duration,
    error: MontyException,
) -> Result<MontyException, AdvanceError> {
    match control.stopped() {
        Some(StopReason::Unwanted) => return Err(AdvanceError::Unwanted),
        Some(StopReason::Spent) => return Ok(spent(turn, took, &error)),
        Some(StopReason::Greedy) => {
            let held = account.map_or(0, Account::most).max(turn.limits.memory);
            let text = format!("memory limit exceeded: {held} bytes > {} bytes", turn.limits.memory);
            return Ok(MontyException::with_traceback(ExcType::MemoryError, Some(text), error.traceback().to_vec()));
        }
        None => {}
    }
    let said = |start: &str| error.message().is_some_and(|message| message.starts_with(start));
    match error.exc_type() {
        ExcType::TimeoutError if said("turn time limit exceeded") && took >= turn.limits.turn => {
            Ok(spent(turn, took, &error))
        }
        ExcType::TimeoutError if said("turn time limit exceeded") => Err(AdvanceError::Passing(format!(
            "the machine stood still or was too busy: in all the time that a turn has, it computed for {}",
            seconds(took)
        ))),
        ExcType::MemoryError if said("memory limit exceeded") => match account {
            Some(account) if account.most() < turn.limits.memory && account.was_misled() => Err(AdvanceError::Crowded),
            _ => Ok(error),
        },
        _ => Ok(error),
    }
}

/// The failure of a workflow that computed for too long, at the place where it was stopped.
fn spent(turn: &Turn<'_>, took: Duration, stopped: &MontyException) -> MontyException {
    let (took, limit) = (seconds(took.max(turn.limits.turn)), seconds(turn.limits.turn));
    let text =
        format!("turn time limit exceeded: it computed for {took} without waiting for anything, {limit} are allowed");
    MontyException::with_traceback(ExcType::TimeoutError, Some(text), stopped.traceback().to_vec())
}

/// The failure of one that did not even stop when it was told to.
pub(crate) fn never_stopped(why: StopReason, limits: Limits) -> Failure {
    let (kind, what) = match why {
        StopReason::Greedy => {
            ("MemoryError", format!("memory limit exceeded: it holds more than {} MiB", limits.memory >> 20))
        }
        StopReason::Spent | StopReason::Unwanted => {
            let limit = seconds(limits.turn);
            (
                "TimeoutError",
                format!("turn time limit exceeded: it computes for longer than the {limit} that are allowed"),
            )
        }
    };
    let text = format!("{what}, in one operation that cannot be interrupted");
    let advice = advice::for_failure(kind, &text).map_or_else(String::new, |advice| format!("\nhint: {advice}"));
    Failure::new(kind, format!("{text}{advice}"))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
