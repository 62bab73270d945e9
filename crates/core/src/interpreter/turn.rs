//! One turn of a workflow: from outcomes to the next pause, or the end.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use monty::{Dump, FunctionCall, NameLookup, OsCall, RunProgress, Session, SessionRef};
use monty_types::{
    BASELINE_MEMORY, CallArgs, DateTimeSource, ExcType, ExtFunctionResult, LIVE_MEMORY, MontyException, MontyObject,
    MontyUuid, NameLookupResult, OsFunctionCall, OsPolicy, PrintWriter, PrintWriterCallback, ProcessTime, RandomSeed,
    RandomStart, ResourceLimits, ResourceTracker, SandboxTimeZone, SleepMode, SourceRange,
};
use serde_json::Value;

use super::{
    AdvanceError, End, Limits, NewCall, Pause, Program, Snapshot, Step, calendar, exception,
    handlers::{self, Kept},
    prelude::{self, Module},
    snapshot::{self, SnapshotError, State},
    traceback::{self, Seen},
    value::{self, Refusal},
    waits,
};
use crate::{
    id::{CallId, ExecutionId},
    model::{CallKind, Failure, Json, Outcome, Stream, Wake},
    offers::Offers,
    time::Timestamp,
};

/// Stack of the thread on which a turn runs: recursion limits of the interpreter fit in it.
const STACK: usize = 16 << 20;

/// Largest answer to `os.urandom`.
const MAX_URANDOM: u64 = 1 << 20;

/// What a turn needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The workflow.
    pub program: &'a Program,
    /// Seeds `random`, so that two executions differ and a repeated turn does not.
    pub execution: &'a ExecutionId,
    /// What every clock of the workflow answers in this turn.
    pub now: Timestamp,
    /// Makes the tokens of its callbacks unguessable; the same for the whole life of the execution.
    pub secret: &'a str,
    /// Functions that are known to exist.
    pub offers: &'a Offers,
    /// What the turn may use up.
    pub limits: Limits,
}

/// Where a turn starts from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// The beginning, with a JSON object of inputs.
    Start {
        /// The inputs by name.
        inputs: &'a Json,
        /// The id of its first call: above those of the lives before it, if it began anew.
        first_call: u32,
    },
    /// A pause. Outcomes of calls that are not awaited any more are ignored.
    Paused {
        /// The state.
        snapshot: &'a Snapshot,
        /// The execution's first state.
        base: &'a Snapshot,
        /// What has come in since.
        outcomes: &'a [(CallId, Outcome)],
    },
}

/// Runs a workflow to its next pause or its end, on a thread with a large stack.
pub fn advance(turn: &Turn<'_>, origin: Origin<'_>) -> Result<Step, AdvanceError> {
    on_big_stack(|| Run::new(turn).take(origin))
}

/// Runs `work` on a thread whose stack is large enough for the interpreter.
pub(super) fn on_big_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.unwrap_or_else(|error| panic!("the system has no thread left: {error}"));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A turn being taken.
pub(super) struct Run<'a> {
    pub(super) turn: &'a Turn<'a>,
    /// What the interpreter's numbers of calls are counted from.
    first_call: u32,
    pub(super) log: Log,
    pub(super) calls: Vec<NewCall>,
    /// The prelude's modules.
    pub(super) modules: Vec<Module>,
    /// Awaitables that the prelude fulfils itself; they are no calls.
    pub(super) promises: BTreeSet<u32>,
    /// Promises that were fulfilled since the interpreter last came up for air.
    pub(super) fulfilled: Vec<(u32, ExtFunctionResult)>,
    /// Coroutines, by their place in the heap, whose calls the workflow gave up since then.
    pub(super) given_up: Vec<usize>,
    /// Calls that the workflow gave up in this turn.
    cancelled: Vec<CallId>,
    /// What the workflow last said of itself.
    pub(super) progress: Option<Json>,
    /// The exceptions that the state was handling, where they were raised.
    raised: Vec<Seen>,
    /// Taken again, to look where exceptions are raised: the handlers that are left.
    left: Option<Kept>,
}

/// Why the interpreter stopped without an answer that the workflow can see.
pub(super) enum Stop {
    Raised(MontyException),
    Refused(AdvanceError),
    /// The workflow asked for it.
    Ended(Box<End>),
}

