//! Signs of life, from a thread that no busy function can starve: leases in the queue and in the store, and the worker's own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use durable_core::{
    model,
    orchestrator::Engine,
    store::{
        calls::{self, AttemptOf},
        workers,
    },
};
use durable_queue::{JobId, Lease, Presence, Queue};
use tokio_util::sync::CancellationToken;

/// What is under way.
#[derive(Default, Clone)]
pub(crate) struct Running(Arc<Mutex<HashMap<JobId, (Lease, AttemptOf)>>>);

impl Running {
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<JobId, (Lease, AttemptOf)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beating thread; stopped, with a last word, when this is dropped.
pub(crate) struct Heart {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What beats.
pub(crate) struct Beats {
    pub(crate) engine: Arc<Engine>,
    pub(crate) running: Running,
    pub(crate) every: Duration,
    /// None when nobody else may know of this worker.
    pub(crate) shown: Option<model::Worker>,
}

impl Heart {
    pub(crate) fn start(beats: Beats) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name("durable-heart".into())
            .spawn(move || runtime.block_on(beats.run(stopped)))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops, and waits until the worker has been taken off the lists.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Beats {
    async fn run(self, stop: CancellationToken) {
        // Its own connections: others are served by threads that a busy function may hold.
        let queue = self.engine.queue.apart();
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if stop.run_until_cancelled(self.beat(&*queue)).await.is_none() {
                break;
            }
        }
        self.leave(&*queue).await;
    }

    async fn beat(&self, queue: &dyn Queue) {
        let running: Vec<(Lease, AttemptOf)> = self.running.lock().values().cloned().collect();
        let engine = &self.engine;
        let until = engine.now().after(engine.settings.lease);
        let shown = self.shown.clone().map(|worker| model::Worker { due_at: until, ..worker });
        if let Some(worker) = &shown
            && let Err(error) = queue.show(&self.presence(worker, !running.is_empty())).await
        {
            tracing::warn!(%error, "this worker cannot be shown");
        }
        if !running.is_empty() {
            let leases: Vec<Lease> = running.iter().map(|(lease, _)| lease.clone()).collect();
            match queue.beat(&leases).await {
                Ok(lost) if lost.is_empty() => {}
                // What still runs may be the first to succeed, so it goes on.
                Ok(lost) => tracing::warn!(count = lost.len(), "leases were lost; others may run these jobs too"),
                Err(error) => tracing::warn!(%error, "leases cannot be renewed"),
            }
        }
        if running.is_empty() && shown.is_none() {
            return;
        }
        let me = engine.worker.clone();
        engine.db.write_lazily(move |conn| {
            running.iter().try_for_each(|(_, of)| calls::beat(conn, of, &me, until).map(drop))?;
            shown.iter().try_for_each(|worker| workers::beat(conn, worker))
        });
    }

    async fn leave(&self, queue: &dyn Queue) {
        let Some(worker) = &self.shown else { return };
        let name = worker.name.clone();
        let left = self.engine.db.write(move |conn| workers::leave(conn, &name)).await;
        if let Err(error) = left {
            tracing::warn!(%error, "this worker is listed until it would have beaten again");
        }
        if let Err(error) = queue.leave(&self.presence(worker, false)).await {
            tracing::warn!(%error, "this worker is shown until it would have beaten again");
        }
    }

    fn presence(&self, worker: &model::Worker, busy: bool) -> Presence {
        Presence {
            name: worker.name.0.clone(),
            queues: worker.queues.clone(),
            host: worker.host.clone(),
            pid: worker.pid,
            busy,
        }
    }
}
