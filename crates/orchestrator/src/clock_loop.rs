//! The loop over what is due: timers, retries, pushes, lost workers, expired claims.

use std::{sync::Arc, time::Duration};

use durable_core::{
    orchestrator::{Engine, OrchestrationError, rescue, timers},
    store::{calls, executions},
};
use tokio_util::sync::CancellationToken;

/// The longest sleep: another process may have made something due that nobody here was told of.
const IDLE: Duration = Duration::from_secs(1);

/// The wait after a tick that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Ticks until `stop`: sleeps until something is due, is woken when something becomes due sooner,
/// and looks again after a second in any case.
pub async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // Registered before looking, so that a bell between the look and the sleep is heard.
        let sooner = engine.sooner.notified();
        tokio::pin!(sooner);
        sooner.as_mut().enable();
        let wait = match tick(&engine).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(%error, "a tick failed");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sooner => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Acts on everything that is due now; answers how long nothing more will be.
async fn tick(engine: &Engine) -> Result<Duration, OrchestrationError> {
    let now = engine.now();
    let acted = timers::tick(engine, now).await? + rescue::tick(engine, now).await?;
    engine.queue.reap().await?;
    if acted > 0 {
        return Ok(Duration::ZERO);
    }
    let whose = engine.whose.clone();
    let next = engine
        .db
        .read(move |conn| {
            Ok([calls::next_due(conn, &whose)?, executions::next_due(conn, &whose)?].into_iter().flatten().min())
        })
        .await?;
    Ok(next.map_or(IDLE, |next| next.since(engine.now()).min(IDLE)))
}