impl From<MontyException> for Stop {
    fn from(error: MontyException) -> Self {
        Self::Raised(error)
    }
}

impl From<SnapshotError> for Stop {
    fn from(error: SnapshotError) -> Self {
        Self::Refused(error.into())
    }
}

impl<'a> Run<'a> {
    fn new(turn: &'a Turn<'a>) -> Self {
        Self {
            turn,
            first_call: 0,
            log: Log { entries: Vec::new(), room: turn.limits.log },
            calls: Vec::new(),
            modules: Vec::new(),
            promises: BTreeSet::new(),
            fulfilled: Vec::new(),
            given_up: Vec::new(),
            cancelled: Vec::new(),
            progress: None,
            raised: Vec::new(),
            left: None,
        }
    }

    /// A run whose exceptions end it where they are raised, but for what is caught at places that are kept.
    pub(super) fn without_handlers(turn: &'a Turn<'a>, kept: Kept) -> Self {
        Self { left: Some(kept), ..Self::new(turn) }
    }

    fn take(mut self, origin: Origin<'_>) -> Result<Step, AdvanceError> {
        // The budget counts from here: what the process held before is not the workflow's.
        BASELINE_MEMORY.store(LIVE_MEMORY.load(Ordering::Relaxed), Ordering::Relaxed);
        let began = Instant::now();
        let end = match self.run(origin) {
            Ok(end) => end,
            Err(Stop::Raised(error)) => {
                let text = traceback::text(self.turn, origin, began.elapsed(), &error, &self.raised);
                self.fail(exception::uncaught(self.turn, &error, &text))
            }
            Err(Stop::Refused(error)) => return Err(error),
            Err(Stop::Ended(end)) => *end,
        };
        Ok(Step { log: self.log.entries, progress: self.progress, end })
    }

    pub(super) fn run(&mut self, origin: Origin<'_>) -> Result<End, Stop> {
        let mut wakes = Vec::new();
        let (mut progress, base) = match origin {
            Origin::Start { inputs, first_call } => {
                self.first_call = first_call;
                (self.start(inputs)?, None)
            }
            Origin::Paused { snapshot, base, outcomes } => {
                let base = snapshot::open_base(base)?;
                let state = snapshot::open(snapshot, Some(&base))?;
                wakes = state.wakes;
                self.first_call = state.first_call;
                self.modules = state.modules;
                self.promises = state.promises;
                self.raised = state.raised;
                (self.resume(&state.dump, outcomes)?, Some(base))
            }
        };
        loop {
            progress = match progress {
                RunProgress::FunctionCall(call) => self.function(call)?,
                RunProgress::OsCall(call) => self.os(call)?,
                RunProgress::NameLookup(lookup) => self.name(lookup)?,
                RunProgress::Complete(value) => return Ok(self.finish(&value)),
                RunProgress::ResolveFutures(_) => match self.within(progress)? {
                    Air::GoesOn(progress) => progress,
                    Air::Waits(progress) => {
                        self.remember(origin, &progress)?;
                        return self.pause(&progress, &wakes, base.as_deref());
                    }
                },
            }
        }
    }

    fn start(&mut self, inputs: &Json) -> Result<RunProgress, Stop> {
        let policy = OsPolicy {
            datetime: DateTimeSource::CallHost,
            timezone: SandboxTimeZone::utc(),
            sleep: SleepMode::CallHost,
            process_time: ProcessTime::Zero,
            random_start: RandomStart::Seed(RandomSeed::Str(match self.first_call {
                0 => self.turn.execution.to_string(),
                first => format!("{}/{first}", self.turn.execution),
            })),
        };
        let limits = self.turn.limits;
        // Never `max_feed_duration`: it adds up over the whole life of an execution.
        let limits = ResourceLimits::default().max_turn_duration(limits.turn).max_memory(limits.memory);
        let parsed = inputs.parse().map_err(|error| MontyException::runtime_error(format!("inputs: {error}")))?;
        let Value::Object(inputs) = parsed else {
            return Err(MontyException::runtime_error("the inputs are no JSON object").into());
        };
        let (mut run, values) = self.turn.program.run(&inputs)?;
        if let Some(left) = &self.left {
            let program = minicbor_serde::to_vec(&run).ok();
            let stripped = program.and_then(|program| handlers::strip(&program, &self.turn.program.texts(), left));
            run = stripped.and_then(|program| minicbor_serde::from_slice(&program).ok()).unwrap_or(run);
        }
        Ok(run.with_os_policy(policy).start(values, ResourceTracker::new(limits), self.log.writer())?)
    }

