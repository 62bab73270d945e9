//! Which outcomes let a paused workflow go on.
//!
//! Read from the interpreter's dump. Whatever cannot be read counts as [`Wake::Alone`], which is always right
//! and only costs resumes.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;

use super::layout::{self, Awaited, Awaiter, Entry, Future, Gather, Paused, Scheduler};
use crate::model::Wake;

/// One wake rule per pending call, in order of call ids.
pub(super) fn read(dump: &[u8], pending: &[u32]) -> Vec<(u32, Wake)> {
    let mut pending = pending.to_vec();
    pending.sort_unstable();
    let known = if pending.len() > 1 { open(dump).map(|(graph, _)| graph.wakes()) } else { None };
    let wake = |id: u32| known.as_ref().and_then(|wakes| wakes.get(&id).copied()).unwrap_or(Wake::Alone);
    pending.into_iter().map(|id| (id, wake(id))).collect()
}

/// The calls that the tasks of these coroutines wait for, directly or through others. `coroutines` are places in the
/// heap. None where the dump cannot be read: then these calls go on, and their outcomes come to nobody.
pub(super) fn below(dump: &[u8], coroutines: &[usize]) -> Vec<u32> {
    let Some((graph, scheduler)) = open(dump) else { return Vec::new() };
    let waits_for = |coroutine: usize| {
        let task = scheduler.tasks.get(scheduler.coroutine_to_task.get(&coroutine)?)?;
        task.state.0.blocked
    };
    let mut open: Vec<usize> = coroutines.iter().filter_map(|coroutine| waits_for(*coroutine)).collect();
    let (mut calls, mut seen) = (BTreeSet::new(), BTreeSet::new());
    while let Some(place) = open.pop() {
        if !seen.insert(place) {
            continue;
        }
        match graph.at(place) {
            Some(Data { future: Some(future), .. }) if future.state.0.pending.is_some() => {
                calls.insert(future.call_id);
            }
            Some(Data { gather: Some(_), .. }) => {
                open.extend(graph.awaited(place).into_iter().flat_map(|gather| gather.pending_children.keys()));
            }
            _ => open.extend(waits_for(place)),
        }
    }
    calls.into_iter().collect()
}

/// Those of these pending calls that the workflow's own task does not await, neither directly nor through gathers and
/// the tasks in them. Whether anybody else may still await them is another question.
pub(super) fn aside(dump: &[u8], calls: &BTreeSet<u32>) -> BTreeSet<u32> {
    let Some((graph, scheduler)) = open(dump) else { return BTreeSet::new() };
    let mut known: HashMap<u32, bool> = HashMap::from([(layout::MAIN, true)]);
    let futures = graph.0.iter().flatten().filter_map(|entry| entry.data.0.future.as_ref());
    let mut aside = BTreeSet::new();
    for future in futures.filter(|future| calls.contains(&future.call_id)) {
        let Some(pending) = &future.state.0.pending else { continue };
        if !pending.awaiter.is_some_and(|awaiter| graph.leads_to_main(awaiter, &scheduler, &mut known)) {
            aside.insert(future.call_id);
        }
    }
    aside
}

/// Those of these pending calls that no task awaits.
pub(super) fn unawaited(dump: &[u8], calls: &BTreeSet<u32>) -> BTreeSet<u32> {
    let Some((graph, _)) = (if calls.is_empty() { None } else { open(dump) }) else { return BTreeSet::new() };
    let futures = graph.0.iter().flatten().filter_map(|entry| entry.data.0.future.as_ref());
    let unawaited = futures.filter(|future| future.state.0.pending.as_ref().is_some_and(|it| it.awaiter.is_none()));
    unawaited.map(|future| future.call_id).filter(|id| calls.contains(id)).collect()
}

fn open(dump: &[u8]) -> Option<(Graph, Scheduler)> {
    let Paused { heap, vm_state } = layout::paused::<Data>(dump)?;
    Some((Graph(heap.entries), vm_state.scheduler))
}

/// What the heap holds at an index, as far as waiting goes.
#[derive(Deserialize, Default)]
struct Data {
    #[serde(rename = "ExternalFuture")]
    future: Option<Future>,
    #[serde(rename = "GatherFuture")]
    gather: Option<Gather>,
}

