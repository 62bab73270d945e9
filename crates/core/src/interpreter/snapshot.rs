//! The saved state of an execution, sealed: compressed, tagged with what wrote it, checksummed.
//!
//! Every dump repeats the program, so each snapshot is compressed against the execution's first
//! state as dictionary: a step then stores some hundred bytes. A snapshot that does not verify is
//! refused and never reaches the interpreter, which would believe whatever it is given.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{prelude::Module, traceback::Seen};
use crate::{
    id::CallId,
    model::{CallKind, Wake},
};

/// Level of compression: beyond 3 the dictionary has already done the work.
const LEVEL: i32 = 3;

/// Dictionaries longer than this cost more to prepare than they save.
const MAX_DICTIONARY: usize = 256 << 10;

/// Bytes of BLAKE3 in front of a snapshot.
const CHECKSUM: usize = 16;

/// Largest state that is read back.
const MAX_STATE: usize = 1 << 30;

/// Largest dump that is sealed: with what stands beside it, it can be read back.
const MAX_DUMP: usize = MAX_STATE - (64 << 20);

/// Written beside each snapshot: engine, dump version, compression.
const FORMAT_PREFIX: &str = "monty/";

/// A sealed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What wrote it, such as `monty/1.4.0 dump/14 zstd`.
    pub format: String,
    /// Checksum and compressed state.
    pub bytes: Vec<u8>,
}

/// Why a snapshot is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are not those that were stored.
    #[error("the snapshot does not match its checksum: the stored bytes were changed. It was not loaded")]
    Corrupt,
    /// Something else wrote it.
    #[error("the snapshot has the format {found:?}, which this program ({own}) does not read")]
    Foreign {
        /// The format beside the snapshot.
        found: String,
        /// What this program writes.
        own: String,
    },
    /// The bytes are right and the interpreter refuses them.
    #[error("the interpreter does not read the snapshot: {0}")]
    Unreadable(String),
}

