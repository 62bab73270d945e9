//! Processes that end with the one that started them, however that ends.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// The shell outlives us just long enough to clean up: its stdin closes with us.
const SCRIPT: &str = r#"
    log=$1; signal=$2; folder=$3; shift 3
    "$@" </dev/null >>"$log" 2>&1 &
    pid=$!
    echo $pid
    word=$(cat)
    kill -s CONT $pid 2>/dev/null
    kill -s "$signal" $pid 2>/dev/null
    n=0
    while kill -0 $pid 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
    kill -s KILL $pid 2>/dev/null
    wait
    [ "$word" = keep ] || [ -z "$folder" ] || rm -rf "$folder"
"#;

/// A running process. Dropped, it is ended.
pub struct Guard {
    shell: Child,
    stdin: Option<ChildStdin>,
    pid: Pid,
}

impl Guard {
    /// Starts a command whose output is added to the file `log`. `stop` (such as `TERM`) ends it.
    pub fn start(command: &[String], env: &[(String, String)], log: &Path, stop: &str) -> Result<Self, String> {
        Self::start_in(command, env, log, stop, None)
    }

    /// The same; when this process dies without having dropped the guard, `folder` is removed with all that
    /// is in it.
    pub fn start_in(
        command: &[String],
        env: &[(String, String)],
        log: &Path,
        stop: &str,
        folder: Option<&Path>,
    ) -> Result<Self, String> {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(log)
            .arg(stop)
            .arg(folder.map_or_else(String::new, |folder| folder.display().to_string()))
            .args(command)
            .envs(env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir(log.parent().unwrap_or(Path::new("/")))
            // Ctrl-C in a terminal is for us alone.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start sh: {error}"))?;
        let stdin = shell.stdin.take();
        let mut line = String::new();
        let output = shell.stdout.take().ok_or("sh has no stdout")?;
        BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| format!("sh said {line:?}"))?;
        Ok(Self { shell, stdin, pid })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended already.
        let _ = kill_process(self.pid, signal);
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it has not ended.
    pub fn lives(&self) -> bool {
        test_kill_process(self.pid).is_ok()
            // Ended, and not yet waited for by the shell.
            && !std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).is_ok_and(|stat| stat.contains(") Z "))
    }

    /// Whether it lives and has not been stopped.
    pub fn runs(&self) -> bool {
        let stopped =
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).is_ok_and(|stat| stat.contains(") T "));
        self.lives() && !stopped
    }

    /// Waits for its end, at most so long; whether it has ended.
    pub fn ends_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while self.lives() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"keep");
        }
        let _ = self.shell.wait();
    }
}

/// A port of this machine that nobody listens on.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0");
    listener.and_then(|listener| listener.local_addr()).map_or(0, |address| address.port())
}

/// Tries until it works; the last error when it does not in time.
pub fn eventually<T>(time: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + time;
    loop {
        match attempt() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}
