//! Which of the awaitables that a paused workflow has made somebody may still await.
//!
//! Decided by the program's references, as its garbage collector would: from the workflow's own task and its global names
//! to all that they hold, await or let run. A task that nobody awaits and nobody holds (a race's loser, what a failed gather
//! leaves behind) does not count, though it may go on.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use super::{
    layout::{self, Frame, Future, Gather, Paused, Task, VmState},
    refs::{AnyRefs, Refs},
};

/// A pending call whose outcome can reach nobody.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forsaken {
    pub(super) call: u32,
    /// Whether a task that goes on by itself awaits it.
    pub(super) awaited: bool,
}

/// Those of these pending calls that nobody can await any more. None where the dump cannot be read: then all of them go
/// on waiting.
pub(super) fn forsaken(dump: &[u8], calls: &BTreeSet<u32>) -> Vec<Forsaken> {
    let Some(paused) = layout::paused::<Object>(dump) else { return Vec::new() };
    let reached = reached(&paused);
    let entries = paused.heap.entries.iter().enumerate();
    entries
        .filter(|(place, _)| !reached.contains(place))
        .filter_map(|(_, entry)| {
            let Object { kind: Kind::Future(future), .. } = &entry.as_ref()?.data.0 else { return None };
            let pending = future.state.0.pending.as_ref()?;
            let (call, awaited) = (future.call_id, pending.awaiter.is_some());
            calls.contains(&call).then_some(Forsaken { call, awaited })
        })
        .collect()
}

/// The places in the heap that the living parts of the program lead to.
fn reached(paused: &Paused<Object>) -> BTreeSet<usize> {
    let VmState { stack, globals, frames, scheduler } = &paused.vm_state;
    let held_by = |id: u32, task: &Task| {
        // The context of the current task is not in it.
        let (stack, frames) =
            if scheduler.current_task == Some(id) { (stack, frames) } else { (&task.stack, &task.frames) };
        let held = stack.0.iter().chain(frames.iter().flat_map(names));
        held.copied().chain(task.state.0.blocked).collect::<Vec<_>>()
    };
    let mut open = globals.0.clone();
    if let Some(main) = scheduler.tasks.get(&layout::MAIN) {
        open.extend(held_by(layout::MAIN, main));
    }
    let mut reached = BTreeSet::new();
    while let Some(place) = open.pop() {
        let Some(entry) = paused.heap.entries.get(place).and_then(Option::as_ref) else { continue };
        if !reached.insert(place) {
            continue;
        }
        open.extend(&entry.data.0.holds);
        if let Some((id, task)) =
            scheduler.coroutine_to_task.get(&place).and_then(|id| Some((*id, scheduler.tasks.get(id)?)))
        {
            open.extend(held_by(id, task));
        }
    }
    reached
}

fn names(frame: &Frame) -> &[usize] {
    frame.namespace.as_ref().map_or(&[], |names| &names.0)
}

/// What the heap holds at an index.
#[derive(Default)]
struct Object {
    holds: Vec<usize>,
    kind: Kind,
}

#[derive(Default)]
enum Kind {
    Future(Future),
    #[default]
    Other,
}

/// What holds nothing that can be awaited.
const LEAVES: [&str; 8] = ["S", "B", "X", "G", "J", "Range", "LongInt", "Path"];

/// What holds Python values, and nothing by its bare place: lists, tuples, dicts, sets, cells, classes, modules and their like.
const CONTAINERS: [&str; 10] = ["L", "Q", "T", "N", "D", "E", "F", "K", "A", "M"];

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Payload;
        impl<'de> Visitor<'de> for Payload {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of the heap")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let name: String = map.next_key()?.ok_or_else(|| A::Error::custom("an object without a kind"))?;
                read(&name, &mut map)
            }
        }
        deserializer.deserialize_map(Payload)
    }
}

fn read<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Object, A::Error> {
    let holds = match name {
        _ if LEAVES.contains(&name) => map.next_value::<IgnoredAny>().map(|_| Vec::new())?,
        _ if CONTAINERS.contains(&name) || name == "Module" => map.next_value::<Refs>()?.0,
        "ExternalFuture" => {
            let mut future: Future = map.next_value()?;
            let mut holds = std::mem::take(&mut future.state.0.resolved.0);
            holds.append(&mut future.sleep_result.0);
            return Ok(Object { holds, kind: Kind::Future(future) });
        }
        "GatherFuture" => gathered(map.next_value()?),
        "O" => map.next_value::<Coroutine>()?.holds(),
        "C" | "U" => map.next_value::<Function>()?.holds(),
        "I" => map.next_value::<Instance>()?.holds(),
        // What is rare is not told apart: any number in it may be a place.
        _ => map.next_value::<AnyRefs>()?.0,
    };
    Ok(Object { holds, kind: Kind::Other })
}

/// A gather that has ended hands on its results; what it was made of cannot be had from it any more.
fn gathered(gather: Gather) -> Vec<usize> {
    let Gather { items, state } = gather;
    let state = state.0;
    match state.awaited {
        Some(awaited) => items.into_iter().chain(awaited.results.0).collect(),
        None if state.failed.is_some() => Vec::new(),
        None if !state.completed.0.is_empty() => state.completed.0,
        None => items,
    }
}

#[derive(Deserialize)]
struct Coroutine {
    namespace: Refs,
    globals: Option<usize>,
}

impl Coroutine {
    fn holds(self) -> Vec<usize> {
        self.namespace.0.into_iter().chain(self.globals).collect()
    }
}

/// A function with what it has captured and its default values.
#[derive(Deserialize)]
struct Function {
    #[serde(default, rename = "C")]
    cells: Vec<usize>,
    #[serde(rename = "D")]
    defaults: Refs,
    #[serde(rename = "G")]
    globals: Option<usize>,
}

impl Function {
    fn holds(self) -> Vec<usize> {
        self.cells.into_iter().chain(self.defaults.0).chain(self.globals).collect()
    }
}

#[derive(Deserialize)]
struct Instance {
    #[serde(rename = "C")]
    class: usize,
    #[serde(rename = "A")]
    attributes: Refs,
}

impl Instance {
    fn holds(self) -> Vec<usize> {
        self.attributes.0.into_iter().chain([self.class]).collect()
    }
}
