//! What stock RQ workers read and write: serialised calls, results, tracebacks.

use std::{collections::HashMap, fmt, io::Read, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use serde_pickle::{DeOptions, HashableValue, SerOptions, Value as Pickled};

use crate::ForeignFailure;

/// How the stock workers of a queue are told to read jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serializer {
    /// RQ's default.
    Pickle,
    /// `rq worker --serializer json`.
    Json,
}

impl FromStr for Serializer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pickle" => Ok(Self::Pickle),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is no serialiser: there are json and pickle")),
        }
    }
}

/// A value that cannot travel to or from a stock worker.
#[derive(Debug)]
pub(super) struct Untransferable(String);

impl fmt::Display for Untransferable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serializer {
    /// A job's body as these workers read it.
    pub(super) fn write(self, body: &str) -> Result<Vec<u8>, Untransferable> {
        match self {
            Self::Json => Ok(body.as_bytes().to_vec()),
            Self::Pickle => {
                let call: Value = serde_json::from_str(body).map_err(|error| Untransferable(error.to_string()))?;
                let parts = call.as_array().into_iter().flatten().map(pickled).collect::<Result<_, _>>()?;
                serde_pickle::value_to_vec(&Pickled::Tuple(parts), SerOptions::new())
                    .map_err(|error| Untransferable(error.to_string()))
            }
        }
    }

    /// A result as JSON text.
    fn read(bytes: &[u8]) -> Result<String, Untransferable> {
        // A pickle of any protocol in use begins with this byte, which no JSON text does.
        if bytes.first() != Some(&0x80) {
            let value: Value =
                serde_json::from_slice(bytes).map_err(|error| Untransferable(format!("it is not JSON: {error}")))?;
            return Ok(value.to_string());
        }
        let value = serde_pickle::value_from_slice(bytes, DeOptions::new())
            .map_err(|error| Untransferable(format!("it is a pickle of something that is not plain data: {error}")))?;
        Ok(plain(value)?.to_string())
    }
}

fn pickled(value: &Value) -> Result<Pickled, Untransferable> {
    Ok(match value {
        Value::Null => Pickled::None,
        Value::Bool(value) => Pickled::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Pickled::I64(value),
            (None, Some(value)) => Pickled::F64(value),
            (None, None) => return Err(Untransferable(format!("the number {number} is too large"))),
        },
        Value::String(text) => Pickled::String(text.clone()),
        Value::Array(values) => Pickled::List(values.iter().map(pickled).collect::<Result<_, _>>()?),
        Value::Object(entries) => Pickled::Dict(
            entries
                .iter()
                .map(|(key, value)| Ok((HashableValue::String(key.clone()), pickled(value)?)))
                .collect::<Result<_, _>>()?,
        ),
    })
}

/// Tuples arrive as lists, as they do with RQ's JSON serialiser.
fn plain(value: Pickled) -> Result<Value, Untransferable> {
    Ok(match value {
        Pickled::None => Value::Null,
        Pickled::Bool(value) => json!(value),
        Pickled::I64(value) => json!(value),
        Pickled::Int(value) => serde_json::from_str(&value.to_string())
            .map_err(|error| Untransferable(format!("the number {value} does not fit: {error}")))?,
        Pickled::F64(value) if value.is_finite() => json!(value),
        Pickled::String(text) => Value::String(text),
        Pickled::List(values) | Pickled::Tuple(values) => {
            Value::Array(values.into_iter().map(plain).collect::<Result<_, _>>()?)
        }
        Pickled::Dict(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, value)| match key {
                    HashableValue::String(key) => Ok((key, plain(value)?)),
                    other => Err(Untransferable(format!("a dict has the key {other}, which is not a text"))),
                })
                .collect::<Result<_, _>>()?,
        ),
        other => return Err(Untransferable(format!("{other} is not plain data"))),
    })
}

