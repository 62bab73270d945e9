//! Values ⇄ JSON, natural and lossless.
//!
//! Plain JSON where JSON has the value; one tagged object for everything else. The same table is
//! spoken by the Python function host (`crates/worker/src/python/host/values.py`).
//!
//! | Python | JSON |
//! |---|---|
//! | `None`, `bool`, `str`, `list`, `int` of any size, finite `float` (with a point or exponent) | itself |
//! | `dict` with `str` keys, none of them `"$py"` | object |
//! | any other `dict` | `{"$py": "dict", "items": [[key, value], …]}` |
//! | `tuple`, `set`, `frozenset` | `{"$py": "tuple", "items": […]}` |
//! | `bytes` | `{"$py": "bytes", "base64": "…"}` |
//! | `nan`, `inf`, `-inf` | `{"$py": "float", "value": "nan"}` |
//! | `complex` | `{"$py": "complex", "real": …, "imag": …}` |
//! | `Decimal`, `Path` | `{"$py": "decimal", "value": "1.10"}` |
//! | `UUID` | `{"$py": "uuid", "value": "…"}`; in a workflow a record with `hex` and `int` that equals and hashes as the module's own |
//! | `date`, `time`, `datetime` | `{"$py": "date", "value": ISO 8601}`; a named zone adds `"zone"`, a fold `"fold": 1` |
//! | `timedelta` | `{"$py": "timedelta", "days": …, "seconds": …, "microseconds": …}` |
//! | `timezone` | `{"$py": "timezone", "seconds": …}`; a named one adds `"zone"` |
//! | a named tuple | `{"$py": "namedtuple", "type": "Point", "fields": {"x": 1, …}}` |
//! | a frozen dataclass or a member of a plain `Enum`, from a function | a named tuple of its fields, or of `name` and `value`: it can be hashed |
//! | any other instance of a class or dataclass | `{"$py": "object", "type": "Video", "fields": {…}}`; an object with these attributes to a workflow, the class itself to a function |
//! | an exception instance | `{"$py": "exception", "type": "ValueError", "message": "…"}`; with the builtin types that it inherits from under `"bases"` |
//! | `...` | `{"$py": "ellipsis"}` |
//!
//! Everything else (functions, classes, coroutines, iterators, modules, self-references, nesting
//! deeper than [`MAX_DEPTH`], keys without a hash) is refused with a sentence that says where in the value it was
//! seen: before anything is scheduled where it leaves a workflow, and as a failure of the call where it would enter one.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use monty_types::{ObjectRef, unstable};
use serde_json::{Map, Number, Value, json};

use super::{calendar, refusal};
use monty_types::unstable::{MontyNode, NodeId};

pub use super::{
    incoming::{MAX_INT_DIGITS, check, count, from_json, not_json, parse},
    refusal::Refusal,
};

/// How deep a value may be nested, in levels of JSON (a tuple takes two).
pub const MAX_DEPTH: usize = 100;

/// How large a value may become, in bytes of JSON. Shared parts count each time they appear.
pub const MAX_BYTES: usize = 256 << 20;

/// How many values one may be made of, however short they are. In memory each costs some hundred times what it takes in a text.
pub const MAX_PARTS: usize = 1 << 20;

/// Integers with more bits have more than [`MAX_INT_DIGITS`] digits.
const MAX_INT_BITS: u64 = MAX_INT_DIGITS as u64 * 100_000 / 30103;

/// The key that marks a tagged object.
pub(super) const TAG: &str = "$py";

/// A value that leaves the sandbox, as JSON.
pub fn to_json(value: ObjectRef<'_>) -> Result<Value, Refusal> {
    Encoder { budget: MAX_BYTES, parts: MAX_PARTS }.encode(value, Place { depth: 0, hashed: false })
}

/// Where a value stands: how deep, and whether it is hashed there, as a key or an element of a set.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    hashed: bool,
}

impl Place {
    fn below(self, levels: usize) -> Self {
        Self { depth: self.depth + levels, ..self }
    }

    fn hashed(self) -> Self {
        Self { hashed: true, ..self }
    }
}

struct Encoder {
    budget: usize,
    parts: usize,
}

