//! foresee: running ahead of the claim.
//!
//! When the only call that an execution waits for returns in the process that paused it, nothing
//! else can happen to that execution: its next state follows from what this process knows already.
//! [`advance`](super::advance) is a pure function, so it may run before the claim is made; settle,
//! claim and the next pause are then one transaction, and a step costs one commit instead of two.
//! If something did happen, the transaction finds it, the work ahead is thrown away, and `drive` looks
//! whether the outcome lets the execution go on.

use std::sync::Arc;

use super::{
    Engine,
    claim::{Claim, Claimed, Foreseen},
    settle::Attempted,
};
use crate::{
    id::{CallId, Epoch},
    interpreter::{Pause, Snapshot},
    model::{CallKind, ExecutionStatus, Json, Outcome},
    quota::Used,
    store::executions::Won,
};

/// States larger than this are read from the database again.
const MAX_STATE: usize = 64 << 10;

/// What this process knows of an execution that it has just paused.
#[derive(Debug)]
pub(super) struct Hot {
    /// The only call that it waits for.
    call: CallId,
    won: Won,
}

impl Hot {
    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let states = self.won.state.as_ref().map_or(0, |(last, base)| last.bytes.len() + base.bytes.len());
        states + self.won.inputs.0.len()
    }
}

/// What is worth knowing of a pause, if it waits for one function call and nothing else.
pub(super) fn keep(won: &Won, pause: &Pause, used: &Used) -> Option<Hot> {
    let [call] = pause.new_calls.as_slice() else { return None };
    if call.kind != CallKind::Function || call.abandoned || pause.waits_for_earlier {
        return None;
    }
    let base: &Snapshot = pause.base.as_ref().or(won.state.as_ref().map(|(_, base)| base))?;
    if base.bytes.len() + pause.snapshot.bytes.len() > MAX_STATE {
        return None;
    }
    let inputs = Json("{}".into());
    let mut won = Won {
        outcomes: Vec::new(),
        inputs,
        claims: 1,
        state: Some((pause.snapshot.clone(), base.clone())),
        ..won.clone()
    };
    (won.by_time, won.execution.used) = (false, used.clone());
    won.execution.suspension += 1;
    won.execution.status = ExecutionStatus::Waiting;
    Some(Hot { call: call.id, won })
}

/// The claim that settling this attempt will win, unless something else happens first.
pub fn foresee(engine: &Engine, attempted: &Attempted) -> Option<Claimed> {
    let Outcome::Completed(_) = &attempted.outcome else { return None };
    let Hot { call, mut won } = engine.take_hot(&attempted.of.execution)?;
    if call != attempted.of.call {
        return None;
    }
    let claim = Claim::of(engine);
    won.outcomes.push((call, attempted.outcome.clone()));
    won.at = claim.now;
    won.execution.epoch = Epoch(won.execution.epoch.0 + 1);
    won.execution.status = ExecutionStatus::Running;
    let foreseen = Foreseen { attempted: Arc::new(attempted.clone()), claim };
    Some(Claimed::foreseen(won, foreseen))
}
