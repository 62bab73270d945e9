//! Signs of life, from a thread that no busy function can starve: leases in the queue and in the store, and the worker's own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use durable_core::{
    id::{CallId, ExecutionId},
    model,
    orchestrator::Engine,
    store::{
        calls::{self, AttemptOf},
        workers,
    },
};
use durable_queue::{Bell, JobId, Lease, Presence, Queue};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

/// A job that this worker holds.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) of: AttemptOf,
    /// Cancelled when nobody wants its result any more.
    pub(crate) cancelled: CancellationToken,
}

/// What is under way.
#[derive(Default, Clone)]
pub(crate) struct Running(Arc<Mutex<HashMap<JobId, Held>>>);

impl Running {
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Held>> {
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

/// Waits until some calls of an execution are cancelled.
async fn cancelled(bells: &mut Receiver<Bell>) -> String {
    loop {
        match bells.recv().await {
            Ok(Bell::Cancelled(id)) => return id,
            Ok(Bell::Sooner | Bell::Ended(_)) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Beats {
    async fn run(self, stop: CancellationToken) {
        // Its own connections: others are served by threads that a busy function may hold.
        let queue = self.engine.queue.apart();
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut bells = self.engine.queue.bells();
        loop {
            let due = async {
                tokio::select! {
                    _ = ticks.tick() => None,
                    id = cancelled(&mut bells) => Some(id),
                }
            };
            let Some(due) = stop.run_until_cancelled(due).await else { break };
            let work = async {
                self.drop_cancelled(due.as_deref()).await;
                if due.is_none() {
                    self.beat(&*queue).await;
                }
            };
            if stop.run_until_cancelled(work).await.is_none() {
                break;
            }
        }
        self.leave(&*queue).await;
    }

    /// Tells running functions whose calls are cancelled: those of one execution, or all, in case a bell was lost.
    async fn drop_cancelled(&self, execution: Option<&str>) {
        let mut by_execution: HashMap<ExecutionId, Vec<Held>> = HashMap::new();
        for held in self.running.lock().values() {
            if execution.is_none_or(|id| held.of.execution.as_str() == id) && !held.cancelled.is_cancelled() {
                by_execution.entry(held.of.execution.clone()).or_default().push(held.clone());
            }
        }
        for (id, held) in by_execution {
            let calls: Vec<CallId> = held.iter().map(|held| held.of.call).collect();
            let cancelled = self.engine.db.read(move |conn| calls::cancelled_among(conn, &id, &calls)).await;
            match cancelled {
                Ok(cancelled) => {
                    let unwanted = held.iter().filter(|held| cancelled.contains(&held.of.call));
                    unwanted.for_each(|held| held.cancelled.cancel());
                }
                Err(error) => tracing::debug!(%error, "it is not known which calls are cancelled"),
            }
        }
    }

    async fn beat(&self, queue: &dyn Queue) {
        let running: Vec<Held> = self.running.lock().values().cloned().collect();
        let engine = &self.engine;
        let until = engine.now().after(engine.settings.lease);
        let shown = self.shown.clone().map(|worker| model::Worker { due_at: until, ..worker });
        if let Some(worker) = &shown
            && let Err(error) = queue.show(&self.presence(worker, !running.is_empty())).await
        {
            tracing::warn!(%error, "this worker cannot be shown");
        }
        if !running.is_empty() {
            let leases: Vec<Lease> = running.iter().map(|held| held.lease.clone()).collect();
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
            running.iter().try_for_each(|held| calls::beat(conn, &held.of, &me, until).map(drop))?;
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
