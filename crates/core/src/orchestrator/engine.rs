//! What every step needs: the store, the queue, a name, a clock.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use durable_queue::{Bell, Queue, QueueError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    aside::compile,
    cache::Cache,
    event::{Event, Observer},
    foresee::Hot,
};
use crate::{
    id::{ExecutionId, InvalidName, WorkerId},
    interpreter::{AdvanceError, CompileError, InputError, Limits, Program},
    model::ExecutionStatus,
    offers::Offers,
    quota::Quota,
    store::{
        Db, StoreError,
        executions::{self, Whose},
    },
    time::{Clock, SystemClock, Timestamp},
};

/// Why a step could not be taken. None of them leaves anything half-written.
#[derive(Debug, thiserror::Error)]
pub enum OrchestrationError {
    /// The store failed; another process, or the next tick, takes the step.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue failed; the tick pushes again.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The state was refused, or the interpreter crashed.
    #[error("execution {execution} cannot go on: {source}")]
    Advance {
        /// Which execution.
        execution: ExecutionId,
        /// Why.
        source: AdvanceError,
    },
    /// The stored workflow does not compile with this program's interpreter.
    #[error("the workflow of execution {execution} does not compile any more: {source}")]
    Compile {
        /// Which execution.
        execution: ExecutionId,
        /// Why.
        source: Box<CompileError>,
    },
    /// Something cannot be called that.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The inputs do not fit.
    #[error(transparent)]
    Input(#[from] InputError),
    /// There is no such execution.
    #[error("there is no execution {0}")]
    NotFound(ExecutionId),
    /// The id is taken by an execution of another workflow.
    #[error("execution {0} exists already, of another workflow: choose another id or key")]
    IdTaken(ExecutionId),
    /// The execution has ended, and cannot do what was wished.
    #[error("execution {id} is {status} and cannot {wish}")]
    Ended {
        /// Which execution.
        id: ExecutionId,
        /// How it ended.
        status: ExecutionStatus,
        /// What it should have done.
        wish: &'static str,
    },
    /// Only what failed or was cancelled can be tried again.
    #[error(
        "execution {id} is {status}: only failed and cancelled ones can be retried; with other code (durable retry --with FILE), \
         any that has not completed"
    )]
    NotFailed {
        /// Which execution.
        id: ExecutionId,
        /// What it is.
        status: ExecutionStatus,
    },
    /// Other code does not do what is on record.
    #[error("execution {id} cannot go on with this code: {why}. Nothing was changed")]
    Parted {
        /// Which execution.
        id: ExecutionId,
        /// Where the code parts from the record.
        why: String,
    },
    /// Others advance it all the time.
    #[error("execution {0} is being advanced all the time: durable pause {0}, then try again")]
    Busy(ExecutionId),
    /// The state that it would go on from is not there.
    #[error("execution {id} cannot be {wish}: {why}")]
    NoState {
        /// Which execution.
        id: ExecutionId,
        /// What was to be done with it.
        wish: &'static str,
        /// Why.
        why: String,
    },
    /// An execution of that id is there, and whoever starts it wanted a new one.
    #[error("execution {id} exists already: it is {status}")]
    Exists {
        /// Which execution.
        id: ExecutionId,
        /// What it is.
        status: ExecutionStatus,
    },
    /// The id is taken by an execution of this workflow with other inputs.
    #[error("execution {0} exists already, with other inputs: choose another id or key, or give the same inputs")]
    OtherInputs(ExecutionId),
    /// The id is taken by an execution of this workflow that may do other things.
    #[error("execution {0} exists already, and may do other things (--allow-…): choose another id or key")]
    OtherRights(ExecutionId),
}