struct Graph(Vec<Option<Entry<Data>>>);

impl Graph {
    fn at(&self, index: usize) -> Option<&Data> {
        Some(&self.0.get(index)?.as_ref()?.data.0)
    }

    fn awaited(&self, gather: usize) -> Option<&Awaited> {
        self.at(gather)?.gather.as_ref()?.state.0.awaited.as_ref()
    }

    fn wakes(&self) -> HashMap<u32, Wake> {
        let mut groups = HashMap::new();
        let mut wakes = HashMap::new();
        for future in self.0.iter().flatten().filter_map(|entry| entry.data.0.future.as_ref()) {
            let Some(pending) = &future.state.0.pending else { continue };
            let wake = match pending.awaiter {
                None => Wake::OnFailure,
                Some(Awaiter::Task(_)) => Wake::Alone,
                Some(Awaiter::GatherSlot { gather }) => match self.outermost(gather) {
                    Some(root) => *groups.entry(root).or_insert_with(|| self.group(root)),
                    None => Wake::OnFailure,
                },
            };
            wakes.insert(future.call_id, wake);
        }
        wakes
    }

    /// Whether the workflow's own task waits for this, be it through others. `known` are tasks that were asked about before.
    fn leads_to_main(&self, awaiter: Awaiter, scheduler: &Scheduler, known: &mut HashMap<u32, bool>) -> bool {
        let (mut awaiter, mut passed) = (Some(awaiter), Vec::new());
        // Waiting has no cycles; the bound is for a dump that says otherwise.
        let mut steps = 0..=self.0.len();
        let leads = loop {
            match awaiter.filter(|_| steps.next().is_some()) {
                None => break false,
                Some(Awaiter::GatherSlot { gather }) => awaiter = self.awaited(gather).map(|gather| gather.awaiter),
                Some(Awaiter::Task(task)) => {
                    if let Some(leads) = known.get(&task) {
                        break *leads;
                    }
                    passed.push(task);
                    awaiter = scheduler.tasks.get(&task).and_then(|task| task.awaiter);
                }
            }
        };
        known.extend(passed.into_iter().map(|task| (task, leads)));
        leads
    }

    /// The outermost gather around `gather`, when a task waits for it.
    fn outermost(&self, mut gather: usize) -> Option<usize> {
        // Gathers nest without cycles; the bound is for a dump that says otherwise.
        for _ in 0..=self.0.len() {
            match self.awaited(gather)?.awaiter {
                Awaiter::GatherSlot { gather: outer } => gather = outer,
                Awaiter::Task(_) => return Some(gather),
            }
        }
        None
    }

    /// The wake rule of every call that the gather at `root` still waits for.
    fn group(&self, root: usize) -> Wake {
        let (mut pending, mut plain) = (0, true);
        let mut open = vec![root];
        while let Some(awaited) = open.pop().and_then(|gather| self.awaited(gather)) {
            for child in awaited.pending_children.keys() {
                match self.at(*child) {
                    Some(Data { future: Some(_), .. }) => pending += 1,
                    Some(Data { gather: Some(_), .. }) if open.len() <= self.0.len() => open.push(*child),
                    _ => plain = false,
                }
            }
        }
        match (plain, pending, self.first_call(root)) {
            (true, 1, _) => Wake::Alone,
            (true, _, Some(first)) => Wake::Group(i64::from(first) + 1),
            _ => Wake::OnFailure,
        }
    }

    /// The lowest call id below `root`, settled or not: it names the group at every suspension.
    fn first_call(&self, root: usize) -> Option<u32> {
        let mut first: Option<u32> = None;
        let mut open = vec![root];
        let mut seen = 0;
        while let Some(index) = open.pop().filter(|_| seen <= self.0.len()) {
            seen += 1;
            match self.at(index) {
                Some(Data { future: Some(future), .. }) => {
                    first = Some(first.map_or(future.call_id, |first| first.min(future.call_id)));
                }
                Some(Data { gather: Some(gather), .. }) => open.extend(&gather.items),
                _ => {}
            }
        }
        first
    }
}
