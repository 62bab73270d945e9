//! The CPython process itself: how it is started, what it inherits, how it is ended.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group, setrlimit, waitid,
};
use tokio::{
    net::UnixStream,
    process::{Child, ChildStdout, Command},
};

use super::{PythonSettings, folder::Folder, process::Mode};

/// What functions do not inherit: the keys of the installation. `DURABLE_…` are not inherited either.
const SECRETS: [&str; 9] = [
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLKEY",
    "PGSSLPASSWORD",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "REDISCLI_AUTH",
];

/// How long a process that has closed its pipe may take to be gone.
const GONE: Duration = Duration::from_secs(2);

/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(5);

/// Each running call has two pipes, here and in its process.
const DESCRIPTORS: u64 = 16_384;

/// Allows this process, and those that it starts, as many descriptors as calls may need.
pub(super) fn allow_many_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::debug!(%error, "the number of descriptors stays as it is");
    }
}

/// A started process, and its three connections.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) stdin: UnixStream,
    pub(super) stdout: ChildStdout,
    /// What it writes of its own account.
    pub(super) output: OwnedFd,
}

/// Starts a process that runs the host.
pub(super) fn spawn(settings: &PythonSettings, folder: &Folder, mode: Mode) -> io::Result<Started> {
    let (stdin, theirs) = std::os::unix::net::UnixStream::pair()?;
    stdin.set_nonblocking(true)?;
    let (output, written) = io::pipe()?;
    let path = serde_json::Value::from(folder.path().to_string_lossy());
    let mode = if mode == Mode::Async { "async" } else { "sync" };
    // No file is `__main__`, as after python -c: processes that functions start by multiprocessing would run it.
    let main = format!("import sys; sys.path.insert(0, {path}); import _durable_host; _durable_host.main('{mode}')");
    let mut command = Command::new(&settings.python);
    command
        .current_dir(settings.directory.as_deref().unwrap_or(Path::new(".")))
        .args(["-u", "-c", &main])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(OwnedFd::from(written)))
        // A group of its own: Ctrl-C in a terminal is for the worker, and a kill takes along what functions have
        // started.
        .process_group(0)
        .kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DURABLE_") {
            command.env_remove(&name);
        }
    }
    SECRETS.iter().for_each(|name| {
        command.env_remove(name);
    });
    let mut child = command.spawn()?;
    if let Some(bytes) = settings.memory {
        limit_memory(&child, bytes)?;
    }
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("its pipe is closed"))?;
    Ok(Started { child, stdin: UnixStream::from_std(stdin)?, stdout, output: output.into() })
}

/// Its address space, and that of what it starts. It is set before the process is told what to import.
#[cfg(target_os = "linux")]
fn limit_memory(child: &Child, bytes: u64) -> io::Result<()> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    rustix::process::prlimit(pid, Resource::As, limit)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn limit_memory(_: &Child, _: u64) -> io::Result<()> {
    Err(io::Error::other("only Linux limits the memory of another process"))
}

/// The group of a process and of what it has started, while it may be signalled.
pub(super) struct Group(Mutex<Option<Pid>>);

impl Group {
    pub(super) fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self(Mutex::new(pid))
    }

    pub(super) fn kill(&self) {
        if let Some(pid) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // It may have ended already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Waits until the process, which has closed its pipe, is gone, with all that it has started.
    pub(super) async fn bury(&self, mut child: Child) -> io::Result<ExitStatus> {
        let pid = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = async {
            // Without taking its end away: until then its number is nobody else's.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            while let Some(pid) = pid
                && let Ok(None) = waitid(WaitId::Pid(pid), look)
            {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(GONE, gone).await;
        self.kill();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        child.wait().await
    }
}