    fn resume(&mut self, dump: &[u8], outcomes: &[(CallId, Outcome)]) -> Result<RunProgress, Stop> {
        let stripped = self.left.as_ref().and_then(|left| {
            let (header, state) = dump.split_at_checked(waits::DUMP_HEADER)?;
            Some([header, &handlers::strip(state, &self.turn.program.texts(), left)?].concat())
        });
        let loaded = Dump::load(stripped.as_deref().unwrap_or(dump))
            .map_err(|error| SnapshotError::Unreadable(error.to_string()))?;
        let Session::Running(progress) = loaded.state else {
            return Err(SnapshotError::Unreadable("it is not a running program".into()).into());
        };
        let RunProgress::ResolveFutures(paused) = *progress else {
            return Err(SnapshotError::Unreadable("it is not paused".into()).into());
        };
        let pending = paused.pending_call_ids();
        let mut results: Vec<(u32, ExtFunctionResult)> = outcomes
            .iter()
            .filter_map(|(id, outcome)| Some((id.0.checked_sub(self.first_call)?, outcome)))
            .filter(|(id, _)| pending.contains(id))
            .map(|(id, outcome)| (id, deliver(outcome)))
            .collect();
        // One order at every resume, so that the same outcomes always lead to the same state.
        results.sort_by_key(|(id, _)| *id);
        Ok(paused.resume(results, self.log.writer())?)
    }

    fn function(&mut self, call: FunctionCall) -> Result<RunProgress, Stop> {
        let name = &call.function_name;
        if call.object_id.is_some() {
            let message = format!("{name}() is not here: values arrive as plain data, without methods");
            return Ok(call.resume(MontyException::new(ExcType::AttributeError, Some(message)), self.log.writer())?);
        }
        if name.starts_with(prelude::HOST) {
            return self.own(call);
        }
        let dotted = name.contains('.');
        if !dotted && (is_python_builtin(name) || !self.turn.offers.may_offer(name)) {
            let missing = ExtFunctionResult::NotFound(name.clone());
            return Ok(call.resume(missing, self.log.writer())?);
        }
        match arguments(&call.args) {
            Ok((args, kwargs)) => {
                let line = self.line(&call.position);
                let id = self.id(call.call_id);
                self.calls.push(NewCall { args, kwargs, ..NewCall::new(id, CallKind::Function, name, line) });
                Ok(call.resume_pending(self.log.writer())?)
            }
            Err(refusal) => {
                let message = format!("{name}: {refusal}");
                Ok(call.resume(MontyException::new(ExcType::TypeError, Some(message)), self.log.writer())?)
            }
        }
    }

    fn name(&mut self, lookup: NameLookup) -> Result<RunProgress, Stop> {
        let name = &lookup.name;
        let offered = !is_python_builtin(name) && self.turn.offers.offers(name);
        let own = name.starts_with(prelude::HOST) && !self.turn.program.prelude.is_empty();
        let answer = if lookup.object_id().is_none() && (offered || own) {
            NameLookupResult::Value(MontyObject::function(name.clone(), None))
        } else {
            NameLookupResult::Undefined
        };
        Ok(lookup.resume(answer, self.log.writer())?)
    }

    fn os(&mut self, call: OsCall) -> Result<RunProgress, Stop> {
        let now = self.turn.now;
        #[expect(clippy::cast_precision_loss, reason = "Python's clocks are floats")]
        let seconds = now.0 as f64 / 1e6;
        let answer = match &call.function_call {
            OsFunctionCall::AsyncSleep(delay) | OsFunctionCall::AsyncSystemSleep(delay) => {
                return self.sleep(*delay, call);
            }
            OsFunctionCall::Time(_) => MontyObject::float(seconds).into(),
            OsFunctionCall::DateTimeNow(zone) => {
                MontyObject::datetime(calendar::datetime_at(now, zone.as_ref())).into()
            }
            OsFunctionCall::DateToday => MontyObject::date(calendar::date_at(now)).into(),
            OsFunctionCall::Urandom(args) if args.size <= MAX_URANDOM => self.urandom(call.call_id, args.size).into(),
            OsFunctionCall::Import(module) => self.import(module),
            OsFunctionCall::Sleep(_) | OsFunctionCall::SystemSleep(_) => {
                refuse(ExcType::RuntimeError, "time.sleep() would block the workflow: await asyncio.sleep(seconds)")
            }
            OsFunctionCall::Getenv(_) | OsFunctionCall::GetEnviron => {
                refuse(ExcType::PermissionError, "a workflow cannot read the environment: read it in a function")
            }
            other => refuse(
                ExcType::PermissionError,
                &format!("{other}: a workflow cannot use files or the system: do it in a function"),
            ),
        };
        Ok(call.resume(answer, self.log.writer())?)
    }

