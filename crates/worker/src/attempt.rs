//! One attempt: the function is found, run within its time, and its end is told as data.

use std::{sync::Arc, time::Duration};

use durable_core::{
    model::{Failure, Outcome},
    offers::Offers,
    orchestrator::settle::Retry,
    store::calls::Work,
};

use tokio_util::sync::CancellationToken;

use crate::{
    function::{CallLog, FunctionError, Invocation, Reporter, Returned},
    registry::{Registered, Registry},
};

/// The type of the failure of a call that no function of the registry answers to.
pub(crate) const UNKNOWN_FUNCTION: &str = "durable.UnknownFunction";

/// How an attempt ended.
pub(crate) enum Ended {
    Settled(Outcome, Retry),
    /// Somebody else completes the call, within this time.
    Later(Duration),
}

/// The function that `work` asks for, if the registry has it.
pub(crate) fn find<'a>(registry: &'a Registry, offers: &'a Offers, work: &Work) -> Option<(&'a str, &'a Registered)> {
    let name = offers.find(&work.function)?;
    Some((name, registry.get(name)?))
}

/// What a function is told besides its arguments.
pub(crate) struct Told {
    pub(crate) callback: Option<String>,
    pub(crate) cancelled: CancellationToken,
    pub(crate) progress: Reporter,
    /// How long the call may still take.
    pub(crate) left: Duration,
}

/// Runs the function that `work` asks for. When this future is dropped, the attempt is given up.
pub(crate) async fn run(registry: &Registry, offers: &Offers, work: Work, told: Told, log: &Arc<CallLog>) -> Ended {
    let Some((name, registered)) = find(registry, offers, &work) else {
        let message = format!("no worker offers {}: {}", work.function, offers.hint(&work.function));
        return Ended::Settled(Outcome::Failed(Failure::new(UNKNOWN_FUNCTION, message)), Retry::No);
    };
    let options = &registered.options;
    let Work { attempt: of, args, kwargs, options: asked, .. } = work;
    let timeout = asked.timeout.unwrap_or(options.timeout).min(told.left);
    let Told { callback, cancelled, progress, left } = told;
    let key = asked.idempotency_key;
    let invocation = Invocation { of, function: name.to_owned(), args, kwargs, callback, key, cancelled, progress };
    let attempt = registered.function.call(invocation, log);
    let ended = match tokio::time::timeout(timeout, attempt).await {
        Ok(ended) => ended,
        Err(_) if timeout == left => {
            let message = format!("{name} was not done within its total_timeout");
            Err(FunctionError::new("TimeoutError", message))
        }
        Err(_) => Err(timed_out(name, timeout)),
    };
    match ended {
        Ok(Returned::Now(result)) => Ended::Settled(Outcome::of(name, result).bounded(), Retry::No),
        Ok(Returned::Later) => Ended::Later(timeout),
        Err(error) if error.retryable => {
            Ended::Settled(Outcome::Failed(error.failure.bounded()), Retry::By(options.retry.clone()))
        }
        Err(error) => Ended::Settled(Outcome::Failed(error.failure.bounded()), Retry::No),
    }
}

fn timed_out(function: &str, timeout: Duration) -> FunctionError {
    FunctionError::new("TimeoutError", format!("{function} took longer than {timeout:?}"))
}
