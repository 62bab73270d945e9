//! JSON → values of the sandbox. What is taken here the interpreter can take: a value that it could not import would
//! end the execution, past every `except`.

use std::collections::HashMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use monty_types::{MontyObject, MontyUuid};
use serde_json::{Map, Value};

use super::{
    calendar, exception,
    refusal::{Refusal, index, key, shortened},
    value::{MAX_DEPTH, MAX_PARTS, TAG, too_deep},
};
use crate::model::Json;

/// A value that enters the sandbox.
pub fn from_json(value: &Value) -> Result<MontyObject, Refusal> {
    decode(value, Place { depth: 0, hashed: false })
}

/// Whether the sandbox can take a value; the text is one that may come from outside. It is measured before it is built.
pub fn check(json: &Json) -> Result<(), Refusal> {
    count(json.0.as_bytes())?;
    from_json(&parse(&json.0)?).map(drop)
}

/// How many values a text of JSON holds, names in objects counted with them. Refused are more than [`MAX_PARTS`]: in memory
/// each costs some hundred times what it takes in the text. Nothing is built; what is no JSON is counted too.
pub fn count(json: &[u8]) -> Result<usize, Refusal> {
    let (mut parts, mut text, mut escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b',' | b':' | b'[' | b'{' if !text => parts += 1,
            _ => {}
        }
    }
    if parts > MAX_PARTS {
        let text =
            format!("it holds {parts} values, and at most {MAX_PARTS} are taken: pack them, or keep them in a file");
        return Err(Refusal::new(text));
    }
    Ok(parts)
}

/// A text as JSON, or why it is none.
pub fn parse(text: &str) -> Result<Value, Refusal> {
    serde_json::from_str(text).map_err(|error| not_json(&error))
}

/// What is wrong with a text that should be JSON: nesting that is too deep is no mistake in the text.
pub fn not_json(error: &serde_json::Error) -> Refusal {
    match error.to_string().starts_with("recursion limit") {
        true => too_deep(),
        false => Refusal::new(format!("it is not JSON: {error}")),
    }
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

    /// Refuses what has no hash where one is needed.
    fn takes(self, what: &str) -> Result<(), Refusal> {
        match self.hashed {
            true => Err(Refusal::new(format!("{what} cannot be hashed, so it is no key and no element of a set"))),
            false => Ok(()),
        }
    }
}

fn decode(value: &Value, place: Place) -> Result<MontyObject, Refusal> {
    if place.depth > MAX_DEPTH * 2 {
        return Err(too_deep());
    }
    Ok(match value {
        Value::Null => MontyObject::none(),
        Value::Bool(flag) => MontyObject::bool(*flag),
        Value::Number(number) => decode_number(number.as_str())?,
        Value::String(text) => MontyObject::string(text.as_str()),
        Value::Array(items) => {
            place.takes("a list")?;
            MontyObject::list(decode_all(items, place)?)
        }
        Value::Object(object) => match object.get(TAG) {
            None => {
                place.takes("a dict")?;
                MontyObject::dict(decode_fields(object, place, key)?)
            }
            Some(Value::String(tag)) => decode_tagged(tag, object, place)?,
            Some(other) => return Err(Refusal::new(format!("\"$py\" must be a text, not {other}"))),
        },
    })
}

/// How many digits an integer may have where it comes in, or leaves.
pub const MAX_INT_DIGITS: usize = 100_000;

fn decode_number(text: &str) -> Result<MontyObject, Refusal> {
    let bad = || Refusal::new(format!("{} is not a number", shortened(text)));
    if text.contains(['.', 'e', 'E']) {
        return text.parse().map(MontyObject::float).map_err(|_| bad());
    }
    // Reading digits takes the square of their number.
    if text.len() > MAX_INT_DIGITS {
        let seen = text.len();
        return Err(Refusal::new(format!("an integer of {seen} digits: at most {MAX_INT_DIGITS} are taken")));
    }
    match text.parse::<i64>() {
        Ok(int) => Ok(MontyObject::int(int)),
        Err(_) => text.parse().map(MontyObject::bigint).map_err(|_| bad()),
    }
}

