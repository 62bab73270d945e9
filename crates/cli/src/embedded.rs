//! Everything in one process: engine, worker and clock around a queue in memory.

use std::{sync::Arc, time::Duration};

use durable_core::{
    id::ExecutionId,
    model::{Execution, ExecutionStatus},
    offers::Offers,
    orchestrator::{Engine, History, OrchestrationError, claim::claim, drive::drive, start::find},
    quota::Quota,
    store::{
        Db,
        executions::{self, Whose},
    },
};
use durable_process::{asked_to_stop, this_process};
use durable_queue::MemoryQueue;
use durable_worker::{
    Registry, Worker, WorkerSettings,
    python::{PythonHost, PythonSettings},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{args::Functions, progress::Progress, sources::Launch};

/// Nothing outside this process can hold a lease of its queue, so only a bug lets one expire.
const LEASE: Duration = Duration::from_secs(60);

/// Beyond this the backlog stays in the database.
const CAPACITY: usize = 100_000;

/// How long functions may go on after the first Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// How often the end is looked for in the database, should its event be missed.
const LOOK: Duration = Duration::from_secs(2);

/// How often it is looked whether children have ended.
const CHILDREN: Duration = Duration::from_millis(50);

/// What runs an execution: its functions and its engine.
pub(crate) struct Embedded {
    pub(crate) engine: Arc<Engine>,
    registry: Registry,
    concurrency: usize,
    progress: Arc<Progress>,
}

/// How a run ended.
pub(crate) enum Ended {
    /// The execution did.
    Finished(Box<Execution>),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

/// Starts the Python processes that offer these functions; none when there are none.
pub(crate) async fn python(launch: &Launch, functions: &Functions) -> anyhow::Result<(Registry, Option<PythonHost>)> {
    let mut registry = Registry::new();
    if launch.files.is_empty() && launch.modules.is_empty() {
        return Ok((registry, None));
    }
    let settings = PythonSettings {
        python: launch.python.clone(),
        files: launch.files.clone(),
        modules: launch.modules.clone(),
        directory: Some(launch.directory.clone()),
        processes: functions.concurrency(),
        ..PythonSettings::default()
    };
    let host = PythonHost::start(settings).await?;
    host.offer(&mut registry);
    Ok((registry, Some(host)))
}

/// Lets the Python processes end as programs do.
pub(crate) async fn end(host: Option<PythonHost>) {
    if let Some(host) = host {
        host.end().await;
    }
}

impl Embedded {
    /// Puts the parts together for one execution.
    pub(crate) fn new(db: Db, registry: Registry, concurrency: usize, progress: Arc<Progress>) -> anyhow::Result<Self> {
        registry.check()?;
        let queue = Arc::new(MemoryQueue::new(LEASE, CAPACITY));
        let offers: Offers = registry.offers();
        let mut engine = Engine::new(db, queue, this_process(), offers).observed_by(progress.clone());
        engine.whose = Whose::Run(engine.worker.clone());
        Ok(Self { engine: Arc::new(engine), registry, concurrency, progress })
    }

    /// The same with another policy of which states are kept, and other limits. Only before it runs.
    pub(crate) fn keeping(mut self, history: History, quota: Quota) -> Self {
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            (engine.settings.history, engine.settings.quota) = (history, quota);
        }
        self
    }

    /// What shows the run.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Runs the execution until it ends or somebody interrupts.
    pub(crate) async fn run(self, id: &ExecutionId) -> anyhow::Result<Ended> {
        let stop = CancellationToken::new();
        let unwanted = CancellationToken::new();
        let settings = WorkerSettings {
            concurrency: self.concurrency,
            grace: GRACE,
            unwanted: unwanted.clone(),
            ..WorkerSettings::default()
        };
        let worker = Worker::new(self.engine.clone(), self.registry.clone(), settings)?;
        let worker = tokio::spawn(worker.run(stop.clone()));
        let clock = AbortOnDropHandle::new(tokio::spawn(durable_orchestrator::run(self.engine.clone(), stop.clone())));
        let outcome = match self.until_ended(id).await? {
            Ended::Finished(execution) => self.until_alone(execution).await?,
            interrupted @ Ended::Interrupted => interrupted,
        };
        if let Ended::Finished(_) = outcome {
            // What still runs was cancelled: nobody waits for it, but what it cleans up.
            unwanted.cancel();
        }
        stop.cancel();
        tokio::select! {
            _ = worker => {}
            () = asked_to_stop() => {}
        }
        drop(clock);
        Ok(outcome)
    }

    /// What it started and did not wait for, or cancelled, ends too: nobody else would run it.
    async fn until_alone(&self, execution: Box<Execution>) -> anyhow::Result<Ended> {
        let stop_asked = asked_to_stop();
        tokio::pin!(stop_asked);
        let mut told = false;
        loop {
            let me = self.engine.worker.clone();
            let left = self.engine.db.read(move |conn| executions::run_by(conn, &me)).await?;
            let left: Vec<_> = left.into_iter().filter(|(_, status)| *status != ExecutionStatus::Paused).collect();
            if left.is_empty() {
                return Ok(Ended::Finished(execution));
            }
            if !told {
                told = true;
                self.progress.say(&format!("its children go on: {} of them", left.len()));
            }
            tokio::select! {
                () = tokio::time::sleep(CHILDREN) => {}
                () = &mut stop_asked => {
                    for (id, _) in left {
                        self.progress.say(&format!("interrupted; go on with:\n  durable resume {id}"));
                    }
                    return Ok(Ended::Finished(execution));
                }
            }
        }
    }

    async fn until_ended(&self, id: &ExecutionId) -> anyhow::Result<Ended> {
        let (first, ended) = (self.first_turn(id), self.progress.until_ended());
        // Made once: a signal that came while nobody listened would be lost.
        let stop_asked = asked_to_stop();
        tokio::pin!(first, ended, stop_asked);
        let mut begun = false;
        loop {
            tokio::select! {
                turn = &mut first, if !begun => {
                    begun = true;
                    turn?;
                }
                () = &mut ended => return Ok(Ended::Finished(Box::new(find(&self.engine, id).await?))),
                () = tokio::time::sleep(LOOK) => {
                    let execution = find(&self.engine, id).await?;
                    if execution.status.is_final() {
                        return Ok(Ended::Finished(Box::new(execution)));
                    }
                }
                () = &mut stop_asked => {
                    self.progress.say(&format!(
                        "stopping: running functions may go on for {} s; press Ctrl-C again to end them now",
                        GRACE.as_secs()
                    ));
                    return Ok(Ended::Interrupted);
                }
            }
        }
    }

    /// A new execution is claimed at once; one that was taken over is due, and the clock looks at it.
    async fn first_turn(&self, id: &ExecutionId) -> Result<(), OrchestrationError> {
        if find(&self.engine, id).await?.status != ExecutionStatus::Scheduled {
            return Ok(());
        }
        match claim(&self.engine, id).await? {
            Some(claimed) => drive(&self.engine, claimed).await,
            None => Ok(()),
        }
    }
}
