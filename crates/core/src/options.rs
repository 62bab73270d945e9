//! How a call is to be run: what a function's decorator or registration says, and what a workflow asks for one call.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::{id::check_name, retry::RetryPolicy, time::parse_duration};

/// Options that were given; whatever was not is as it would be without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How often a call is attempted at most.
    pub max_attempts: Option<i64>,
    /// The first wait between two attempts, and the longest.
    pub backoff: Option<(Duration, Duration)>,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// How long all attempts, and the waiting before and between them, may take.
    pub total_timeout: Option<Duration>,
    /// Exception types that another attempt could not help against.
    pub non_retryable: Option<Vec<String>>,
    /// What functions are told that must not do a thing twice.
    pub idempotency_key: Option<String>,
    /// The options as they were written: JSON.
    written: Map<String, Value>,
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

const NAMES: [&str; 7] =
    ["retries", "max_attempts", "backoff", "timeout", "total_timeout", "non_retryable", "idempotency_key"];

impl CallOptions {
    /// Whether there is an option of that name.
    pub fn has(name: &str) -> bool {
        NAMES.contains(&name)
    }

    /// Reads the options of `@durable.function(…)` or `durable.call(…)`.
    pub fn read(function: &str, options: &Map<String, Value>) -> Result<Self, BadOption> {
        let mut read = Self { written: options.clone(), ..Self::default() };
        for (option, value) in options {
            read.take(option, value).map_err(|wanted| BadOption {
                function: function.to_owned(),
                option: option.clone(),
                seen: value.to_string(),
                wanted,
            })?;
        }
        Ok(read)
    }

    fn take(&mut self, option: &str, value: &Value) -> Result<(), &'static str> {
        const TIME: &str = "a time such as \"90s\", \"10m\" or 2.5 is wanted";
        let time = || duration(value).filter(|time| !time.is_zero()).ok_or(TIME);
        match option {
            "max_attempts" => {
                let attempts = value.as_i64().filter(|attempts| *attempts >= 1);
                self.max_attempts = Some(attempts.ok_or("a whole number from 1 is wanted")?);
            }
            "retries" => {
                let retries = value.as_i64().filter(|retries| *retries >= 0);
                self.max_attempts = Some(retries.ok_or("a whole number from 0 is wanted")?.saturating_add(1));
            }
            "timeout" => self.timeout = Some(time()?),
            "total_timeout" => self.total_timeout = Some(time()?),
            "backoff" => {
                self.backoff = Some(backoff(value).ok_or("\"1s..1m\" or one time such as \"5s\" is wanted")?);
            }
            "non_retryable" => {
                let names = value.as_array().map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)));
                let names = names.and_then(Iterator::collect::<Option<Vec<_>>>);
                self.non_retryable = Some(names.ok_or("a list of exception names such as [\"ValueError\"] is wanted")?);
            }
            "idempotency_key" => {
                let key = value.as_str().filter(|key| !key.is_empty());
                let key = key.filter(|key| check_name("the key", key).is_ok());
                self.idempotency_key =
                    Some(key.ok_or("a text of 1 to 200 bytes without control characters is wanted")?.to_owned());
            }
            _ => {
                return Err("there is no such option; there are retries, max_attempts, backoff, timeout, \
                            total_timeout, non_retryable");
            }
        }
        Ok(())
    }

    /// The options as they were written; none when there are none.
    pub fn to_json(&self) -> Option<String> {
        (!self.written.is_empty()).then(|| Value::Object(self.written.clone()).to_string())
    }

    /// `policy`, as far as nothing else was asked for.
    #[must_use]
    pub fn over(&self, mut policy: RetryPolicy) -> RetryPolicy {
        if let Some(attempts) = self.max_attempts {
            policy.max_attempts = attempts;
        }
        if let Some((initial, max)) = self.backoff {
            (policy.initial, policy.max) = (initial, max);
        }
        if let Some(types) = &self.non_retryable {
            policy.non_retryable.clone_from(types);
        }
        policy
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

    fn read(options: &Value) -> Result<CallOptions, String> {
        CallOptions::read("tasks.f", options.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_read_in_the_forms_that_people_write() {
        let options = read(&json!({"retries": 4, "backoff": "500ms..1m", "timeout": "10m", "total_timeout": 3600,
                                   "non_retryable": ["ValueError"]}));
        let options = options.unwrap();
        let policy = options.over(RetryPolicy::default());
        assert_eq!(policy.max_attempts, 5);
        assert_eq!((policy.initial, policy.max), (Duration::from_millis(500), Duration::from_secs(60)));
        assert_eq!(policy.non_retryable, ["ValueError"]);
        assert_eq!(options.timeout, Some(Duration::from_secs(600)));
        assert_eq!(options.total_timeout, Some(Duration::from_secs(3600)));
        assert_eq!(read(&json!({"timeout": 2.5})).unwrap().timeout, Some(Duration::from_millis(2500)));
        let none = read(&json!({})).unwrap();
        assert_eq!((none.over(RetryPolicy::default()), none.to_json()), (RetryPolicy::default(), None));
    }

    #[test]
    fn a_bad_option_is_named_with_what_was_seen() {
        for (options, part) in [
            (json!({"timeout": "soon"}), "timeout=\"soon\""),
            (json!({"max_attempts": 0}), "a whole number from 1"),
            (json!({"retires": 3}), "there is no such option"),
            (json!({"backoff": "1m..1s"}), "backoff"),
            (json!({"non_retryable": "ValueError"}), "a list of exception names"),
        ] {
            let error = read(&options).unwrap_err();
            assert!(error.contains(part) && error.contains("tasks.f"), "{error}");
        }
    }
}