fn decode_all(items: &[Value], place: Place) -> Result<Vec<MontyObject>, Refusal> {
    let item = |(at, item)| decode(item, place.below(1)).map_err(|refusal| refusal.below(index(at)));
    items.iter().enumerate().map(item).collect()
}

fn decode_fields(
    object: &Map<String, Value>,
    place: Place,
    step: impl Fn(&str) -> String,
) -> Result<Vec<(MontyObject, MontyObject)>, Refusal> {
    let field = |(name, value): (&String, &Value)| {
        let value = decode(value, place.below(1)).map_err(|refusal| refusal.below(step(name)))?;
        Ok((MontyObject::string(name.as_str()), value))
    };
    object.iter().map(field).collect()
}

/// The step to an attribute.
fn attribute(name: &str) -> String {
    format!(".{}", shortened(name))
}

/// A tagged object being read; every getter names the tag and the key it misses.
pub(super) struct Tagged<'a> {
    tag: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Tagged<'a> {
    pub(super) fn new(tag: &'a str, object: &'a Map<String, Value>) -> Self {
        Self { tag, object }
    }

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
        Refusal::new(format!("{{\"$py\": {:?}}} needs {wanted} under {key:?}", self.tag))
    }

    fn list(&self) -> Result<&'a Vec<Value>, Refusal> {
        self.object.get("items").and_then(Value::as_array).ok_or_else(|| self.malformed("items", "a list"))
    }

    fn items(&self, place: Place) -> Result<Vec<MontyObject>, Refusal> {
        decode_all(self.list()?, place.below(1))
    }

    /// The elements of a set.
    fn elements(&self, place: Place) -> Result<Vec<MontyObject>, Refusal> {
        let items = self.list()?;
        let elements = decode_all(items, place.below(1).hashed())?;
        all_differ(items.iter())?;
        Ok(elements)
    }

    fn pairs(&self, place: Place) -> Result<Vec<(MontyObject, MontyObject)>, Refusal> {
        let mut keys = Vec::new();
        let mut pairs = Vec::new();
        for pair in self.list()? {
            let Some([name, value]) = pair.as_array().map(Vec::as_slice) else {
                return Err(self.malformed("items", "pairs of key and value"));
            };
            let step = || match name {
                Value::String(name) => key(name),
                other => format!("[{}]", shortened(&other.to_string())),
            };
            let decoded = decode(name, place.below(2).hashed()).map_err(|refusal| refusal.below(step()))?;
            pairs.push((decoded, decode(value, place.below(2)).map_err(|refusal| refusal.below(step()))?));
            keys.push(name);
        }
        all_differ(keys.into_iter())?;
        Ok(pairs)
    }

    fn fields(&self) -> Result<&'a Map<String, Value>, Refusal> {
        self.object.get("fields").and_then(Value::as_object).ok_or_else(|| self.malformed("fields", "an object"))
    }

    /// The fields of an object, which come as a tagged dict when one of them is called `$py`.
    fn attributes(&self, place: Place) -> Result<Vec<(MontyObject, MontyObject)>, Refusal> {
        let object = self.fields()?;
        match object.get(TAG) {
            Some(_) => Tagged { tag: "dict", object }.pairs(place),
            None => decode_fields(object, place.below(1), attribute),
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

fn decode_tagged(tag: &str, object: &Map<String, Value>, place: Place) -> Result<MontyObject, Refusal> {
    let tagged = Tagged { tag, object };
    Ok(match tag {
        "tuple" => MontyObject::tuple(tagged.items(place)?),
        "set" => {
            place.takes("a set")?;
            MontyObject::set(tagged.elements(place)?)
        }
        "frozenset" => MontyObject::frozenset(tagged.elements(place)?),
        "dict" => {
            place.takes("a dict")?;
            MontyObject::dict(tagged.pairs(place)?)
        }
        "bytes" => {
            let bytes = BASE64_STANDARD.decode(tagged.text("base64")?);
            MontyObject::bytes(bytes.map_err(|_| tagged.malformed("base64", "base64"))?)
        }
        "float" => MontyObject::float(special_float(&tagged)?),
        "complex" => MontyObject::complex(tagged.float("real")?, tagged.float("imag")?),
        "decimal" => decimal(&tagged, place)?,
        "path" => MontyObject::path(tagged.text("value")?),
        "uuid" => uuid(&tagged, tagged.text("value")?)?,
        "date" => MontyObject::date(calendar::date_from_json(&tagged)?),
        "time" => MontyObject::time(calendar::time_from_json(&tagged)?),
        "datetime" => MontyObject::datetime(calendar::datetime_from_json(&tagged)?),
        "timedelta" => MontyObject::timedelta(calendar::timedelta_from_json(&tagged)?),
        "timezone" => MontyObject::timezone(calendar::timezone_from_json(&tagged)?),
        "namedtuple" => {
            let fields = decode_fields(tagged.fields()?, place.below(1), attribute)?;
            let (_, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
            MontyObject::named_tuple(tagged.text("type")?, tagged.fields()?.keys().cloned(), values)
        }
        "object" => object_of(&tagged, place)?,
        "exception" => {
            place.takes("an exception")?;
            exception_of(&tagged)?
        }
        "ellipsis" => MontyObject::ellipsis(),
        other => return Err(Refusal::new(format!("{{\"$py\": {other:?}}} is no kind of value"))),
    })
}

fn object_of(tagged: &Tagged<'_>, place: Place) -> Result<MontyObject, Refusal> {
    let class = tagged.text("type")?;
    // How UUIDs travelled before they had a tag of their own.
    if class == "UUID"
        && let Some(hex) = tagged.fields()?.get("hex").and_then(Value::as_str)
    {
        return uuid(tagged, hex);
    }
    place.takes(&format!("a {class}"))?;
    Ok(instance(class, tagged.attributes(place)?))
}

/// A UUID is a record that can be hashed, because the interpreter has no such type.
fn uuid(tagged: &Tagged<'_>, text: &str) -> Result<MontyObject, Refusal> {
    let id = text.parse::<uuid::Uuid>().map_err(|_| tagged.malformed("value", "a UUID"))?;
    let values = [MontyObject::string(id.simple().to_string()), MontyObject::bigint(id.as_u128().into())];
    Ok(MontyObject::named_tuple("UUID", ["hex".to_owned(), "int".to_owned()], values))
}

/// An exception as a value, of the type as which it would have been raised.
fn exception_of(tagged: &Tagged<'_>) -> Result<MontyObject, Refusal> {
    let bases = tagged.object.get("bases").and_then(Value::as_array);
    let bases = bases.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let (kind, message) = exception::as_value(tagged.text("type")?, tagged.optional_text("message"), bases);
    Ok(MontyObject::exception(kind, message))
}

/// Refuses keys or elements of which the interpreter would keep only one. It tells records and tuples apart by their
/// contents alone, and so `Metre(1)` and `Foot(1)` not at all.
fn all_differ<'a>(keys: impl Iterator<Item = &'a Value>) -> Result<(), Refusal> {
    let mut seen: HashMap<String, &Value> = HashMap::new();
    for key in keys.filter(|key| key.is_object()) {
        // Of NaNs, every one is a key of its own.
        let nan = || key.to_string().to_ascii_lowercase().contains("nan\"");
        if let Some(other) = seen.insert(contents(key), key)
            && (other != key || !nan())
        {
            let (one, two) = (shortened(&other.to_string()), shortened(&key.to_string()));
            return Err(Refusal::new(format!(
                "{one} and {two} are one key to the interpreter, which compares records by their contents"
            )));
        }
    }
    Ok(())
}

/// A key without the names of its types.
fn contents(key: &Value) -> String {
    match key {
        Value::Bool(flag) => i32::from(*flag).to_string(),
        Value::Number(number) => {
            let whole = number.as_str().parse::<f64>().ok().filter(|float| float.fract() == 0.0 && float.abs() < 1e15);
            whole.map_or_else(|| number.to_string(), |float| format!("{float:.0}"))
        }
        Value::Object(object) => match (object.get(TAG).and_then(Value::as_str), object.get("fields")) {
            (Some("tuple"), _) => {
                let items = object.get("items").and_then(Value::as_array);
                format!("({})", items.into_iter().flatten().map(contents).collect::<Vec<_>>().join(","))
            }
            (Some("namedtuple"), Some(Value::Object(fields))) => {
                format!("({})", fields.values().map(contents).collect::<Vec<_>>().join(","))
            }
            _ => key.to_string(),
        },
        other => other.to_string(),
    }
}

/// The sandbox parses the text itself and ends the run when it cannot: look first. Its limits are those of Python's
/// decimal module, but for the number of digits.
fn decimal(tagged: &Tagged<'_>, place: Place) -> Result<MontyObject, Refusal> {
    const MAX_DIGITS: usize = 4300;
    const EXPONENT: i64 = 999_999_999_999_999_999;
    let text = tagged.text("value")?;
    let wanted = || tagged.malformed("value", "a decimal number");
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text).to_ascii_lowercase();
    let digits_alone = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if matches!(bare.as_str(), "inf" | "infinity") {
        return Ok(MontyObject::decimal(text));
    }
    if let Some(payload) = bare.strip_prefix("snan").or_else(|| bare.strip_prefix("nan")) {
        if bare.starts_with('s') {
            place.takes("a signalling NaN")?;
        }
        return if digits_alone(payload) && payload.len() <= MAX_DIGITS {
            Ok(MontyObject::decimal(text))
        } else {
            Err(wanted())
        };
    }
    let (mantissa, exponent) = bare.split_once('e').unwrap_or((&bare, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = whole.len() + fraction.len();
    let exponent: i64 = exponent.parse().map_err(|_| wanted())?;
    if digits == 0 || !digits_alone(whole) || !digits_alone(fraction) || exponent.abs() > EXPONENT {
        return Err(wanted());
    }
    if digits > MAX_DIGITS {
        return Err(Refusal::new(format!("a Decimal of {digits} digits: the interpreter takes at most {MAX_DIGITS}")));
    }
    let sized = i64::try_from(digits).unwrap_or(i64::MAX);
    if exponent + sized > EXPONENT || exponent - sized < -EXPONENT {
        return Err(Refusal::new("a Decimal whose exponent is out of range"));
    }
    Ok(MontyObject::decimal(text))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_as_they_would_be_built() {
        for (text, parts) in [
            ("1", 1),
            (r#""a,b:[{""#, 1),
            (r#""a\",[\\""#, 1),
            ("[1, 2, 3]", 4),
            (r#"{"a": 1, "b": [2, {"c": 3}]}"#, 9),
        ] {
            let counted = count(text.as_bytes()).unwrap();
            assert!(counted == parts, "{text}: {counted}");
        }
        let many = Json(format!("[0{}]", ",0".repeat(MAX_PARTS)));
        let refused = check(&many).unwrap_err().to_string();
        assert!(refused.contains("at most 1048576 are taken"), "{refused}");
        assert!(check(&Json(format!("[0{}]", ",0".repeat(1000)))).is_ok());
    }

    #[test]
    fn an_integer_that_would_take_minutes_to_read_is_refused() {
        assert!(check(&Json("9".repeat(MAX_INT_DIGITS))).is_ok());
        let refused = check(&Json("9".repeat(30 << 20))).unwrap_err().to_string();
        assert!(refused.contains("digits"), "{refused}");
    }
}
