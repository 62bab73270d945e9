//! No task can run: the workflow provides for itself, is handed the next outcomes, gives up what nobody can await any
//! more, or pauses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use monty::{Dump, ResolveFutures, RunProgress, Session, SessionRef};
use monty_types::{ExtFunctionResult, MontyObject};

use super::{
    AdvanceError, End, Origin, Pause, exception, handlers,
    ids::Ids,
    layout::DUMP_HEADER,
    reach::{self, Forsaken},
    snapshot::{self, SnapshotError, State},
    traceback,
    turn::{Run, Stop, deliver},
    waits,
};
use crate::{
    id::CallId,
    model::{CallKind, Failure, Outcome, Wake},
};

/// The awaitables that are pending, by the interpreter's numbers.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// All of them.
    pub(super) open: BTreeSet<u32>,
    /// Those that no function of a worker settles.
    pub(super) kinds: BTreeMap<u32, CallKind>,
    /// Awaitables that the prelude fulfils itself; they are no calls.
    pub(super) promises: BTreeSet<u32>,
    /// Promises that end with another awaitable, so that more than one task can wait for it.
    pub(super) mirrors: BTreeMap<u32, Vec<u32>>,
    /// Promises that were fulfilled since the last quiescence.
    pub(super) fulfilled: Results,
    /// Coroutines, by their place in the heap, whose calls the workflow gave up since then.
    pub(super) given_up: Vec<usize>,
    /// Awaitables whose mirror was given up: of whatever kind, they are if nobody can await them.
    let_go: BTreeSet<u32>,
    /// Awaitables that a race waited for in this turn, and does no more.
    raced: BTreeSet<u32>,
    /// Outcomes that have come in and are not handed over, in the order in which they did.
    inbox: VecDeque<(u32, Outcome)>,
    /// Calls that the workflow gave up in this turn.
    pub(super) withdrawn: Vec<CallId>,
}

impl Pending {
    /// Something new to await, unless it is none of the workflow's own.
    pub(super) fn add(&mut self, id: u32, kind: CallKind) {
        self.open.insert(id);
        if kind != CallKind::Function {
            self.kinds.insert(id, kind);
        }
    }

    /// A promise that ends with `target`. None where that has its outcome already: it can be awaited as it is.
    pub(super) fn mirror(&mut self, target: u32, promise: u32) -> Option<u32> {
        if !self.open.contains(&target) {
            return None;
        }
        self.open.insert(promise);
        self.promises.insert(promise);
        self.mirrors.entry(target).or_default().push(promise);
        Some(promise)
    }

    /// Nobody waits for this mirror any more; answers what it mirrored.
    pub(super) fn unmirror(&mut self, promise: u32) -> Option<u32> {
        let (target, mirrors) = self.mirrors.iter_mut().find(|(_, mirrors)| mirrors.contains(&promise))?;
        mirrors.retain(|mirror| *mirror != promise);
        let target = *target;
        self.raced.insert(target);
        self.mirrors.retain(|_, mirrors| !mirrors.is_empty());
        Some(target)
    }

    /// What is handed over, and to whom: mirrors end with what they mirror.
    fn resolve(&mut self, results: Results) -> Results {
        let mut resolved = Vec::with_capacity(results.len());
        for (id, result) in results {
            if !self.open.remove(&id) {
                continue;
            }
            self.promises.remove(&id);
            self.kinds.remove(&id);
            let ended = self.mirrors.remove(&id).into_iter().flatten();
            let ended = ended.map(|mirror| (mirror, MontyObject::none().into())).collect();
            resolved.push((id, result));
            resolved.extend(self.resolve(ended));
        }
        resolved
    }

    /// The outcomes that are handed over together: all up to the next signal, which goes to nobody if what came before it
    /// has made the workflow wait for it no longer. Signals that are `kept` wait for somebody to await them.
    fn next_outcomes(&mut self, kept: &BTreeSet<u32>, folds: &mut BTreeSet<String>) -> Results {
        let (mut batch, mut place) = (Vec::new(), 0);
        while let Some((id, _)) = self.inbox.get(place) {
            if kept.contains(id) {
                place += 1;
                continue;
            }
            let signal = self.kinds.get(id) == Some(&CallKind::Signal);
            if signal && !batch.is_empty() {
                break;
            }
            let Some((id, outcome)) = self.inbox.remove(place) else { break };
            if self.open.contains(&id) {
                batch.push((id, deliver(&outcome, folds)));
            }
        }
        self.resolve(batch)
    }

    /// The signals that are in and that nobody awaits, though somebody may. What nobody has read can still go to others.
    fn unread(&self, dump: &[u8]) -> BTreeSet<u32> {
        let signals = self.signals_in().filter(|id| self.open.contains(id) && !self.mirrors.contains_key(id));
        waits::unawaited(dump, &signals.collect())
    }

