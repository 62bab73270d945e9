//! The program `durable-worker`, and any worker of one's own that brings more Rust functions.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use durable_core::{offers::Offers, orchestrator::Engine, time::parse_duration};
use durable_process::{Logging, SYSTEM, Servers, host, named_process, parse_size, run_program, stop_on_signals, wrong};
use durable_queue::check_queue;
use tokio_util::sync::CancellationToken;

use crate::{
    builtins,
    http::{ANSWER_LIMIT, HttpFunction},
    options::FunctionOptions,
    python::{PythonError, PythonHost, PythonSettings},
    registry::Registry,
    worker::{Listed, Worker, WorkerSettings},
};

/// The largest value that there can be.
const LARGEST_VALUE: usize = 256 << 20;

/// What a Python process needs before any function runs.
const LEAST_MEMORY: usize = 128 << 20;

/// Runs functions for workflows: takes jobs from Redis queues, records what they lead to, and advances whatever can go
/// on.
#[derive(Debug, Parser)]
#[command(
    name = "durable-worker",
    version,
    after_help = "Exit codes: 0 stopped as asked · 2 wrong arguments or functions · 3 database or Redis failure · \
                  130 ended by a second signal"
)]
struct Args {
    /// Queues to serve, the most urgent first: high,default.
    #[arg(
        long = "queue",
        short,
        value_name = "NAMES",
        env = "DURABLE_QUEUES",
        value_delimiter = ',',
        default_value = "default"
    )]
    queues: Vec<String>,
    /// How many functions run at the same time.
    #[arg(long, short, value_name = "N", env = "DURABLE_CONCURRENCY", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// A Python file whose functions are offered as FILE.NAME; may be given several times.
    #[arg(long = "functions", short, value_name = "FILE", env = "DURABLE_FUNCTIONS", value_delimiter = ',')]
    functions: Vec<PathBuf>,
    /// A Python module whose functions are offered as MODULE.NAME; may be given several times.
    #[arg(short = 'm', long = "module", value_name = "MODULE", env = "DURABLE_MODULES", value_delimiter = ',')]
    modules: Vec<String>,
    /// A function behind a URL, as module.name=https://…; may be given several times.
    #[arg(long = "http-function", value_name = "NAME=URL", env = "DURABLE_HTTP_FUNCTIONS", value_delimiter = ',')]
    http_functions: Vec<String>,
    /// Where those functions send results that come later: the address of the orchestrator's API, as they see it.
    #[arg(long, value_name = "URL", env = "DURABLE_CALLBACK_URL")]
    callback_url: Option<String>,
    /// The largest result that such a function may answer with, such as 512KiB or 64MiB.
    #[arg(long, value_name = "SIZE", env = "DURABLE_HTTP_ANSWER_LIMIT", default_value_t = Size(ANSWER_LIMIT),
          value_parser = answer_limit)]
    http_answer_limit: Size,
    /// The Python that runs the functions.
    #[arg(long, env = "DURABLE_PYTHON", default_value = "python3", value_name = "PROGRAM")]
    python: PathBuf,
    /// Address space that a Python process may have, such as 2GiB: a function that needs more gets a MemoryError. On Linux only
    /// [default: unlimited].
    #[arg(long, value_name = "SIZE", env = "DURABLE_PYTHON_MEMORY", value_parser = python_memory)]
    python_memory: Option<Size>,
    /// The beginning of this worker's name [default: the host's name]. The rest tells it from others of that name.
    #[arg(long, value_name = "NAME", env = "DURABLE_WORKER_NAME")]
    name: Option<String>,
    /// End when the queues are empty.
    #[arg(long, env = "DURABLE_BURST", value_parser = clap::builder::FalseyValueParser::new())]
    burst: bool,
    /// End after so many jobs.
    #[arg(long, value_name = "N", env = "DURABLE_MAX_JOBS", value_parser = clap::value_parser!(u64).range(1..))]
    max_jobs: Option<u64>,
    /// How long running functions may go on after a stop was asked for.
    #[arg(long, value_name = "TIME", env = "DURABLE_GRACE", default_value = "10s", value_parser = time)]
    grace: Duration,
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    logging: Logging,
}

/// A number of bytes.
#[derive(Debug, Clone, Copy)]
struct Size(usize);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes => write!(f, "{bytes}"),
        }
    }
}

