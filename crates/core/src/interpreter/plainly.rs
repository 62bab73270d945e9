//! Values as people read them, where nothing has to come back: `set_status`.

use serde_json::{Map, Value};

use super::value::TAG;

/// JSON without tags: records are objects of their fields, tuples and sets are lists, texts stand for all that has one.
pub(super) fn plainly(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(plainly).collect()),
        Value::Object(object) => match object.get(TAG).and_then(Value::as_str) {
            None => Value::Object(object.into_iter().map(|(key, value)| (key, plainly(value))).collect()),
            Some(_) => tagged(object),
        },
        other => other,
    }
}

fn tagged(mut object: Map<String, Value>) -> Value {
    for key in ["value", "base64", "message"] {
        if let Some(value @ Value::String(_)) = object.get(key) {
            return value.clone();
        }
    }
    if let Some(fields) = object.remove("fields") {
        return plainly(fields);
    }
    match (object.get(TAG).and_then(Value::as_str), object.get("items").and_then(Value::as_array)) {
        (Some("dict"), Some(items)) => {
            let pair = |pair: &Value| (text(&plainly(pair[0].clone())), plainly(pair[1].clone()));
            Value::Object(items.iter().map(pair).collect())
        }
        (_, Some(items)) => Value::Array(items.iter().cloned().map(plainly).collect()),
        _ => {
            object.shift_remove(TAG);
            Value::Object(object.into_iter().map(|(key, value)| (key, plainly(value))).collect())
        }
    }
}

fn text(key: &Value) -> String {
    key.as_str().map_or_else(|| key.to_string(), str::to_owned)
}
