//! An engine whose time a test moves by hand, and whose functions the test answers itself.

use std::{sync::Arc, time::Duration};

use durable_core::{
    id::{CallId, ExecutionId, WorkerId},
    interpreter::Program,
    model::{Call, CallStatus, Execution, Failure, Json, Outcome},
    offers::Offers,
    orchestrator::{
        Engine, Observer,
        claim::claim,
        dispatch::load_work,
        drive::drive,
        rescue,
        settle::{Attempted, Retry, Settled, settle},
        start::{Start, find, start},
        timers,
    },
    store::{DatabaseUrl, Db, calls, calls::Work, executions},
    time::{ManualClock, Timestamp},
};
use durable_queue::{Lease, MemoryQueue};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// A new SQLite database in a folder of its own.
///
/// # Panics
/// When the system has no room for it.
pub fn sqlite() -> (DatabaseUrl, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    (DatabaseUrl::Sqlite(folder.path().join("test.db").display().to_string()), folder)
}

/// One new database of each kind.
pub fn databases() -> Vec<(&'static str, DatabaseUrl, Option<TempDir>)> {
    let (url, folder) = sqlite();
    vec![("sqlite", url, Some(folder)), ("postgres", super::Postgres::shared().database(), None)]
}

/// An engine under a test's control.
pub struct Rig {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Its time.
    pub clock: Arc<ManualClock>,
}

/// The instant at which a rig's clock starts.
const START: Timestamp = Timestamp(1_800_000_000_000_000);

impl Rig {
    /// A rig on this database; `name` is its process in claims.
    ///
    /// # Panics
    /// When the database cannot be opened.
    pub fn new(url: &DatabaseUrl, name: &str) -> Self {
        Self::observed(url, name, Arc::new(()))
    }

    /// The same with somebody watching.
    ///
    /// # Panics
    /// When the database cannot be opened.
    pub fn observed(url: &DatabaseUrl, name: &str, observer: Arc<dyn Observer>) -> Self {
        let db = Db::open(url).unwrap_or_else(|error| panic!("{error}"));
        let queue = Arc::new(MemoryQueue::new(Duration::from_secs(60), 1_000_000));
        let clock = Arc::new(ManualClock::new(START));
        let mut engine = Engine::new(db, queue, WorkerId(name.to_owned()), Offers::anything()).observed_by(observer);
        engine.clock = clock.clone();
        Self { engine: Arc::new(engine), clock }
    }

    /// The same engine in another process, as far as claims can tell: its own queue, the same time.
    ///
    /// # Panics
    /// When the database cannot be opened.
    #[must_use]
    pub fn another(&self, name: &str) -> Self {
        let mut other = Self::new(self.engine.db.url(), name);
        if let Some(engine) = Arc::get_mut(&mut other.engine) {
            engine.clock = self.clock.clone();
        }
        Self { engine: other.engine, clock: self.clock.clone() }
    }

    /// Starts a workflow and takes it to its first pause or its end.
    ///
    /// # Panics
    /// When it does not compile or cannot be started.
    pub async fn start(&self, source: &str) -> ExecutionId {
        let id = self.insert(source).await;
        if let Some(claimed) = claim(&self.engine, &id).await.expect("a claim") {
            drive(&self.engine, claimed).await.expect("a first turn");
        }
        id
    }

    /// Starts a workflow and leaves it scheduled.
    ///
    /// # Panics
    /// When it does not compile or cannot be started.
    pub async fn insert(&self, source: &str) -> ExecutionId {
        let program = Program::compile("workflow.py", source).unwrap_or_else(|error| panic!("{error}"));
        let request = Start::new(Arc::new(program), Map::new());
        start(&self.engine, request).await.expect("a start").execution.id
    }

    /// The jobs that are in the queue, taken.
    ///
    /// # Panics
    /// When the queue fails.
    pub async fn jobs(&self) -> Vec<(Lease, Work)> {
        self.jobs_of(&["default"]).await
    }

    /// The jobs that are in these queues, taken.
    ///
    /// # Panics
    /// When a queue fails.
    pub async fn jobs_of(&self, queues: &[&str]) -> Vec<(Lease, Work)> {
        let queues: Vec<String> = queues.iter().map(|queue| (*queue).to_owned()).collect();
        let leases = self.engine.queue.pop(&queues, "rig", usize::MAX, Duration::ZERO).await;
        let mut jobs = Vec::new();
        for lease in leases.expect("a pop") {
            if let Some(work) = load_work(&self.engine, &lease).await.expect("work") {
                jobs.push((lease, work));
            }
        }
        jobs
    }

    /// Settles a job's call with a result, and goes on with the execution if that lets it.
    pub async fn complete(&self, work: &Work, result: Value) -> Settled {
        self.settle(work, Outcome::Completed(Json::from(&result)), Retry::No).await
    }

    /// Settles a job's call with a failure, without another attempt.
    pub async fn fail(&self, work: &Work, kind: &str, message: &str) -> Settled {
        self.settle(work, Outcome::Failed(Failure::new(kind, message)), Retry::No).await
    }

