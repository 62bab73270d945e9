//! rebuild: a state is made again, by running the workflow from its beginning over the outcomes on record, in the groups in
//! which they were delivered. Every call has to be the one on record. After an upgrade of the interpreter this is the way
//! back to a state that it does not read; with other code it is how a workflow is mended while it runs ([`mend`](super::mend)).

use std::{collections::BTreeMap, sync::Arc};

use super::{Engine, OrchestrationError, aside::aside};
use crate::{
    allow::Rights,
    id::{CallId, Epoch},
    interpreter::{self, AdvanceError, End, Limits, NewCall, Origin, Pause, Program, Snapshot, Step, Turn, split_name},
    model::{Awaited, Json, Outcome, Wake},
    offers::Offers,
    store::{
        StoreError,
        calls::{self, Past, Recorded},
        executions::Won,
    },
    time::Timestamp,
};

/// What a state that is made again has come to.
pub(super) struct Rebuilt {
    pub(super) snapshot: Snapshot,
    /// The first state, which it is compressed against.
    pub(super) base: Snapshot,
    /// How many outcomes it was told.
    pub(super) outcomes: usize,
    /// What it waits for, with the rule by which each call wakes it.
    pub(super) waits: BTreeMap<CallId, (Awaited, Wake)>,
    /// What it has given up on the way.
    pub(super) given_up: Vec<CallId>,
    /// Calls that were given up on record, and when.
    pub(super) dropped: Vec<(CallId, Timestamp)>,
}

/// The outcomes that one turn was given.
struct Delivery {
    at: Timestamp,
    outcomes: Vec<(CallId, Outcome)>,
}

/// How far an execution is run again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until {
    /// The pause.
    pub(super) pause: i64,
    /// The last claim whose outcomes are delivered.
    pub(super) epoch: Epoch,
}

/// Makes the last state of a claimed execution again. Changes nothing on record.
pub(super) async fn rebuild(engine: &Engine, won: &Won, program: &Arc<Program>) -> Result<Rebuilt, OrchestrationError> {
    let id = won.execution.id.clone();
    let gone = || StoreError::Inconsistent(format!("execution {id} has no origin"));
    let key = id.clone();
    let past = engine.db.read(move |conn| calls::past(conn, &key)).await?.ok_or_else(gone)?;
    tracing::warn!(execution.id = %id, calls = past.recorded.len(), "its state is rebuilt from its record");
    let until = Until { pause: won.execution.suspension, epoch: won.execution.epoch };
    let (offers, limits, program) = (engine.offers.clone(), engine.settings.limits, program.clone());
    let done = aside(&id, move || Again::new((&offers, limits), &past, &program).run(until)).await?;
    done.map_err(|source| OrchestrationError::Advance { execution: id.clone(), source })
}

/// A life that is run again.
pub(super) struct Again<'a> {
    past: &'a Past,
    program: &'a Program,
    offers: &'a Offers,
    limits: Limits,
    /// Whether every pause but the first was of a turn that was told something: then pauses can be counted.
    counted: bool,
    /// The pause whose calls come next.
    next: i64,
    waits: BTreeMap<CallId, (Awaited, Wake)>,
    given_up: Vec<CallId>,
}