    fn sleep(&mut self, delay: Duration, call: OsCall) -> Result<RunProgress, Stop> {
        if delay.is_zero() {
            return Ok(call.resume(MontyObject::none(), self.log.writer())?);
        }
        let id = call.call_id;
        let line = self.line(&call.position);
        let name = format!("sleep {}", in_words(delay));
        self.calls.push(NewCall { delay: Some(delay), ..NewCall::new(self.id(id), CallKind::Timer, &name, line) });
        Ok(call.resume(ExtFunctionResult::Future(id), self.log.writer())?)
    }

    /// The workflow's line at which a call was made; none for the prelude's.
    pub(super) fn line(&self, position: &SourceRange) -> Option<u32> {
        (position.filename == self.turn.program.name).then(|| self.turn.program.line(position.start))
    }

    fn urandom(&self, call_id: u32, size: u64) -> MontyObject {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.random(call_id, &mut bytes);
        MontyObject::bytes(bytes)
    }

    /// Bytes that no other call gets, and a repeated turn gets again.
    pub(super) fn random(&self, call_id: u32, bytes: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_derive_key("durable-monty os.urandom");
        hasher.update(self.turn.execution.as_str().as_bytes()).update(&self.id(call_id).0.to_le_bytes());
        hasher.finalize_xof().fill(bytes);
    }

    /// A call as it is known outside: no call of the execution's whole life has another's id, because work that a former
    /// life gave up may still be under way.
    pub(super) fn id(&self, call_id: u32) -> CallId {
        CallId(self.first_call.wrapping_add(call_id))
    }

    fn import(&self, module: &str) -> ExtFunctionResult {
        if let Some(made) = self.modules.iter().find(|made| made.is(module)) {
            made.object().into()
        } else if self.turn.program.serves(module) {
            host_module(self.turn.program, module).into()
        } else {
            ExtFunctionResult::NotFound(module.to_owned())
        }
    }

    fn finish(&mut self, value: &MontyObject) -> End {
        match value::to_json(value.as_ref()) {
            Ok(json) => {
                for call in self.calls.iter().filter(|call| !self.cancelled.contains(&call.id)) {
                    let line = call.line.map_or_else(String::new, |line| format!(" (line {line})"));
                    let note = format!("{}{line} was never awaited and does not run\n", call.function);
                    self.log.add(Stream::Stderr, &note);
                }
                End::Finish { output: Json::from(&json), abandoned: self.abandoned() }
            }
            Err(refusal) => self.fail(Failure::new("TypeError", format!("the workflow's output: {refusal}"))),
        }
    }

    fn fail(&mut self, failure: Failure) -> End {
        End::Fail { failure, abandoned: self.abandoned() }
    }

    /// The calls of this turn, when nobody will wait for them.
    pub(super) fn abandoned(&mut self) -> Vec<NewCall> {
        let mut calls = std::mem::take(&mut self.calls);
        calls.iter_mut().for_each(|call| call.abandoned = true);
        calls
    }

    /// Nothing can run until something comes from outside, unless the workflow itself has just provided it.
    fn within(&mut self, progress: RunProgress) -> Result<Air, Stop> {
        let mut results = std::mem::take(&mut self.fulfilled);
        let given_up = std::mem::take(&mut self.given_up);
        if !given_up.is_empty() {
            let dump = self.dump(&progress)?;
            for id in waits::below(&dump, &given_up) {
                self.cancelled.push(self.id(id));
                results.push((id, exception::cancelled("given up").into()));
            }
        }
        if results.is_empty() {
            return Ok(Air::Waits(progress));
        }
        let RunProgress::ResolveFutures(paused) = progress else { return Ok(Air::GoesOn(progress)) };
        let pending = paused.pending_call_ids();
        results.retain(|(id, _)| pending.contains(id));
        results.sort_by_key(|(id, _)| *id);
        self.promises.retain(|promise| results.iter().all(|(id, _)| id != promise));
        Ok(Air::GoesOn(paused.resume(results, self.log.writer())?))
    }

