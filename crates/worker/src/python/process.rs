//! One CPython process and the calls that it is running.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use durable_core::model::{Failure, Json, Stream};
use serde_json::{Value, json};
use tokio::{
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex as AsyncMutex, mpsc},
};

use super::{PythonError, PythonSettings, frame};
use crate::function::{CallLog, FunctionError, Invocation};

/// The program of a process: what makes arguments of values, values of JSON, and the host itself.
const HOST: &str =
    concat!(include_str!("../../../../python/durable/_fit.py"), include_str!("values.py"), include_str!("host.py"));

/// How long a cancelled asynchronous call may take to end before its process is killed.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// How a process runs functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// One at a time.
    Sync,
    /// Any number, on one event loop.
    Async,
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum CallEnd {
    Returned(Json),
    Raised(FunctionError),
    /// The process ended, or could not be spoken to; the text says how.
    Lost(String),
}

impl CallEnd {
    pub(super) fn leaves_process_usable(&self) -> bool {
        match self {
            Self::Returned(_) | Self::Raised(_) => true,
            Self::Lost(_) => false,
        }
    }
}

/// Calls that wait for messages, by number.
type Waiting = Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<Value>>>>;

/// A process; killed, with all that it started, when it is dropped.
pub(super) struct Process {
    mode: Mode,
    group: Group,
    stdin: Arc<AsyncMutex<ChildStdin>>,
    waiting: Waiting,
    next_id: AtomicU64,
    ended: Arc<AtomicBool>,
    /// What C code and child processes wrote.
    output: Mutex<Output>,
}

impl Process {
    /// Starts a process and lets it import the functions; answers also what it offers.
    pub(super) async fn start(settings: &PythonSettings, mode: Mode) -> Result<(Self, Vec<Value>), PythonError> {
        let python = settings.python.display().to_string();
        let failed = |cause| PythonError::Start { python: python.clone(), cause };
        let output = Output::new().map_err(failed)?;
        let here = std::path::Path::new(".");
        let mut child = Command::new(&settings.python)
            .current_dir(settings.directory.as_deref().unwrap_or(here))
            .arg("-c")
            .arg(format!("__file__ = '<durable host>'\nexec(compile({}, __file__, 'exec'))", python_literal(HOST)))
            .arg(if mode == Mode::Async { "async" } else { "sync" })
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(output.for_child().map_err(failed)?)
            // A group of its own: Ctrl-C in a terminal is for the worker, and a kill takes along
            // what the function has started.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let gone = || failed(std::io::Error::other("its pipes are closed"));
        let mut stdin = child.stdin.take().ok_or_else(gone)?;
        let mut stdout = child.stdout.take().ok_or_else(gone)?;
        let group = Group(child);
        let request = json!({"files": settings.files, "modules": settings.modules}).to_string();
        // A process that has ended already says why in its output, which is read below.
        let _ = frame::write(&mut stdin, request.as_bytes()).await;
        let answer = frame::read(&mut stdout).await.ok().flatten();
        let answer = answer.and_then(|answer| serde_json::from_slice::<Value>(&answer).ok());
        let Some(answer) = answer else {
            return Err(PythonError::Ended { python, output: output.text_so_far() });
        };
        if let Ok(failure) = serde_json::from_value::<Failure>(answer["error"].clone()) {
            return Err(PythonError::Import(failure));
        }
        let offered = answer["functions"].as_array().cloned().unwrap_or_default();
        let process = Self {
            mode,
            group,
            stdin: Arc::new(AsyncMutex::new(stdin)),
            waiting: Waiting::default(),
            next_id: AtomicU64::new(1),
            ended: Arc::default(),
            output: Mutex::new(output),
        };
        tokio::spawn(route(stdout, process.waiting.clone(), process.ended.clone()));
        Ok((process, offered))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Runs a call to its end.
    pub(super) async fn call(&self, invocation: &Invocation, log: &CallLog) -> CallEnd {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, mut messages) = mpsc::unbounded_channel();
        lock(&self.waiting).insert(id, sender);
        let mut ticket = Ticket { process: self, id, over: false };
        let request = call_frame(id, invocation);
        if request.len() > frame::MAX_BYTES {
            ticket.over = true;
            return CallEnd::Raised(too_large(&invocation.function, request.len()));
        }
        if self.has_ended() || frame::write(&mut *self.stdin.lock().await, request.as_bytes()).await.is_err() {
            ticket.over = true;
            return CallEnd::Lost(format!("ended{}", self.last_words(log)));
        }
        let mut told = false;
        let end = loop {
            let message = tokio::select! {
                message = messages.recv() => message,
                () = invocation.cancelled.cancelled(), if !told => {
                    told = true;
                    let request = json!({"op": "cancel", "id": id}).to_string();
                    // One that has ended meanwhile says so itself.
                    let _ = frame::write(&mut *self.stdin.lock().await, request.as_bytes()).await;
                    continue;
                }
            };
            let Some(message) = message else { break CallEnd::Lost(String::new()) };
            match message["op"].as_str() {
                Some("heartbeat") => {
                    invocation.progress.report(message["fraction"].as_f64(), message["message"].as_str());
                }
                Some("log") => log.write(stream(&message), message["text"].as_str().unwrap_or_default()),
                Some("done") => break CallEnd::Returned(Json::from(&message["result"])),
                Some("error") => break CallEnd::Raised(raised(message)),
                _ => break CallEnd::Raised(FunctionError::new("durable.Cancelled", "the call was cancelled")),
            }
        };
        ticket.over = true;
        match end {
            CallEnd::Lost(_) => CallEnd::Lost(format!("ended{}", self.last_words(log))),
            end => {
                let written = lock(&self.output).take();
                log.write(Stream::Stderr, &written);
                end
            }
        }
    }

