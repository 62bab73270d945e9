//! Everything in one process: engine, worker and clock around a queue in memory.

use std::{sync::Arc, time::Duration};

use durable_core::{
    id::ExecutionId,
    model::Execution,
    offers::Offers,
    orchestrator::{Engine, claim::claim, drive::drive, start::find},
    store::{Db, executions::Whose},
};
use durable_queue::MemoryQueue;
use durable_worker::{
    Registry, Worker, WorkerSettings,
    python::{PythonHost, PythonSettings},
};
use tokio_util::sync::CancellationToken;

use crate::{args::Functions, owner, progress::Progress, sources::Launch};

/// Nothing outside this process can hold a lease of its queue, so only a bug lets one expire.
const LEASE: Duration = Duration::from_secs(60);

/// Beyond this the backlog stays in the database.
const CAPACITY: usize = 100_000;

/// How long functions may go on after the first Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// How often the end is looked for in the database, should its event be missed.
const LOOK: Duration = Duration::from_secs(2);

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
    };
    let host = PythonHost::start(settings).await?;
    host.offer(&mut registry);
    Ok((registry, Some(host)))
}

impl Embedded {
    /// Puts the parts together for one execution.
    pub(crate) fn new(
        db: Db,
        id: &ExecutionId,
        registry: Registry,
        concurrency: usize,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Self> {
        registry.check()?;
        let queue = Arc::new(MemoryQueue::new(LEASE, CAPACITY));
        let offers: Offers = registry.offers();
        let mut engine = Engine::new(db, queue, owner::this_process(), offers).observed_by(progress.clone());
        engine.whose = Whose::One(id.clone());
        Ok(Self { engine: Arc::new(engine), registry, concurrency, progress })
    }

    /// What shows the run.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Runs the execution until it ends or somebody interrupts.
    pub(crate) async fn run(self, id: &ExecutionId) -> anyhow::Result<Ended> {
        let stop = CancellationToken::new();
        let settings = WorkerSettings { concurrency: self.concurrency, grace: GRACE, ..WorkerSettings::default() };
        let worker = Worker::new(self.engine.clone(), self.registry, settings)?;
        let worker = tokio::spawn(worker.run(stop.clone()));
        let clock = tokio::spawn(durable_orchestrator::run(self.engine.clone(), stop.clone()));
        let engine = self.engine.clone();
        let first = id.clone();
        let begin = tokio::spawn(async move {
            match claim(&engine, &first).await? {
                Some(claimed) => drive(&engine, claimed).await,
                None => Ok(()),
            }
        });
        let ended = self.progress.until_ended();
        tokio::pin!(ended);
        let mut begin = Some(begin);
        let outcome = loop {
            let begun = async {
                match &mut begin {
                    Some(task) => task.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = begun => {
                    begin = None;
                    done??;
                }
                () = &mut ended => break Ended::Finished(Box::new(find(&self.engine, id).await?)),
                () = tokio::time::sleep(LOOK) => {
                    let execution = find(&self.engine, id).await?;
                    if execution.status.is_final() {
                        break Ended::Finished(Box::new(execution));
                    }
                }
                _ = tokio::signal::ctrl_c() => {
                    self.progress.say(&format!(
                        "stopping: running functions may go on for {} s; press Ctrl-C again to end them now",
                        GRACE.as_secs()
                    ));
                    break Ended::Interrupted;
                }
            }
        };
        stop.cancel();
        tokio::select! {
            _ = worker => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        clock.abort();
        Ok(outcome)
    }
}
