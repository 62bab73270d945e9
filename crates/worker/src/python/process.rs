//! One CPython process and the calls that it is running.

use std::{
    collections::HashMap,
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use durable_core::model::{Failure, Stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::unix::pipe::Receiver,
    process::{Child, ChildStdout},
    sync::{mpsc, watch},
};

use super::{
    PythonError, PythonSettings,
    child::{self, Group},
    death::{self, Death},
    folder::Folder,
    frame::{self, Outgoing},
    marks::Marks,
};
use crate::{clock::AttemptClock, function::Reporter, log::CallLog};

/// How long the functions' files may take to be imported.
const IMPORT: Duration = Duration::from_secs(300);

/// How long a process that was asked to end may take for it.
const END: Duration = Duration::from_secs(2);

/// How a process runs functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// One at a time.
    Sync,
    /// Any number, on one event loop.
    Async,
}

/// A call that is in a process.
pub(super) struct Inside {
    pub(super) sender: mpsc::UnboundedSender<Value>,
    pub(super) log: CallLog,
    pub(super) function: String,
    /// For people: which call of which execution.
    pub(super) name: String,
    pub(super) clock: AttemptClock,
    pub(super) progress: Reporter,
    /// It was told to end and has not, in all its grace.
    pub(super) given_up: bool,
}

/// What holds up the event loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) by: u64,
    pub(super) since: Instant,
}

/// What the tasks around a process share.
pub(super) struct Shared {
    pub(super) mode: Mode,
    pub(super) group: Group,
    pub(super) inside: Mutex<HashMap<u64, Inside>>,
    pub(super) marks: Marks,
    pub(super) blocked: Mutex<Option<Blocked>>,
    /// The call for whose sake the process is killed.
    blamed: Mutex<Option<u64>>,
    /// It gets no more calls: one of them does not heed its cancellation.
    retired: AtomicBool,
    crash: File,
    death: watch::Sender<Option<Arc<Death>>>,
    to: mpsc::UnboundedSender<Outgoing>,
    last_used: Mutex<Instant>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process; killed, with all that it started, when it is dropped.
pub(super) struct Process {
    pub(super) shared: Arc<Shared>,
    next_id: AtomicU64,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.group.kill();
    }
}

impl Process {
    /// Starts a process and lets it import the functions; answers also what it offers.
    pub(super) async fn start(
        settings: &PythonSettings,
        folder: &Folder,
        mode: Mode,
    ) -> Result<(Self, Vec<Value>), PythonError> {
        let python = settings.python.display().to_string();
        let failed = |cause| PythonError::Start { python: python.clone(), cause };
        let marks = Marks::new().map_err(failed)?;
        let crash = tempfile::tempfile().map_err(failed)?;
        let descriptors =
            vec![marks.file().try_clone().map_err(failed)?.into(), crash.try_clone().map_err(failed)?.into()];
        let started = child::spawn(settings, folder, mode).map_err(failed)?;
        let output = CallLog::default();
        let own = Receiver::from_owned_fd(started.output).map_err(failed)?;
        let written = tokio::spawn(collect(own, output.clone()));
        let (to, messages) = mpsc::unbounded_channel();
        tokio::spawn(frame::write_all(started.stdin, messages));
        let shared = Arc::new(Shared {
            mode,
            group: Group::of(&started.child),
            inside: Mutex::default(),
            marks,
            blocked: Mutex::default(),
            blamed: Mutex::default(),
            retired: AtomicBool::new(false),
            crash,
            death: watch::Sender::new(None),
            to,
            last_used: Mutex::new(Instant::now()),
        });
        let process = Self { shared: shared.clone(), next_id: AtomicU64::new(1) };
        let request = json!({"files": settings.files, "modules": settings.modules}).to_string().into_bytes();
        process.tell(Outgoing { payload: request, descriptors });
        let mut stdout = BufReader::with_capacity(64 << 10, started.stdout);
        let answer = match tokio::time::timeout(IMPORT, frame::read(&mut stdout)).await {
            Ok(answer) => answer.ok().flatten(),
            Err(_) => return Err(PythonError::Slow { python, within: IMPORT }),
        };
        let answer = answer.and_then(|answer| serde_json::from_slice::<Value>(&answer).ok());
        let Some(answer) = answer else {
            let how = shared.group.bury(started.child).await.map_or_else(|error| error.to_string(), death::in_words);
            // All who could write are gone, so its output ends.
            let _ = tokio::time::timeout(END, written).await;
            let crashed = death::crash_text(&shared.crash).map(|text| death::traceback(&text)).unwrap_or_default();
            let output = format!("{}\n{crashed}", output.text()).trim().to_owned();
            return Err(PythonError::Ended { python, how, output });
        };
        if let Ok(failure) = serde_json::from_value::<Failure>(answer["error"].clone()) {
            return Err(PythonError::Import(failure));
        }
        let offered = answer["functions"].as_array().cloned().unwrap_or_default();
        tokio::spawn(route(stdout, started.child, shared.clone()));
        if mode == Mode::Async {
            tokio::spawn(super::blocked::watch(shared));
        }
        Ok((process, offered))
    }