    /// The signals that came in and are not handed over.
    pub(super) fn signals_in(&self) -> impl Iterator<Item = u32> {
        self.inbox.iter().map(|(id, _)| *id).filter(|id| self.kinds.get(id) == Some(&CallKind::Signal))
    }
}

/// What is handed over to the interpreter: an awaitable, and how it ends.
type Results = Vec<(u32, ExtFunctionResult)>;

/// What comes of a moment in which no task can run.
pub(super) enum Quiescent {
    GoesOn(RunProgress),
    /// With the state, where it had to be looked at.
    Waits(RunProgress, Option<Vec<u8>>),
}

impl Run<'_> {
    /// Takes up a saved state and hands over what came first.
    pub(super) fn resume(&mut self, state: State, outcomes: &[(CallId, Outcome)]) -> Result<RunProgress, Stop> {
        let stripped = self.left.as_ref().and_then(|left| {
            let (header, dump) = state.dump.split_at_checked(DUMP_HEADER)?;
            Some([header, &handlers::strip(dump, &self.turn.program.texts(), left)?].concat())
        });
        let loaded = Dump::load(stripped.as_deref().unwrap_or(&state.dump))
            .map_err(|error| SnapshotError::Unreadable(error.to_string()))?;
        let Session::Running(progress) = loaded.state else {
            return Err(SnapshotError::Unreadable("it is not a running program".into()).into());
        };
        let RunProgress::ResolveFutures(paused) = *progress else {
            return Err(SnapshotError::Unreadable("it is not paused".into()).into());
        };
        self.count_from(Ids::new(state.first_call, &state.renumbered));
        self.modules = state.modules;
        self.folds = state.folds;
        self.raised = state.raised;
        self.pending = Pending {
            open: paused.pending_call_ids().iter().copied().collect(),
            kinds: state.kinds,
            promises: state.promises,
            mirrors: state.mirrors,
            inbox: outcomes.iter().filter_map(|(id, outcome)| Some((self.ids.inside(*id)?, outcome.clone()))).collect(),
            ..Pending::default()
        };
        let kept = self.pending.unread(&state.dump);
        let results = self.pending.next_outcomes(&kept, &mut self.folds);
        self.hand_over(paused, results)
    }

    fn hand_over(&mut self, paused: ResolveFutures, results: Results) -> Result<RunProgress, Stop> {
        Ok(paused.resume(results, self.log.writer())?)
    }

    /// Nothing can run until something comes from outside, unless the workflow itself has just provided it.
    pub(super) fn quiescent(&mut self, progress: RunProgress) -> Result<Quiescent, Stop> {
        let mut results = self.given_up(&progress)?;
        let mut dump = None;
        if results.is_empty() {
            (results, dump) = self.forsaken(&progress)?;
        }
        if results.is_empty() && self.pending.inbox.front().is_some() {
            let state = dump.map_or_else(|| self.dump(&progress), Ok)?;
            let kept = self.pending.unread(&state);
            results = self.pending.next_outcomes(&kept, &mut self.folds);
            dump = Some(state);
        }
        let RunProgress::ResolveFutures(paused) = progress else { return Ok(Quiescent::GoesOn(progress)) };
        if results.is_empty() {
            return Ok(Quiescent::Waits(RunProgress::ResolveFutures(paused), dump));
        }
        self.hand_over(paused, results).map(Quiescent::GoesOn)
    }

    /// What the workflow has fulfilled, and what it has given up by itself.
    fn given_up(&mut self, progress: &RunProgress) -> Result<Results, Stop> {
        let mut results = std::mem::take(&mut self.pending.fulfilled);
        let coroutines = std::mem::take(&mut self.pending.given_up);
        if !coroutines.is_empty() {
            let dump = self.dump(progress)?;
            for id in waits::below(&dump, &coroutines) {
                match self.pending.unmirror(id) {
                    Some(target) => drop(self.pending.let_go.insert(target)),
                    None if self.pending.promises.contains(&id) => {}
                    None => self.pending.withdrawn.push(self.id(id)),
                }
                results.push((id, exception::cancelled("given up").into()));
            }
        }
        Ok(self.pending.resolve(results))
    }

    /// Withdraws what nobody can await any more: signals and callbacks whoever else still awaits them by itself (a race's
    /// loser), children likewise if they were awaited, and timers that nobody awaits. Functions that were begun go on.
    fn forsaken(&mut self, progress: &RunProgress) -> Result<(Results, Option<Vec<u8>>), Stop> {
        let pending = &mut self.pending;
        let let_go = std::mem::take(&mut pending.let_go);
        let open = |id: &&u32| pending.open.contains(id);
        let candidates: BTreeSet<u32> = pending.kinds.keys().chain(&let_go).filter(open).copied().collect();
        // What alone is pending is awaited by the workflow itself.
        if candidates.is_empty() || pending.open.len() == 1 {
            return Ok((Vec::new(), None));
        }
        let dump = self.dump(progress)?;
        let aside = waits::aside(&dump, &candidates);
        if aside.is_empty() {
            return Ok((Vec::new(), Some(dump)));
        }
        let mut results = Vec::new();
        for Forsaken { call, awaited } in reach::forsaken(&dump, &aside) {
            let awaited = awaited || self.pending.mirrors.contains_key(&call);
            let withdraws = let_go.contains(&call)
                || match self.pending.kinds.get(&call) {
                    Some(CallKind::Signal | CallKind::Callback) => true,
                    // One that is started and never awaited is meant to run beside, until its parent ends.
                    Some(CallKind::Child) => awaited || self.pending.raced.contains(&call),
                    Some(CallKind::Timer | CallKind::Drain) => !awaited,
                    Some(CallKind::Function | CallKind::Send) | None => false,
                };
            if withdraws {
                self.pending.withdrawn.push(self.id(call));
                results.push((call, exception::cancelled("nobody can await it any more").into()));
            }
        }
        Ok((self.pending.resolve(results), Some(dump)))
    }

    fn dump(&self, progress: &RunProgress) -> Result<Vec<u8>, Stop> {
        monty::dump(&self.turn.program.file, None, &[], SessionRef::Running(progress))
            .map_err(|error| Stop::Refused(AdvanceError::Crashed(format!("the state cannot be saved: {error}"))))
    }

    /// Keeps where the exceptions were raised that are being handled meanwhile.
    pub(super) fn remember(&mut self, origin: Origin<'_>, progress: &RunProgress) -> Result<(), Stop> {
        if self.left.is_some() || !self.turn.program.awaits_in_handlers {
            return Ok(());
        }
        let handling = self.dump(progress)?.get(DUMP_HEADER..).is_some_and(handlers::in_flight);
        self.raised = match handling {
            true => traceback::to_remember(self.turn, origin, &self.raised),
            false => Vec::new(),
        };
        Ok(())
    }

    /// The workflow waits for something from outside. `old` are the wake rules at the last pause.
    pub(super) fn pause(
        &mut self,
        (progress, dump): (&RunProgress, Option<Vec<u8>>),
        old: &[(CallId, Wake)],
        base: Option<&[u8]>,
    ) -> Result<End, Stop> {
        let waited: Vec<u32> = self.pending.open.difference(&self.pending.promises).copied().collect();
        if waited.is_empty() {
            let text = "the workflow waits for itself: every task that is left awaits a spawned one that cannot end";
            return Ok(self.fail(Failure::new("RuntimeError", text)));
        }
        let dump = dump.map_or_else(|| self.dump(progress), Ok)?;
        if let Some(why) = snapshot::too_large(dump.len()) {
            return Ok(self.fail(Failure::new("MemoryError", why)));
        }
        let wake = |(id, wake): (u32, Wake)| {
            // Whoever waits for a mirror waits for this.
            let mirrored = self.pending.mirrors.contains_key(&id);
            (self.id(id), if mirrored { Wake::Alone } else { wake })
        };
        let wakes: Vec<_> = waits::read(&dump, &waited).into_iter().map(wake).collect();
        let mut new_calls = std::mem::take(&mut self.calls);
        let by_id: BTreeMap<CallId, Wake> = wakes.iter().copied().collect();
        for call in &mut new_calls {
            call.wake = by_id.get(&call.id).copied().unwrap_or(Wake::OnFailure);
            call.abandoned = self.pending.withdrawn.contains(&call.id);
        }
        let changed =
            |(id, wake): &(CallId, Wake)| by_id.get(id).copied().filter(|new| new != wake).map(|new| (*id, new));
        let rewoken = old.iter().filter_map(changed).collect();
        let waits_for_earlier = old.iter().any(|(id, _)| by_id.contains_key(id));
        let has_groups = wakes.iter().any(|(_, wake)| matches!(wake, Wake::Group(_)));
        let Pending { kinds, promises, mirrors, .. } = &mut self.pending;
        let (kinds, promises, mirrors) = (std::mem::take(kinds), std::mem::take(promises), std::mem::take(mirrors));
        let modules = std::mem::take(&mut self.modules);
        let (first_call, renumbered) = (self.ids.base(), self.ids.kept(&waited));
        let (folds, raised) = (std::mem::take(&mut self.folds), std::mem::take(&mut self.raised));
        let state = State { dump, wakes, modules, promises, first_call, kinds, mirrors, renumbered, folds, raised };
        let (base, snapshot) = match base {
            Some(base) => (None, snapshot::seal(&state, Some(base))),
            None => {
                let first = snapshot::seal(&state, None);
                let dictionary = snapshot::open_base(&first)?;
                (Some(first), snapshot::seal(&state, Some(&dictionary)))
            }
        };
        Ok(End::Pause(Pause { snapshot, base, new_calls, rewoken, waits_for_earlier, has_groups }))
    }
}
