//! What an execution's turns may use: weighed when it is claimed, and when it pauses.

use std::collections::BTreeSet;

use super::{Engine, OrchestrationError};
use crate::{
    id::{CallId, ExecutionId},
    interpreter::{Allowance, Limits, NewCall, Pause},
    model::{CallKind, Failure},
    quota::{Quota, Used, option},
    store::{
        DbConnection, StoreError,
        executions::{self, Won},
        pushes,
    },
    time::Timestamp,
};

/// What the next turn may use.
pub(super) fn of_turn(engine: &Engine, won: &Won) -> Limits {
    let Used { calls, children, .. } = won.execution.used;
    let allowance = Allowance { quota: engine.settings.quota, calls, children, depth: won.execution.depth };
    Limits { allowance, ..engine.settings.limits }
}

/// What a pause adds to what its execution has used.
#[derive(Debug, Clone)]
pub(super) struct Weighed {
    pub(super) used: Used,
    /// Before when time does not lead to the next turn.
    pub(super) not_before: Timestamp,
    /// Calls in queues that would be too many.
    pub(super) refused: Vec<(CallId, Failure)>,
}

pub(super) async fn weigh(
    engine: &Engine,
    won: &Won,
    pause: &Pause,
    now: Timestamp,
) -> Result<Weighed, OrchestrationError> {
    let (quota, mut used) = (engine.settings.quota, won.execution.used.clone());
    used.calls += count(pause.new_calls.len());
    used.children += count(pause.new_calls.iter().filter(|call| call.kind == CallKind::Child).count());
    let not_before = if won.by_time { used.woken_by_time(&quota, now) } else { now };
    let refused = new_queues(engine, won, pause, &mut used, now).await?;
    Ok(Weighed { used, not_before, refused })
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Notes the queues that the execution names for the first time; answers the calls in those that are too many.
async fn new_queues(
    engine: &Engine,
    won: &Won,
    pause: &Pause,
    used: &mut Used,
    now: Timestamp,
) -> Result<Vec<(CallId, Failure)>, OrchestrationError> {
    let own = &won.execution.queue;
    let named = |call: &NewCall| call.queue.clone().filter(|_| call.kind == CallKind::Function && !call.abandoned);
    let new: BTreeSet<String> = pause.new_calls.iter().filter_map(named).collect();
    let new: Vec<String> = new.into_iter().filter(|queue| queue != own && !used.queues.contains(queue)).collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let Quota { queues: most, unserved, .. } = engine.settings.quota;
    let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(used.queues.len());
    let ours =
        new.iter().filter(|queue| !engine.queue.foreign().contains(queue)).take(room).cloned().collect::<Vec<_>>();
    let nobodys = engine.db.read(move |conn| pushes::too_many(conn, &ours, unserved, now)).await?;
    let mut why = Vec::new();
    for (place, queue) in new.into_iter().enumerate() {
        if place >= room {
            let limit = option("queues", most);
            why.push((queue.clone(), format!("it has named {most} queues, and {queue} is one more {limit}")));
        } else if nobodys.contains(&queue) {
            let limit = option("unserved", unserved);
            let text =
                format!("no worker serves the queue {queue}, and calls wait in {unserved} others already {limit}");
            why.push((queue, text));
        } else {
            used.queues.insert(queue);
        }
    }
    let refused = pause.new_calls.iter().filter_map(|call| {
        let queue = named(call)?;
        let (_, why) = why.iter().find(|(refused, _)| *refused == queue)?;
        Some((call.id, Failure::new("RuntimeError", format!("{}: {why}", call.function))))
    });
    Ok(refused.collect())
}

/// Room for children in an execution's tree.
pub(super) struct Room {
    left: u64,
    quota: Quota,
    top: ExecutionId,
}

impl Room {
    pub(super) fn of(conn: &mut DbConnection, won: &Won, quota: Quota) -> Result<Self, StoreError> {
        let top = won.execution.top().clone();
        let open = if quota.tree == u64::MAX { 0 } else { executions::open_in_tree(conn, &top, quota.tree)? };
        Ok(Self { left: quota.tree.saturating_sub(open), quota, top })
    }

    /// Takes the place of one; why there is none.
    pub(super) fn take(&mut self) -> Result<(), Failure> {
        let Self { left, quota, top } = self;
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => {
                let text = format!(
                    "{} executions of the tree of {top} have not ended, and no more may be begun {}: await some of them",
                    quota.tree,
                    option("tree", quota.tree)
                );
                return Err(Failure::new("RuntimeError", text));
            }
        }
        Ok(())
    }
}
