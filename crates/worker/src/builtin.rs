//! Functions that every `durable-worker` offers: enough to try an installation, to measure it and to test it.

use std::time::Duration;

use durable_core::{model::Json, retry::RetryPolicy};
use serde_json::Value;

use crate::{
    arguments::Rest,
    function::{Function, FunctionError, Invocation, Returned},
    log::CallLog,
    options::FunctionOptions,
    registry::Registry,
};

/// Adds them, as `builtin.NAME`.
#[must_use]
pub fn builtins(registry: Registry) -> Registry {
    let quick = RetryPolicy { max_attempts: 5, initial: Duration::from_millis(100), ..RetryPolicy::default() };
    let mut registry = registry
        .function("builtin.noop", |_: Rest<Value>| async { Ok::<_, FunctionError>(()) })
        .function("builtin.echo", |value: Value| async move { Ok::<_, FunctionError>(value) })
        .function("builtin.add", |a: i64, b: i64| async move {
            a.checked_add(b).ok_or_else(|| FunctionError::new("OverflowError", "the sum is too large").not_retryable())
        })
        .function("builtin.sleep", |seconds: f64| async move {
            let time = Duration::try_from_secs_f64(seconds)
                .map_err(|error| FunctionError::new("ValueError", error).not_retryable())?;
            tokio::time::sleep(time).await;
            Ok::<_, FunctionError>(seconds)
        })
        .function("builtin.fail", |message: String| async move {
            Err::<(), _>(FunctionError::new("RuntimeError", message).not_retryable())
        });
    let options = FunctionOptions { retry: quick, ..FunctionOptions::default() };
    registry.add("builtin.flaky", options, std::sync::Arc::new(Flaky));
    registry
}

/// `flaky(value, failures)` fails as often as it is told to, then answers the value.
struct Flaky;

#[async_trait::async_trait]
impl Function for Flaky {
    async fn call(&self, invocation: Invocation, _: &CallLog) -> Result<Returned, FunctionError> {
        let args: Vec<Value> = serde_json::from_str(&invocation.args.0)?;
        let (Some(value), Some(failures)) = (args.first(), args.get(1).and_then(Value::as_i64)) else {
            return Err(FunctionError::new("TypeError", "flaky() takes a value and a number").not_retryable());
        };
        if invocation.of.number <= failures {
            let message = format!("attempt {} of {value} fails", invocation.of.number);
            return Err(FunctionError::new("ConnectionError", message));
        }
        Ok(Json::from(value).into())
    }
}
