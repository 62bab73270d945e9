//! One attempt: the function is found, run within its time, and its end is told as data.

use std::time::Duration;

use durable_core::{
    model::{Failure, Outcome},
    offers::Offers,
    orchestrator::settle::Retry,
    store::calls::Work,
};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::AttemptClock,
    function::{Function, FunctionError, Invocation, Reporter, Returned},
    log::CallLog,
    registry::{Registered, Registry},
};

/// The type of the failure of a call that no function of the registry answers to.
pub(crate) const UNKNOWN_FUNCTION: &str = "durable.UnknownFunction";

/// How long a function that is told that its time is over may take to end, before it is dropped.
const LAST_WORDS: Duration = Duration::from_secs(10);

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
    /// Whether earlier attempts took down a process that they shared.
    pub(crate) suspect: bool,
    /// How long the call may still take.
    pub(crate) left: Duration,
}

/// Runs the function that `work` asks for. When this future is dropped, the attempt is given up.
pub(crate) async fn run(registry: &Registry, offers: &Offers, work: Work, told: Told, log: &CallLog) -> Ended {
    let Some((name, registered)) = find(registry, offers, &work) else {
        let message = format!("no worker offers {}: {}", work.function, offers.hint(&work.function));
        return Ended::Settled(Outcome::Failed(Failure::new(UNKNOWN_FUNCTION, message)), Retry::No);
    };
    let options = &registered.options;
    let Work { attempt: of, args, kwargs, options: asked, .. } = work;
    let Told { callback, cancelled, progress, suspect, left } = told;
    let times = Times { timeout: asked.timeout.unwrap_or(options.timeout), left };
    let (key, clock, overdue) = (asked.idempotency_key, AttemptClock::default(), CancellationToken::new());
    let function = name.to_owned();
    let invocation =
        Invocation { of, function, args, kwargs, callback, key, cancelled, overdue, clock, suspect, progress };
    let ended = in_time(&*registered.function, invocation, times, log).await;
    match ended {
        Ok(Returned::Now(result)) => Ended::Settled(Outcome::of(name, result).bounded(), Retry::No),
        Ok(Returned::Later) => Ended::Later(times.timeout.min(times.left)),
        Err(error) if error.innocent => Ended::Settled(Outcome::Failed(error.failure.bounded()), Retry::Lost),
        Err(error) if error.retryable => {
            Ended::Settled(Outcome::Failed(error.failure.bounded()), Retry::By(options.retry.clone()))
        }
        Err(error) => Ended::Settled(Outcome::Failed(error.failure.bounded()), Retry::No),
    }
}

/// How long an attempt may take.
#[derive(Clone, Copy)]
struct Times {
    /// From the function's first line.
    timeout: Duration,
    /// From now, whatever it waits for.
    left: Duration,
}

/// What the function answers, unless its time is over first.
async fn in_time(
    function: &dyn Function,
    invocation: Invocation,
    times: Times,
    log: &CallLog,
) -> Result<Returned, FunctionError> {
    let (name, clock) = (invocation.function.clone(), invocation.clock.clone());
    let overdue = invocation.overdue.clone();
    if !function.minds_its_time() {
        clock.start();
    }
    let attempt = function.call(invocation, log);
    tokio::pin!(attempt);
    let message = tokio::select! {
        ended = &mut attempt => return ended,
        () = clock.has_had(times.timeout) => format!("{name} took longer than {:?}", times.timeout),
        () = tokio::time::sleep(times.left) => format!("{name} was not done within its total_timeout"),
    };
    overdue.cancel();
    if function.minds_its_time() {
        // What it answers now is too late; what it writes is kept.
        let _ = tokio::time::timeout(LAST_WORDS, attempt).await;
    }
    Err(FunctionError::new("TimeoutError", message))
}
