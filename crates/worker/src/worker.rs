//! The loop: take jobs, run them, record what they led to, advance whatever can go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use durable_core::{
    id::WorkerId,
    model,
    offers::Offers,
    orchestrator::{
        Engine, Event, OrchestrationError,
        dispatch::{load_work, read_job},
        drain,
        drive::drive,
        foresee::foresee,
        pause::look_again,
        settle::{Attempted, Settled, settle},
        timers::CALLBACK,
    },
    store::{
        callbacks,
        calls::{self, AttemptOf, Work},
        logs, workers,
    },
    time::Timestamp,
};
use durable_queue::{Lease, Way};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    attempt::{self, Ended, Told},
    fleet::Fleet,
    function::{Function, Reporter},
    heart::{Beats, Heart, Held, Running},
    log::CallLog,
    python::LOST,
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
    /// End when the queues are empty.
    pub burst: bool,
    /// End after so many jobs.
    pub max_jobs: Option<u64>,
    /// Cancelled when nobody wants what still runs: only functions that clean up get their time for it.
    pub unwanted: CancellationToken,
    /// Where and as what this worker is listed among others that may offer other functions; none when it is
    /// the only one, so that what it does not offer nobody does.
    pub listed: Option<Listed>,
}

/// What others see of a worker.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            queues: vec!["default".into()],
            concurrency: 8,
            grace: Duration::from_secs(10),
            beat: Duration::from_secs(10),
            burst: false,
            max_jobs: None,
            unwanted: CancellationToken::new(),
            listed: None,
        }
    }
}

/// How long a pop waits before the loop looks up.
const POP_WAIT: Duration = Duration::from_secs(5);

/// How long slots are gathered while more jobs wait than there are slots.
const GATHER: Duration = Duration::from_millis(1);

/// How long a pop may go on after a stop was asked for.
const LAST_POP: Duration = Duration::from_millis(250);

/// Waits between tries to record an outcome while the store is away; the lease runs meanwhile.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// The wait after a queue that could not be asked.
const QUEUE_RETRY: Duration = Duration::from_secs(1);

/// How long the turn that follows a function keeps the function's slot.
const KEEPS_SLOT: Duration = Duration::from_millis(50);

/// Does what follows a function. A turn that takes long keeps no other function from its slot, as long as this process may move
/// on more executions.
async fn without_slot<T>(slot: OwnedSemaphorePermit, engine: &Engine, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if let Ok(done) = tokio::time::timeout(KEEPS_SLOT, &mut work).await {
        return done;
    }
    let _kept = match engine.try_room() {
        Some(room) => {
            drop(slot);
            room
        }
        None => slot,
    };
    work.await
}

/// Runs functions.
pub struct Worker {
    engine: Arc<Engine>,
    registry: Registry,
    /// What the registry holds.
    offers: Offers,
    settings: WorkerSettings,
    running: Running,
    fleet: Option<Fleet>,
    taken: AtomicU64,
}

/// How long a function that nobody wants any more may go on, to clean up.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// How often what a function says of itself is written.
const REPORT: Duration = Duration::from_millis(500);

/// After how many lost attempts a call no longer shares a process.
const LOSSES: usize = 2;

/// What the attempt led to, unless it was cancelled and did not end soon after.
async fn within_grace<T>(
    attempt: impl Future<Output = T>,
    function: Option<&dyn Function>,
    cancelled: &CancellationToken,
    unwanted: &CancellationToken,
) -> Option<T> {
    tokio::pin!(attempt);
    tokio::select! {
        ended = &mut attempt => return Some(ended),
        () = cancelled.cancelled() => {}
        () = unwanted.cancelled() => {}
    }
    let cleans_up = function.is_some_and(Function::cleans_up);
    let ends_itself = function.is_some_and(Function::minds_its_time);
    // A function that cleans up is told of both alike.
    cancelled.cancel();
    tokio::select! {
        ended = &mut attempt => Some(ended),
        () = tokio::time::sleep(CANCEL_GRACE), if !ends_itself => None,
        () = unwanted.cancelled(), if !cleans_up => None,
    }
}

impl Worker {
    /// A worker that offers `registry`.
    pub fn new(engine: Arc<Engine>, registry: Registry, settings: WorkerSettings) -> Result<Self, DuplicateFunction> {
        registry.check()?;
        let offers = registry.offers();
        let fleet = settings.listed.is_some().then(Fleet::default);
        let (running, taken) = (Running::default(), AtomicU64::new(0));
        Ok(Self { engine, registry, offers, settings, running, fleet, taken })
    }

