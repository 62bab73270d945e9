//! Values ⇄ JSON, natural and lossless.
//!
//! Plain JSON where JSON has the value; one tagged object for everything else. The same table is
//! spoken by the Python function host (`crates/worker/src/python/host.py`).
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
//! | `date`, `time`, `datetime` | `{"$py": "date", "value": ISO 8601}`; a named zone adds `"zone"`, a fold `"fold": 1` |
//! | `timedelta` | `{"$py": "timedelta", "days": …, "seconds": …, "microseconds": …}` |
//! | `timezone` | `{"$py": "timezone", "seconds": …}`; a named one adds `"zone"` |
//! | a named tuple | `{"$py": "namedtuple", "type": "Point", "fields": {"x": 1, …}}` |
//! | an instance of a class or dataclass | `{"$py": "object", "type": "Video", "fields": {…}}`; arrives as an object with these attributes, not as the class |
//! | an exception instance | `{"$py": "exception", "type": "ValueError", "message": "…"}` |
//! | `...` | `{"$py": "ellipsis"}` |
//!
//! Everything else (functions, classes, coroutines, iterators, modules, self-references, nesting
//! deeper than [`MAX_DEPTH`]) is refused with a sentence, before anything is scheduled.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use monty_types::{MontyObject, MontyUuid, ObjectRef, unstable};
use serde_json::{Map, Number, Value, json};

use super::calendar;
use monty_types::unstable::{MontyNode, NodeId};

/// How deep a value may be nested, in levels of JSON (a tuple takes two).
pub const MAX_DEPTH: usize = 100;

/// How large a value may become, in bytes of JSON. Shared parts count each time they appear.
pub const MAX_BYTES: usize = 256 << 20;

/// The key that marks a tagged object.
const TAG: &str = "$py";

/// A value that cannot cross: what was seen and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// A value that leaves the sandbox, as JSON.
pub fn to_json(value: ObjectRef<'_>) -> Result<Value, Refusal> {
    Encoder { budget: MAX_BYTES }.encode(value, 0)
}

/// A value that enters the sandbox.
pub fn from_json(value: &Value) -> Result<MontyObject, Refusal> {
    decode(value, 0)
}

struct Encoder {
    budget: usize,
}

