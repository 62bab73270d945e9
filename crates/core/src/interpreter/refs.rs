//! References to the heap, wherever they stand in a part of the interpreter's dump.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// How a value that lives in the heap is written: a map with this key alone.
const REFERENCE: &str = "C";

/// The objects that Python values refer to.
#[derive(Debug, Default)]
pub(super) struct Refs(pub(super) Vec<usize>);

/// The same, where it is not known which numbers are references: all of them may be.
#[derive(Debug, Default)]
pub(super) struct AnyRefs(pub(super) Vec<usize>);

impl<'de> Deserialize<'de> for Refs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Vec::new();
        Collector { found: &mut found, numbers: false }.deserialize(deserializer)?;
        Ok(Self(found))
    }
}

impl<'de> Deserialize<'de> for AnyRefs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Vec::new();
        Collector { found: &mut found, numbers: true }.deserialize(deserializer)?;
        Ok(Self(found))
    }
}

struct Collector<'a> {
    found: &'a mut Vec<usize>,
    /// Whether a bare number may be a reference.
    numbers: bool,
}

impl Collector<'_> {
    fn again(&mut self) -> Collector<'_> {
        Collector { found: self.found, numbers: self.numbers }
    }
}

impl<'de> DeserializeSeed<'de> for Collector<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collector<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any part of a dump")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        if self.numbers {
            self.found.extend(usize::try_from(number));
        }
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.again())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let Some(first) = map.next_key::<Key>()? else { return Ok(()) };
        if !matches!(first, Key::Reference) {
            map.next_value_seed(self.again())?;
        } else {
            let before = self.found.len();
            map.next_value_seed(Collector { found: self.found, numbers: true })?;
            let bare = self.found.len() == before + 1;
            if map.next_key::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
            // A record whose first field has that name: a number alone in it is no reference.
            if bare && !self.numbers {
                self.found.truncate(before);
            }
            map.next_value_seed(self.again())?;
        }
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(self.again())?;
        }
        Ok(())
    }
}

/// The first key of a map.
enum Key {
    Reference,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name or number")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
                Ok(if name == REFERENCE { Key::Reference } else { Key::Other })
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Key, E> {
                Ok(Key::Other)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Key, E> {
                Ok(Key::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    #[serde(untagged)]
    enum Part {
        Number(u64),
        Flag(bool),
        List(Vec<Part>),
        Reference {
            #[serde(rename = "C")]
            place: u64,
        },
        Integer {
            #[serde(rename = "I")]
            number: u64,
        },
        Entry {
            #[serde(rename = "K")]
            key: Box<Part>,
            #[serde(rename = "V")]
            value: Box<Part>,
            #[serde(rename = "H")]
            hash: u64,
        },
        Dict {
            #[serde(rename = "E")]
            entries: Vec<Part>,
            #[serde(rename = "C")]
            contains: bool,
        },
        Record {
            #[serde(rename = "C")]
            offset: Box<Part>,
            #[serde(rename = "S")]
            rest: Box<Part>,
        },
    }

    fn reference(place: u64) -> Box<Part> {
        Box::new(Part::Reference { place })
    }

    fn cbor(part: &Part) -> Vec<u8> {
        minicbor_serde::to_vec(part).unwrap()
    }

    #[test]
    fn a_reference_is_a_map_of_one_entry() {
        let entry = Part::Entry { key: reference(1), value: reference(2), hash: 9 };
        let dict = Part::Dict { entries: vec![entry], contains: true };
        let part =
            Part::List(vec![*reference(7), Part::Integer { number: 3 }, dict, Part::Number(4), Part::Flag(true)]);
        let refs: Refs = minicbor_serde::from_slice(&cbor(&part)).unwrap();
        assert_eq!(refs.0, [7, 1, 2]);
        let frame = Part::Record { offset: Box::new(Part::Number(57)), rest: reference(4) };
        let refs: Refs = minicbor_serde::from_slice(&cbor(&frame)).unwrap();
        assert_eq!(refs.0, [4], "a field of that name is none");
        let nested =
            Part::Record { offset: Box::new(Part::List(vec![*reference(5), *reference(6)])), rest: reference(4) };
        let refs: Refs = minicbor_serde::from_slice(&cbor(&nested)).unwrap();
        assert_eq!(refs.0, [5, 6, 4], "but what is in it counts");
    }

    #[test]
    fn where_it_is_not_known_every_number_may_be_one() {
        let part = Part::List(vec![Part::Number(5), Part::Integer { number: 2 }, *reference(8)]);
        let refs: AnyRefs = minicbor_serde::from_slice(&cbor(&part)).unwrap();
        assert_eq!(refs.0, [5, 2, 8]);
    }
}