    /// How many jobs it has taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Works until `stop`, or until it has done what its settings ask for; then running functions get their
    /// grace, and what is still running after it is given back, uncounted. False when it could not begin.
    pub async fn run(self, stop: CancellationToken) -> bool {
        let worker = Arc::new(self);
        let heart = match worker.heart().await {
            Ok(heart) => heart,
            Err(error) => {
                tracing::error!(%error, "this worker cannot show that it lives");
                return false;
            }
        };
        let slots = Arc::new(Semaphore::new(worker.settings.concurrency));
        let mut jobs = JoinSet::new();
        let mut backlog = false;
        loop {
            while jobs.try_join_next().is_some() {}
            let Some(Ok(slot)) = stop.run_until_cancelled(slots.clone().acquire_owned()).await else { break };
            if backlog {
                // Jobs that were committed together end together: their slots are filled together.
                tokio::time::sleep(GATHER).await;
            }
            let free = worker.may_take(slots.available_permits() + 1);
            let Some(leases) = worker.pop(free, &stop).await else { break };
            if leases.is_empty() && worker.settings.burst {
                drop(slot);
                // What runs may lead to more.
                if jobs.join_next().await.is_none() {
                    break;
                }
                continue;
            }
            backlog = leases.len() == free;
            worker.taken.fetch_add(leases.len() as u64, Ordering::Relaxed);
            // Nobody else takes slots, so there is one for each lease.
            let slots = std::iter::once(slot).chain(std::iter::from_fn(|| slots.clone().try_acquire_owned().ok()));
            for (lease, slot) in leases.into_iter().zip(slots) {
                // From now on, not from when a thread is free to run it: until then it is beaten, too.
                worker.hold(&lease);
                let worker = worker.clone();
                jobs.spawn(async move { worker.job(lease, slot).await });
            }
        }
        let all_done = async { while jobs.join_next().await.is_some() {} };
        if tokio::time::timeout(worker.settings.grace, all_done).await.is_err() {
            worker.engine.stop().await;
            jobs.shutdown().await;
            worker.give_back().await;
        }
        heart.stop().await;
        true
    }

    /// Lists the worker, then keeps showing that it lives.
    async fn heart(&self) -> Result<Heart, OrchestrationError> {
        let (engine, settings) = (&self.engine, &self.settings);
        let now = engine.now();
        let shown = settings.listed.as_ref().map(|listed| model::Worker {
            name: engine.worker.clone(),
            host: listed.host.clone(),
            pid: listed.pid,
            queues: settings.queues.clone(),
            functions: self.offers.names().map(String::from).collect(),
            concurrency: u32::try_from(settings.concurrency).unwrap_or(u32::MAX),
            started_at: now,
            due_at: now.after(engine.settings.lease),
        });
        if let Some(worker) = shown.clone() {
            engine.db.write(move |conn| workers::beat(conn, &worker)).await?;
        }
        let beats = Beats { engine: engine.clone(), running: self.running.clone(), every: settings.beat, shown };
        Heart::start(beats)
            .map_err(|error| OrchestrationError::Store(durable_core::store::StoreError::Unavailable(error.to_string())))
    }

