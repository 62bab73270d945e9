//! One attempt: the function is found, run within its time, and its end is told as data.

use std::{sync::Arc, time::Duration};

use durable_core::{
    model::{Failure, Outcome},
    offers::Offers,
    orchestrator::settle::Retry,
    store::calls::Work,
};

use crate::{
    function::{CallLog, FunctionError, Invocation},
    registry::Registry,
};

/// The type of the failure of a call that no function of the registry answers to.
pub(crate) const UNKNOWN_FUNCTION: &str = "durable.UnknownFunction";

/// Runs the function that `work` asks for. When this future is dropped, the attempt is given up.
pub(crate) async fn run(registry: &Registry, offers: &Offers, work: Work, log: &Arc<CallLog>) -> (Outcome, Retry) {
    let Some((name, registered)) = offers.find(&work.function).and_then(|name| Some((name, registry.get(name)?)))
    else {
        let message = format!("no worker offers {}: {}", work.function, offers.hint(&work.function));
        return (Outcome::Failed(Failure::new(UNKNOWN_FUNCTION, message)), Retry::No);
    };
    let options = &registered.options;
    let invocation = Invocation { of: work.attempt, function: name.to_owned(), args: work.args, kwargs: work.kwargs };
    let attempt = registered.function.call(invocation, log);
    let ended = match tokio::time::timeout(options.timeout, attempt).await {
        Ok(ended) => ended,
        Err(_) => Err(timed_out(name, options.timeout)),
    };
    match ended {
        Ok(result) => (Outcome::Completed(result), Retry::No),
        Err(error) if error.retryable => (Outcome::Failed(error.failure), Retry::By(options.retry.clone())),
        Err(error) => (Outcome::Failed(error.failure), Retry::No),
    }
}

fn timed_out(function: &str, timeout: Duration) -> FunctionError {
    FunctionError::new("TimeoutError", format!("{function} took longer than {timeout:?}"))
}