impl Encoder {
    fn encode(&mut self, value: ObjectRef<'_>, place: Place) -> Result<Value, Refusal> {
        if place.depth > MAX_DEPTH {
            return Err(too_deep());
        }
        self.spend(4)?;
        self.take(1)?;
        Ok(match unstable::node(value) {
            MontyNode::None => Value::Null,
            MontyNode::Bool(flag) => Value::Bool(*flag),
            MontyNode::Int(int) => Value::from(*int),
            // Writing digits takes the square of their number.
            MontyNode::BigInt(int) if int.bits() > MAX_INT_BITS => {
                let digits = int.bits() * 30103 / 100_000;
                let text = format!("an integer of some {digits} digits: at most {MAX_INT_DIGITS} can be sent");
                return Err(Refusal::new(text));
            }
            MontyNode::BigInt(int) => number(&int.to_string())?,
            MontyNode::Float(float) => self::float(*float),
            MontyNode::Complex(complex) => {
                json!({TAG: "complex", "real": float(complex.real), "imag": float(complex.imag)})
            }
            MontyNode::String(text) => Value::String(self.text(text)?),
            MontyNode::Bytes(bytes) => {
                self.spend(bytes.len() / 3 * 4)?;
                json!({TAG: "bytes", "base64": BASE64_STANDARD.encode(bytes)})
            }
            MontyNode::Decimal(text) => json!({TAG: "decimal", "value": text}),
            MontyNode::Path(text) => json!({TAG: "path", "value": self.text(text)?}),
            MontyNode::Date(date) => json!({TAG: "date", "value": calendar::date_to_iso(date)}),
            MontyNode::Time(time) => calendar::time_to_json(time),
            MontyNode::DateTime(datetime) => calendar::datetime_to_json(datetime),
            MontyNode::TimeDelta(delta) => {
                json!({TAG: "timedelta", "days": delta.days, "seconds": delta.seconds,
                       "microseconds": delta.microseconds})
            }
            MontyNode::TimeZone(zone) => calendar::timezone_to_json(zone),
            MontyNode::List(ids) => Value::Array(self.items(value, ids, place.below(1))?),
            MontyNode::Tuple(ids) => self.tagged_items("tuple", value, ids, place)?,
            MontyNode::Set(ids) => self.tagged_items("set", value, ids, place.hashed())?,
            MontyNode::FrozenSet(ids) => self.tagged_items("frozenset", value, ids, place.hashed())?,
            MontyNode::NamedTuple { type_name, field_names, values } => {
                self.named_tuple(value, type_name, field_names, values, place)?
            }
            MontyNode::Dict(pairs) => self.dict(value, pairs, place, refusal::key)?,
            MontyNode::Exception { exc_type, arg } => {
                json!({TAG: "exception", "type": exc_type.to_string(), "message": arg})
            }
            MontyNode::ClassInstance { class_type, attrs, .. } => self.instance(value, *class_type, attrs, place)?,
            MontyNode::Ellipsis => json!({TAG: "ellipsis"}),
            MontyNode::Cycle(_) => return Err(Refusal::new("a value that contains itself cannot be sent")),
            MontyNode::Repr(text) => return Err(refuse_repr(text)),
            MontyNode::Function { name, .. } => return Err(refuse_function(name)),
            other @ (MontyNode::NotImplemented
            | MontyNode::Type(_)
            | MontyNode::BuiltinFunction(_)
            | MontyNode::FileHandle(_)
            | MontyNode::ClassType(_)
            | MontyNode::Module { .. }) => return Err(refuse_kind(other, value)),
        })
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.budget.checked_sub(bytes) {
            Some(rest) => {
                self.budget = rest;
                Ok(())
            }
            None => Err(Refusal::new(format!(
                "the value is larger than {} MiB: store it in a file or an object store and send its name",
                MAX_BYTES >> 20
            ))),
        }
    }

    /// Room for so many parts, before they are built.
    fn take(&mut self, parts: usize) -> Result<(), Refusal> {
        self.parts = self.parts.checked_sub(parts).ok_or_else(|| {
            let text = format!("the value holds more than {MAX_PARTS} values: pack them, or keep them in a file");
            Refusal::new(text)
        })?;
        Ok(())
    }

    fn room(&self, parts: usize) -> Result<(), Refusal> {
        Self { budget: self.budget, parts: self.parts }.take(parts)
    }

    fn text(&mut self, text: &str) -> Result<String, Refusal> {
        self.spend(text.len())?;
        Ok(text.to_owned())
    }

    fn items(&mut self, parent: ObjectRef<'_>, ids: &[NodeId], place: Place) -> Result<Vec<Value>, Refusal> {
        self.room(ids.len())?;
        let mut items = Vec::with_capacity(ids.len());
        for (at, id) in ids.iter().enumerate() {
            let item = self.encode(unstable::child(parent, *id), place);
            items.push(item.map_err(|refusal| refusal.below(refusal::index(at)))?);
        }
        Ok(items)
    }

    fn tagged_items(
        &mut self,
        tag: &str,
        parent: ObjectRef<'_>,
        ids: &[NodeId],
        place: Place,
    ) -> Result<Value, Refusal> {
        Ok(json!({TAG: tag, "items": self.items(parent, ids, place.below(2))?}))
    }

