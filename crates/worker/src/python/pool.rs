//! Which process runs a call.

use std::sync::{Arc, Mutex, PoisonError};

use durable_core::model::Json;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::{
    PythonSettings,
    process::{CallEnd, Mode, Process},
};
use crate::function::{CallLog, FunctionError, Invocation};

pub(super) struct Pool {
    settings: PythonSettings,
    /// One permit per synchronous process that may exist.
    slots: Semaphore,
    idle: Mutex<Vec<Process>>,
    shared: AsyncMutex<Option<Arc<Process>>>,
}

impl Pool {
    pub(super) fn new(settings: PythonSettings, first: Process) -> Self {
        let slots = Semaphore::new(settings.processes.max(1));
        Self { settings, slots, idle: Mutex::new(vec![first]), shared: AsyncMutex::default() }
    }

    /// Runs a call in a process of its own. When this future is dropped, the process is killed with
    /// everything that it started: nothing else stops a busy function.
    pub(super) async fn call_sync(&self, invocation: &Invocation, log: &CallLog) -> Result<Json, FunctionError> {
        let _slot = self.slots.acquire().await.map_err(|error| lost(&invocation.function, &error.to_string()))?;
        let idle = self.idle().pop();
        let process = match idle {
            Some(process) => process,
            None => self.start(Mode::Sync).await?,
        };
        let end = process.call(invocation, log).await;
        if end.leaves_process_usable() {
            self.idle().push(process);
        }
        outcome(end, &invocation.function)
    }

    /// Runs a call in the shared process. When this future is dropped, the call is cancelled there.
    pub(super) async fn call_async(&self, invocation: &Invocation, log: &CallLog) -> Result<Json, FunctionError> {
        let process = {
            let mut shared = self.shared.lock().await;
            match &*shared {
                Some(process) if !process.has_ended() => process.clone(),
                _ => shared.insert(Arc::new(self.start(Mode::Async).await?)).clone(),
            }
        };
        outcome(process.call(invocation, log).await, &invocation.function)
    }

    async fn start(&self, mode: Mode) -> Result<Process, FunctionError> {
        let started = Process::start(&self.settings, mode).await;
        started.map(|(process, _)| process).map_err(|error| FunctionError::new("durable.WorkerLost", error))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Process>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome(end: CallEnd, function: &str) -> Result<Json, FunctionError> {
    match end {
        CallEnd::Returned(result) => Ok(result),
        CallEnd::Raised(error) => Err(error),
        CallEnd::Lost(how) => Err(lost(function, &how)),
    }
}

fn lost(function: &str, how: &str) -> FunctionError {
    FunctionError::new("durable.WorkerLost", format!("the process that ran {function} {how}"))
}