impl Encoder {
    fn encode(&mut self, value: ObjectRef<'_>, depth: usize) -> Result<Value, Refusal> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        self.spend(4)?;
        Ok(match unstable::node(value) {
            MontyNode::None => Value::Null,
            MontyNode::Bool(flag) => Value::Bool(*flag),
            MontyNode::Int(int) => Value::from(*int),
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
            MontyNode::List(ids) => Value::Array(self.items(value, ids, depth + 1)?),
            MontyNode::Tuple(ids) => self.tagged_items("tuple", value, ids, depth)?,
            MontyNode::Set(ids) => self.tagged_items("set", value, ids, depth)?,
            MontyNode::FrozenSet(ids) => self.tagged_items("frozenset", value, ids, depth)?,
            MontyNode::NamedTuple { type_name, field_names, values } => {
                let values = self.items(value, values, depth + 2)?;
                let fields: Map<String, Value> = field_names.iter().cloned().zip(values).collect();
                json!({TAG: "namedtuple", "type": type_name, "fields": fields})
            }
            MontyNode::Dict(pairs) => self.dict(value, pairs, depth)?,
            MontyNode::Exception { exc_type, arg } => {
                json!({TAG: "exception", "type": exc_type.to_string(), "message": arg})
            }
            MontyNode::ClassInstance { class_type, attrs, .. } => self.instance(value, *class_type, attrs, depth)?,
            MontyNode::Ellipsis => json!({TAG: "ellipsis"}),
            MontyNode::Cycle(_) => return Err(Refusal("a value that contains itself cannot be sent".into())),
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
            None => Err(Refusal(format!(
                "the value is larger than {} MiB: store it in a file or an object store and send its name",
                MAX_BYTES >> 20
            ))),
        }
    }

    fn text(&mut self, text: &str) -> Result<String, Refusal> {
        self.spend(text.len())?;
        Ok(text.to_owned())
    }

    fn items(&mut self, parent: ObjectRef<'_>, ids: &[NodeId], depth: usize) -> Result<Vec<Value>, Refusal> {
        ids.iter().map(|id| self.encode(unstable::child(parent, *id), depth)).collect()
    }

    fn tagged_items(
        &mut self,
        tag: &str,
        parent: ObjectRef<'_>,
        ids: &[NodeId],
        depth: usize,
    ) -> Result<Value, Refusal> {
        Ok(json!({TAG: tag, "items": self.items(parent, ids, depth + 2)?}))
    }

    fn dict(&mut self, parent: ObjectRef<'_>, pairs: &[(NodeId, NodeId)], depth: usize) -> Result<Value, Refusal> {
        let key = |id: NodeId| unstable::child(parent, id).as_str();
        if pairs.iter().all(|(id, _)| key(*id).is_some_and(|key| key != TAG)) {
            let mut object = Map::with_capacity(pairs.len());
            for (id, value) in pairs {
                let name = self.text(key(*id).unwrap_or_default())?;
                object.insert(name, self.encode(unstable::child(parent, *value), depth + 1)?);
            }
            return Ok(Value::Object(object));
        }
        let items = pairs
            .iter()
            .map(|(key, value)| Ok(Value::Array(self.items(parent, &[*key, *value], depth + 3)?)))
            .collect::<Result<Vec<_>, Refusal>>()?;
        Ok(json!({TAG: "dict", "items": items}))
    }

    fn instance(
        &mut self,
        parent: ObjectRef<'_>,
        class: NodeId,
        attrs: &[(NodeId, NodeId)],
        depth: usize,
    ) -> Result<Value, Refusal> {
        let MontyNode::ClassType(class) = unstable::node(unstable::child(parent, class)) else {
            return Err(Refusal("an instance without a class cannot be sent".into()));
        };
        let fields = self.dict(parent, attrs, depth + 1)?;
        Ok(json!({TAG: "object", "type": class.name, "fields": fields}))
    }
}

fn too_deep() -> Refusal {
    Refusal(format!("the value is nested deeper than {MAX_DEPTH} levels"))
}

fn refuse_repr(text: &str) -> Refusal {
    if text.starts_with("<coroutine") {
        Refusal("a call that was not awaited cannot be sent: write `await` before it".into())
    } else if text == "<deeply nested>" {
        too_deep()
    } else {
        let shown: String = text.chars().take(80).collect();
        Refusal(format!("{shown} cannot be sent: send plain data (see \"Values\" in the README)"))
    }
}

fn refuse_function(name: &str) -> Refusal {
    Refusal(format!("the function {name} cannot be sent: send its name or its result"))
}

fn refuse_kind(node: &MontyNode, value: ObjectRef<'_>) -> Refusal {
    let what = match node {
        MontyNode::Type(_) | MontyNode::ClassType(_) => format!("the class {}", value.py_repr()),
        MontyNode::Module { name, .. } => format!("the module {name}"),
        MontyNode::FileHandle(_) => "an open file".to_owned(),
        _ => value.py_repr(),
    };
    Refusal(format!("{what} cannot be sent: send plain data (see \"Values\" in the README)"))
}

fn number(digits: &str) -> Result<Value, Refusal> {
    digits.parse::<Number>().map(Value::Number).map_err(|error| Refusal(format!("{digits} is not a number: {error}")))
}

fn float(float: f64) -> Value {
    match Number::from_f64(float) {
        Some(number) => Value::Number(number),
        None if float.is_nan() => json!({TAG: "float", "value": "nan"}),
        None if float > 0.0 => json!({TAG: "float", "value": "inf"}),
        None => json!({TAG: "float", "value": "-inf"}),
    }
}

fn decode(value: &Value, depth: usize) -> Result<MontyObject, Refusal> {
    if depth > MAX_DEPTH * 2 {
        return Err(too_deep());
    }
    Ok(match value {
        Value::Null => MontyObject::none(),
        Value::Bool(flag) => MontyObject::bool(*flag),
        Value::Number(number) => decode_number(number.as_str())?,
        Value::String(text) => MontyObject::string(text.as_str()),
        Value::Array(items) => MontyObject::list(decode_all(items, depth)?),
        Value::Object(object) => match object.get(TAG) {
            None => MontyObject::dict(decode_fields(object, depth)?),
            Some(Value::String(tag)) => decode_tagged(tag, object, depth)?,
            Some(other) => return Err(Refusal(format!("\"$py\" must be a text, not {other}"))),
        },
    })
}

fn decode_number(text: &str) -> Result<MontyObject, Refusal> {
    let bad = || Refusal(format!("{text} is not a number"));
    if text.contains(['.', 'e', 'E']) {
        return text.parse().map(MontyObject::float).map_err(|_| bad());
    }
    match text.parse::<i64>() {
        Ok(int) => Ok(MontyObject::int(int)),
        Err(_) => text.parse().map(MontyObject::bigint).map_err(|_| bad()),
    }
}

fn decode_all(items: &[Value], depth: usize) -> Result<Vec<MontyObject>, Refusal> {
    items.iter().map(|item| decode(item, depth + 1)).collect()
}

fn decode_fields(object: &Map<String, Value>, depth: usize) -> Result<Vec<(MontyObject, MontyObject)>, Refusal> {
    object.iter().map(|(key, value)| Ok((MontyObject::string(key.as_str()), decode(value, depth + 1)?))).collect()
}

/// A tagged object being read; every getter names the tag and the key it misses.
pub(super) struct Tagged<'a> {
    tag: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Tagged<'a> {
    pub(super) fn text(&self, key: &str) -> Result<&'a str, Refusal> {
        self.object.get(key).and_then(Value::as_str).ok_or_else(|| self.malformed(key, "a text"))
    }

    pub(super) fn optional_text(&self, key: &str) -> Option<String> {
        self.object.get(key).and_then(Value::as_str).map(str::to_owned)
    }

    pub(super) fn int(&self, key: &str) -> Result<i32, Refusal> {
        let int = self.object.get(key).and_then(Value::as_i64).and_then(|int| i32::try_from(int).ok());
        int.ok_or_else(|| self.malformed(key, "an integer"))
    }

    pub(super) fn malformed(&self, key: &str, wanted: &str) -> Refusal {
        Refusal(format!("{{\"$py\": {:?}}} needs {wanted} under {key:?}", self.tag))
    }

    fn items(&self, depth: usize) -> Result<Vec<MontyObject>, Refusal> {
        let items = self.object.get("items").and_then(Value::as_array);
        decode_all(items.ok_or_else(|| self.malformed("items", "a list"))?, depth + 1)
    }

    fn pairs(&self, depth: usize) -> Result<Vec<(MontyObject, MontyObject)>, Refusal> {
        let items = self.object.get("items").and_then(Value::as_array);
        let items = items.ok_or_else(|| self.malformed("items", "a list"))?;
        items
            .iter()
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([key, value]) => Ok((decode(key, depth + 2)?, decode(value, depth + 2)?)),
                _ => Err(self.malformed("items", "pairs of key and value")),
            })
            .collect()
    }

    fn fields(&self) -> Result<&'a Map<String, Value>, Refusal> {
        self.object.get("fields").and_then(Value::as_object).ok_or_else(|| self.malformed("fields", "an object"))
    }

    /// The fields of an object, which come as a tagged dict when one of them is called `$py`.
    fn attributes(&self, depth: usize) -> Result<Vec<(MontyObject, MontyObject)>, Refusal> {
        let object = self.fields()?;
        match object.get(TAG) {
            Some(_) => Tagged { tag: "dict", object }.pairs(depth),
            None => decode_fields(object, depth + 1),
        }
    }

    fn float(&self, key: &str) -> Result<f64, Refusal> {
        let value = self.object.get(key).ok_or_else(|| self.malformed(key, "a number"))?;
        match value {
            Value::Number(number) => number.as_str().parse().map_err(|_| self.malformed(key, "a number")),
            Value::Object(object) => special_float(&Tagged { tag: "float", object }),
            _ => Err(self.malformed(key, "a number")),
        }
    }
}