fn answer_limit(text: &str) -> Result<Size, String> {
    size(text, 1024..=LARGEST_VALUE)
}

fn python_memory(text: &str) -> Result<Size, String> {
    if cfg!(not(target_os = "linux")) {
        return Err("only Linux limits the memory of another process".into());
    }
    size(text, LEAST_MEMORY..=usize::MAX)
}

fn size(text: &str, possible: std::ops::RangeInclusive<usize>) -> Result<Size, String> {
    let size = parse_size(text).ok_or("a size such as 512KiB, 64MiB or 2GiB is wanted")?;
    if possible.contains(&size) {
        return Ok(Size(size));
    }
    Err(match *possible.end() {
        usize::MAX => format!("at least {} is needed", Size(*possible.start())),
        most => format!("{} to {} are possible", Size(*possible.start()), Size(most)),
    })
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a time such as 500ms, 30s or 5m is wanted".into())
}

/// Runs a worker that offers the functions of `registry` besides those that its command line names.
pub fn main(registry: Registry) -> ExitCode {
    let args = Args::parse();
    run_program(async move {
        args.logging.start("info")?;
        run(args, registry).await
    })
}

async fn run(args: Args, registry: Registry) -> anyhow::Result<ExitCode> {
    for queue in &args.queues {
        check_queue(queue).map_err(|error| wrong(format!("--queue: {error}")))?;
    }
    let name = args.name.clone().unwrap_or_else(host);
    check_queue(&name).map_err(|_| wrong(format!("--name {name:?}: use letters, digits and _ . -")))?;
    let (registry, python) = functions(&args, builtins(registry)).await?;
    registry.check().map_err(|error| wrong(error.to_string()))?;
    let (db, queue) = args.servers.open().await?;
    let clock = args.servers.clock(&db).await?;
    let mut engine = Engine::new(db, Arc::new(queue), named_process(&name), Offers::anything());
    engine.settings = args.servers.timing.settings();
    engine.clock = clock;
    let settings = WorkerSettings {
        queues: args.queues.clone(),
        concurrency: args.concurrency.into(),
        grace: args.grace,
        beat: args.servers.timing.lease / 3,
        burst: args.burst,
        max_jobs: args.max_jobs,
        unwanted: CancellationToken::new(),
        listed: Some(Listed { host: host(), pid: std::process::id() }),
    };
    let (worker_name, offered) = (engine.worker.clone(), registry.offers().names().count());
    let worker = Worker::new(Arc::new(engine), registry, settings).map_err(|error| wrong(error.to_string()))?;
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone());
    tracing::info!(worker = %worker_name, queues = args.queues.join(","), concurrency = args.concurrency,
                   functions = offered, "ready");
    let ended = worker.run(stop).await;
    if let Some(python) = python {
        python.end().await;
    }
    tracing::info!(worker = %worker_name, "stopped");
    Ok(if ended { ExitCode::SUCCESS } else { ExitCode::from(SYSTEM) })
}

/// Adds what the command line names to the registry. The host lives as long as the worker.
async fn functions(args: &Args, mut registry: Registry) -> anyhow::Result<(Registry, Option<PythonHost>)> {
    for function in &args.http_functions {
        let (name, url) = function
            .split_once('=')
            .ok_or_else(|| wrong(format!("--http-function {function}: write it as module.name=https://…")))?;
        let http = HttpFunction::new(url, args.callback_url.as_deref())
            .map_err(|error| wrong(format!("--http-function {name}: {error}")))?
            .answering_at_most(args.http_answer_limit.0);
        registry.add(name, FunctionOptions::default(), Arc::new(http));
    }
    if args.functions.is_empty() && args.modules.is_empty() {
        return Ok((registry, None));
    }
    if let Some(missing) = args.functions.iter().find(|file| !file.is_file()) {
        return Err(wrong(format!("there is no file of functions {}", missing.display())));
    }
    let settings = PythonSettings {
        python: args.python.clone(),
        files: args.functions.iter().map(std::path::absolute).collect::<Result<_, _>>()?,
        modules: args.modules.clone(),
        directory: None,
        processes: args.concurrency.into(),
        memory: args.python_memory.map(|size| size.0 as u64),
        ..PythonSettings::default()
    };
    let host = PythonHost::start(settings).await.map_err(|error: PythonError| wrong(error.to_string()))?;
    host.offer(&mut registry);
    Ok((registry, Some(host)))
}
