//! The loop: take jobs, run them, record what they led to, advance whatever can go on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use durable_core::{
    orchestrator::{
        Engine, Event, OrchestrationError,
        dispatch::{load_work, read_job},
        drive::drive,
        foresee::foresee,
        pause::look_again,
        settle::{Attempted, Settled, settle},
    },
    store::calls::{self, AttemptOf},
    time::Timestamp,
};
use durable_queue::{JobId, Lease};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    attempt,
    function::CallLog,
    registry::{DuplicateFunction, Registry},
};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Queues to serve, the most urgent first.
    pub queues: Vec<String>,
    /// How many jobs run at the same time.
    pub concurrency: usize,
    /// How long running functions may go on after a stop was asked for.
    pub grace: Duration,
    /// How often leases are renewed.
    pub beat: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            queues: vec!["default".into()],
            concurrency: 8,
            grace: Duration::from_secs(10),
            beat: Duration::from_secs(10),
        }
    }
}

/// How long a pop waits before the loop looks up.
const POP_WAIT: Duration = Duration::from_secs(5);

/// Waits between tries to record an outcome while the store is away; the lease runs meanwhile.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Runs functions.
pub struct Worker {
    engine: Arc<Engine>,
    registry: Registry,
    settings: WorkerSettings,
    running: Mutex<HashMap<JobId, (Lease, AttemptOf)>>,
}

impl Worker {
    /// A worker that offers `registry`.
    pub fn new(engine: Arc<Engine>, registry: Registry, settings: WorkerSettings) -> Result<Self, DuplicateFunction> {
        registry.check()?;
        Ok(Self { engine, registry, settings, running: Mutex::default() })
    }