    pub(super) fn tell(&self, message: Outgoing) {
        self.shared.tell(message);
    }

    pub(super) fn number(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets the process end as a program does, and kills it if that takes long.
    pub(super) async fn end(&self) {
        self.tell(Outgoing::plain(&json!({"op": "exit"})));
        let _ = tokio::time::timeout(END, self.shared.dead()).await;
        self.shared.group.kill();
    }
}

impl Shared {
    pub(super) fn tell(&self, message: Outgoing) {
        // One that has ended is noticed where its answers are read.
        let _ = self.to.send(message);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.death.borrow().is_some()
    }

    /// Whether it takes further calls.
    pub(super) fn is_open(&self) -> bool {
        !self.has_ended() && !self.retired.load(Ordering::Acquire)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// For how long nothing has run in it.
    pub(super) fn idle(&self) -> Duration {
        if lock(&self.inside).is_empty() { lock(&self.last_used).elapsed() } else { Duration::ZERO }
    }

    pub(super) fn used(&self) {
        *lock(&self.last_used) = Instant::now();
    }

    /// Kills the process for a call's sake.
    pub(super) fn kill_for(&self, call: u64) {
        lock(&self.blamed).get_or_insert(call);
        self.group.kill();
    }

    /// Waits for the end of the process.
    pub(super) async fn dead(&self) -> Arc<Death> {
        let mut death = self.death.subscribe();
        let found = death.wait_for(Option::is_some).await.ok().and_then(|death| death.clone());
        found.unwrap_or_else(|| Arc::new(Death { how: "ended".into(), traceback: None, culprit: None }))
    }

    fn hear(&self, payload: &[u8]) -> Result<(), serde_json::Error> {
        if let [kind @ (b'o' | b'e'), rest @ ..] = payload
            && let Some((id, text)) = rest.split_first_chunk::<8>()
        {
            let log = lock(&self.inside).get(&u64::from_be_bytes(*id)).map(|inside| inside.log.clone());
            if let Some(log) = log {
                log.write_bytes(if *kind == b'o' { Stream::Stdout } else { Stream::Stderr }, text);
            }
            return Ok(());
        }
        let message: Value = serde_json::from_slice(payload)?;
        if let Some(inside) = lock(&self.inside).get(&message["id"].as_u64().unwrap_or(0)) {
            if message["op"] == "began" {
                inside.clock.start();
            }
            // Nobody hears it whose call has been given up.
            let _ = inside.sender.send(message);
        }
        Ok(())
    }

    fn culprit(&self, crash: Option<&str>) -> Option<(u64, String)> {
        let blamed = *lock(&self.blamed);
        let inside = lock(&self.inside);
        let found = blamed.or_else(|| death::culprit(crash, &self.marks));
        let begun = || {
            let mut begun = inside.iter().filter(|(_, inside)| inside.clock.has_started());
            begun.next().filter(|_| begun.next().is_none()).map(|(id, _)| *id)
        };
        let id = found.or_else(begun)?;
        let function = inside.get(&id).map_or_else(
            || "a task that an earlier call had left behind".to_owned(),
            |inside| format!("{} ({})", inside.function, inside.name),
        );
        Some((id, function))
    }
}

/// Hands messages to the calls that they are for, until the process closes its side.
async fn route(mut stdout: BufReader<ChildStdout>, child: Child, shared: Arc<Shared>) {
    loop {
        match frame::read(&mut stdout).await {
            Ok(Some(payload)) => {
                if let Err(error) = shared.hear(&payload) {
                    tracing::warn!(%error, "a Python process cannot be understood");
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "a Python process cannot be understood");
                break;
            }
        }
    }
    let how = shared.group.bury(child).await.map_or_else(|error| format!("ended ({error})"), death::in_words);
    let crash = death::crash_text(&shared.crash);
    let culprit = shared.culprit(crash.as_deref());
    let death = Death { how, traceback: crash.as_deref().map(death::traceback), culprit };
    if let Some((_, by)) = &death.culprit {
        tracing::warn!("a Python process {}, because of {by}", death.how);
    }
    shared.death.send_replace(Some(Arc::new(death)));
    // Every call that still waits sees its channel close.
    lock(&shared.inside).clear();
}

/// Keeps what the process writes of its own account.
async fn collect(mut own: Receiver, log: CallLog) {
    let mut buffer = vec![0; 8 << 10];
    while let Ok(count @ 1..) = own.read(&mut buffer).await {
        log.write_bytes(Stream::Stderr, &buffer[..count]);
    }
}
