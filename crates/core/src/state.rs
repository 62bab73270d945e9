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
    /// Its execution ended.
    Cancel,
}

/// The status after `event`, or none when it may not happen.
pub fn next_execution(status: ExecutionStatus, event: ExecutionEvent) -> Option<ExecutionStatus> {
    use ExecutionEvent::{Claim, Fail, Finish, Pause};
    use ExecutionStatus::{Completed, Failed, Running, Scheduled, Waiting};
    match (status, event) {
        (Scheduled | Waiting, Claim { .. }) => Some(Running),
        (Running, Claim { expired }) => expired.then_some(Running),
        (Running, Pause) => Some(Waiting),
        (Running, Finish) => Some(Completed),
        (Running, Fail) => Some(Failed),
        (Scheduled | Waiting, Pause | Finish | Fail) => None,
        (Completed | Failed, Claim { .. } | Pause | Finish | Fail) => None,
    }
}

/// The status after `event`, or none when it may not happen.
pub fn next_call(status: CallStatus, event: CallEvent) -> Option<CallStatus> {
    use CallEvent::{Begin, Cancel, Complete, Fail, Retry};
    use CallStatus::{Cancelled, Completed, Failed, Pending, Running};
    match (status, event) {
        (Pending, Begin) => Some(Running),
        (Running, Begin) => None,
        // `Begin` is written lazily, so an outcome may find the call still pending.
        (Pending | Running, Complete) => Some(Completed),
        (Pending | Running, Fail) => Some(Failed),
        (Pending | Running, Retry) => Some(Pending),
        (Pending | Running, Cancel) => Some(Cancelled),
        (Completed | Failed | Cancelled, Begin | Complete | Fail | Retry | Cancel) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_move_only_along_these_edges() {
        use ExecutionEvent::{Claim, Fail, Finish, Pause};
        let events = [Claim { expired: false }, Claim { expired: true }, Pause, Finish, Fail];
        let table: Vec<String> = ExecutionStatus::ALL
            .iter()
            .map(|status| {
                let row = events.map(|event| next_execution(*status, event).map_or("-", ExecutionStatus::as_str));
                format!("{status}: {}", row.join(" "))
            })
            .collect();
        assert_eq!(
            table,
            [
                "scheduled: running running - - -",
                "running: - running waiting completed failed",
                "waiting: running running - - -",
                "completed: - - - - -",
                "failed: - - - - -",
            ]
        );
    }

    #[test]
    fn calls_move_only_along_these_edges() {
        use CallEvent::{Begin, Cancel, Complete, Fail, Retry};
        let table: Vec<String> = CallStatus::ALL
            .iter()
            .map(|status| {
                let row = [Begin, Complete, Fail, Retry, Cancel]
                    .map(|event| next_call(*status, event).map_or("-", CallStatus::as_str));
                format!("{status}: {}", row.join(" "))
            })
            .collect();
        assert_eq!(
            table,
            [
                "pending: running completed failed pending cancelled",
                "running: - completed failed pending cancelled",
                "completed: - - - - -",
                "failed: - - - - -",
                "cancelled: - - - - -",
            ]
        );
    }
}
