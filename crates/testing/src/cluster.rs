//! The production topology as plain processes: Postgres, Redis, orchestrators, workers.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{Guard, Postgres, Redis, eventually, free_port};

/// What is to be started.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Processes that run functions.
    pub workers: usize,
    /// Processes that keep the time and serve the API.
    pub orchestrators: usize,
    /// Added to each worker's command line.
    pub worker_options: Vec<String>,
    /// Environment variables of all processes.
    pub env: Vec<(String, String)>,
    /// Whether commits are forced to the disk.
    pub fsync: bool,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { workers: 2, orchestrators: 1, worker_options: Vec::new(), env: Vec::new(), fsync: false }
    }
}

/// A running cluster; ended, with all that it has written, when it is dropped.
pub struct Cluster {
    // In the order in which they end: whoever uses a server before the server.
    workers: Mutex<Vec<Option<Guard>>>,
    orchestrators: Mutex<Vec<Option<Guard>>>,
    ports: Vec<u16>,
    /// The jobs' server.
    pub redis: Redis,
    /// The truth's server.
    pub postgres: Postgres,
    folder: TempDir,
    settings: ClusterSettings,
    /// Where processes find the servers, when not directly: a proxy's ports.
    via: (u16, u16),
}

const DATABASE: &str = "postgres";

impl Cluster {
    /// Starts everything, and waits until it serves.
    pub fn start(settings: ClusterSettings) -> Result<Self, String> {
        Self::start_via(settings, |postgres, redis| Ok((postgres, redis)))
    }