/// What the newest entry of a job's result stream says; `status` where there is none.
pub(super) fn result(status: &str, entry: Option<&HashMap<String, Vec<u8>>>) -> Result<String, ForeignFailure> {
    let field = |name: &str| entry.and_then(|entry| entry.get(name));
    match (status, field("type").map(Vec::as_slice)) {
        ("stopped" | "canceled", _) => Err(ForeignFailure {
            kind: "durable.Stopped".into(),
            message: format!("the job was {status} by somebody"),
            traceback: None,
            retryable: false,
        }),
        (_, Some(b"1")) | ("finished", None) => match field("return_value") {
            None => Ok("null".into()),
            Some(value) => STANDARD
                .decode(value)
                .map_err(|error| Untransferable(error.to_string()))
                .and_then(|bytes| Serializer::read(&bytes))
                .map_err(|error| ForeignFailure {
                    kind: "TypeError".into(),
                    message: format!("the result cannot be read: {error}"),
                    traceback: None,
                    retryable: false,
                }),
        },
        _ => Err(failure(field("exc_string").and_then(|text| inflated(&STANDARD.decode(text).ok()?)))),
    }
}

/// Most bytes that compressed data may stand for: a megabyte of it can stand for a gigabyte.
const MOST_INFLATED: u64 = 1 << 20;

/// Compressed text; none when it cannot be read, or is too long.
pub(super) fn inflated(bytes: &[u8]) -> Option<String> {
    let mut inflated = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(bytes).take(MOST_INFLATED + 1);
    decoder.read_to_end(&mut inflated).ok()?;
    (inflated.len() as u64 <= MOST_INFLATED).then(|| String::from_utf8_lossy(&inflated).into_owned())
}

fn failure(traceback: Option<String>) -> ForeignFailure {
    let lost = |message: &str| ForeignFailure {
        kind: "durable.WorkerLost".into(),
        message: message.trim().to_owned(),
        traceback: None,
        retryable: true,
    };
    let Some(traceback) = traceback else { return lost("the job failed, and its worker left no word why") };
    if traceback.starts_with("Work-horse") || traceback.starts_with("Moved to") {
        return lost(&traceback);
    }
    // The exception stands after the last frame, at the beginning of a line: `tasks.Refused: because …`.
    let after_frames = traceback.lines().rposition_line(|line| line.starts_with("  ")).map_or(0, |n| n + 1);
    let text: Vec<&str> = traceback.lines().skip(after_frames).collect();
    let text = text.join("\n");
    let (kind, message) = text.trim_end().split_once(": ").unwrap_or((text.trim_end(), ""));
    ForeignFailure { kind: kind.to_owned(), message: message.to_owned(), traceback: Some(traceback), retryable: true }
}

/// The number of the last line that is so.
trait Lines<'a> {
    fn rposition_line(self, is: impl Fn(&str) -> bool) -> Option<usize>;
}

impl<'a, I: Iterator<Item = &'a str>> Lines<'a> for I {
    fn rposition_line(self, is: impl Fn(&str) -> bool) -> Option<usize> {
        self.enumerate().filter(|(_, line)| is(line)).last().map(|(n, _)| n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_pickled_as_a_stock_worker_reads_it() {
        let body = r#"["tasks.f",null,[1,2.5,"x",[true,null]],{"k":{"a":-7}}]"#;
        let bytes = Serializer::Pickle.write(body).unwrap();
        assert_eq!(bytes[0], 0x80);
        assert_eq!(Serializer::read(&bytes).unwrap(), body);
        assert_eq!(Serializer::Json.write(body).unwrap(), body.as_bytes());
    }

    #[test]
    fn what_inflates_to_gigabytes_is_not_inflated() {
        let zipped = |len: usize| {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut encoder, &vec![b'x'; len]).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(inflated(&zipped(1 << 20)).map(|text| text.len()), Some(1 << 20));
        assert_eq!(inflated(&zipped((1 << 20) + 1)), None);
    }

    #[test]
    fn a_traceback_ends_with_the_exception() {
        let text =
            "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    g()\nValueError: no: really\n";
        let seen = failure(Some(text.into()));
        assert_eq!((seen.kind.as_str(), seen.message.as_str()), ("ValueError", "no: really"));
        let seen = failure(Some("Work-horse terminated unexpectedly; waitpid returned 9 (signal 9); ".into()));
        assert_eq!(seen.kind, "durable.WorkerLost");
        assert!(failure(None).retryable);
    }
}