    fn named_tuple(
        &mut self,
        parent: ObjectRef<'_>,
        type_name: &str,
        names: &[String],
        ids: &[NodeId],
        place: Place,
    ) -> Result<Value, Refusal> {
        let mut fields = Map::with_capacity(names.len());
        for (name, id) in names.iter().zip(ids) {
            let value = self.encode(unstable::child(parent, *id), place.below(2));
            fields.insert(name.clone(), value.map_err(|refusal| refusal.below(format!(".{name}")))?);
        }
        Ok(match uuid(type_name, &fields) {
            Some(id) => id,
            None => json!({TAG: "namedtuple", "type": type_name, "fields": fields}),
        })
    }

    fn dict(
        &mut self,
        parent: ObjectRef<'_>,
        pairs: &[(NodeId, NodeId)],
        place: Place,
        step: impl Fn(&str) -> String,
    ) -> Result<Value, Refusal> {
        // Names are counted with what they name, as where a value comes in.
        self.take(pairs.len())?;
        self.room(pairs.len())?;
        let key = |id: NodeId| unstable::child(parent, id).as_str();
        if pairs.iter().all(|(id, _)| key(*id).is_some_and(|key| key != TAG)) {
            let mut object = Map::with_capacity(pairs.len());
            for (id, value) in pairs {
                let name = self.text(key(*id).unwrap_or_default())?;
                let value = self.encode(unstable::child(parent, *value), place.below(1));
                let value = value.map_err(|refusal| refusal.below(step(&name)))?;
                object.insert(name, value);
            }
            return Ok(Value::Object(object));
        }
        let mut items = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let (key, value) = (unstable::child(parent, *key), unstable::child(parent, *value));
            let below = |refusal: Refusal| refusal.below(format!("[{}]", refusal::shortened(&key.py_repr())));
            let name = self.encode(key, place.below(3).hashed()).map_err(below)?;
            items.push(Value::Array(vec![name, self.encode(value, place.below(3)).map_err(below)?]));
        }
        Ok(json!({TAG: "dict", "items": items}))
    }

    fn instance(
        &mut self,
        parent: ObjectRef<'_>,
        class: NodeId,
        attrs: &[(NodeId, NodeId)],
        place: Place,
    ) -> Result<Value, Refusal> {
        let MontyNode::ClassType(class) = unstable::node(unstable::child(parent, class)) else {
            return Err(Refusal::new("an instance without a class cannot be sent"));
        };
        let fields = self.dict(parent, attrs, place.below(1), |name| format!(".{name}"))?;
        if let Some(id) = fields.as_object().and_then(|fields| uuid(&class.name, fields)) {
            return Ok(id);
        }
        // What is a key here must be one where it arrives.
        let kind = if place.hashed { "namedtuple" } else { "object" };
        Ok(json!({TAG: kind, "type": class.name, "fields": fields}))
    }
}

/// A UUID of a workflow: an instance of the prelude's class, or the record as which one has come in.
fn uuid(class: &str, fields: &Map<String, Value>) -> Option<Value> {
    let hex = fields.get("hex").filter(|_| class == "UUID" && fields.len() == 2 && fields.contains_key("int"))?;
    let id = hex.as_str()?.parse::<uuid::Uuid>().ok()?;
    Some(json!({TAG: "uuid", "value": id.to_string()}))
}

pub(super) fn too_deep() -> Refusal {
    Refusal::new(format!("the value is nested deeper than {MAX_DEPTH} levels"))
}

fn refuse_repr(text: &str) -> Refusal {
    if text.starts_with("<coroutine") {
        Refusal::new("a call that was not awaited cannot be sent: write `await` before it")
    } else if text == "<deeply nested>" {
        too_deep()
    } else {
        let shown: String = text.chars().take(80).collect();
        Refusal::new(format!("{shown} cannot be sent: send plain data (see \"Values\" in the README)"))
    }
}

fn refuse_function(name: &str) -> Refusal {
    Refusal::new(format!("the function {name} cannot be sent: send its name or its result"))
}

fn refuse_kind(node: &MontyNode, value: ObjectRef<'_>) -> Refusal {
    let what = match node {
        MontyNode::Type(_) | MontyNode::ClassType(_) => format!("the class {}", value.py_repr()),
        MontyNode::Module { name, .. } => format!("the module {name}"),
        MontyNode::FileHandle(_) => "an open file".to_owned(),
        _ => value.py_repr(),
    };
    Refusal::new(format!("{what} cannot be sent: send plain data (see \"Values\" in the README)"))
}

fn number(digits: &str) -> Result<Value, Refusal> {
    digits
        .parse::<Number>()
        .map(Value::Number)
        .map_err(|error| Refusal::new(format!("{digits} is not a number: {error}")))
}

fn float(float: f64) -> Value {
    match Number::from_f64(float) {
        Some(number) => Value::Number(number),
        None if float.is_nan() => json!({TAG: "float", "value": "nan"}),
        None if float > 0.0 => json!({TAG: "float", "value": "inf"}),
        None => json!({TAG: "float", "value": "-inf"}),
    }
}
