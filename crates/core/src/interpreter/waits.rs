//! Which outcomes let a paused workflow go on.
//!
//! Read from the interpreter's dump: its layout is private, so the fields that matter are pinned
//! here and tested, and whatever cannot be read counts as [`Wake::Alone`], which is always right
//! and only costs resumes.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    marker::PhantomData,
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::model::Wake;

/// Bytes before the dump's payload: magic and version.
pub(super) const DUMP_HEADER: usize = 8;

/// One wake rule per pending call, in order of call ids.
pub(super) fn read(dump: &[u8], pending: &[u32]) -> Vec<(u32, Wake)> {
    let mut pending = pending.to_vec();
    pending.sort_unstable();
    let known = if pending.len() > 1 { graph(dump).map(|graph| graph.wakes()) } else { None };
    let wake = |id: u32| known.as_ref().and_then(|wakes| wakes.get(&id).copied()).unwrap_or(Wake::Alone);
    pending.into_iter().map(|id| (id, wake(id))).collect()
}

/// Where an object stands in the heap, from what Python's `id()` says of it: the low five bits tell its kind.
pub(super) fn place_of(id: usize) -> usize {
    id >> 5
}

/// The calls that the tasks of these coroutines wait for, directly or through others. `coroutines` are places in the
/// heap. None where the dump cannot be read: then these calls go on, and their outcomes come to nobody.
pub(super) fn below(dump: &[u8], coroutines: &[usize]) -> Vec<u32> {
    let read = dump.get(DUMP_HEADER..).and_then(|payload| {
        minicbor_serde::from_slice::<Dump<Whole>>(payload)
            .inspect_err(|error| tracing::debug!(%error, "the dump's tasks cannot be read; nothing is given up"))
            .ok()
    });
    let Some(Dump { state: State::Running(Progress::ResolveFutures(whole)) }) = read else { return Vec::new() };
    let (graph, scheduler) = (Graph(whole.heap.entries), whole.vm_state.scheduler);
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

fn graph(dump: &[u8]) -> Option<Graph> {
    let payload = dump.get(DUMP_HEADER..)?;
    let dump: Dump<Paused> = minicbor_serde::from_slice(payload)
        .inspect_err(|error| tracing::debug!(%error, "the dump's waits cannot be read; every outcome wakes"))
        .ok()?;
    let State::Running(Progress::ResolveFutures(paused)) = dump.state;
    Some(Graph(paused.heap.entries))
}

#[derive(Deserialize)]
struct Dump<P> {
    state: State<P>,
}

#[derive(Deserialize)]
enum State<P> {
    Running(Progress<P>),
}

#[derive(Deserialize)]
enum Progress<P> {
    ResolveFutures(P),
}

/// A paused run with its tasks.
#[derive(Deserialize)]
struct Whole {
    heap: Heap,
    vm_state: VmState,
}

#[derive(Deserialize)]
struct VmState {
    scheduler: Scheduler,
}

#[derive(Deserialize)]
struct Scheduler {
    tasks: HashMap<u32, Task>,
    coroutine_to_task: HashMap<usize, u32>,
}

#[derive(Deserialize)]
struct Task {
    state: Variant<TaskState>,
}

#[derive(Deserialize, Default)]
struct TaskState {
    #[serde(rename = "Blocked")]
    blocked: Option<usize>,
}

#[derive(Deserialize)]
struct Paused {
    heap: Heap,
}

#[derive(Deserialize)]
struct Heap {
    entries: Vec<Option<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "D")]
    data: Variant<Data>,
}

/// What the heap holds at an index, as far as waiting goes.
#[derive(Deserialize, Default)]
struct Data {
    #[serde(rename = "ExternalFuture")]
    future: Option<Future>,
    #[serde(rename = "GatherFuture")]
    gather: Option<Gather>,
}

#[derive(Deserialize)]
struct Future {
    call_id: u32,
    state: Variant<FutureState>,
}

#[derive(Deserialize, Default)]
struct FutureState {
    #[serde(rename = "Pending")]
    pending: Option<PendingFuture>,
}

#[derive(Deserialize)]
struct PendingFuture {
    awaiter: Option<Awaiter>,
}

#[derive(Deserialize)]
struct Gather {
    items: Vec<usize>,
    state: Variant<GatherState>,
}

#[derive(Deserialize, Default)]
struct GatherState {
    #[serde(rename = "Awaited")]
    awaited: Option<Awaited>,
}

#[derive(Deserialize)]
struct Awaited {
    awaiter: Awaiter,
    pending_children: HashMap<usize, IgnoredAny>,
}

#[derive(Deserialize, Clone, Copy)]
enum Awaiter {
    Task(IgnoredAny),
    GatherSlot { gather: usize },
}

/// An enum of which only some variants matter, read as a struct of optional ones: a variant with
/// content is encoded as a map of one entry, a variant without as a text.
#[derive(Default)]
struct Variant<T>(T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Variant<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Either<T> {
            type Value = Variant<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an enum variant")
            }

            fn visit_str<E>(self, _: &str) -> Result<Variant<T>, E> {
                Ok(Variant::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Variant<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Variant)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

struct Graph(Vec<Option<Entry>>);

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