    /// Works until `stop`; then running functions get their grace, and what is still running after
    /// it is given back, uncounted.
    pub async fn run(self, stop: CancellationToken) {
        let worker = Arc::new(self);
        let beating = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(worker.clone().beat()));
        let slots = Arc::new(Semaphore::new(worker.settings.concurrency));
        let mut jobs = JoinSet::new();
        loop {
            while jobs.try_join_next().is_some() {}
            let Some(Ok(slot)) = stop.run_until_cancelled(slots.clone().acquire_owned()).await else { break };
            let free = slots.available_permits() + 1;
            let Some(leases) = stop.run_until_cancelled(worker.pop(free)).await else { break };
            // Nobody else takes slots, so there is one for each lease.
            let slots = std::iter::once(slot).chain(std::iter::from_fn(|| slots.clone().try_acquire_owned().ok()));
            for (lease, slot) in leases.into_iter().zip(slots) {
                let worker = worker.clone();
                jobs.spawn(async move {
                    worker.job(lease).await;
                    drop(slot);
                });
            }
        }
        let all_done = async { while jobs.join_next().await.is_some() {} };
        if tokio::time::timeout(worker.settings.grace, all_done).await.is_err() {
            jobs.shutdown().await;
            worker.give_back().await;
        }
        drop(beating);
    }

    async fn pop(&self, free: usize) -> Vec<Lease> {
        let name = &self.engine.worker.0;
        match self.engine.queue.pop(&self.settings.queues, name, free, POP_WAIT).await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(%error, "no jobs can be taken");
                tokio::time::sleep(POP_WAIT).await;
                Vec::new()
            }
        }
    }

    async fn job(&self, lease: Lease) {
        let of = match read_job(&lease.job) {
            Ok((of, _)) => of,
            Err(error) => {
                tracing::error!(%error, "dropping a job");
                let _ = self.engine.queue.ack(&lease).await;
                return;
            }
        };
        self.running().insert(lease.job.id.clone(), (lease.clone(), of.clone()));
        let ended = self.attempt(&lease, of.clone()).await;
        self.running().remove(&lease.job.id);
        if let Err(error) = ended {
            tracing::error!(execution.id = %of.execution, call.id = of.call.0, %error, "a step failed");
        }
    }

    async fn attempt(&self, lease: &Lease, of: AttemptOf) -> Result<(), OrchestrationError> {
        let engine = &*self.engine;
        let _busy = engine.db.busy();
        let Some(work) = load_work(engine, &lease.job).await? else {
            engine.queue.ack(lease).await?;
            return Ok(());
        };
        let started_at = engine.now();
        self.mark_running(&of, started_at);
        engine.observe(Event::Began(&of));
        let log = Arc::new(CallLog::default());
        let (outcome, retry) = attempt::run(&self.registry, &engine.offers, work, &log).await;
        engine.observe(Event::Ran(&of));
        let log = log.lines(&of, engine.now());
        let worker = Some(engine.worker.clone());
        let attempted = Attempted { of, outcome, retry, started_at: Some(started_at), worker, log };
        if let Some(claimed) = foresee(engine, &attempted) {
            match drive(engine, claimed).await {
                Ok(()) => return self.acknowledge(lease).await,
                Err(error) => tracing::warn!(%error, "a step that ran ahead of its claim failed"),
            }
            return self.after_foresight(lease, attempted).await;
        }
        let settled = self.record(attempted).await?;
        self.acknowledge(lease).await?;
        match settled {
            Settled::Recorded(Some(claimed)) => drive(engine, claimed).await,
            Settled::Recorded(None) | Settled::Retrying | Settled::Ignored => Ok(()),
        }
    }

    /// How far a step that ran ahead came before it failed is not known: the outcome is recorded if it
    /// was not, and if it was, somebody has to look whether it lets the execution go on.
    async fn after_foresight(&self, lease: &Lease, attempted: Attempted) -> Result<(), OrchestrationError> {
        let execution = attempted.of.execution.clone();
        let settled = self.record(attempted).await?;
        self.acknowledge(lease).await?;
        let claimed = match settled {
            Settled::Recorded(claimed) => claimed,
            Settled::Ignored => look_again(&self.engine, &execution).await?,
            Settled::Retrying => None,
        };
        match claimed {
            Some(claimed) => drive(&self.engine, claimed).await,
            None => Ok(()),
        }
    }

    /// The outcome is safe: a queue that is away now only hands the job out again, to be dropped.
    async fn acknowledge(&self, lease: &Lease) -> Result<(), OrchestrationError> {
        if let Err(error) = self.engine.queue.ack(lease).await {
            tracing::warn!(%error, "a finished job could not be acknowledged");
        }
        Ok(())
    }

    /// Lazily: a function that ends at once costs no commit of its own for having begun.
    fn mark_running(&self, of: &AttemptOf, now: Timestamp) {
        let (of, worker, until) = (of.clone(), self.engine.worker.clone(), now.after(self.engine.settings.lease));
        self.engine.db.write_lazily(move |conn| calls::begin(conn, &of, &worker, now, until).map(drop));
    }

    /// An outcome is not thrown away because the store is away for a while.
    async fn record(&self, attempted: Attempted) -> Result<Settled, OrchestrationError> {
        loop {
            match settle(&self.engine, attempted.clone()).await {
                Err(OrchestrationError::Store(error)) if error.is_passing() => {
                    tracing::warn!(%error, "an outcome waits to be recorded");
                    tokio::time::sleep(STORE_RETRY).await;
                }
                other => return other,
            }
        }
    }

    /// Renews the leases of everything that runs, in the queue and in the store.
    async fn beat(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.settings.beat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let running: Vec<(Lease, AttemptOf)> = self.running().values().cloned().collect();
            if running.is_empty() {
                continue;
            }
            let leases: Vec<Lease> = running.iter().map(|(lease, _)| lease.clone()).collect();
            match self.engine.queue.beat(&leases).await {
                Ok(lost) if lost.is_empty() => {}
                Ok(lost) => tracing::warn!(count = lost.len(), "leases were lost; their outcomes will be fenced"),
                Err(error) => tracing::warn!(%error, "leases cannot be renewed"),
            }
            let (worker, until) = (self.engine.worker.clone(), self.engine.now().after(self.engine.settings.lease));
            self.engine.db.write_lazily(move |conn| {
                for (_, of) in &running {
                    calls::beat(conn, of, &worker, until)?;
                }
                Ok(())
            });
        }
    }

    /// What was cut short is pending again, under the same attempt.
    async fn give_back(&self) {
        let running: Vec<(Lease, AttemptOf)> = self.running().drain().map(|(_, held)| held).collect();
        let now = self.engine.now();
        let attempts: Vec<AttemptOf> = running.iter().map(|(_, of)| of.clone()).collect();
        let released = self
            .engine
            .db
            .write(move |conn| attempts.iter().try_for_each(|of| calls::release(conn, of, now).map(drop)))
            .await;
        if let Err(error) = released {
            tracing::warn!(%error, "calls could not be given back; their leases expire");
        }
        for (lease, _) in &running {
            if let Err(error) = self.engine.queue.release(lease).await {
                tracing::warn!(%error, "a job could not be given back; its lease expires");
            }
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, (Lease, AttemptOf)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