    /// The same, with processes that reach the servers through other ports: `via(postgres, redis)` names them.
    pub fn start_via(
        settings: ClusterSettings,
        via: impl FnOnce(u16, u16) -> Result<(u16, u16), String>,
    ) -> Result<Self, String> {
        let postgres = Postgres::start(settings.fsync)?;
        let redis = Redis::try_start(Vec::new())?;
        let via = via(postgres.port(), redis.port())?;
        let folder =
            tempfile::Builder::new().prefix("durable-cluster.").tempdir().map_err(|error| error.to_string())?;
        let cluster = Self {
            workers: Mutex::new((0..settings.workers).map(|_| None).collect()),
            orchestrators: Mutex::new((0..settings.orchestrators).map(|_| None).collect()),
            ports: (0..settings.orchestrators).map(|_| free_port()).collect(),
            redis,
            postgres,
            folder,
            settings,
            via,
        };
        let migrated = Command::new(program("durable"))
            .args(["migrate", "--db", &cluster.postgres.url(DATABASE)])
            .output()
            .map_err(|error| format!("cannot start durable: {error}"))?;
        if !migrated.status.success() {
            return Err(String::from_utf8_lossy(&migrated.stderr).into_owned());
        }
        (0..cluster.settings.orchestrators).try_for_each(|n| cluster.start_orchestrator(n))?;
        (0..cluster.settings.workers).try_for_each(|n| cluster.start_worker(n))?;
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// Where processes find the database.
    pub fn database_url(&self) -> String {
        format!("postgres://durable@127.0.0.1:{}/{DATABASE}", self.via.0)
    }

    /// Where processes find Redis.
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.via.1)
    }

    /// Where the API of an orchestrator is.
    pub fn api(&self, n: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports.get(n).copied().unwrap_or_default())
    }

    fn spawn(&self, program_name: &str, options: &[String], log: &str) -> Result<Guard, String> {
        let mut command = vec![program(program_name).display().to_string()];
        command.extend(options.iter().cloned());
        let mut env = self.settings.env.clone();
        env.push(("DURABLE_DATABASE_URL".into(), self.database_url()));
        env.push(("DURABLE_REDIS_URL".into(), self.redis_url()));
        Guard::start_in(&command, &env, &self.log(log), "TERM", Some(self.folder.path()))
    }

    /// Where a process writes its log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Starts a worker that does not run.
    pub fn start_worker(&self, n: usize) -> Result<(), String> {
        let worker = self.spawn("durable-worker", &self.settings.worker_options, &format!("worker{n}"))?;
        put(&self.workers, n, Some(worker));
        Ok(())
    }

    /// Starts an orchestrator that does not run, on its own port.
    pub fn start_orchestrator(&self, n: usize) -> Result<(), String> {
        let options = ["--listen".to_owned(), format!("127.0.0.1:{}", self.ports[n])];
        let orchestrator = self.spawn("durable-orchestrator", &options, &format!("orchestrator{n}"))?;
        put(&self.orchestrators, n, Some(orchestrator));
        Ok(())
    }

    /// Sends a signal to a worker, if it runs.
    pub fn signal_worker(&self, n: usize, signal: Signal) {
        with(&self.workers, n, |worker| worker.signal(signal));
    }

    /// Sends a signal to an orchestrator, if it runs.
    pub fn signal_orchestrator(&self, n: usize, signal: Signal) {
        with(&self.orchestrators, n, |orchestrator| orchestrator.signal(signal));
    }

    /// Whether a worker runs.
    pub fn worker_lives(&self, n: usize) -> bool {
        with(&self.workers, n, Guard::lives).unwrap_or(false)
    }

    /// Whether an orchestrator runs.
    pub fn orchestrator_lives(&self, n: usize) -> bool {
        with(&self.orchestrators, n, Guard::lives).unwrap_or(false)
    }

    /// The process of an orchestrator, if it lives and has not been stopped.
    pub fn running_orchestrator(&self, n: usize) -> Option<i32> {
        with(&self.orchestrators, n, |orchestrator| orchestrator.runs().then(|| orchestrator.pid())).flatten()
    }

    /// Waits for a worker's end.
    pub fn worker_ends_within(&self, n: usize, time: Duration) -> bool {
        with(&self.workers, n, |worker| worker.ends_within(time)).unwrap_or(true)
    }

    /// How many workers there are to be.
    pub fn worker_count(&self) -> usize {
        self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len()
    }

    /// Copies what all processes have said to a folder.
    pub fn keep_logs(&self, folder: &Path) -> Result<(), String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        for entry in std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The process ids of the workers that run.
    pub fn worker_pids(&self) -> Vec<i32> {
        let workers = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        workers.iter().flatten().map(Guard::pid).collect()
    }

    /// The process id of an orchestrator.
    ///
    /// # Panics
    /// When it was never started.
    pub fn orchestrator_pid(&self, n: usize) -> i32 {
        let orchestrators = self.orchestrators.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        orchestrators.get(n).and_then(Option::as_ref).map_or_else(|| panic!("no orchestrator {n}"), Guard::pid)
    }

    fn wait_until_ready(&self) -> Result<(), String> {
        let ready = |log: &str, lives: bool| {
            let text = std::fs::read_to_string(self.log(log)).unwrap_or_default();
            if text.contains("ready") {
                return Ok(());
            }
            // Not to be waited for any longer.
            if !lives { Ok(()) } else { Err(format!("{log} is not ready: {text}")) }
        };
        let within = Duration::from_secs(30);
        for n in 0..self.settings.orchestrators {
            let log = format!("orchestrator{n}");
            eventually(within, || ready(&log, self.orchestrator_lives(n)))?;
            self.must_live(&log, self.orchestrator_lives(n))?;
        }
        for n in 0..self.settings.workers {
            let log = format!("worker{n}");
            eventually(within, || ready(&log, self.worker_lives(n)))?;
            self.must_live(&log, self.worker_lives(n))?;
        }
        Ok(())
    }

    fn must_live(&self, log: &str, lives: bool) -> Result<(), String> {
        if lives {
            return Ok(());
        }
        Err(format!("{log} ended: {}", std::fs::read_to_string(self.log(log)).unwrap_or_default()))
    }

    /// What a statement answers in the cluster's database.
    ///
    /// # Panics
    /// When it is refused.
    pub fn sql(&self, statement: &str) -> String {
        self.postgres.query(DATABASE, statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// Runs a client command against the cluster.
    ///
    /// # Panics
    /// When the program is not there.
    pub fn run(&self, program_name: &str, arguments: &[&str]) -> Output {
        Command::new(program(program_name))
            .args(arguments)
            .env("DURABLE_API_URL", self.api(0))
            .env("DURABLE_DATABASE_URL", self.database_url())
            .env("DURABLE_REDIS_URL", self.redis_url())
            .output()
            .unwrap_or_else(|error| panic!("cannot start {program_name}: {error}"))
    }

    /// Starts a workflow, waits for its end, and answers its output.
    ///
    /// # Panics
    /// When it does not complete.
    pub fn complete(&self, file: &Path, arguments: &[&str]) -> String {
        let file = file.display().to_string();
        let mut all = vec![file.as_str(), "--wait"];
        all.extend(arguments);
        let output = self.run("durable-start", &all);
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr), self.logs());
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// What all processes have said so far, for a test that fails.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(40).collect();
            let end: Vec<&str> = lines.into_iter().rev().collect();
            all.push_str(&format!("\n--- {}\n{}\n", entry.path().display(), end.join("\n")));
        }
        all
    }
}

fn put(list: &Mutex<Vec<Option<Guard>>>, n: usize, guard: Option<Guard>) {
    let mut list = list.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if n >= list.len() {
        list.resize_with(n + 1, || None);
    }
    list[n] = guard;
}

fn with<T>(list: &Mutex<Vec<Option<Guard>>>, n: usize, look: impl FnOnce(&Guard) -> T) -> Option<T> {
    let list = list.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    list.get(n).and_then(Option::as_ref).map(look)
}

/// A program of the workspace, which is beside this one or, for tests, a folder above.
pub fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let folders = [here.parent(), here.parent().and_then(Path::parent)];
    folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| name.into())
}