/// How long rights last before somebody else may take over, and what a turn may use.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A claim. A turn is far shorter.
    pub claim: Duration,
    /// A running call whose worker is silent.
    pub lease: Duration,
    /// A pending call that no worker has begun, before it is pushed again.
    pub push_again: Duration,
    /// A started execution that nobody has claimed.
    pub start: Duration,
    /// The first look at a waiting gather whose last settler may have died; later looks double the
    /// time, up to [`Settings::look_at_most`].
    pub look: Duration,
    /// The longest time between two looks.
    pub look_at_most: Duration,
    /// How often the worker of a call may be lost before the call fails.
    pub max_lost: i64,
    /// What a workflow may use up in a turn.
    pub limits: Limits,
    /// Which states of executions are kept.
    pub history: History,
    /// How long earlier states are kept.
    pub keep_history: Duration,
    /// How long executions are kept that have ended; none: until somebody deletes them.
    pub keep_ended: Option<Duration>,
    /// What one execution may use.
    pub quota: Quota,
}

/// Which states of executions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// None of those that have ended: they cannot be retried.
    None,
    /// The last one.
    Last,
    /// That of every pause, for a while: executions can be forked at any of them.
    All,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            claim: Duration::from_secs(60),
            lease: Duration::from_secs(30),
            push_again: Duration::from_secs(60),
            start: Duration::from_secs(10),
            look: Duration::from_secs(10),
            look_at_most: Duration::from_secs(300),
            max_lost: 5,
            limits: Limits::default(),
            history: History::Last,
            keep_history: Duration::from_secs(7 * 86_400),
            keep_ended: None,
            quota: Quota::default(),
        }
    }
}

/// Takes the steps of the line. One per process, shared.
pub struct Engine {
    /// The truth.
    pub db: Db,
    /// The conveyor belt.
    pub queue: Arc<dyn Queue>,
    /// This process, in claims and calls.
    pub worker: WorkerId,
    /// Where steps get the time from; ticks get it as an argument.
    pub clock: Arc<dyn Clock>,
    /// Functions that are known to exist.
    pub offers: Offers,
    /// Durations and limits.
    pub settings: Settings,
    /// Whose due rows its ticks act on.
    pub whose: Whose,
    /// Whether it advances executions itself, or only leaves word for those that do.
    pub advances: bool,
    observer: Arc<dyn Observer>,
    programs: Mutex<Cache<String, Arc<Program>>>,
    hot: Mutex<Cache<ExecutionId, Hot>>,
    /// Room for executions that are moved on beside each other.
    room: Arc<Semaphore>,
    /// Cancelled when the process ends: turns under way are given back.
    pub(super) stopping: CancellationToken,
    /// Rung when something became due sooner than the clock loop may know.
    bell: Notify,
    /// Whether this process has a clock loop; otherwise others are told.
    has_clock: AtomicBool,
    /// When the clock loop came round last.
    ticked: Mutex<Option<Instant>>,
}

/// The longest that a clock loop sleeps: another process may have made something due that nobody here
/// was told of.
pub const CLOCK_IDLE: Duration = Duration::from_secs(1);

/// How long a process that ends waits until its turns are given back.
const STOPS: Duration = Duration::from_secs(2);

/// Bytes of text whose compiled workflows are kept at hand; each takes some twenty times as much.
const PROGRAMS: usize = 8 << 20;

/// Bytes of states of paused executions that are kept at hand.
const STATES: usize = 32 << 20;

/// Most executions that a process moves on at the same time. Few of them compute: the lanes see to that.
const SIDE_BY_SIDE: usize = 512;

impl Engine {
    /// An engine with the machine's clock, default settings and nobody watching.
    pub fn new(db: Db, queue: Arc<dyn Queue>, worker: WorkerId, offers: Offers) -> Self {
        Self {
            db,
            queue,
            worker,
            clock: Arc::new(SystemClock),
            offers,
            settings: Settings::default(),
            whose: Whose::Served,
            advances: true,
            observer: Arc::new(()),
            programs: Mutex::new(Cache::of_bytes(PROGRAMS)),
            hot: Mutex::new(Cache::of_bytes(STATES)),
            room: Arc::new(Semaphore::new(SIDE_BY_SIDE)),
            stopping: CancellationToken::new(),
            bell: Notify::new(),
            has_clock: AtomicBool::new(false),
            ticked: Mutex::default(),
        }
    }