impl<'a> Again<'a> {
    pub(super) fn new((offers, limits): (&'a Offers, Limits), past: &'a Past, program: &'a Program) -> Self {
        Self { past, program, offers, limits, counted: true, next: 1, waits: BTreeMap::new(), given_up: Vec::new() }
    }

    /// Takes every turn again, up to that pause.
    pub(super) fn run(mut self, until: Until) -> Result<Rebuilt, AdvanceError> {
        let all = deliveries(&self.past.recorded);
        let mut told: Vec<(Epoch, Delivery)> = all.into_iter().collect();
        let turns = usize::try_from(until.pause).unwrap_or(0);
        told.retain(|(of, _)| *of <= until.epoch);
        self.counted = told.len() + 1 == turns;
        let began = self.identity(1).began;
        let start = Origin::Start { inputs: &self.past.inputs, first_call: self.past.first_call.0 };
        let mut place = Place { turn: 1, outcomes: 0 };
        let mut pause = self.turn(place, began, start)?;
        let mut base = pause.base.take();
        for (_, delivery) in told {
            let first = base.get_or_insert_with(|| pause.snapshot.clone()).clone();
            let origin = Origin::Paused { snapshot: &pause.snapshot, base: &first, outcomes: &delivery.outcomes };
            place = Place { turn: place.turn + 1, outcomes: place.outcomes + delivery.outcomes.len() };
            delivery.outcomes.iter().for_each(|(id, _)| drop(self.waits.remove(id)));
            pause = self.turn(place, delivery.at, origin)?;
        }
        if let Some(missing) =
            self.past.recorded.iter().find(|known| (self.next..=until.pause).contains(&known.resume_group))
        {
            return Err(diverged(format!("{place}, it does not make {}, which is on record", named(missing))));
        }
        let base = base.unwrap_or_else(|| pause.snapshot.clone());
        let dropped = self.past.recorded.iter().filter_map(|call| Some((call.id, call.dropped?))).collect();
        let Self { waits, given_up, .. } = self;
        Ok(Rebuilt { snapshot: pause.snapshot, base, outcomes: place.outcomes, waits, given_up, dropped })
    }

    /// Whose the turn was that led to this pause.
    fn identity(&self, pause: i64) -> &'a calls::Identity {
        let identities = &self.past.identities;
        let found = identities.iter().find(|identity| pause <= identity.until_pause);
        found.or(identities.last()).unwrap_or_else(|| unreachable!("an execution with an origin has an identity"))
    }

    fn turn(&mut self, place: Place, now: Timestamp, origin: Origin<'_>) -> Result<Pause, AdvanceError> {
        let identity = self.identity(place.turn);
        let turn = Turn {
            program: self.program,
            execution: &identity.id,
            now,
            secret: &identity.secret,
            offers: self.offers,
            limits: self.limits,
            rights: Rights { allowed: &self.past.allowed, queue: &self.past.queue },
        };
        if self.counted {
            self.next = place.turn;
        } else if let Some(next) = self.past.recorded.iter().map(|call| call.resume_group).find(|no| *no >= self.next) {
            self.next = next;
        }
        let past = self.past;
        let expected: Vec<&Recorded> = past.recorded.iter().filter(|call| call.resume_group == self.next).collect();
        let numbers: Vec<CallId> = expected.iter().map(|call| call.id).collect();
        let step = interpreter::take_again(&turn, origin, &numbers)?;
        let (pause, withdrawn) = paused(step, place)?;
        if !pause.new_calls.is_empty() || self.counted {
            check(&pause.new_calls, &expected, place)?;
            self.next += 1;
        }
        self.note(&pause, withdrawn);
        Ok(pause)
    }

    /// What it waits for after a turn.
    fn note(&mut self, pause: &Pause, withdrawn: Vec<CallId>) {
        for call in pause.new_calls.iter().filter(|call| !call.abandoned) {
            let (function, line) = (call.function.clone(), call.line);
            self.waits.insert(call.id, (Awaited { call: call.id, kind: call.kind, function, line }, call.wake));
        }
        for (call, wake) in &pause.rewoken {
            if let Some((_, old)) = self.waits.get_mut(call) {
                *old = *wake;
            }
        }
        for call in &withdrawn {
            self.waits.remove(call);
        }
        self.given_up.extend(withdrawn);
    }
}

/// How far a life that is run again has come.
#[derive(Debug, Clone, Copy)]
struct Place {
    turn: i64,
    outcomes: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.outcomes {
            0 => f.write_str("before it has been told any outcome"),
            1 => f.write_str("after the first outcome on record"),
            many => write!(f, "after {many} outcomes on record"),
        }
    }
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