    /// How many of the free slots may be filled.
    fn may_take(&self, free: usize) -> usize {
        let left = self.settings.max_jobs.map_or(u64::MAX, |most| most.saturating_sub(self.taken()));
        free.min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// None when it is time to stop.
    async fn pop(&self, free: usize, stop: &CancellationToken) -> Option<Vec<Lease>> {
        if free == 0 || stop.is_cancelled() {
            return None;
        }
        let (queue, name) = (&self.engine.queue, &self.engine.worker.0);
        let wait = if self.settings.burst { Duration::ZERO } else { POP_WAIT };
        let mut popping = queue.pop(&self.settings.queues, name, free, wait);
        let popped = tokio::select! {
            popped = &mut popping => popped,
            () = stop.cancelled() => {
                if self.settings.unwanted.is_cancelled() {
                    return None;
                }
                // It may be just taking jobs, which would be nobody's until their leases expire.
                let last = tokio::time::timeout(LAST_POP, popping).await;
                for lease in last.into_iter().flatten().flatten() {
                    self.end(&lease, Way::Front).await;
                }
                return None;
            }
        };
        match popped {
            Ok(leases) => Some(leases),
            Err(error) => {
                tracing::warn!(%error, "no jobs can be taken");
                stop.run_until_cancelled(tokio::time::sleep(QUEUE_RETRY)).await?;
                Some(Vec::new())
            }
        }
    }

    fn hold(&self, lease: &Lease) {
        if let Ok((of, _)) = read_job(&lease.job) {
            let held = Held { lease: lease.clone(), of, cancelled: CancellationToken::new() };
            self.running.lock().insert(lease.job.id.clone(), held);
        }
    }

    async fn job(&self, lease: Lease, slot: OwnedSemaphorePermit) {
        let (of, function) = match read_job(&lease.job) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "refusing a job");
                return self.end(&lease, Way::Refused).await;
            }
        };
        if let (Some(fleet), false) = (&self.fleet, self.offers.offers(&function)) {
            self.running.lock().remove(&lease.job.id);
            return fleet.decline(&self.engine, &lease, of, &function).await;
        }
        let span = tracing::info_span!("job", execution.id = %of.execution, call.id = of.call.0, attempt = of.number,
                                       function, queue = lease.job.queue);
        let ended = self.attempt(&lease, of.clone(), slot).instrument(span).await;
        self.running.lock().remove(&lease.job.id);
        if let Err(error) = ended {
            tracing::error!(execution.id = %of.execution, call.id = of.call.0, %error, "a step failed");
        }
    }

    async fn attempt(
        &self,
        lease: &Lease,
        of: AttemptOf,
        slot: OwnedSemaphorePermit,
    ) -> Result<(), OrchestrationError> {
        let engine = &*self.engine;
        let _busy = engine.db.busy();
        let Some(work) = load_work(engine, lease).await? else {
            drain::note_end(engine, &of.execution, of.call);
            self.end(lease, Way::Done).await;
            return Ok(());
        };
        let started_at = engine.now();
        self.mark_running(&of, started_at);
        engine.observe(Event::Began(&of));
        let log = CallLog::default();
        let callback = self.callback(&work).await?;
        let cancelled = self.running.lock().get(&lease.job.id).map(|held| held.cancelled.clone()).unwrap_or_default();
        let left = work.deadline.map_or(Duration::MAX, |deadline| deadline.since(started_at));
        let suspect = self.is_suspect(&of).await?;
        let told = Told { callback, cancelled: cancelled.clone(), progress: self.reporter(&of), suspect, left };
        let function = attempt::find(&self.registry, &self.offers, &work).map(|(_, found)| &*found.function);
        let attempt = attempt::run(&self.registry, &self.offers, work, told, &log);
        let ended = within_grace(attempt, function, &cancelled, &self.settings.unwanted).await;
        if cancelled.is_cancelled() {
            return self.ended_unwanted(lease, &of, &log).await;
        }
        let (outcome, retry) = match ended {
            Some(Ended::Settled(outcome, retry)) => (outcome, retry),
            Some(Ended::Later(timeout)) => return self.leave_to_others(lease, of, started_at, timeout).await,
            None => return self.ended_unwanted(lease, &of, &log).await,
        };
        engine.observe(Event::Ran(&of));
        let log = log.lines(&of, engine.now());
        let worker = Some(engine.worker.clone());
        let attempted = Attempted { of, outcome, retry, started_at: Some(started_at), worker, log };
        without_slot(slot, engine, self.ran(lease, attempted)).await
    }

    /// The function has ended: its outcome is recorded, and what that lets go on goes on.
    async fn ran(&self, lease: &Lease, attempted: Attempted) -> Result<(), OrchestrationError> {
        let engine = &*self.engine;
        if let Some(claimed) = foresee(engine, &attempted) {
            match drive(engine, claimed).await {
                Ok(()) => {
                    self.end(lease, Way::Done).await;
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "a step that ran ahead of its claim failed"),
            }
        }
        self.settle(lease, attempted).await
    }

    /// Whether earlier attempts took down the process in which they ran beside others, or may have.
    async fn is_suspect(&self, of: &AttemptOf) -> Result<bool, OrchestrationError> {
        if of.number == 1 {
            return Ok(false);
        }
        let key = of.clone();
        let failures = self.engine.db.read(move |conn| calls::failures(conn, &key)).await?;
        let lost = failures.iter().filter(|(lost, _)| *lost).count();
        Ok(lost >= LOSSES || failures.iter().any(|(lost, failure)| !lost && failure.kind == LOST))
    }

    /// Nobody waits for a cancelled attempt's outcome, and its function has now really ended, which a workflow may wait
    /// for. What it wrote while it cleaned up is kept.
    async fn ended_unwanted(&self, lease: &Lease, of: &AttemptOf, log: &CallLog) -> Result<(), OrchestrationError> {
        let (execution, lines) = (of.execution.clone(), log.lines(of, self.engine.now()));
        let most = self.engine.settings.quota.log;
        if !lines.is_empty()
            && let Err(error) = self.engine.db.write(move |conn| logs::append(conn, &execution, &lines, most)).await
        {
            tracing::debug!(%error, "the output of a cancelled attempt is not kept");
        }
        drain::note_end(&self.engine, &of.execution, of.call);
        self.end(lease, Way::Done).await;
        Ok(())
    }

    /// Writes what a function says of itself, not more often than people can read it.
    fn reporter(&self, of: &AttemptOf) -> Reporter {
        let (engine, of) = (self.engine.clone(), of.clone());
        Reporter::every(REPORT, move |progress| {
            let of = of.clone();
            engine.db.write_lazily(move |conn| calls::progress(conn, &of, &progress));
        })
    }

    /// An outcome that was recorded already may be so by a try of ours whose answer was lost, or by a step that
    /// ran ahead and failed later: then somebody has to look whether it lets the execution go on.
    async fn settle(&self, lease: &Lease, attempted: Attempted) -> Result<(), OrchestrationError> {
        let (execution, call) = (attempted.of.execution.clone(), attempted.of.call);
        let settled = self.record(attempted).await?;
        self.end(lease, Way::Done).await;
        let claimed = match settled {
            Settled::Recorded(claimed) => claimed,
            Settled::Ignored => {
                drain::note_end(&self.engine, &execution, call);
                look_again(&self.engine, &execution).await?
            }
            Settled::Retrying => None,
        };
        match claimed {
            Some(claimed) => drive(&self.engine, claimed).await,
            None => Ok(()),
        }
    }

    /// What matters is recorded: a queue that is away now only hands the job out again, to be dropped.
    async fn end(&self, lease: &Lease, way: Way) {
        if let Err(error) = self.engine.queue.end(lease, way).await {
            tracing::warn!(%error, job = %lease.job.id, ?way, "a lease could not be ended; it expires");
        }
    }

    /// The right to complete the call later, for a function that may want it. Recorded before the function
    /// can have told anybody.
    async fn callback(&self, work: &Work) -> Result<Option<String>, OrchestrationError> {
        let found = attempt::find(&self.registry, &self.offers, work);
        if !found.is_some_and(|(_, registered)| registered.function.may_defer()) {
            return Ok(None);
        }
        let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let (key, of, now) = (token.clone(), work.attempt.clone(), self.engine.now());
        self.engine.db.write(move |conn| callbacks::insert(conn, &key, &of, now)).await?;
        Ok(Some(token))
    }

    /// Nobody here runs the call any more; it is given up when nobody has completed it in its time.
    async fn leave_to_others(
        &self,
        lease: &Lease,
        of: AttemptOf,
        now: Timestamp,
        timeout: Duration,
    ) -> Result<(), OrchestrationError> {
        let (nobody, until) = (WorkerId(CALLBACK.into()), now.after(timeout));
        let engine = &self.engine;
        engine
            .db
            .write(move |conn| {
                // The lazy mark may have been written already, in this worker's name.
                calls::release(conn, &of, now)?;
                calls::begin(conn, &of, &nobody, now, until)
            })
            .await?;
        self.end(lease, Way::Done).await;
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

    /// What was cut short is pending again, under the same attempt.
    async fn give_back(&self) {
        let running: Vec<Held> = self.running.lock().drain().map(|(_, held)| held).collect();
        let now = self.engine.now();
        let attempts: Vec<AttemptOf> = running.iter().map(|held| held.of.clone()).collect();
        let released = self
            .engine
            .db
            .write(move |conn| attempts.iter().try_for_each(|of| calls::release(conn, of, now).map(drop)))
            .await;
        if let Err(error) = released {
            tracing::warn!(%error, "calls could not be given back; their leases expire");
        }
        for held in &running {
            self.end(&held.lease, Way::Front).await;
        }
    }
}
