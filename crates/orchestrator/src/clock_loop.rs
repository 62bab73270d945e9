//! The loop over what is due: timers, retries, pushes, lost workers, expired claims.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use durable_core::{
    orchestrator::{CLOCK_IDLE, Engine, OrchestrationError, rescue, timers},
    store::{calls, executions},
    time::Timestamp,
};
use durable_queue::Bell;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::forget;

/// The wait after a tick that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How often the queue is swept: expired leases, and whether it has lost everything.
const SWEEP: Duration = Duration::from_secs(1);

/// How often a full queue is asked whether it has room, and how long a process waits that moves on as many executions as it
/// can.
const FULL: Duration = Duration::from_millis(100);

/// Ticks until `stop`: sleeps until something is due, is woken when something becomes due sooner,
/// and looks again after a second in any case.
pub async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let mut bells = engine.queue.bells();
    let mut clock = Clock { engine: &engine, swept: None, full: Vec::new() };
    let _forgets = AbortOnDropHandle::new(tokio::spawn(forget::run(engine.clone(), stop.clone())));
    while !stop.is_cancelled() {
        engine.ticks();
        // Registered before looking, so that a bell between the look and the sleep is heard.
        let bell = engine.clock_bell().notified();
        tokio::pin!(bell);
        bell.as_mut().enable();
        let wait = match clock.tick().await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(%error, "a tick failed");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = bell => {}
            () = rung(&mut bells) => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Waits until another process says that something becomes due.
async fn rung(bells: &mut Receiver<Bell>) {
    loop {
        match bells.recv().await {
            Ok(Bell::Sooner) | Err(RecvError::Lagged(_)) => return,
            Ok(Bell::Ended(_) | Bell::Cancelled(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

struct Clock<'a> {
    engine: &'a Arc<Engine>,
    swept: Option<Instant>,
    /// Queues that have refused jobs; what waits for them is left in the database.
    full: Vec<String>,
}

impl Clock<'_> {
    /// Acts on everything that is due now; answers how long nothing more will be.
    async fn tick(&mut self) -> Result<Duration, OrchestrationError> {
        let (engine, now) = (self.engine, self.engine.now());
        if let Err(error) = self.sweep(now).await {
            // What is due in the database does not wait for the queue.
            tracing::warn!(%error, "the queue cannot be swept");
        }
        let (whose, full) = (engine.whose.clone(), self.full.clone());
        let next = engine
            .db
            .read(move |conn| {
                let next = [calls::next_due(conn, &whose, &full)?, executions::next_due(conn, &whose)?];
                Ok(next.into_iter().flatten().min())
            })
            .await?;
        let most = if self.full.is_empty() { CLOCK_IDLE } else { FULL };
        let wait = next.map_or(most, |next| next.since(now).min(most));
        if !wait.is_zero() {
            return Ok(wait);
        }
        // What one of them fails at does not keep the others from theirs.
        let timers = timers::tick(engine, now).await.map(drop);
        let rescue = if engine.has_room() { rescue::tick(engine, now).await.map(drop) } else { Ok(()) };
        let pushed = timers::push(engine, now, self.full.clone()).await;
        let pushed = pushed.map(|pushed| self.full.extend(pushed.full));
        timers.and(rescue).and(pushed)?;
        Ok(if engine.has_room() { Duration::ZERO } else { FULL })
    }

    async fn sweep(&mut self, now: Timestamp) -> Result<(), OrchestrationError> {
        let queue = &self.engine.queue;
        let mut still_full = Vec::new();
        for name in std::mem::take(&mut self.full) {
            // Half empty: fewer, larger pushes.
            if queue.depth(&name).await? > queue.capacity() / 2 {
                still_full.push(name);
            }
        }
        self.full = still_full;
        if self.swept.is_some_and(|swept| swept.elapsed() < SWEEP) {
            return Ok(());
        }
        // Also when it fails: a queue that is away is not asked at every tick.
        self.swept = Some(Instant::now());
        let swept = queue.sweep().await?;
        if swept.lost_everything {
            let pushed = rescue::push_everything(self.engine, now).await?;
            tracing::info!(calls = pushed, "the queue is empty or new: what was in it is pushed again");
        }
        Ok(())
    }
}
