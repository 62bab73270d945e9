//! A private Postgres: made when it is first asked for, thrown away with the process that made it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use durable_core::store::DatabaseUrl;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::guard::{Guard, eventually, free_port};

/// What to say when there is none.
const MISSING: &str = "Postgres is needed and was not found: apt-get install postgresql (./scripts/test does that), or \
                       put initdb and postgres on the PATH";

/// A cluster on a free port of this machine. Everything in it is thrown away.
pub struct Postgres {
    port: u16,
    programs: PathBuf,
    // Ends before its folder goes.
    process: Mutex<Option<Guard>>,
    folder: TempDir,
    fsync: bool,
    databases: AtomicUsize,
}

impl Postgres {
    /// The cluster of this test process. Its commits are not forced to the disk.
    ///
    /// # Panics
    /// When there is no Postgres on the machine, with the sentence that says how to get one.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(false).unwrap_or_else(|error| panic!("{error}")))
    }

    /// A cluster of one's own; with `fsync`, a commit survives a power cut as in production.
    pub fn start(fsync: bool) -> Result<Self, String> {
        let programs = programs().ok_or(MISSING)?;
        let folder =
            tempfile::Builder::new().prefix("durable-postgres.").tempdir().map_err(|error| error.to_string())?;
        let cluster = Self {
            port: free_port(),
            programs,
            process: Mutex::default(),
            folder,
            fsync,
            databases: AtomicUsize::new(0),
        };
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(cluster.folder.path()))?;
        }
        let initdb = cluster.command("initdb", &["-U", "durable", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        run(Command::new(&initdb[0]).args(&initdb[1..]).current_dir("/"))?;
        cluster.restart()?;
        Ok(cluster)
    }

    /// A program of Postgres on this cluster. Postgres refuses to run as root.
    fn command(&self, program: &str, arguments: &[&str]) -> Vec<String> {
        let mut command: Vec<String> = Vec::new();
        if is_root() {
            let become_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
            command.extend(become_postgres.map(String::from));
        }
        command.extend([self.programs.join(program).display().to_string(), "-D".into()]);
        command.push(self.folder.path().join("data").display().to_string());
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        command
    }

    /// Starts it, again if need be, on the same port with the same data.
    pub fn restart(&self) -> Result<(), String> {
        self.kill(Signal::QUIT);
        let port = self.port.to_string();
        let fsync = if self.fsync { "fsync=on" } else { "fsync=off" };
        let fixed = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", fsync];
        let mut arguments = vec!["-p", port.as_str()];
        fixed.iter().for_each(|setting| arguments.extend(["-c", *setting]));
        let command = self.command("postgres", &arguments);
        let log = self.folder.path().join("log");
        // Processes of a killed server hold its memory for a moment, and it does not start before they are gone.
        eventually(Duration::from_secs(20), || {
            let process = Guard::start_in(&command, &[], &log, "QUIT", Some(self.folder.path()))?;
            eventually(Duration::from_secs(20), || if process.lives() { self.sql("SELECT 1") } else { Ok(()) })?;
            if !process.lives() {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("Postgres does not start: {}", end.join("; ")));
            }
            *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
            Ok(())
        })
    }

    /// Ends it: by `QUIT` at once, by `KILL` as a power cut would.
    pub fn kill(&self, signal: Signal) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            process.signal(signal);
            process.ends_within(Duration::from_secs(10));
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn sql(&self, statement: &str) -> Result<(), String> {
        self.query("postgres", statement).map(drop)
    }

    /// What a statement answers, values apart by `|`.
    pub fn query(&self, database: &str, statement: &str) -> Result<String, String> {
        let output = Command::new("psql")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "durable",
                "-d",
                database,
                "-qAtc",
                statement,
            ])
            .output()
            .map_err(|error| format!("{MISSING} ({error})"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// A new, empty database.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn database(&self) -> DatabaseUrl {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name}")).unwrap_or_else(|error| panic!("{error}"));
        DatabaseUrl::Postgres(self.url(&name))
    }

    /// Where a database of this cluster is.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://durable@127.0.0.1:{}/{database}", self.port)
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?} failed: {out}{err}"))
}

/// The folder that holds `initdb` and `postgres`, the newest version first.
fn programs() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH")?;
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&on_path));
    let complete = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    folders.into_iter().find(|folder| complete(folder))
}
