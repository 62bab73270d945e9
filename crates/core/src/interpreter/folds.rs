//! `fold` of datetimes. The interpreter's datetime has none, so those that come in with `fold=1` are remembered beside
//! its state, and have it again when they leave. They are known by their text: an instant of a repeated hour that the
//! workflow has made itself, equal to one that came in, leaves as that one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{calendar, incoming::Tagged, value::TAG};

/// Remembers the datetimes with `fold=1` of a value that comes in.
pub(super) fn note(value: &Value, folds: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| note(item, folds)),
        Value::Object(object) => {
            if object.get(TAG).and_then(Value::as_str) == Some("datetime")
                && object.get("fold") == Some(&Value::from(1))
            {
                let at = calendar::datetime_from_json(&Tagged::new("datetime", object));
                folds.extend(at.ok().and_then(|at| text(&calendar::datetime_to_json(&at))));
            }
            object.values().for_each(|item| note(item, folds));
        }
        _ => {}
    }
}

/// Gives a value that leaves its folds back.
pub(super) fn restore(value: &mut Value, folds: &BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| restore(item, folds)),
        Value::Object(object) => {
            let known = object.get(TAG).and_then(Value::as_str) == Some("datetime")
                && object.get("value").and_then(Value::as_str).is_some_and(|at| folds.contains(at));
            if known {
                object.insert("fold".into(), Value::from(1));
            }
            object.values_mut().for_each(|item| restore(item, folds));
        }
        _ => {}
    }
}

fn text(datetime: &Value) -> Option<String> {
    datetime["value"].as_str().map(str::to_owned)
}