    /// The same with somebody watching.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Tells whoever watches.
    pub fn observe(&self, event: Event<'_>) {
        self.observer.observe(&event);
    }

    /// Something becomes due after `wait`. Clocks look up once a second in any case; what is due sooner
    /// they have to be told.
    pub(super) fn sooner(&self, wait: Duration) {
        if self.has_clock.load(Ordering::Relaxed) {
            self.bell.notify_waiters();
        } else if wait < CLOCK_IDLE {
            self.ring(Bell::Sooner);
        }
    }

    /// Tells other processes something, without waiting until they have heard.
    pub(super) fn ring(&self, bell: Bell) {
        let queue = self.queue.clone();
        tokio::spawn(async move {
            if let Err(error) = queue.ring(bell).await {
                tracing::debug!(%error, "a bell was not heard");
            }
        });
    }

    /// For the clock loop: rung when it has to look sooner than it would.
    pub fn clock_bell(&self) -> &Notify {
        self.has_clock.store(true, Ordering::Relaxed);
        &self.bell
    }

    /// For the clock loop: it has come round.
    pub fn ticks(&self) {
        *self.ticked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago the clock loop came round; none before its first time.
    pub fn since_tick(&self) -> Option<Duration> {
        self.ticked.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    /// Room to move an execution on; waits until there is some.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        self.room.clone().acquire_owned().await.ok()
    }

    /// Room to move an execution on, if there is some.
    pub fn try_room(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_owned().ok()
    }

    /// Whether there is room to move another execution on.
    pub fn has_room(&self) -> bool {
        self.room.available_permits() > 0
    }

    /// Waits until no execution is being moved on beside others.
    pub async fn idle(&self) {
        let all = u32::try_from(SIDE_BY_SIDE).unwrap_or(u32::MAX);
        drop(self.room.acquire_many(all).await);
    }

    /// The process ends: turns that are under way are stopped, and their executions left to others.
    pub async fn stop(&self) {
        self.stopping.cancel();
        if tokio::time::timeout(STOPS, self.idle()).await.is_err() {
            tracing::warn!("turns are still under way; their claims expire");
        }
    }

    /// Keeps a compiled workflow at hand.
    pub(super) fn keep(&self, program: &Arc<Program>) {
        let key = cache_key(&program.name, &program.hash);
        lock(&self.programs).insert(key, program.clone(), program.source.len());
    }

    /// Keeps what is known of a pause; forgetting it makes nothing wrong.
    pub(super) fn keep_hot(&self, id: &ExecutionId, hot: Option<Hot>) {
        let mut kept = lock(&self.hot);
        kept.remove(id);
        if let Some(hot) = hot {
            let bytes = hot.bytes();
            kept.insert(id.clone(), hot, bytes);
        }
    }

    pub(super) fn take_hot(&self, id: &ExecutionId) -> Option<Hot> {
        lock(&self.hot).remove(id)
    }

    /// The workflow of an execution, compiled.
    pub(super) async fn program(
        &self,
        execution: &ExecutionId,
        name: &str,
        hash: &str,
    ) -> Result<Arc<Program>, OrchestrationError> {
        let kept = lock(&self.programs).get(&cache_key(name, hash)).cloned();
        if let Some(program) = kept {
            return Ok(program);
        }
        let key = hash.to_owned();
        let source = self.db.read(move |conn| executions::source(conn, &key)).await?;
        let source = source.ok_or_else(|| StoreError::Inconsistent(format!("the source {hash} is missing")))?;
        let program = compile(execution, name, source).await?;
        self.keep(&program);
        Ok(program)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cache_key(name: &str, hash: &str) -> String {
    format!("{hash} {name}")
}
