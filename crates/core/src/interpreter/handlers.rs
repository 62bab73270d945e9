//! Takes exception handlers out of a compiled program, so that an exception ends the run where it is raised.
//!
//! The interpreter forgets where an exception came from as soon as any handler sees it. Its layout is private: what
//! cannot be read is left as it is, and costs no more than a less exact traceback.

use std::{collections::BTreeSet, fmt};

use monty_types::StackFrame;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};

/// The interpreter's instruction that raises what is being handled.
const RERAISE: u8 = 98;

/// A place in the program: whether it is in the workflow's own file, where it begins and where it ends.
type Place = (bool, (u32, u32), (u32, u32));

/// The places at which handlers stay as they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(BTreeSet<Place>);

impl Kept {
    /// Keeps the handlers for whatever is raised at a frame. Answers whether that is news.
    pub(super) fn keep(&mut self, file: &str, frame: &StackFrame) -> bool {
        let (start, end) = ((frame.start.line, frame.start.column), (frame.end.line, frame.end.column));
        self.0.insert((frame.filename == file, start, end))
    }
}

/// The texts that a program was compiled from.
pub(super) struct Texts<'a> {
    pub(super) file: &'a str,
    pub(super) prelude: &'a str,
}

/// The serialized program or state, without its handlers but for those at `kept`.
pub(super) fn strip(cbor: &[u8], texts: &Texts<'_>, kept: &Kept) -> Option<Vec<u8>> {
    let mut tree: Tree = minicbor_serde::from_slice(cbor)
        .inspect_err(|error| tracing::debug!(%error, "the program cannot be read; tracebacks are less exact"))
        .ok()?;
    let file = tree.find("module_code")?.file()?;
    let strip = Strip { file, lines: [lines(texts.file), lines(texts.prelude)], texts, kept };
    strip.walk(&mut tree);
    minicbor_serde::to_vec(&tree).ok()
}

/// Whether any task of a saved state is handling an exception.
pub(super) fn in_flight(cbor: &[u8]) -> bool {
    fn any(tree: &Tree) -> bool {
        match tree {
            Tree::Map(pairs) => pairs.iter().any(|(key, value)| {
                let is_stack = matches!(key, Tree::Text(key) if key == "exception_stack");
                is_stack && matches!(value, Tree::List(list) if !list.is_empty()) || any(value)
            }),
            Tree::List(list) => list.iter().any(any),
            _ => false,
        }
    }
    minicbor_serde::from_slice::<Tree>(cbor).is_ok_and(|tree| any(&tree))
}

struct Strip<'a> {
    /// The number of the workflow's own file.
    file: u64,
    lines: [Vec<usize>; 2],
    texts: &'a Texts<'a>,
    kept: &'a Kept,
}

impl Strip<'_> {
    fn walk(&self, tree: &mut Tree) {
        if tree.is_code() {
            self.strip(tree);
        }
        match tree {
            Tree::Map(pairs) => pairs.iter_mut().for_each(|(_, value)| self.walk(value)),
            Tree::List(list) => list.iter_mut().for_each(|value| self.walk(value)),
            _ => {}
        }
    }

    fn strip(&self, code: &mut Tree) {
        let kept = self.kept_in(code).unwrap_or_default();
        mark_passing(code);
        let Some(Tree::List(handlers)) = code.get_mut("E") else { return };
        let whole = std::mem::take(handlers);
        for handler in &whole {
            let Some((start, end)) = handler.number("S").zip(handler.number("E")) else { continue };
            for (from, to) in &kept {
                let (from, to) = (start.max(*from), end.min(*to));
                if from < to {
                    let mut part = handler.clone();
                    part.set("S", from);
                    part.set("E", to);
                    handlers.push(part);
                }
            }
        }
    }

    /// The ranges of instructions that stand at places that are kept.
    fn kept_in(&self, code: &Tree) -> Option<Vec<(u64, u64)>> {
        let Tree::List(table) = code.get("L")? else { return None };
        let entries: Vec<(u64, Place)> = table.iter().filter_map(|entry| self.entry(entry)).collect();
        let ends = entries.iter().skip(1).map(|(offset, _)| *offset).chain([u64::from(u32::MAX) - 1]);
        // A call that failed is looked for where its caller would go on: one instruction further.
        let ranges = entries.iter().zip(ends).map(|((offset, place), end)| (place, (*offset, end + 1)));
        Some(ranges.filter(|(place, _)| self.kept.0.contains(*place)).map(|(_, range)| range).collect())
    }

    fn entry(&self, entry: &Tree) -> Option<(u64, Place)> {
        let range = entry.get("R")?;
        let own = range.number("F")? == self.file;
        let at = |key| self.position(own, usize::try_from(range.number(key)?).ok()?);
        Some((entry.number("B")?, (own, at("S")?, at("E")?)))
    }

    /// Line and column, from 1, of a byte.
    fn position(&self, own: bool, byte: usize) -> Option<(u32, u32)> {
        let (lines, text) = if own { (&self.lines[0], self.texts.file) } else { (&self.lines[1], self.texts.prelude) };
        let line = lines.partition_point(|start| *start <= byte).max(1);
        let before = text.get(*lines.get(line - 1)?..byte)?;
        Some((u32::try_from(line).ok()?, u32::try_from(before.chars().count()).ok()? + 1))
    }
}

