//! Functions of Python files and modules, run in real CPython processes.
//!
//! A synchronous function has a process to itself while it runs; processes are kept and used again.
//! Asynchronous functions share one process and run there concurrently. When that ends, the call that was the cause
//! pays for it; the others are attempted again, uncounted. Who has taken down a process, or may have, runs alone.

mod blocked;
mod call;
mod child;
mod death;
mod folder;
mod frame;
mod marks;
mod pool;
mod process;
mod raw;

use std::{path::PathBuf, sync::Arc, time::Duration};

use durable_core::model::Failure;
use serde_json::{Map, Value};

use crate::{
    function::{Function, FunctionError, Invocation, Returned},
    log::CallLog,
    options::{BadOption, FunctionOptions},
    registry::Registry,
};
use pool::Pool;
use process::Mode;

/// The type of the failure of an attempt whose process ended.
pub(crate) const LOST: &str = durable_core::orchestrator::timers::WORKER_LOST;

/// Where Python functions come from, and how many processes run them.
#[derive(Debug, Clone)]
pub struct PythonSettings {
    /// The interpreter: a path or a command.
    pub python: PathBuf,
    /// Files whose functions are offered as `stem.name`.
    pub files: Vec<PathBuf>,
    /// Modules whose functions are offered as `module.name`.
    pub modules: Vec<String>,
    /// The directory in which the functions run; this process's, when there is none.
    pub directory: Option<PathBuf>,
    /// How many synchronous functions run at the same time.
    pub processes: usize,
    /// After how long without a call a process ends.
    pub idle: Duration,
    /// Address space that a process may have, in bytes; on Linux only.
    pub memory: Option<u64>,
}

impl Default for PythonSettings {
    fn default() -> Self {
        Self {
            python: "python3".into(),
            files: Vec::new(),
            modules: Vec::new(),
            directory: None,
            processes: 8,
            idle: Duration::from_secs(300),
            memory: None,
        }
    }
}

/// Why Python functions cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// The interpreter does not start.
    #[error("cannot start {python}: {cause}")]
    Start {
        /// What was to be started.
        python: String,
        /// Why it did not.
        cause: std::io::Error,
    },
    /// The files or modules raise when they are imported.
    #[error("the functions cannot be imported: {}\n\n{}", .0, .0.traceback.as_deref().unwrap_or_default().trim_end())]
    Import(Failure),
    /// The process ended before it had said what it offers.
    #[error("{python} {how} before it had imported the functions:\n{output}")]
    Ended {
        /// What had been started.
        python: String,
        /// By which exit code or signal.
        how: String,
        /// What it wrote.
        output: String,
    },
    /// The import goes on and on.
    #[error("{python} has not imported the functions within {within:?}")]
    Slow {
        /// What had been started.
        python: String,
        /// How long it was waited.
        within: Duration,
    },
    /// An option of a function makes no sense.
    #[error(transparent)]
    Option(#[from] BadOption),
}

/// The processes that run Python functions. Clones share them; they end with the last clone.
#[derive(Clone)]
pub struct PythonHost {
    pool: Arc<Pool>,
    functions: Vec<Offered>,
}

#[derive(Debug, Clone)]
struct Offered {
    name: String,
    is_async: bool,
    options: FunctionOptions,
}

impl PythonHost {
    /// Starts a first process, which imports the functions.
    pub async fn start(settings: PythonSettings) -> Result<Self, PythonError> {
        child::allow_many_descriptors();
        let (pool, offered) = Pool::start(settings).await?;
        let functions = offered.iter().map(read_offer).collect::<Result<_, _>>()?;
        Ok(Self { pool, functions })
    }

    /// Ends the processes as programs end, with what they do at their exit. Without it they are killed.
    pub async fn end(&self) {
        self.pool.end().await;
    }

    /// The names of the functions, as `module.name`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().map(|function| function.name.as_str())
    }

    /// Adds the functions to a registry.
    pub fn offer(&self, registry: &mut Registry) {
        for function in &self.functions {
            let options = function.options.clone();
            let python = PythonFunction { pool: self.pool.clone(), is_async: function.is_async };
            registry.add(&function.name, options, Arc::new(python));
        }
    }
}

fn read_offer(offer: &Value) -> Result<Offered, BadOption> {
    let name = offer["name"].as_str().unwrap_or_default().to_owned();
    let none = Map::new();
    let options = FunctionOptions::read(&name, offer["options"].as_object().unwrap_or(&none))?;
    Ok(Offered { name, is_async: offer["async"].as_bool().unwrap_or(false), options })
}

struct PythonFunction {
    pool: Arc<Pool>,
    is_async: bool,
}

#[async_trait::async_trait]
impl Function for PythonFunction {
    async fn call(&self, invocation: Invocation, log: &CallLog) -> Result<Returned, FunctionError> {
        let returned = if self.is_async {
            self.pool.call_async(&invocation, log).await
        } else {
            self.pool.call_alone(Mode::Sync, &invocation, log).await
        };
        returned.map(Returned::Now)
    }

    fn minds_its_time(&self) -> bool {
        true
    }

    fn cleans_up(&self) -> bool {
        self.is_async
    }
}