    fn dump(&self, progress: &RunProgress) -> Result<Vec<u8>, Stop> {
        monty::dump(&self.turn.program.name, None, &[], SessionRef::Running(progress))
            .map_err(|error| Stop::Refused(AdvanceError::Crashed(format!("the state cannot be saved: {error}"))))
    }

    /// Keeps where the exceptions were raised that are being handled meanwhile.
    fn remember(&mut self, origin: Origin<'_>, progress: &RunProgress) -> Result<(), Stop> {
        if self.left.is_some() || !self.turn.program.awaits_in_handlers {
            return Ok(());
        }
        let handling = self.dump(progress)?.get(waits::DUMP_HEADER..).is_some_and(handlers::in_flight);
        self.raised = match handling {
            true => traceback::to_remember(self.turn, origin, &self.raised),
            false => Vec::new(),
        };
        Ok(())
    }

    fn pause(&mut self, progress: &RunProgress, old: &[(CallId, Wake)], base: Option<&[u8]>) -> Result<End, Stop> {
        let RunProgress::ResolveFutures(paused) = progress else { unreachable!("only a paused run pauses") };
        let pending: Vec<u32> =
            paused.pending_call_ids().iter().copied().filter(|id| !self.promises.contains(id)).collect();
        if pending.is_empty() {
            let text = "the workflow waits for itself: every task that is left awaits a spawned one that cannot end";
            return Ok(self.fail(Failure::new("RuntimeError", text)));
        }
        let dump = self.dump(progress)?;
        let wakes: Vec<_> = waits::read(&dump, &pending).into_iter().map(|(id, wake)| (self.id(id), wake)).collect();
        let mut new_calls = std::mem::take(&mut self.calls);
        let cancelled = std::mem::take(&mut self.cancelled);
        let by_id: BTreeMap<CallId, Wake> = wakes.iter().copied().collect();
        for call in &mut new_calls {
            call.wake = by_id.get(&call.id).copied().unwrap_or(Wake::OnFailure);
            call.abandoned = cancelled.contains(&call.id);
        }
        let changed =
            |(id, wake): &(CallId, Wake)| by_id.get(id).copied().filter(|new| new != wake).map(|new| (*id, new));
        let rewoken = old.iter().filter_map(changed).collect();
        let waits_for_earlier = old.iter().any(|(id, _)| by_id.contains_key(id));
        let has_groups = wakes.iter().any(|(_, wake)| matches!(wake, Wake::Group(_)));
        let (modules, promises) = (std::mem::take(&mut self.modules), std::mem::take(&mut self.promises));
        let raised = std::mem::take(&mut self.raised);
        let state = State { dump, wakes, modules, promises, first_call: self.first_call, raised };
        let (base, snapshot) = match base {
            Some(base) => (None, snapshot::seal(&state, Some(base))),
            None => {
                let first = snapshot::seal(&state, None);
                let dictionary = snapshot::open_base(&first)?;
                (Some(first), snapshot::seal(&state, Some(&dictionary)))
            }
        };
        Ok(End::Pause(Pause { snapshot, base, new_calls, cancelled, rewoken, waits_for_earlier, has_groups }))
    }
}

/// What comes of a moment in which no task can run.
enum Air {
    GoesOn(RunProgress),
    Waits(RunProgress),
}

/// An outcome as the interpreter takes it. A result that it could not import would end the run, so
/// it is turned into an exception here.
fn deliver(outcome: &Outcome) -> ExtFunctionResult {
    match outcome {
        Outcome::Failed(failure) => exception::raise(failure).into(),
        Outcome::Cancelled => exception::cancelled("the execution was cancelled").into(),
        Outcome::Completed(json) => {
            let value = json.parse().map_err(|error| Refusal(error.to_string()));
            match value.and_then(|value| value::from_json(&value)) {
                Ok(value) => value.into(),
                Err(refusal) => refuse(ExcType::TypeError, &format!("the call's result: {refusal}")),
            }
        }
    }
}

