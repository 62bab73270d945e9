//! rebuild: a state that this program does not read is made again, by running the workflow from its beginning over the
//! outcomes on record, in the groups in which they were delivered. Every call has to be the one on record. This is the way
//! back after an upgrade of the interpreter, never the way on.

use std::collections::BTreeMap;

use super::{Engine, OrchestrationError};
use crate::{
    id::{CallId, Epoch},
    interpreter::{self, AdvanceError, End, NewCall, Origin, Pause, Program, Snapshot, Step, Turn},
    model::Outcome,
    store::{
        calls::{self, Recorded},
        executions::Won,
    },
    time::Timestamp,
};

/// A state, and the first one, which it is compressed against.
pub(super) struct Rebuilt {
    pub(super) snapshot: Snapshot,
    pub(super) base: Snapshot,
}

/// The outcomes that one turn was given.
struct Delivery {
    at: Timestamp,
    outcomes: Vec<(CallId, Outcome)>,
}

/// Makes the last state of a claimed execution again. Changes nothing on record.
pub(super) async fn rebuild(engine: &Engine, won: &Won, program: &Program) -> Result<Rebuilt, OrchestrationError> {
    let id = won.execution.id.clone();
    let recorded = engine.db.read(move |conn| calls::recorded(conn, &id)).await?;
    tracing::warn!(execution.id = %won.execution.id, calls = recorded.len(), "its state is rebuilt from its record");
    let done = replay(engine, won, program, &recorded);
    done.map_err(|source| OrchestrationError::Advance { execution: won.execution.id.clone(), source })
}

fn replay(engine: &Engine, won: &Won, program: &Program, recorded: &[Recorded]) -> Result<Rebuilt, AdvanceError> {
    let turn = |now: Timestamp| Turn {
        program,
        execution: &won.execution.id,
        now,
        secret: &won.secret,
        offers: &engine.offers,
        limits: engine.settings.limits,
    };
    let began = won.execution.started_at.unwrap_or(won.execution.created_at);
    let first =
        interpreter::advance(&turn(began), Origin::Start { inputs: &won.inputs, first_call: won.first_call.0 })?;
    let (mut pause, mut base) = (paused(first, 1)?, None);
    let mut number = 1;
    check(&pause.new_calls, number, recorded)?;
    for delivery in deliveries(recorded).into_values() {
        let first = base.get_or_insert_with(|| pause.base.clone().unwrap_or_else(|| pause.snapshot.clone()));
        let origin = Origin::Paused { snapshot: &pause.snapshot, base: first, outcomes: &delivery.outcomes };
        let step = interpreter::advance(&turn(delivery.at), origin)?;
        number += 1;
        pause = paused(step, number)?;
        check(&pause.new_calls, number, recorded)?;
    }
    let base = base.or(pause.base.take()).unwrap_or_else(|| pause.snapshot.clone());
    Ok(Rebuilt { snapshot: pause.snapshot, base })
}

/// What each turn after the first was given, in order.
fn deliveries(recorded: &[Recorded]) -> BTreeMap<Epoch, Delivery> {
    let mut deliveries: BTreeMap<Epoch, Delivery> = BTreeMap::new();
    let mut by_end: Vec<&Recorded> = recorded.iter().collect();
    by_end.sort_by_key(|call| (call.ended_at, call.id));
    for call in by_end {
        let Some((epoch, at, outcome)) = &call.delivered else { continue };
        let delivery = deliveries.entry(*epoch).or_insert(Delivery { at: *at, outcomes: Vec::new() });
        delivery.at = delivery.at.max(*at);
        delivery.outcomes.push((call.id, outcome.clone()));
    }
    deliveries
}

fn paused(step: Step, number: i64) -> Result<Pause, AdvanceError> {
    match step.end {
        End::Pause(pause) => Ok(pause),
        End::Finish { .. } => Err(diverged(format!("at pause {number} it would have returned"))),
        End::Again { .. } => Err(diverged(format!("at pause {number} it would have begun anew"))),
        End::Fail { failure, .. } => Err(diverged(format!("at pause {number} it would have failed: {failure}"))),
    }
}

/// The calls of a turn are those on record.
fn check(made: &[NewCall], number: i64, recorded: &[Recorded]) -> Result<(), AdvanceError> {
    let expected: Vec<&Recorded> = recorded.iter().filter(|call| call.resume_group == number).collect();
    for call in made {
        let Some(known) = expected.iter().find(|known| known.id == call.id) else {
            return Err(diverged(format!(
                "at pause {number} it calls {} (call {}), which is not on record",
                call.function, call.id
            )));
        };
        let same = known.kind == call.kind && known.function == call.function;
        if !same || known.args != call.args || known.kwargs != call.kwargs {
            let (args, kwargs) = (&known.args, &known.kwargs);
            return Err(diverged(format!(
                "call {} is {} {} {args} {kwargs} on record, and {} {} {} {} now",
                call.id, known.kind, known.function, call.kind, call.function, call.args, call.kwargs
            )));
        }
    }
    match expected.iter().find(|known| !made.iter().any(|call| call.id == known.id)) {
        None => Ok(()),
        Some(missing) => Err(diverged(format!(
            "at pause {number} it does not make call {} ({}), which is on record",
            missing.id, missing.function
        ))),
    }
}

fn diverged(how: String) -> AdvanceError {
    AdvanceError::Diverged(how)
}
