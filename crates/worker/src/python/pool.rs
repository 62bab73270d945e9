//! Which process runs a call.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use durable_core::model::Json;
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    task::JoinSet,
};

use super::{
    LOST, PythonError, PythonSettings,
    call::CallEnd,
    folder::Folder,
    process::{Mode, Process, lock},
};
use crate::{
    function::{FunctionError, Invocation},
    log::CallLog,
};

/// How many processes may end before a call's function begins in one of them.
const TRIES: usize = 3;

/// How long a function that took down its process, or may have, does not share one.
const APART: Duration = Duration::from_secs(600);

/// Most calls and functions that are remembered for that.
const REMEMBERED: usize = 10_000;

pub(super) struct Pool {
    settings: PythonSettings,
    folder: Folder,
    /// One permit per process that runs a synchronous call.
    slots: Semaphore,
    /// One permit per process that runs an asynchronous call alone.
    apart_slots: Semaphore,
    idle: Mutex<Vec<Process>>,
    /// Those in which asynchronous calls run together.
    shared: AsyncMutex<Vec<Arc<Process>>>,
    /// Calls and functions that do not share a process, and since when.
    apart: Mutex<HashMap<String, Instant>>,
}

impl Pool {
    /// Starts a first process; answers also what it offers.
    pub(super) async fn start(settings: PythonSettings) -> Result<(Arc<Self>, Vec<serde_json::Value>), PythonError> {
        let python = settings.python.display().to_string();
        let folder = Folder::new().map_err(|cause| PythonError::Start { python, cause })?;
        let (first, offered) = Process::start(&settings, &folder, Mode::Sync).await?;
        let processes = settings.processes.max(1);
        let pool = Arc::new(Self {
            folder,
            slots: Semaphore::new(processes),
            apart_slots: Semaphore::new(processes),
            idle: Mutex::new(vec![first]),
            shared: AsyncMutex::default(),
            apart: Mutex::default(),
            settings,
        });
        tokio::spawn(retire_idle(Arc::downgrade(&pool), pool.settings.idle));
        Ok((pool, offered))
    }

    /// Runs a call in a process of its own. When this future is dropped, the process is killed with
    /// everything that it started: nothing else stops a busy function.
    pub(super) async fn call_alone(
        &self,
        mode: Mode,
        invocation: &Invocation,
        log: &CallLog,
    ) -> Result<Json, FunctionError> {
        let slots = if mode == Mode::Sync { &self.slots } else { &self.apart_slots };
        let slot = tokio::select! {
            slot = slots.acquire() => slot,
            () = told_to_end(invocation) => return Err(not_begun(invocation)),
        };
        let _slot = slot.map_err(|error| FunctionError::new(LOST, error))?;
        for _ in 0..TRIES {
            let process = match self.take_idle(mode) {
                Some(process) => process,
                None => tokio::select! {
                    process = self.new_process(mode) => process?,
                    () = told_to_end(invocation) => return Err(not_begun(invocation)),
                },
            };
            match process.call(invocation, log).await {
                CallEnd::NotBegun => {}
                end => {
                    if matches!(end, CallEnd::Returned(_) | CallEnd::Raised(_)) {
                        lock(&self.idle).push(process);
                    }
                    return self.outcome(end, invocation);
                }
            }
        }
        Err(ended_too_often(invocation))
    }

    /// Runs a call in a process that it may share. When this future is dropped, the call is cancelled there.
    pub(super) async fn call_async(&self, invocation: &Invocation, log: &CallLog) -> Result<Json, FunctionError> {
        if invocation.suspect || self.is_apart(invocation) {
            return self.call_alone(Mode::Async, invocation, log).await;
        }
        let mut ended = 0;
        while ended < TRIES {
            let process = tokio::select! {
                process = self.open_process() => process?,
                () = told_to_end(invocation) => return Err(not_begun(invocation)),
            };
            match process.call(invocation, log).await {
                CallEnd::NotBegun => ended += usize::from(process.shared.has_ended()),
                end => return self.outcome(end, invocation),
            }
        }
        Err(ended_too_often(invocation))
    }