pub(super) fn refuse(kind: ExcType, message: &str) -> ExtFunctionResult {
    MontyException::new(kind, Some(message.to_owned())).into()
}

pub(super) fn arguments(args: &CallArgs) -> Result<(Json, Json), Refusal> {
    let name = |what: &dyn std::fmt::Display, refusal: Refusal| Refusal(format!("argument {what}: {refusal}"));
    let positional = args
        .args()
        .enumerate()
        .map(|(index, arg)| value::to_json(arg).map_err(|refusal| name(&(index + 1), refusal)))
        .collect::<Result<Vec<_>, _>>()?;
    let named = args
        .kwargs()
        .map(|(key, arg)| {
            let key = key.as_str().ok_or_else(|| Refusal("keywords must be texts".into()))?;
            Ok((key.to_owned(), value::to_json(arg).map_err(|refusal| name(&key, refusal))?))
        })
        .collect::<Result<serde_json::Map<_, _>, Refusal>>()?;
    Ok((Json::from(&Value::Array(positional)), Json::from(&Value::Object(named))))
}

fn host_module(program: &Program, dotted: &str) -> MontyObject {
    let attrs: Vec<_> = program
        .members(dotted)
        .into_iter()
        .map(|(name, is_module)| {
            let full = format!("{dotted}.{name}");
            let value = if is_module { host_module(program, &full) } else { MontyObject::function(full, None) };
            (MontyObject::string(name), value)
        })
        .collect();
    let hash = *blake3::hash(dotted.as_bytes()).as_bytes();
    let id = MontyUuid::from_random_bytes(hash[..16].try_into().unwrap_or([0; 16]));
    MontyObject::module(dotted, id, attrs)
}

/// Builtins of Python that the interpreter lacks: calling one is a mistake in the workflow, never a
/// function of that name.
fn is_python_builtin(name: &str) -> bool {
    const MISSING: &[&str] = &[
        "aiter",
        "anext",
        "ascii",
        "breakpoint",
        "bytearray",
        "callable",
        "classmethod",
        "compile",
        "delattr",
        "dir",
        "globals",
        "help",
        "input",
        "issubclass",
        "memoryview",
        "staticmethod",
        "super",
        "vars",
        "locals",
        "exit",
        "quit",
    ];
    MISSING.contains(&name) || name.starts_with("__") || name.ends_with("Error") || name.ends_with("Warning")
}

/// A duration as people write it: `90s`, `1h 30m`, `2d`.
pub(crate) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration < Duration::from_secs(60) {
        return format!("{}s", duration.as_secs_f64());
    }
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let parts: Vec<String> =
        units.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    parts.join(" ")
}

/// Collects what a workflow prints, up to a limit; the rest is dropped with a note.
pub(super) struct Log {
    entries: Vec<(Stream, String)>,
    room: usize,
}

impl Log {
    pub(super) fn writer(&mut self) -> PrintWriter<'_> {
        PrintWriter::Callback(self)
    }

    fn add(&mut self, stream: Stream, text: &str) {
        if self.room == 0 {
            return;
        }
        let fits = text.floor_char_boundary(self.room);
        let (text, dropped) = (&text[..fits], fits < text.len());
        self.room = if dropped { 0 } else { self.room - fits };
        match self.entries.last_mut() {
            Some((last, existing)) if *last == stream => existing.push_str(text),
            _ => self.entries.push((stream, text.to_owned())),
        }
        if dropped {
            self.entries.push((Stream::Stderr, "\n[the rest of this turn's output was dropped]\n".into()));
        }
    }
}

impl PrintWriterCallback for Log {
    fn stdout_write(&mut self, output: Cow<'_, str>) -> Result<(), MontyException> {
        self.add(Stream::Stdout, &output);
        Ok(())
    }

    fn stdout_push(&mut self, end: char) -> Result<(), MontyException> {
        self.add(Stream::Stdout, end.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn stderr_write(&mut self, output: Cow<'_, str>) -> Result<(), MontyException> {
        self.add(Stream::Stderr, &output);
        Ok(())
    }

    fn stderr_push(&mut self, end: char) -> Result<(), MontyException> {
        self.add(Stream::Stderr, end.encode_utf8(&mut [0; 4]));
        Ok(())
    }
}
