//! What people and programs are shown: one model, the same from the database as over the API.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Map, Value};

use crate::{
    allow::Allow,
    model::{Attempt, Call, Execution, Json, Version},
};

/// An execution with all that is told of it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The execution.
    pub execution: Execution,
    /// The code that it has had, in order; the last is what it runs now.
    pub versions: Vec<Version>,
    /// What it waits for in vain, as far as anybody knows.
    pub waiting: Vec<String>,
    /// Signals that no call has taken: how many of each name.
    pub untaken_signals: BTreeMap<String, i64>,
    /// What it may do: each of these lists has to allow it. Without any, everything.
    pub allow: Vec<Allow>,
}

/// A call with all that is told of it.
#[derive(Debug, Clone)]
pub struct ShownCall {
    /// The call.
    pub call: Call,
    /// A JSON array.
    pub args: Json,
    /// A JSON object.
    pub kwargs: Json,
    /// Its attempts that failed.
    pub failed_attempts: Vec<Attempt>,
    /// Why it waits in vain, if that is known.
    pub waiting: Option<String>,
}

/// The text of one version of an execution's code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Code {
    /// Which.
    pub version: Version,
    /// The text.
    pub source: String,
}

/// A part of a longer list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// What to ask for the rest with; none when there is no more.
    pub next: Option<String>,
}

// The fields of the execution, or of the call, stand beside those that are told with them.

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = fields(&self.execution)?;
        put(&mut shown, "versions", &self.versions)?;
        put(&mut shown, "untaken_signals", &self.untaken_signals)?;
        if !self.allow.is_empty() {
            put(&mut shown, "allow", &self.allow)?;
        }
        if !self.execution.status.is_final() {
            put(&mut shown, "waiting", &self.waiting)?;
        }
        shown.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut shown = Map::deserialize(deserializer)?;
        let versions: Option<Vec<Version>> = take(&mut shown, "versions")?;
        let waiting: Option<Vec<String>> = take(&mut shown, "waiting")?;
        let untaken: Option<BTreeMap<String, i64>> = take(&mut shown, "untaken_signals")?;
        let allow: Option<Vec<Allow>> = take(&mut shown, "allow")?;
        Ok(Self {
            allow: allow.unwrap_or_default(),
            execution: serde_json::from_value(Value::Object(shown)).map_err(de::Error::custom)?,
            versions: versions.unwrap_or_default(),
            waiting: waiting.unwrap_or_default(),
            untaken_signals: untaken.unwrap_or_default(),
        })
    }
}

impl Serialize for ShownCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = fields(&self.call)?;
        put(&mut shown, "args", &self.args)?;
        put(&mut shown, "kwargs", &self.kwargs)?;
        put(&mut shown, "failed_attempts", &self.failed_attempts)?;
        put(&mut shown, "waiting", &self.waiting)?;
        shown.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ShownCall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut shown = Map::deserialize(deserializer)?;
        Ok(Self {
            args: take(&mut shown, "args")?,
            kwargs: take(&mut shown, "kwargs")?,
            failed_attempts: take(&mut shown, "failed_attempts")?,
            waiting: take(&mut shown, "waiting")?,
            call: serde_json::from_value(Value::Object(shown)).map_err(de::Error::custom)?,
        })
    }
}

fn fields<E: ser::Error>(of: &impl Serialize) -> Result<Map<String, Value>, E> {
    match serde_json::to_value(of).map_err(E::custom)? {
        Value::Object(fields) => Ok(fields),
        other => Err(E::custom(format!("{other} has no fields"))),
    }
}

fn put<E: ser::Error>(shown: &mut Map<String, Value>, name: &str, value: &impl Serialize) -> Result<(), E> {
    shown.insert(name.to_owned(), serde_json::to_value(value).map_err(E::custom)?);
    Ok(())
}

fn take<T: de::DeserializeOwned, E: de::Error>(shown: &mut Map<String, Value>, name: &str) -> Result<T, E> {
    let value = shown.remove(name).unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|error| E::custom(format!("{name}: {error}")))
}
