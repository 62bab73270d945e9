//! What the interpreter's dump holds, as far as waiting goes.
//!
//! The layout is private to the interpreter: the fields that matter are pinned here and tested, and whoever reads them has
//! an answer for a dump that cannot be read.

use std::{collections::HashMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::refs::{AnyRefs, Refs};

/// Bytes before the dump's payload: magic and version.
pub(super) const DUMP_HEADER: usize = 8;

/// A paused run, with what `D` wants of each object of its heap.
pub(super) fn paused<D: DeserializeOwned + Default>(dump: &[u8]) -> Option<Paused<D>> {
    let payload = dump.get(DUMP_HEADER..)?;
    let dump: Dump<D> = minicbor_serde::from_slice(payload)
        .inspect_err(|error| tracing::debug!(%error, "the dump's waits cannot be read"))
        .ok()?;
    let State::Running(Progress::ResolveFutures(paused)) = dump.state;
    Some(paused)
}

/// Where an object stands in the heap, from what Python's `id()` says of it: the low five bits tell its kind.
pub(super) fn place_of(id: usize) -> usize {
    id >> 5
}

/// The task that runs the workflow itself.
pub(super) const MAIN: u32 = 0;

#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned + Default")]
struct Dump<D> {
    state: State<D>,
}

#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned + Default")]
enum State<D> {
    Running(Progress<D>),
}

#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned + Default")]
enum Progress<D> {
    ResolveFutures(Paused<D>),
}

/// A paused run.
#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned + Default")]
pub(super) struct Paused<D> {
    pub(super) heap: Heap<D>,
    pub(super) vm_state: VmState,
}

/// What a paused run holds outside its heap. The context of the current task is here, that of the others in their tasks.
#[derive(Deserialize)]
pub(super) struct VmState {
    pub(super) stack: Refs,
    pub(super) globals: Refs,
    pub(super) frames: Vec<Frame>,
    pub(super) scheduler: Scheduler,
}

#[derive(Deserialize)]
pub(super) struct Scheduler {
    pub(super) tasks: HashMap<u32, Task>,
    pub(super) current_task: Option<u32>,
    pub(super) coroutine_to_task: HashMap<usize, u32>,
}

#[derive(Deserialize)]
pub(super) struct Task {
    pub(super) stack: Refs,
    pub(super) frames: Vec<Frame>,
    pub(super) awaiter: Option<Awaiter>,
    pub(super) state: Variant<TaskState>,
}

#[derive(Deserialize)]
pub(super) struct Frame {
    #[serde(alias = "N")]
    pub(super) namespace: Option<AnyRefs>,
}

#[derive(Deserialize, Default)]
pub(super) struct TaskState {
    #[serde(rename = "Blocked")]
    pub(super) blocked: Option<usize>,
}

#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned + Default")]
pub(super) struct Heap<D> {
    pub(super) entries: Vec<Option<Entry<D>>>,
}

#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned + Default")]
pub(super) struct Entry<D> {
    #[serde(rename = "D")]
    pub(super) data: Variant<D>,
}

#[derive(Deserialize)]
pub(super) struct Future {
    pub(super) call_id: u32,
    pub(super) state: Variant<FutureState>,
    pub(super) sleep_result: Refs,
}

#[derive(Deserialize, Default)]
pub(super) struct FutureState {
    #[serde(rename = "Pending")]
    pub(super) pending: Option<PendingFuture>,
    #[serde(default, rename = "Resolved")]
    pub(super) resolved: Refs,
}

#[derive(Deserialize)]
pub(super) struct PendingFuture {
    pub(super) awaiter: Option<Awaiter>,
}

#[derive(Deserialize)]
pub(super) struct Gather {
    pub(super) items: Vec<usize>,
    pub(super) state: Variant<GatherState>,
}

#[derive(Deserialize, Default)]
pub(super) struct GatherState {
    #[serde(rename = "Awaited")]
    pub(super) awaited: Option<Awaited>,
    #[serde(default, rename = "Completed")]
    pub(super) completed: Refs,
    #[serde(rename = "Failed")]
    pub(super) failed: Option<IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct Awaited {
    pub(super) awaiter: Awaiter,
    pub(super) pending_children: HashMap<usize, IgnoredAny>,
    pub(super) results: Refs,
}

#[derive(Deserialize, Clone, Copy)]
pub(super) enum Awaiter {
    Task(u32),
    GatherSlot { gather: usize },
}

/// An enum of which only some variants matter, read as a struct of optional ones: a variant with
/// content is encoded as a map of one entry, a variant without as a text.
#[derive(Default)]
pub(super) struct Variant<T>(pub(super) T);

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