/// An execution's state between two turns.
#[derive(Debug)]
pub(super) struct State {
    /// The interpreter's own dump.
    pub dump: Vec<u8>,
    /// The wake rule of each pending call, as last written to the database.
    pub wakes: Vec<(CallId, Wake)>,
    /// The prelude's modules.
    pub modules: Vec<Module>,
    /// Pending awaitables that are no calls.
    pub promises: BTreeSet<u32>,
    /// What the interpreter's numbers of calls are counted from.
    pub first_call: u32,
    /// The pending calls that no function settles, by the interpreter's numbers.
    pub kinds: BTreeMap<u32, CallKind>,
    /// Promises that end with another awaitable.
    pub mirrors: BTreeMap<u32, Vec<u32>>,
    /// Pending calls whose numbers on record are others: the interpreter's, and the record's.
    pub renumbered: Vec<(u32, u32)>,
    /// Instants of a repeated hour that came in: see [`super::folds`].
    pub folds: BTreeSet<String>,
    /// The exceptions that it is handling, where they were raised.
    pub raised: Vec<Seen>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// Call id and wake rule in the form of the database column.
    wakes: Vec<(CallId, Option<i64>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    modules: Vec<Module>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    promises: BTreeSet<u32>,
    #[serde(default)]
    first_call: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    kinds: BTreeMap<u32, CallKind>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    mirrors: BTreeMap<u32, Vec<u32>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    renumbered: Vec<(u32, u32)>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    folds: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    raised: Vec<Seen>,
}

/// What this program writes.
pub fn format() -> String {
    format!("{FORMAT_PREFIX}{} dump/{} zstd", monty_types::MONTY_VERSION, monty::DUMP_VERSION)
}

/// Why a dump of so many bytes is not kept, if it is not: a sentence.
pub(super) fn too_large(bytes: usize) -> Option<String> {
    (bytes > MAX_DUMP).then(|| {
        format!(
            "the workflow's state has {} MiB where it waits, and at most {} MiB are kept: keep large data in files or an \
             object store, and hold its name",
            bytes >> 20,
            MAX_DUMP >> 20
        )
    })
}

/// Seals a state. `base` is what [`open_base`] needs: the first sealed state of the execution, or
/// none when this is the first.
pub(super) fn seal(state: &State, base: Option<&[u8]>) -> Snapshot {
    let payload = encode(state);
    let dictionary = base.map(dictionary).unwrap_or_default();
    let packed = compress(&payload, dictionary);
    let mut bytes = checksum(&packed, dictionary).to_vec();
    bytes.extend_from_slice(&packed);
    Snapshot { format: format(), bytes }
}

/// Opens a sealed state. `base`: the opened first state, when this snapshot was sealed against it.
pub(super) fn open(snapshot: &Snapshot, base: Option<&[u8]>) -> Result<State, SnapshotError> {
    decode(&open_payload(snapshot, base)?).ok_or(SnapshotError::Corrupt)
}

/// The dictionary bytes of an execution's first sealed state.
pub(super) fn open_base(snapshot: &Snapshot) -> Result<Vec<u8>, SnapshotError> {
    open_payload(snapshot, None)
}

fn open_payload(snapshot: &Snapshot, base: Option<&[u8]>) -> Result<Vec<u8>, SnapshotError> {
    if !snapshot.format.starts_with(FORMAT_PREFIX) || !snapshot.format.ends_with(" zstd") {
        return Err(SnapshotError::Foreign { found: snapshot.format.clone(), own: format() });
    }
    let dictionary = base.map(dictionary).unwrap_or_default();
    let (sum, packed) = snapshot.bytes.split_at_checked(CHECKSUM).ok_or(SnapshotError::Corrupt)?;
    if checksum(packed, dictionary) != sum {
        return Err(SnapshotError::Corrupt);
    }
    decompress(packed, dictionary).ok_or(SnapshotError::Corrupt)
}

fn dictionary(base: &[u8]) -> &[u8] {
    &base[..base.len().min(MAX_DICTIONARY)]
}

/// Covers the dictionary too: bytes that verify but unpack against another base are not the state.
fn checksum(packed: &[u8], dictionary: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(dictionary.len() as u64).to_le_bytes()).update(dictionary).update(packed);
    let mut sum = [0; CHECKSUM];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

fn compress(payload: &[u8], dictionary: &[u8]) -> Vec<u8> {
    zstd::bulk::Compressor::with_dictionary(LEVEL, dictionary)
        .and_then(|mut compressor| compressor.compress(payload))
        .unwrap_or_else(|error| unreachable!("zstd compresses any bytes in memory: {error}"))
}

fn decompress(packed: &[u8], dictionary: &[u8]) -> Option<Vec<u8>> {
    let mut decompressor = zstd::bulk::Decompressor::with_dictionary(dictionary).ok()?;
    let size = zstd::bulk::Decompressor::upper_bound(packed).filter(|size| *size <= MAX_STATE)?;
    decompressor.decompress(packed, size).ok()
}

fn encode(state: &State) -> Vec<u8> {
    let wakes = state.wakes.iter().map(|(id, wake)| (*id, wake.to_column())).collect();
    let header = Header {
        wakes,
        modules: state.modules.clone(),
        promises: state.promises.clone(),
        first_call: state.first_call,
        kinds: state.kinds.clone(),
        mirrors: state.mirrors.clone(),
        renumbered: state.renumbered.clone(),
        folds: state.folds.clone(),
        raised: state.raised.clone(),
    };
    let header = serde_json::to_vec(&header).unwrap_or_default();
    // The dump comes first: it holds the program, which is the part worth having in a dictionary.
    let mut payload = Vec::with_capacity(state.dump.len() + header.len() + 8);
    payload.extend_from_slice(&(state.dump.len() as u64).to_le_bytes());
    payload.extend_from_slice(&state.dump);
    payload.extend_from_slice(&header);
    payload
}

fn decode(payload: &[u8]) -> Option<State> {
    let (length, rest) = payload.split_at_checked(8)?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (dump, header) = rest.split_at_checked(length)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    let wakes = header.wakes.iter().map(|(id, wake)| (*id, Wake::from_column(*wake))).collect();
    let Header { modules, promises, first_call, kinds, mirrors, renumbered, folds, raised, .. } = header;
    let dump = dump.to_vec();
    Some(State { dump, wakes, modules, promises, first_call, kinds, mirrors, renumbered, folds, raised })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> State {
        let dump = text.repeat(500).into_bytes();
        State {
            dump,
            wakes: vec![(CallId(3), Wake::Alone), (CallId(4), Wake::Group(5))],
            modules: Vec::new(),
            promises: BTreeSet::from([7]),
            first_call: 2,
            kinds: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            renumbered: vec![(3, 4)],
            folds: BTreeSet::from(["2026-10-25T02:30:00".to_owned()]),
            raised: Vec::new(),
        }
    }

    #[test]
    fn a_snapshot_opens_to_the_state_that_was_sealed() {
        let first = seal(&state("program "), None);
        let base = open_base(&first).unwrap();
        let next = seal(&state("program "), Some(&base));
        assert!(next.bytes.len() < first.bytes.len());
        let opened = open(&next, Some(&base)).unwrap();
        assert_eq!(opened.dump, state("program ").dump);
        assert_eq!(opened.wakes, [(CallId(3), Wake::Alone), (CallId(4), Wake::Group(5))]);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        let base = open_base(&seal(&state("a"), None)).unwrap();
        let snapshot = seal(&state("ab"), Some(&base));
        for bit in 0..snapshot.bytes.len() * 8 {
            let mut changed = snapshot.clone();
            changed.bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&changed, Some(&base)).unwrap_err(), SnapshotError::Corrupt, "bit {bit}");
        }
        let mut other = base;
        other[20] ^= 1;
        assert_eq!(open(&snapshot, Some(&other)).unwrap_err(), SnapshotError::Corrupt, "another base");
    }

    #[test]
    fn a_state_that_could_not_be_read_back_is_refused_with_its_size() {
        assert_eq!(too_large(MAX_DUMP), None);
        let why = too_large(1 << 30).unwrap();
        assert!(why.contains("1024 MiB") && why.contains("960 MiB"), "{why}");
    }

    #[test]
    fn a_foreign_format_is_named() {
        let mut snapshot = seal(&state("a"), None);
        snapshot.format = "other/2".into();
        let message = open(&snapshot, None).unwrap_err().to_string();
        assert!(message.contains("other/2") && message.contains("dump/14"), "{message}");
    }
}
