//! The legality of every change of status, in one place. Storage repeats it as guards in `WHERE`
//! clauses; the tests hold the two together.

use crate::model::{CallStatus, ExecutionStatus};

/// What can happen to an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionEvent {
    /// Somebody takes the right to advance it. `expired`: an earlier claim ran out.
    Claim {
        /// The earlier claim has run out.
        expired: bool,
    },
    /// It reached an `await` on something outside.
    Pause,
    /// Its workflow returned.
    Finish,
    /// Its workflow raised.
    Fail,
    /// It ends because somebody cancelled it: under a claim when its workflow has seen it, without one by force or
    /// before it has begun.
    Cancel,
    /// Somebody keeps it from going on.
    Hold,
    /// Somebody lets it go on.
    Release,
    /// It begins anew, with other inputs.
    Again,
    /// Somebody lets it go on from its last state, after it has failed or was cancelled.
    Revive,
}

/// What can happen to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEvent {
    /// A worker starts its function.
    Begin,
    /// Its result arrived.
    Complete,
    /// Its last attempt failed.
    Fail,
    /// An attempt failed and another will be made, or its worker was lost.
    Retry,
    /// Its execution was cancelled, ended, or gave it up.
    Cancel,
    /// Somebody has its function run again.
    Revive,
}

/// The status after `event`, or none when it may not happen.
pub fn next_execution(status: ExecutionStatus, event: ExecutionEvent) -> Option<ExecutionStatus> {
    use ExecutionEvent::{Again, Cancel, Claim, Fail, Finish, Hold, Pause, Release, Revive};
    use ExecutionStatus::{Cancelled, Completed, Failed, Paused, Running, Scheduled, Waiting};
    match (status, event) {
        (Scheduled | Waiting, Claim { .. }) => Some(Running),
        (Running, Claim { expired }) => expired.then_some(Running),
        (Running, Pause) => Some(Waiting),
        (Running, Finish) => Some(Completed),
        (Running, Fail) => Some(Failed),
        (Running, Again) => Some(Scheduled),
        // A claimed one is held when it pauses.
        (Running, Hold) => Some(Running),
        (Scheduled | Waiting, Hold) => Some(Paused),
        // Scheduled again, if it has no state yet.
        (Paused, Release) => Some(Waiting),
        (Scheduled | Running | Waiting | Paused, Cancel) => Some(Cancelled),
        (Failed | Cancelled, Revive) => Some(Waiting),
        (Scheduled | Waiting | Paused, Pause | Finish | Fail | Again) => None,
        (Scheduled | Waiting | Running, Release) => None,
        (Paused, Claim { .. } | Hold) => None,
        (Scheduled | Waiting | Running | Paused | Completed, Revive) => None,
        (Completed | Failed | Cancelled, Claim { .. } | Pause | Finish | Fail | Cancel | Hold | Release | Again) => {
            None
        }
    }
}

/// The status after `event`, or none when it may not happen.
pub fn next_call(status: CallStatus, event: CallEvent) -> Option<CallStatus> {
    use CallEvent::{Begin, Cancel, Complete, Fail, Retry, Revive};
    use CallStatus::{Cancelled, Completed, Failed, Pending, Running};
    match (status, event) {
        (Pending, Begin) => Some(Running),
        (Running, Begin) => None,
        // `Begin` is written lazily, so an outcome may find the call still pending.
        (Pending | Running, Complete) => Some(Completed),
        (Pending | Running, Fail) => Some(Failed),
        (Pending | Running, Retry) => Some(Pending),
        (Pending | Running, Cancel) => Some(Cancelled),
        (Failed | Cancelled, Revive) => Some(Pending),
        (Pending | Running | Completed, Revive) => None,
        (Completed | Failed | Cancelled, Begin | Complete | Fail | Retry | Cancel) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_move_only_along_these_edges() {
        use ExecutionEvent::{Again, Cancel, Claim, Fail, Finish, Hold, Pause, Release, Revive};
        let claims = [Claim { expired: false }, Claim { expired: true }];
        let events = claims.into_iter().chain([Pause, Finish, Fail, Cancel, Hold, Release, Again, Revive]);
        let table: Vec<String> = ExecutionStatus::ALL
            .iter()
            .map(|status| {
                let next = |event| next_execution(*status, event).map_or("-", ExecutionStatus::as_str);
                format!("{status}: {}", events.clone().map(next).collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(
            table,
            [
                "scheduled: running running - - - cancelled paused - - -",
                "running: - running waiting completed failed cancelled running - scheduled -",
                "waiting: running running - - - cancelled paused - - -",
                "paused: - - - - - cancelled - waiting - -",
                "completed: - - - - - - - - - -",
                "failed: - - - - - - - - - waiting",
                "cancelled: - - - - - - - - - waiting",
            ]
        );
    }

    #[test]
    fn calls_move_only_along_these_edges() {
        use CallEvent::{Begin, Cancel, Complete, Fail, Retry, Revive};
        let table: Vec<String> = CallStatus::ALL
            .iter()
            .map(|status| {
                let row = [Begin, Complete, Fail, Retry, Cancel, Revive]
                    .map(|event| next_call(*status, event).map_or("-", CallStatus::as_str));
                format!("{status}: {}", row.join(" "))
            })
            .collect();
        assert_eq!(
            table,
            [
                "pending: running completed failed pending cancelled -",
                "running: - completed failed pending cancelled -",
                "completed: - - - - - -",
                "failed: - - - - - pending",
                "cancelled: - - - - - pending",
            ]
        );
    }
}
