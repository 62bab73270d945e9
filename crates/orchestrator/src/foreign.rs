//! What stock RQ workers made of our jobs: RQ queues a job for us when one of theirs has ended, and its
//! outcome is settled like any other.

use std::{sync::Arc, time::Duration};

use durable_core::{
    model::{Failure, Json, Outcome},
    orchestrator::{
        Engine, OrchestrationError,
        dispatch::call_of,
        drive,
        settle::{Attempted, Retry, Settled, settle},
    },
    retry::RetryPolicy,
    store::calls::{self, AttemptOf},
};
use durable_queue::{ForeignResult, Lease, Way};
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

/// How long a pop waits.
const WAIT: Duration = Duration::from_secs(5);

/// The wait after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Outcomes that are settled side by side.
const AT_ONCE: usize = 32;

/// Settles what stock workers report, until `stop`. Ends at once when no queue is served by such.
pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    if engine.queue.foreign().is_empty() {
        return;
    }
    let queues = [engine.queue.results_queue().to_owned()];
    loop {
        let popped = engine.queue.pop(&queues, &engine.worker.0, AT_ONCE, WAIT);
        let Some(popped) = stop.run_until_cancelled(popped).await else { return };
        match popped {
            Ok(leases) => stream::iter(leases).for_each_concurrent(AT_ONCE, |lease| one(&engine, lease)).await,
            Err(error) => {
                tracing::warn!(%error, "the outcomes of stock workers cannot be read");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn one(engine: &Arc<Engine>, lease: Lease) {
    let result = match engine.queue.foreign_result(&lease).await {
        Ok(result) => result,
        Err(error) => return tracing::warn!(%error, "the outcome of a stock worker cannot be read; its lease expires"),
    };
    if let Some(result) = result
        && let Err(error) = settle_and_drive(engine, result).await
    {
        tracing::warn!(%error, "the outcome of a stock worker cannot be recorded; its lease expires");
        return;
    }
    if let Err(error) = engine.queue.end(&lease, Way::Done).await {
        tracing::warn!(%error, "a lease could not be ended; it expires");
    }
}

async fn settle_and_drive(engine: &Arc<Engine>, foreign: ForeignResult) -> Result<(), OrchestrationError> {
    let Some((execution, call)) = call_of(&foreign.id) else { return Ok(()) };
    let of = AttemptOf { execution, call, number: i64::try_from(foreign.generation).unwrap_or(0) };
    let key = of.clone();
    let Some(work) = engine.db.read(move |conn| calls::work(conn, &key)).await? else { return Ok(()) };
    // Whoever can write to Redis can tell of any call.
    if !engine.queue.foreign().contains(&work.queue) || !engine.queue.takes(&work.queue, &work.function) {
        tracing::warn!(execution.id = %of.execution, call.id = of.call.0, queue = work.queue,
            "an outcome is refused: no stock worker can have run this call");
        return Ok(());
    }
    let (outcome, retry) = match foreign.result {
        Ok(result) => (Outcome::of("a function of a stock worker", Json(result)), Retry::No),
        Err(failed) => {
            let failure = Failure { traceback: failed.traceback, ..Failure::new(failed.kind, failed.message) };
            let retry = if failed.retryable { Retry::By(RetryPolicy::default()) } else { Retry::No };
            (Outcome::Failed(failure), retry)
        }
    };
    let attempted = Attempted { of, outcome, retry, started_at: None, worker: None, log: Vec::new() };
    if let Settled::Recorded(Some(claimed)) = settle(engine, attempted).await? {
        drive::begin(engine, claimed);
    }
    Ok(())
}
