//! One turn of a workflow: from outcomes to the next pause, or the end.

use std::{
    borrow::Cow,
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use durable_memory::Account;

use monty::{FunctionCall, NameLookup, OsCall, RunProgress};
use monty_types::{
    CallArgs, DateTimeSource, ExcType, ExtFunctionResult, MontyException, MontyObject, MontyUuid, NameLookupResult,
    ObjectRef, OsFunctionCall, OsPolicy, PrintWriter, PrintWriterCallback, ProcessTime, RandomSeed, RandomStart,
    ResourceLimits, ResourceTracker, SandboxTimeZone, SleepMode, SourceRange,
};
use serde_json::Value;

use super::{
    AdvanceError, Control, End, Limits, NewCall, Program, Snapshot, Step, calendar, control, exception, folds,
    handlers::{self, Kept},
    ids::Ids,
    limits,
    prelude::{self, Module},
    quiescent::{Pending, Quiescent},
    snapshot::{self, SnapshotError},
    thread,
    traceback::{self, Seen},
    value::{self, Refusal},
};
use crate::{
    allow::Rights,
    id::{CallId, ExecutionId, check_name},
    model::{CallKind, Failure, Json, Outcome, Stream},
    offers::Offers,
    time::Timestamp,
};

/// Answers of the host that a turn gets after it was told to stop.
const ANSWERS_AFTER_STOP: u8 = 3;

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
    /// What the workflow may do.
    pub rights: Rights<'a>,
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

/// Runs a workflow to its next pause or its end, on a thread of its own that is watched meanwhile.
pub fn advance(turn: &Turn<'_>, origin: Origin<'_>) -> Result<Step, AdvanceError> {
    let control = Control::default();
    thread::watched(&control, turn.limits.memory, || advance_here(turn, origin, &control))
}

/// The same on this thread, whose stack has [`STACK`](super::STACK) bytes. Somebody else watches it.
pub fn advance_here(turn: &Turn<'_>, origin: Origin<'_>, control: &Control) -> Result<Step, AdvanceError> {
    Run::new(turn, control).take(origin)
}

/// Takes a turn again that is on record, perhaps with other code: the calls that it makes get these numbers, in order.
pub fn take_again(turn: &Turn<'_>, origin: Origin<'_>, recorded: &[CallId]) -> Result<Step, AdvanceError> {
    let control = Control::default();
    thread::watched(&control, turn.limits.memory, || {
        let mut run = Run::new(turn, &control);
        run.again = Some((recorded, None));
        let step = run.take(origin)?;
        match run.ids.other_base(run.base_before) {
            None => Ok(step),
            Some(base) => {
                let mut run = Run::new(turn, &control);
                run.again = Some((recorded, Some(base)));
                run.take(origin)
            }
        }
    })
}

/// A turn being taken.
pub(super) struct Run<'a> {
    pub(super) turn: &'a Turn<'a>,
    /// What it may still use.
    pub(super) control: &'a Control,
    /// Answers of the host that were given after it was told to stop.
    answered: u8,
    /// What it holds in memory.
    account: Option<Account>,
    /// The numbers of its calls.
    pub(super) ids: Ids,
    /// When the turn is taken again: the numbers on record, and what those of the interpreter are counted from.
    pub(super) again: Option<(&'a [CallId], Option<u32>)>,
    /// What the numbers were counted from before.
    base_before: u32,
    pub(super) log: Log,
    pub(super) calls: Vec<NewCall>,
    /// The prelude's modules.
    pub(super) modules: Vec<Module>,
    /// What may be awaited and has no outcome.
    pub(super) pending: Pending,
    /// What the workflow last said of itself.
    pub(super) progress: Option<Json>,
    /// Instants of a repeated hour that came in.
    pub(super) folds: BTreeSet<String>,
    /// The exceptions that the state was handling, where they were raised.
    pub(super) raised: Vec<Seen>,
    /// Taken again, to look where exceptions are raised: the handlers that are left.
    pub(super) left: Option<Kept>,
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
    fn new(turn: &'a Turn<'a>, control: &'a Control) -> Self {
        Self {
            turn,
            control,
            answered: 0,
            account: None,
            ids: Ids::default(),
            again: None,
            base_before: 0,
            log: Log::new(turn.limits.log),
            calls: Vec::new(),
            modules: Vec::new(),
            pending: Pending::default(),
            progress: None,
            folds: BTreeSet::new(),
            raised: Vec::new(),
            left: None,
        }
    }

    /// A run whose exceptions end it where they are raised, but for what is caught at places that are kept.
    pub(super) fn without_handlers(turn: &'a Turn<'a>, control: &'a Control, kept: Kept) -> Self {
        Self { left: Some(kept), ..Self::new(turn, control) }
    }

    fn take(&mut self, origin: Origin<'_>) -> Result<Step, AdvanceError> {
        // The turn's own, so that what others hold is not counted as its.
        self.account = self.control.account();
        self.control.begin(self.account.as_ref().map(Account::number), self.turn.limits.turn);
        let began = control::own_time();
        let end = match self.run(origin) {
            Ok(end) if self.control.stopped().is_none() => end,
            Err(Stop::Refused(error)) if self.control.stopped().is_none() => return Err(error),
            Err(Stop::Ended(end)) => *end,
            Err(Stop::Raised(error)) => {
                let took = control::own_time().saturating_sub(began);
                let error = limits::judge(self.turn, self.control, self.account.as_ref(), took, error)?;
                let text = traceback::text(self, origin, took, &error);
                self.fail(exception::uncaught(self.turn, &error, &text))
            }
            // Told to stop, and somehow ended.
            Ok(_) | Err(Stop::Refused(_)) => return Err(AdvanceError::Unwanted),
        };
        let unread = self.pending.signals_in().map(|id| self.id(id)).collect();
        let withdrawn = std::mem::take(&mut self.pending.withdrawn);
        let (log, progress) = (self.log.take(), self.progress.take());
        Ok(Step { log, progress, withdrawn, unread, end })
    }

    /// The memory that the turn holds, in bytes.
    pub(super) fn held(&self) -> usize {
        self.account.as_ref().map_or(0, Account::held)
    }

    /// Told to stop, the interpreter does so at its next step, and says where; if it asks the host again instead, that
    /// has to do.
    fn goes_on(&mut self) -> Result<(), Stop> {
        if self.control.look().is_none() {
            return Ok(());
        }
        self.answered += 1;
        match self.answered {
            1..=ANSWERS_AFTER_STOP => {
                self.control.hurry();
                Ok(())
            }
            _ => Err(MontyException::new(ExcType::MemoryError, None).into()),
        }
    }

    pub(super) fn run(&mut self, origin: Origin<'_>) -> Result<End, Stop> {
        let mut wakes = Vec::new();
        let (mut progress, base) = match origin {
            Origin::Start { inputs, first_call } => {
                self.count_from(Ids::new(first_call, &[]));
                (self.start(inputs, first_call)?, None)
            }
            Origin::Paused { snapshot, base, outcomes } => {
                let base = snapshot::open_base(base)?;
                let state = snapshot::open(snapshot, Some(&base))?;
                wakes.clone_from(&state.wakes);
                (self.resume(state, outcomes)?, Some(base))
            }
        };
        loop {
            self.goes_on()?;
            progress = match progress {
                RunProgress::FunctionCall(call) => self.function(call)?,
                RunProgress::OsCall(call) => self.os(call)?,
                RunProgress::NameLookup(lookup) => self.name(lookup)?,
                RunProgress::Complete(value) => return Ok(self.finish(&value)),
                RunProgress::ResolveFutures(_) => match self.quiescent(progress)? {
                    Quiescent::GoesOn(progress) => progress,
                    Quiescent::Waits(progress, dump) => {
                        self.remember(origin, &progress)?;
                        return self.pause((&progress, dump), &wakes, base.as_deref());
                    }
                },
            }
        }
    }

    pub(super) fn count_from(&mut self, ids: Ids) {
        self.base_before = ids.base();
        self.ids = match self.again {
            Some((recorded, base)) => ids.taken_again(recorded, base),
            None => ids,
        };
    }

    fn start(&mut self, inputs: &Json, first_call: u32) -> Result<RunProgress, Stop> {
        let policy = OsPolicy {
            datetime: DateTimeSource::CallHost,
            timezone: SandboxTimeZone::utc(),
            sleep: SleepMode::CallHost,
            process_time: ProcessTime::Zero,
            random_start: RandomStart::Seed(RandomSeed::Str(match first_call {
                0 => format!("{}{}", self.turn.secret, self.turn.execution),
                first => format!("{}{}/{first}", self.turn.secret, self.turn.execution),
            })),
        };
        let limits = self.turn.limits;
        // Never `max_feed_duration`: it adds up over the whole life of an execution.
        let limits = ResourceLimits::default().max_turn_duration(limits.turn * limits::WALL).max_memory(limits.memory);
        let parsed = value::parse(&inputs.0);
        let parsed = parsed.map_err(|refusal| MontyException::runtime_error(refusal.of("inputs")))?;
        folds::note(&parsed, &mut self.folds);
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
        if let Err(invalid) = check_name("the function", name) {
            let error = MontyException::new(ExcType::ValueError, Some(invalid.to_string()));
            return Ok(call.resume(error, self.log.writer())?);
        }
        if let Err(why) = self.turn.rights.allowed.function(name) {
            let error = MontyException::new(ExcType::PermissionError, Some(why));
            return Ok(call.resume(error, self.log.writer())?);
        }
        if let Some(error) = self.too_many(CallKind::Function) {
            return Ok(call.resume(error, self.log.writer())?);
        }
        match arguments(self, &call.args) {
            Ok((args, kwargs)) => {
                let line = self.line(&call.position);
                let id = self.ids.make(call.call_id);
                self.pending.add(call.call_id, CallKind::Function);
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
        if let Some(error) = self.too_many(CallKind::Timer) {
            return Ok(call.resume(error, self.log.writer())?);
        }
        let id = call.call_id;
        let line = self.line(&call.position);
        let name = format!("sleep {}", in_words(delay));
        let made = self.ids.make(id);
        self.pending.add(id, CallKind::Timer);
        self.calls.push(NewCall { delay: Some(delay), ..NewCall::new(made, CallKind::Timer, &name, line) });
        Ok(call.resume(ExtFunctionResult::Future(id), self.log.writer())?)
    }

    /// The workflow's line at which a call was made; none for the prelude's.
    pub(super) fn line(&self, position: &SourceRange) -> Option<u32> {
        (position.filename == self.turn.program.file).then(|| self.turn.program.line(position.start))
    }

    fn urandom(&self, call_id: u32, size: u64) -> MontyObject {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.random(call_id, &mut bytes);
        MontyObject::bytes(bytes)
    }

    /// Bytes that no other call gets, and a repeated turn gets again.
    pub(super) fn random(&self, call_id: u32, bytes: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_derive_key("durable-monty os.urandom");
        // Ids are no secret, and what is drawn at random may be meant to be one.
        hasher.update(self.turn.secret.as_bytes()).update(self.turn.execution.as_str().as_bytes());
        hasher.update(&self.id(call_id).0.to_le_bytes());
        hasher.finalize_xof().fill(bytes);
    }

    /// A call as it is known outside: no call of the execution's whole life has another's id, because work that a former
    /// life gave up may still be under way.
    pub(super) fn id(&self, call_id: u32) -> CallId {
        self.ids.outside(call_id)
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

    /// A value that leaves the workflow.
    pub(super) fn leaving(&self, value: ObjectRef<'_>) -> Result<Value, Refusal> {
        let mut json = value::to_json(value)?;
        if !self.folds.is_empty() {
            folds::restore(&mut json, &self.folds);
        }
        Ok(json)
    }

    fn finish(&mut self, value: &MontyObject) -> End {
        match self.leaving(value.as_ref()) {
            Ok(json) => {
                for call in self.calls.iter().filter(|call| !self.pending.withdrawn.contains(&call.id)) {
                    let line = call.line.map_or_else(String::new, |line| format!(" (line {line})"));
                    let note = format!("{}{line} was never awaited and does not run\n", call.function);
                    self.log.add(Stream::Stderr, &note);
                }
                End::Finish { output: Json::from(&json), abandoned: self.abandoned() }
            }
            Err(refusal) => self.fail(Failure::new("TypeError", format!("the workflow's {}", refusal.of("output")))),
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) -> End {
        End::Fail { failure, abandoned: self.abandoned() }
    }

    /// The calls of this turn, when nobody will wait for them.
    pub(super) fn abandoned(&mut self) -> Vec<NewCall> {
        let mut calls = std::mem::take(&mut self.calls);
        calls.iter_mut().for_each(|call| call.abandoned = true);
        calls
    }
}

/// An outcome as the interpreter takes it. A result that it could not import would end the run, so
/// it is turned into an exception here.
pub(super) fn deliver(outcome: &Outcome, folds: &mut BTreeSet<String>) -> ExtFunctionResult {
    match outcome {
        Outcome::Failed(failure) => exception::raise(failure).into(),
        Outcome::Cancelled => exception::cancelled("the execution was cancelled").into(),
        Outcome::Completed(json) => {
            let taken = value::count(json.0.as_bytes()).and_then(|_| value::parse(&json.0)).and_then(|value| {
                folds::note(&value, folds);
                value::from_json(&value)
            });
            match taken {
                Ok(value) => value.into(),
                Err(refusal) => refuse(ExcType::TypeError, &format!("the call's {}", refusal.of("result"))),
            }
        }
    }
}

pub(super) fn refuse(kind: ExcType, message: &str) -> ExtFunctionResult {
    MontyException::new(kind, Some(message.to_owned())).into()
}

fn arguments(run: &Run<'_>, args: &CallArgs) -> Result<(Json, Json), Refusal> {
    let name = |what: &dyn std::fmt::Display, refusal: &Refusal| Refusal::new(refusal.of(&format!("argument {what}")));
    let positional = args
        .args()
        .enumerate()
        .map(|(index, arg)| run.leaving(arg).map_err(|refusal| name(&(index + 1), &refusal)))
        .collect::<Result<Vec<_>, _>>()?;
    let named = args
        .kwargs()
        .map(|(key, arg)| {
            let key = key.as_str().ok_or_else(|| Refusal::new("keywords must be texts"))?;
            Ok((key.to_owned(), run.leaving(arg).map_err(|refusal| name(&key, &refusal))?))
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

/// Collects what a workflow prints; when that is much, the first and the last part of it.
pub(super) struct Log {
    /// The first part; what is printed after it has no room goes to the last.
    first: Vec<(Stream, String)>,
    room: usize,
    last: VecDeque<(Stream, String)>,
    /// Bytes in the last part, at the most as many as the first may have.
    kept: usize,
    most: usize,
    dropped: usize,
}

impl Log {
    fn new(limit: usize) -> Self {
        let half = limit / 2;
        Self { first: Vec::new(), room: half, last: VecDeque::new(), kept: 0, most: half, dropped: 0 }
    }

    pub(super) fn writer(&mut self) -> PrintWriter<'_> {
        PrintWriter::Callback(self)
    }

    pub(super) fn add(&mut self, stream: Stream, text: &str) {
        let fits = text.floor_char_boundary(self.room);
        let (head, tail) = text.split_at(fits);
        if !head.is_empty() {
            self.room -= fits;
            match self.first.last_mut() {
                Some((last, existing)) if *last == stream => existing.push_str(head),
                _ => self.first.push((stream, head.to_owned())),
            }
        }
        if !tail.is_empty() {
            self.room = 0;
            self.add_last(stream, tail);
        }
    }

    fn add_last(&mut self, stream: Stream, text: &str) {
        let start = text.ceil_char_boundary(text.len().saturating_sub(self.most));
        self.dropped += start;
        let text = &text[start..];
        self.kept += text.len();
        match self.last.back_mut() {
            // Pieces, so that the oldest can be let go of.
            Some((last, existing)) if *last == stream && existing.len() < 4096 => existing.push_str(text),
            _ => self.last.push_back((stream, text.to_owned())),
        }
        while self.kept > self.most {
            let Some((_, oldest)) = self.last.pop_front() else { break };
            self.kept -= oldest.len();
            self.dropped += oldest.len();
        }
    }

    /// All that is kept, in order.
    fn take(&mut self) -> Vec<(Stream, String)> {
        let mut entries = std::mem::take(&mut self.first);
        if self.dropped > 0 {
            entries.push((Stream::Stderr, format!("\n[{} bytes of this turn's output were cut here]\n", self.dropped)));
        }
        entries.extend(std::mem::take(&mut self.last));
        entries
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