fn special_float(tagged: &Tagged<'_>) -> Result<f64, Refusal> {
    match tagged.text("value")? {
        "nan" => Ok(f64::NAN),
        "inf" => Ok(f64::INFINITY),
        "-inf" => Ok(f64::NEG_INFINITY),
        _ => Err(tagged.malformed("value", "nan, inf or -inf")),
    }
}

fn decode_tagged(tag: &str, object: &Map<String, Value>, depth: usize) -> Result<MontyObject, Refusal> {
    let tagged = Tagged { tag, object };
    Ok(match tag {
        "tuple" => MontyObject::tuple(tagged.items(depth)?),
        "set" => MontyObject::set(tagged.items(depth)?),
        "frozenset" => MontyObject::frozenset(tagged.items(depth)?),
        "dict" => MontyObject::dict(tagged.pairs(depth)?),
        "bytes" => {
            let bytes = BASE64_STANDARD.decode(tagged.text("base64")?);
            MontyObject::bytes(bytes.map_err(|_| tagged.malformed("base64", "base64"))?)
        }
        "float" => MontyObject::float(special_float(&tagged)?),
        "complex" => MontyObject::complex(tagged.float("real")?, tagged.float("imag")?),
        "decimal" => decimal(&tagged)?,
        "path" => MontyObject::path(tagged.text("value")?),
        "date" => MontyObject::date(calendar::date_from_json(&tagged)?),
        "time" => MontyObject::time(calendar::time_from_json(&tagged)?),
        "datetime" => MontyObject::datetime(calendar::datetime_from_json(&tagged)?),
        "timedelta" => MontyObject::timedelta(calendar::timedelta_from_json(&tagged)?),
        "timezone" => MontyObject::timezone(calendar::timezone_from_json(&tagged)?),
        "namedtuple" => {
            let fields = tagged.fields()?;
            let values: Vec<Value> = fields.values().cloned().collect();
            MontyObject::named_tuple(tagged.text("type")?, fields.keys().cloned(), decode_all(&values, depth + 1)?)
        }
        "object" => instance(tagged.text("type")?, tagged.attributes(depth)?),
        "exception" => {
            let kind = tagged.text("type")?;
            let exc_type = kind.parse().map_err(|_| Refusal(format!("{kind} is no builtin exception")))?;
            MontyObject::exception(exc_type, tagged.optional_text("message"))
        }
        "ellipsis" => MontyObject::ellipsis(),
        other => return Err(Refusal(format!("{{\"$py\": {other:?}}} is no kind of value"))),
    })
}

