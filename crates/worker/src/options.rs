//! A function's options: how its calls are retried, and how long an attempt may take.

use std::time::Duration;

pub use durable_core::options::BadOption;
use durable_core::{options::CallOptions, retry::RetryPolicy};
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

impl FunctionOptions {
    /// Reads the options of `@durable.function(…)`.
    pub(crate) fn read(function: &str, options: &Map<String, Value>) -> Result<Self, BadOption> {
        let (asked, default) = (CallOptions::read(function, options)?, Self::default());
        Ok(Self { retry: asked.over(default.retry), timeout: asked.timeout.unwrap_or(default.timeout) })
    }
}