/// The last claim whose outcomes an execution had been told at a pause, if the record tells: by counting back from its last
/// pause, and the last claim that this knew of.
pub(super) fn epoch_of(recorded: &[Recorded], pause: i64, (last, epoch): (i64, Epoch)) -> Option<Epoch> {
    if pause == last {
        return Some(epoch);
    }
    let told: Vec<Epoch> = deliveries(recorded).into_keys().filter(|of| *of <= epoch).collect();
    let turns = usize::try_from(last).ok()?;
    let before = usize::try_from(pause).ok()?.checked_sub(2);
    (told.len() + 1 == turns).then(|| before.and_then(|index| told.get(index).copied()).unwrap_or(Epoch(0)))
}

/// The pause that a turn ended in, and what it gave up.
fn paused(step: Step, place: Place) -> Result<(Pause, Vec<CallId>), AdvanceError> {
    match step.end {
        End::Pause(pause) => Ok((pause, step.withdrawn)),
        End::Finish { .. } => Err(diverged(format!("{place}, where the record has it wait, it returns"))),
        End::Again { .. } => Err(diverged(format!("{place}, where the record has it wait, it begins anew"))),
        End::Fail { failure, .. } => {
            let traceback =
                failure.traceback.as_deref().map_or_else(String::new, |text| format!("\n{}\n", text.trim_end()));
            Err(diverged(format!("{place}, where the record has it wait, it fails: {failure}{traceback}")))
        }
    }
}

/// The calls of a turn are those on record.
fn check(made: &[NewCall], expected: &[&Recorded], place: Place) -> Result<(), AdvanceError> {
    for (call, known) in made.iter().zip(expected) {
        let same = known.kind == call.kind && (known.function == call.function || is_same_child(known, call));
        if !same || known.args != call.args || known.kwargs != call.kwargs {
            let (args, args_now) = apart(&known.args, &call.args);
            let (kwargs, kwargs_now) = apart(&known.kwargs, &call.kwargs);
            return Err(diverged(format!(
                "{place}, call {} is {} {} {args} {kwargs} on record{}, and {} {} {args_now} {kwargs_now} now{}",
                call.id,
                known.kind,
                known.function,
                on_line(known.line),
                call.kind,
                call.function,
                on_line(call.line),
            )));
        }
    }
    if let Some(call) = made.get(expected.len()) {
        let (args, kwargs) = (part(&call.args, 0), part(&call.kwargs, 0));
        return Err(diverged(format!(
            "{place}, it calls {} {} {args} {kwargs}{}, which is not on record",
            call.kind,
            call.function,
            on_line(call.line),
        )));
    }
    match expected.get(made.len()) {
        None => Ok(()),
        Some(missing) => Err(diverged(format!("{place}, it does not make {}, which is on record", named(missing)))),
    }
}

/// The same function of the file, which may be called otherwise now.
fn is_same_child(known: &Recorded, call: &NewCall) -> bool {
    let own = call.child.as_ref().is_some_and(|child| child.own);
    own && split_name(&known.function).1 == split_name(&call.function).1
}

fn named(call: &Recorded) -> String {
    format!("call {} ({} {}{})", call.id, call.kind, call.function, on_line(call.line))
}

fn on_line(line: Option<u32>) -> String {
    line.map_or_else(String::new, |line| format!(" (line {line})"))
}

/// Two values, as far as it takes to see where they differ.
fn apart(one: &Json, other: &Json) -> (String, String) {
    let same = one.0.chars().zip(other.0.chars()).take_while(|(a, b)| a == b).count();
    let skip = if same > SHOWN / 2 { same - SHOWN / 4 } else { 0 };
    (part(one, skip), part(other, skip))
}

/// The most that is shown of a value, in characters.
const SHOWN: usize = 200;

fn part(json: &Json, skip: usize) -> String {
    let mut rest = json.0.chars().skip(skip);
    let shown: String = rest.by_ref().take(SHOWN).collect();
    format!("{}{shown}{}", if skip > 0 { "…" } else { "" }, if rest.next().is_some() { "…" } else { "" })
}

fn diverged(how: String) -> AdvanceError {
    AdvanceError::Diverged(how)
}
