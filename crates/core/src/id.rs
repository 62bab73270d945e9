//! One newtype per id, so that swapping two of them does not compile.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Names an execution: a UUIDv7 unless the caller chose one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionId(String);

/// How ids begin that stand for idempotency keys.
const KEY: &str = "key-";

/// Longest id that a caller may choose.
const MAX_ID: usize = 128;

impl ExecutionId {
    /// A new id that sorts by creation time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// The id that stands for a caller's idempotency key: the same key, the same execution.
    pub fn from_key(key: &str) -> Self {
        Self(format!("{KEY}{}", &blake3::hash(key.as_bytes()).to_hex()[..32]))
    }

    /// An id for a child, which only who knows its parent's secret could guess.
    pub fn of_child(secret: &str, place: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("durable-monty id of a child");
        hasher.update(secret.as_bytes()).update(place.as_bytes());
        Self(format!("child-{}", &hasher.finalize().to_hex()[..32]))
    }

    /// Whether it stands for an idempotency key.
    pub fn is_of_key(&self) -> bool {
        self.0.starts_with(KEY)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An id that is not one.
#[derive(Debug, thiserror::Error)]
#[error("{seen:?} is not an execution id: use 1 to 128 letters, digits, '-' or '_'")]
pub struct InvalidId {
    seen: String,
}

impl FromStr for ExecutionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=MAX_ID).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidId { seen: text.chars().take(200).collect() }) }
    }
}

impl TryFrom<String> for ExecutionId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ExecutionId> for String {
    fn from(id: ExecutionId) -> Self {
        id.0
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest name that a signal, queue, function, workflow or key may have, in bytes: databases index them.
const MAX_NAME: usize = 200;

/// A name that is none.
#[derive(Debug, thiserror::Error)]
#[error("{what} {seen:?} {wrong}: use 1 to {MAX_NAME} bytes without control characters")]
pub struct InvalidName {
    what: &'static str,
    seen: String,
    wrong: String,
}

/// Refuses what is no name for `what`, alike at every door: what a database could not keep or index, and nobody could read.
pub fn check_name(what: &'static str, name: &str) -> Result<(), InvalidName> {
    let wrong = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_NAME {
        format!("has {} bytes", name.len())
    } else if let Some(control) = name.chars().find(|c| c.is_control()) {
        format!("has the control character {control:?}")
    } else {
        return Ok(());
    };
    Err(InvalidName { what, seen: name.chars().take(60).collect(), wrong })
}

/// Numbers the calls of one execution, in the order in which the workflow made them. Numbers are
/// skipped (the interpreter also counts what the host answers at once, such as clocks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub u32);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fencing token of an execution: grows by one with each won claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a process that claims executions and runs functions: `host~pid~mark`. Unique per process,
/// never used again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

impl WorkerId {
    /// The name of a process on `host`. `mark` tells it from another process that gets the same
    /// number later, such as the time at which it was started.
    pub fn new(host: &str, pid: u32, mark: &str) -> Self {
        Self(format!("{host}~{pid}~{mark}"))
    }

    /// Host, process id and mark, for asking whether a process on this machine still lives.
    pub fn parts(&self) -> Option<(&str, u32, &str)> {
        let mut parts = self.0.rsplitn(3, '~');
        let mark = parts.next()?;
        let pid = parts.next()?.parse().ok()?;
        Some((parts.next()?, pid, mark))
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_at_the_edge() {
        assert!("order-42_b".parse::<ExecutionId>().is_ok());
        for bad in ["", "a b", "a/b", "a:b", "ä", &"x".repeat(129)] {
            let error = bad.parse::<ExecutionId>().unwrap_err().to_string();
            assert!(error.contains("is not an execution id"), "{error}");
        }
    }

    #[test]
    fn names_are_checked_alike_everywhere() {
        for good in ["pay", "Zahlung bestätigt", "a/b:c", &"x".repeat(200)] {
            assert!(check_name("the signal", good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("", "is empty"),
            ("a\0b", "control character"),
            ("a\nb", "control"),
            ("a\u{85}b", "control"),
            (&*"x".repeat(201), "201 bytes"),
            (&*"ä".repeat(101), "202 bytes"),
        ] {
            let error = check_name("the signal", bad).unwrap_err().to_string();
            assert!(error.starts_with("the signal") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_worker_id_tells_its_host_and_process() {
        let id = WorkerId::new("my~host", 4711, "99");
        assert_eq!(id.parts(), Some(("my~host", 4711, "99")));
        assert_eq!(WorkerId("w1".into()).parts(), None);
    }
}