    /// Settles a job's call; a claim that comes with it is driven on.
    ///
    /// # Panics
    /// When the store fails.
    pub async fn settle(&self, work: &Work, outcome: Outcome, retry: Retry) -> Settled {
        match self.settle_only(work, outcome, retry).await {
            Settled::Recorded(Some(claimed)) => {
                drive(&self.engine, claimed).await.expect("a turn");
                Settled::Recorded(None)
            }
            other => other,
        }
    }

    /// Settles a job's call and leaves the claim, if there is one, to the test.
    ///
    /// # Panics
    /// When the store fails.
    pub async fn settle_only(&self, work: &Work, outcome: Outcome, retry: Retry) -> Settled {
        let attempted = Attempted {
            of: work.attempt.clone(),
            outcome,
            retry,
            started_at: None,
            worker: Some(self.engine.worker.clone()),
            log: Vec::new(),
        };
        settle(&self.engine, attempted).await.expect("a settle")
    }

    /// Answers every job with `answer(function, args)` until none is left, letting time pass when
    /// only timers are left; then the execution as it is.
    ///
    /// # Panics
    /// When the store fails, or when nothing ends after a thousand rounds.
    pub async fn run(&self, id: &ExecutionId, answer: impl Fn(&str, &[Value]) -> Result<Value, Failure>) -> Execution {
        self.run_with(id, |work| {
            let args = work.args.parse().expect("arguments");
            answer(&work.function, args.as_array().expect("a list"))
        })
        .await
    }

    /// The same with all that is known of a job.
    ///
    /// # Panics
    /// When the store fails, or when nothing ends after a thousand rounds.
    pub async fn run_with(&self, id: &ExecutionId, answer: impl Fn(&Work) -> Result<Value, Failure>) -> Execution {
        self.run_queues(id, &["default"], answer).await
    }

    /// The same for these queues.
    ///
    /// # Panics
    /// When the store fails, or when nothing ends after a thousand rounds.
    pub async fn run_queues(
        &self,
        id: &ExecutionId,
        queues: &[&str],
        answer: impl Fn(&Work) -> Result<Value, Failure>,
    ) -> Execution {
        for _ in 0..1000 {
            let execution = self.execution(id).await;
            if execution.status.is_final() {
                return execution;
            }
            let jobs = self.jobs_of(queues).await;
            if jobs.is_empty() {
                let next = self.next_due().await.map_or(Duration::from_secs(1), |at| at.since(self.engine.now()));
                self.clock.advance(next);
                self.tick().await;
            }
            for (lease, work) in jobs {
                let outcome = match answer(&work) {
                    Ok(value) => Outcome::Completed(Json::from(&value)),
                    Err(failure) => Outcome::Failed(failure),
                };
                self.settle(&work, outcome, Retry::No).await;
                self.engine.queue.end(&lease, durable_queue::Way::Done).await.expect("an ack");
            }
        }
        panic!("execution {id} does not end: {:?}", self.calls(id).await);
    }

    /// Acts on everything that is due at the clock's instant.
    ///
    /// # Panics
    /// When the store fails.
    pub async fn tick(&self) -> usize {
        let now = self.engine.now();
        let timers = timers::tick(&self.engine, now).await.expect("a tick of timers");
        let pushed = timers::push(&self.engine, now, Vec::new()).await.expect("a push").calls;
        let rescued = rescue::tick(&self.engine, now).await.expect("a tick of rescue");
        self.engine.idle().await;
        timers + pushed + rescued
    }

    /// The execution as it is.
    ///
    /// # Panics
    /// When there is none.
    pub async fn execution(&self, id: &ExecutionId) -> Execution {
        find(&self.engine, id).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Its calls.
    ///
    /// # Panics
    /// When the store fails.
    pub async fn calls(&self, id: &ExecutionId) -> Vec<Call> {
        let id = id.clone();
        self.engine.db.read(move |conn| calls::list(conn, &id)).await.expect("calls")
    }

    /// When the clock has to act next.
    ///
    /// # Panics
    /// When the store fails.
    pub async fn next_due(&self) -> Option<Timestamp> {
        let whose = self.engine.whose.clone();
        let next = self.engine.db.read(move |conn| {
            Ok([calls::next_due(conn, &whose, &[])?, executions::next_due(conn, &whose)?].into_iter().flatten().min())
        });
        next.await.expect("what is due")
    }

    /// The positional arguments of a call.
    ///
    /// # Panics
    /// When there is no such call.
    pub async fn arguments(&self, id: &ExecutionId, call: CallId) -> Value {
        let id = id.clone();
        let found = self.engine.db.read(move |conn| calls::arguments(conn, &id, call)).await.expect("calls");
        found.expect("a call").0.parse().expect("JSON")
    }

    /// The status of one call.
    ///
    /// # Panics
    /// When there is none.
    pub async fn status(&self, id: &ExecutionId, call: CallId) -> CallStatus {
        self.calls(id).await.iter().find(|found| found.id == call).expect("a call").status
    }
}