    /// A process that takes asynchronous calls, and is not held up by one if that can be had.
    async fn open_process(&self) -> Result<Arc<Process>, FunctionError> {
        let mut shared = self.shared.lock().await;
        // Calls that are in a process which is dropped here keep it until they end.
        shared.retain(|process| process.shared.is_open());
        let free = shared.iter().find(|process| lock(&process.shared.blocked).is_none());
        if let Some(process) = free.or_else(|| shared.first().filter(|_| shared.len() >= self.most_shared())) {
            return Ok(process.clone());
        }
        let process = Arc::new(self.new_process(Mode::Async).await?);
        shared.push(process.clone());
        Ok(process)
    }

    fn most_shared(&self) -> usize {
        self.settings.processes.max(2)
    }

    fn take_idle(&self, mode: Mode) -> Option<Process> {
        let mut idle = lock(&self.idle);
        idle.retain(|process| !process.shared.has_ended());
        let last = idle.iter().rposition(|process| process.shared.mode == mode)?;
        Some(idle.remove(last))
    }

    async fn new_process(&self, mode: Mode) -> Result<Process, FunctionError> {
        let started = Process::start(&self.settings, &self.folder, mode).await;
        started.map(|(process, _)| process).map_err(|error| FunctionError::new(LOST, error))
    }

    fn is_apart(&self, invocation: &Invocation) -> bool {
        let apart = lock(&self.apart);
        let is = |key: &str| apart.get(key).is_some_and(|since| since.elapsed() < APART);
        is(&invocation.function) || is(&key_of(invocation))
    }

    fn keep_apart(&self, key: String) {
        let mut apart = lock(&self.apart);
        if apart.len() >= REMEMBERED {
            apart.retain(|_, since| since.elapsed() < APART);
        }
        if apart.len() < REMEMBERED {
            apart.insert(key, Instant::now());
        }
    }

    fn outcome(&self, end: CallEnd, invocation: &Invocation) -> Result<Json, FunctionError> {
        match end {
            CallEnd::Returned(result) => Ok(result),
            CallEnd::Raised(error) => Err(error),
            CallEnd::Crashed(error) => {
                self.keep_apart(invocation.function.clone());
                Err(error)
            }
            CallEnd::Lost { error, suspect } => {
                if suspect {
                    self.keep_apart(key_of(invocation));
                }
                Err(error)
            }
            CallEnd::NotBegun | CallEnd::GivenUp => Err(not_begun(invocation)),
        }
    }

    /// Lets every process that runs nothing end as a program does; those that run something are killed with their calls.
    pub(super) async fn end(&self) {
        let shared = std::mem::take(&mut *self.shared.lock().await);
        let idle = std::mem::take(&mut *lock(&self.idle));
        let mut ends: JoinSet<()> = JoinSet::new();
        for process in shared.into_iter().chain(idle.into_iter().map(Arc::new)) {
            if lock(&process.shared.inside).is_empty() {
                ends.spawn(async move { process.end().await });
            } else {
                process.shared.group.kill();
            }
        }
        ends.join_all().await;
    }

    async fn end_idle(&self, after: Duration) {
        let is_old = |process: &Process| process.shared.idle() >= after || process.shared.has_ended();
        let mut old: Vec<Arc<Process>> = {
            let mut idle = lock(&self.idle);
            idle.extract_if(.., |process| is_old(process)).map(Arc::new).collect()
        };
        // A call that has just got such a process holds it, too.
        let unused = |process: &mut Arc<Process>| Arc::strong_count(process) == 1 && is_old(process);
        old.extend(self.shared.lock().await.extract_if(.., unused));
        for process in old {
            tokio::spawn(async move { process.end().await });
        }
    }
}

/// Ends processes that have run nothing for a while, as long as there is a pool.
async fn retire_idle(pool: Weak<Pool>, after: Duration) {
    loop {
        tokio::time::sleep(after / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.end_idle(after).await;
    }
}

async fn told_to_end(invocation: &Invocation) {
    tokio::select! {
        () = invocation.cancelled.cancelled() => {}
        () = invocation.overdue.cancelled() => {}
    }
}

fn key_of(invocation: &Invocation) -> String {
    format!("{}/{}", invocation.of.execution, invocation.of.call)
}

fn not_begun(invocation: &Invocation) -> FunctionError {
    FunctionError::new("durable.Cancelled", format!("{} was told to end", invocation.function))
}

fn ended_too_often(invocation: &Invocation) -> FunctionError {
    let message = format!("{TRIES} processes ended before {} had begun in them", invocation.function);
    FunctionError::new(LOST, message)
}