fn decimal(tagged: &Tagged<'_>) -> Result<MontyObject, Refusal> {
    let text = tagged.text("value")?;
    // The sandbox parses the text itself and ends the run when it cannot: look first.
    let bare = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let special = matches!(bare.as_str(), "nan" | "snan" | "inf" | "infinity");
    let (digits, exponent) = bare.split_once('e').unwrap_or((&bare, "0"));
    let plain = digits.chars().filter(|c| *c == '.').count() <= 1
        && digits.chars().any(|c| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
        && exponent.parse::<i32>().is_ok();
    if special || plain { Ok(MontyObject::decimal(text)) } else { Err(tagged.malformed("value", "a decimal number")) }
}

fn instance(class: &str, attrs: Vec<(MontyObject, MontyObject)>) -> MontyObject {
    // The class is known by its name alone, so equal names are the same class; each arrival is an
    // instance of its own, which only has to be unique within its message.
    let class_id = *blake3::hash(class.as_bytes()).as_bytes();
    let class_id: [u8; 16] = class_id[..16].try_into().unwrap_or([0; 16]);
    let kind = MontyObject::class_type(class, MontyUuid::from_random_bytes(class_id), true, true, []);
    let id = MontyUuid::from_random_bytes(*uuid::Uuid::new_v4().as_bytes());
    MontyObject::class_instance(kind, id, attrs)
}
