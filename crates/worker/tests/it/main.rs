//! What functions see, and what becomes of them.

mod crash;
mod http;
mod ordinary;
mod output;
mod python;
mod registry;
mod values;
mod worker;

use durable_core::{id::CallId, model::Json, store::calls::AttemptOf};
use durable_worker::Invocation;
use serde_json::Value;

fn invocation(function: &str, args: &Value, kwargs: &Value) -> Invocation {
    Invocation {
        of: AttemptOf { execution: "e1".parse().unwrap(), call: CallId(7), number: 2 },
        function: function.to_owned(),
        args: Json::from(args),
        kwargs: Json::from(kwargs),
        callback: None,
        key: None,
        cancelled: tokio_util::sync::CancellationToken::new(),
        overdue: tokio_util::sync::CancellationToken::new(),
        clock: durable_worker::AttemptClock::default(),
        suspect: false,
        progress: durable_worker::Reporter::new(|_| {}),
    }
}
