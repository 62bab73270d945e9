//! A private Redis.

use std::{
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::guard::{Guard, eventually, free_port};

const MISSING: &str = "Redis is needed and was not found: apt-get install redis-server (./scripts/test does that), or \
                       put redis-server and redis-cli on the PATH";

/// A server on a free port of this machine. Everything in it is thrown away.
pub struct Redis {
    port: u16,
    folder: TempDir,
    options: Vec<String>,
    process: Mutex<Option<Guard>>,
}

impl Redis {
    /// Starts a server with these options added to its command line.
    ///
    /// # Panics
    /// When there is no Redis on the machine, with the sentence that says how to get one.
    pub fn start(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self::try_start(options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, with the error as a value.
    pub fn try_start(options: Vec<String>) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("durable-redis.").tempdir().map_err(|error| error.to_string())?;
        let redis = Self { port: free_port(), folder, options, process: Mutex::default() };
        redis.restart()?;
        Ok(redis)
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&self) -> Result<(), String> {
        self.kill();
        let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
        let fixed = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"];
        let mut command: Vec<String> = fixed.iter().map(|word| (*word).to_owned()).collect();
        command.extend([self.port.to_string(), "--dir".into(), self.folder.path().display().to_string()]);
        command.extend(self.options.iter().cloned());
        let log = self.folder.path().join("log");
        let process = Guard::start_in(&command, &[], &log, "KILL", Some(self.folder.path()))?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        eventually(Duration::from_secs(10), || self.ask(&["PING"]).map(drop)).map_err(|error| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            format!("Redis does not start: {error}\n{log}\n{MISSING}")
        })
    }

    /// Ends it as a power cut would.
    pub fn kill(&self) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            process.signal(Signal::KILL);
            process.ends_within(Duration::from_secs(5));
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it answers to a command, as `redis-cli` prints it.
    pub fn ask(&self, command: &[&str]) -> Result<String, String> {
        let output = Command::new("redis-cli")
            .args(["-e", "-p", &self.port.to_string()])
            .args(command)
            .output()
            .map_err(|error| format!("{MISSING} ({error})"))?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// The same for a test.
    ///
    /// # Panics
    /// When it answers with an error.
    pub fn cli(&self, command: &[&str]) -> String {
        self.ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}