/// Gives every instruction that lets an exception pass an empty place: nothing is raised there. The table has an entry for
/// each instruction.
fn mark_passing(code: &mut Tree) {
    let Some(Tree::Bytes(instructions)) = code.get("B").cloned() else { return };
    let passes = |entry: &Tree| {
        let offset = entry.number("B").and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| instructions.get(offset)) == Some(&RERAISE)
    };
    let Some(Tree::List(table)) = code.get_mut("L") else { return };
    for range in table.iter_mut().filter(|entry| passes(entry)).filter_map(|entry| entry.get_mut("R")) {
        range.set("S", 0);
        range.set("E", 0);
    }
}

fn lines(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Anything that was serialized.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Whole(u64),
    Negative(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
}

impl Tree {
    fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(pairs) = self else { return None };
        pairs.iter().find(|(known, _)| matches!(known, Self::Text(known) if known == key)).map(|(_, value)| value)
    }

    fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Self::Map(pairs) = self else { return None };
        pairs.iter_mut().find(|(known, _)| matches!(known, Self::Text(known) if known == key)).map(|(_, value)| value)
    }

    fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Self::Whole(number) => Some(*number),
            _ => None,
        }
    }

    fn set(&mut self, key: &str, number: u64) {
        if let Some(value) = self.get_mut(key) {
            *value = Self::Whole(number);
        }
    }

    /// A function's instructions, with their places and handlers.
    fn is_code(&self) -> bool {
        matches!(self, Self::Map(pairs) if pairs.len() == 5)
            && ["B", "C", "L", "E", "N"].iter().all(|key| self.get(key).is_some())
    }

    /// The number of the file that code comes from.
    fn file(&self) -> Option<u64> {
        let Self::List(table) = self.get("L")? else { return None };
        table.iter().find_map(|entry| entry.get("R")?.number("F"))
    }

    fn find(&self, key: &str) -> Option<&Self> {
        self.get(key).or_else(|| match self {
            Self::Map(pairs) => pairs.iter().find_map(|(_, value)| value.find(key)),
            Self::List(list) => list.iter().find_map(|value| value.find(key)),
            _ => None,
        })
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_none(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Whole(value) => to.serialize_u64(*value),
            Self::Negative(value) => to.serialize_i64(*value),
            Self::Float(value) => to.serialize_f64(*value),
            Self::Text(value) => to.serialize_str(value),
            Self::Bytes(value) => to.serialize_bytes(value),
            Self::List(list) => {
                let mut seq = to.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|value| seq.serialize_element(value))?;
                seq.end()
            }
            Self::Map(pairs) => {
                let mut map = to.serialize_map(Some(pairs.len()))?;
                pairs.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Read)
    }
}

struct Read;

impl<'de> Visitor<'de> for Read {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Tree, D::Error> {
        Tree::deserialize(from)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Whole(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(u64::try_from(value).map_or(Tree::Negative(value), Tree::Whole))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Tree, E> {
        Ok(Tree::Bytes(value.to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Tree::Map(pairs))
    }
}