    /// How the process ended, with its own last output added to the call's log.
    fn last_words(&self, log: &CallLog) -> String {
        let written = lock(&self.output).take();
        log.write(Stream::Stderr, &written);
        let last = written.trim_end().lines().last().map(|line| format!(": {line}"));
        format!(" unexpectedly (killed, crashed or out of memory){}", last.unwrap_or_default())
    }
}

/// A call's place in a process. Left early, it frees that place: an asynchronous call is cancelled
/// there, a synchronous one has its process killed (by dropping it).
struct Ticket<'a> {
    process: &'a Process,
    id: u64,
    over: bool,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let sender = lock(&self.process.waiting).remove(&self.id);
        if self.over || self.process.mode == Mode::Sync {
            return;
        }
        let (stdin, waiting, id) = (self.process.stdin.clone(), self.process.waiting.clone(), self.id);
        let (ended, group) = (self.process.ended.clone(), self.process.group.id());
        drop(sender);
        let (sender, mut end) = mpsc::unbounded_channel();
        lock(&waiting).insert(id, sender);
        tokio::spawn(async move {
            let request = json!({"op": "cancel", "id": id}).to_string();
            let cancel = async {
                let _ = frame::write(&mut *stdin.lock().await, request.as_bytes()).await;
                while let Some(message) = end.recv().await {
                    if message["op"] != "log" {
                        break;
                    }
                }
            };
            if tokio::time::timeout(CANCEL_GRACE, cancel).await.is_err() && !ended.load(Ordering::Acquire) {
                tracing::warn!("an asynchronous function did not heed its cancellation; its process is killed");
                kill_group(group);
            }
            lock(&waiting).remove(&id);
        });
    }
}

/// Hands messages to the calls that they are for, until the process closes its side.
async fn route(mut stdout: ChildStdout, waiting: Waiting, ended: Arc<AtomicBool>) {
    loop {
        match frame::read(&mut stdout).await {
            Ok(Some(payload)) => {
                let Ok(message) = serde_json::from_slice::<Value>(&payload) else { break };
                let id = message["id"].as_u64().unwrap_or(0);
                if let Some(call) = lock(&waiting).get(&id) {
                    let _ = call.send(message);
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "a Python process cannot be understood");
                break;
            }
        }
    }
    ended.store(true, Ordering::Release);
    // Every call that still waits sees its channel close.
    lock(&waiting).clear();
}

fn call_frame(id: u64, invocation: &Invocation) -> String {
    let head = json!({
        "op": "call", "id": id, "function": invocation.function,
        "key": invocation.idempotency_key(), "attempt": invocation.of.number,
    });
    // The arguments are JSON already, and may be large.
    let head = head.to_string();
    format!("{},\"args\":{},\"kwargs\":{}}}", &head[..head.len() - 1], invocation.args, invocation.kwargs)
}

fn too_large(function: &str, bytes: usize) -> FunctionError {
    let message = format!(
        "the arguments of {function} take {} MiB, and at most {} MiB can be sent: store them in a file or an object \
         store and send their name",
        bytes >> 20,
        frame::MAX_BYTES >> 20
    );
    FunctionError::new("ValueError", message).not_retryable()
}

fn stream(message: &Value) -> Stream {
    if message["stream"] == "stderr" { Stream::Stderr } else { Stream::Stdout }
}

fn raised(mut message: Value) -> FunctionError {
    let failure = serde_json::from_value(message["error"].take())
        .unwrap_or_else(|error| Failure::new("RuntimeError", format!("an unreadable exception: {error}")));
    FunctionError { failure, retryable: message["retryable"].as_bool().unwrap_or(true) }
}

/// A text as a Python literal: JSON texts are Python texts.
fn python_literal(text: &str) -> String {
    Value::from(text).to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child as the head of its process group.
struct Group(Child);

impl Group {
    fn id(&self) -> Option<u32> {
        self.0.id()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        kill_group(self.0.id());
    }
}

fn kill_group(id: Option<u32>) {
    let pid = id.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended already.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// The file that stands for the process's own stdout and stderr.
struct Output {
    file: File,
    read: u64,
}

impl Output {
    fn new() -> std::io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, read: 0 })
    }

    fn for_child(&self) -> std::io::Result<Stdio> {
        Ok(Stdio::from(self.file.try_clone()?))
    }

    /// What was written since it was last asked. Reads at a position of its own, because the file's
    /// is the child's.
    fn take(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut chunk = [0; 8192];
        while let Ok(read @ 1..) = self.file.read_at(&mut chunk, self.read) {
            bytes.extend_from_slice(&chunk[..read]);
            self.read += read as u64;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn text_so_far(mut self) -> String {
        self.read = 0;
        self.take().trim_end().to_owned()
    }
}
