//! A function's options: how its calls are retried, and how long an attempt may take.

use std::time::Duration;

use durable_core::{retry::RetryPolicy, time::parse_duration};
use serde_json::{Map, Value};

/// Options of one function. The defaults: three attempts, about 1 s and 2 s apart; an hour per attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionOptions {
    /// When a failed attempt is followed by another.
    pub retry: RetryPolicy,
    /// How long one attempt may take.
    pub timeout: Duration,
}

impl Default for FunctionOptions {
    fn default() -> Self {
        Self { retry: RetryPolicy::default(), timeout: Duration::from_secs(3600) }
    }
}

/// An option that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{function}: option {option}={seen}: {wanted}")]
pub struct BadOption {
    function: String,
    option: String,
    seen: String,
    wanted: &'static str,
}

impl FunctionOptions {
    /// Reads the options of `@durable.function(…)`.
    pub(crate) fn read(function: &str, options: &Map<String, Value>) -> Result<Self, BadOption> {
        let mut read = Self::default();
        for (option, value) in options {
            let bad = |wanted| BadOption {
                function: function.to_owned(),
                option: option.clone(),
                seen: value.to_string(),
                wanted,
            };
            match option.as_str() {
                "max_attempts" => {
                    let attempts = value.as_i64().filter(|attempts| *attempts >= 1);
                    read.retry.max_attempts = attempts.ok_or_else(|| bad("a whole number from 1 is wanted"))?;
                }
                "retries" => {
                    let retries = value.as_i64().filter(|retries| *retries >= 0);
                    read.retry.max_attempts = retries.ok_or_else(|| bad("a whole number from 0 is wanted"))? + 1;
                }
                "timeout" => {
                    let timeout = duration(value).filter(|timeout| !timeout.is_zero());
                    read.timeout = timeout.ok_or_else(|| bad("a time such as \"90s\", \"10m\" or 2.5 is wanted"))?;
                }
                "backoff" => {
                    let (initial, max) =
                        backoff(value).ok_or_else(|| bad("\"1s..1m\" or one time such as \"5s\" is wanted"))?;
                    (read.retry.initial, read.retry.max) = (initial, max);
                }
                _ => return Err(bad("there is no such option; there are max_attempts, retries, backoff, timeout")),
            }
        }
        Ok(read)
    }
}

fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(_) => Duration::try_from_secs_f64(value.as_f64()?).ok(),
        Value::String(text) => parse_duration(text),
        _ => None,
    }
}

fn backoff(value: &Value) -> Option<(Duration, Duration)> {
    if let Some((initial, max)) = value.as_str().and_then(|text| text.split_once("..")) {
        let (initial, max) = (parse_duration(initial)?, parse_duration(max)?);
        return (initial <= max).then_some((initial, max));
    }
    let same = duration(value)?;
    Some((same, same))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(options: &Value) -> Result<FunctionOptions, String> {
        FunctionOptions::read("tasks.f", options.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_read_in_the_forms_that_people_write() {
        let options = read(&json!({"retries": 4, "backoff": "500ms..1m", "timeout": "10m"})).unwrap();
        assert_eq!(options.retry.max_attempts, 5);
        assert_eq!(options.retry.initial, Duration::from_millis(500));
        assert_eq!(options.retry.max, Duration::from_secs(60));
        assert_eq!(options.timeout, Duration::from_secs(600));
        assert_eq!(read(&json!({"timeout": 2.5})).unwrap().timeout, Duration::from_millis(2500));
        assert_eq!(read(&json!({})).unwrap(), FunctionOptions::default());
    }

    #[test]
    fn a_bad_option_is_named_with_what_was_seen() {
        for (options, part) in [
            (json!({"timeout": "soon"}), "timeout=\"soon\""),
            (json!({"max_attempts": 0}), "a whole number from 1"),
            (json!({"retires": 3}), "there is no such option"),
            (json!({"backoff": "1m..1s"}), "backoff"),
        ] {
            let error = read(&options).unwrap_err();
            assert!(error.contains(part) && error.contains("tasks.f"), "{error}");
        }
    }
}
