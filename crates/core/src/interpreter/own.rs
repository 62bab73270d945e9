//! What the prelude asks of the host.

use std::time::Duration;

use durable_queue::check_queue;
use monty::{FunctionCall, RunProgress};
use monty_types::{CallArgs, ExcType, ExtFunctionResult, MontyException, MontyObject, ObjectRef, unstable};
use serde_json::{Map, Value};
use unstable::MontyNode;

use super::{
    End, NewCall, NewChild, allowance, children,
    entry::split_name,
    exception, layout,
    plainly::plainly,
    prelude::{self, Module},
    turn::{Run, Stop, in_words},
    value::{self, Refusal},
};
use crate::{
    allow::Rights,
    id::{ExecutionId, check_name},
    model::{CallKind, Json},
    options::CallOptions,
};

/// What is longer than this never comes: ten thousand years.
const FOR_EVER: Duration = Duration::from_secs(10_000 * 366 * 86_400);

/// How the host answers.
enum Answer {
    Now(MontyObject),
    /// With something to await.
    Later,
    /// With the end of this life of the execution.
    Never(End),
}

/// What a child runs.
struct Workflow {
    name: String,
    /// It is a function of this file.
    own: bool,
}

/// An exception that the workflow sees.
struct Wrong(ExcType, String);

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Self {
        Self(ExcType::TypeError, refusal.to_string())
    }
}

fn type_error(message: impl Into<String>) -> Wrong {
    Wrong(ExcType::TypeError, message.into())
}

fn not_allowed(why: String) -> Wrong {
    Wrong(ExcType::PermissionError, why)
}

fn named(root: &str, refusal: &Refusal) -> Wrong {
    type_error(refusal.of(root))
}

fn value_error(message: impl Into<String>) -> Wrong {
    Wrong(ExcType::ValueError, message.into())
}

impl Run<'_> {
    /// Answers one of the prelude's questions.
    pub(super) fn own(&mut self, call: FunctionCall) -> Result<RunProgress, Stop> {
        let name = call.function_name.trim_start_matches(prelude::HOST).trim_end_matches("__").to_owned();
        match self.answer(&name, &call) {
            Ok(Answer::Now(value)) => Ok(call.resume(value, self.log.writer())?),
            Ok(Answer::Later) => Ok(call.resume_pending(self.log.writer())?),
            Ok(Answer::Never(end)) => Err(Stop::Ended(Box::new(end))),
            Err(Wrong(kind, message)) => {
                let error = MontyException::new(kind, Some(format!("{name}(): {message}")));
                Ok(call.resume(error, self.log.writer())?)
            }
        }
    }

    fn answer(&mut self, name: &str, call: &FunctionCall) -> Result<Answer, Wrong> {
        if let Some(why) = allowance::kind_of(name).and_then(|kind| self.why_not(kind)) {
            return Err(Wrong(ExcType::RuntimeError, why));
        }
        match name {
            "register" => self.register(call),
            "promise" => {
                self.pending.open.insert(call.call_id);
                self.pending.promises.insert(call.call_id);
                Ok(Answer::Later)
            }
            "mirror" => {
                let mirror = promise_id(call.args.arg(0)).ok().and_then(|id| self.pending.mirror(id, call.call_id));
                Ok(if mirror.is_some() { Answer::Later } else { Answer::Now(MontyObject::none()) })
            }
            "leave" => {
                for promise in call.args.args().filter_map(|promise| promise_id(Some(promise)).ok()) {
                    if self.pending.unmirror(promise).is_some() {
                        self.pending.fulfilled.push((promise, exception::cancelled("nobody waits for it").into()));
                    }
                }
                Ok(Answer::Now(MontyObject::none()))
            }
            "fulfil" => self.fulfil(call),
            "cancel" => {
                let id = call.args.arg(0).and_then(|id| id.as_int()).and_then(|id| usize::try_from(id).ok());
                self.pending.given_up.extend(id.map(layout::place_of));
                Ok(Answer::Now(MontyObject::none()))
            }
            "call" => self.call(call),
            "wait_signal" => self.wait_signal(call),
            "callback" => self.callback(call),
            "token" => Ok(Answer::Now(MontyObject::string(self.token(promise_id(call.args.arg(0))?)))),
            "start_child" => self.start_child(call),
            "signal" => self.send(call),
            "cancelled_ended" => self.drain(call),
            "continue_as_new" => self.continue_as_new(call),
            "set_status" => {
                let [status] = bind(&call.args, ["status"])?;
                let status = status.ok_or_else(|| type_error("a status is wanted"))?;
                let status = self.leaving(status).map_err(|refusal| named("status", &refusal))?;
                self.progress = Some(Json::from(&plainly(status)));
                Ok(Answer::Now(MontyObject::none()))
            }
            "function" => Ok(Answer::Now(self.function_of(call))),
            "execution_id" => Ok(Answer::Now(MontyObject::string(self.turn.execution.as_str()))),
            "uuid4" => {
                let mut bytes = [0; 16];
                self.random(call.call_id, &mut bytes);
                let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
                Ok(Answer::Now(MontyObject::string(id.to_string())))
            }
            other => Err(Wrong(ExcType::NameError, format!("there is no {other}"))),
        }
    }

    /// The function of that name of a module that the workflow holds, as the module's text and a name say; None if there
    /// is none.
    fn function_of(&self, call: &FunctionCall) -> MontyObject {
        let text = |place: usize| call.args.arg(place).and_then(|text| text.as_str()).unwrap_or_default();
        let module = text(0).split('\'').nth(1).unwrap_or_default();
        let dotted = format!("{module}.{}", text(1));
        match self.turn.program.serves(module) && self.turn.offers.may_offer(&dotted) {
            true => MontyObject::function(dotted, None),
            false => MontyObject::none(),
        }
    }

    fn register(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        let name = call.args.arg(0).and_then(|name| name.as_str()).unwrap_or_default();
        let module = call.args.arg(1).and_then(|module| Module::read(name, module));
        self.modules.push(module.ok_or_else(|| type_error("no module"))?);
        Ok(Answer::Now(MontyObject::none()))
    }

    /// Answers whether nothing else that was handed over is still on its way.
    fn fulfil(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        let id = promise_id(call.args.arg(0))?;
        let (Some(well), Some(value)) = (call.args.arg(1).and_then(|well| well.as_bool()), call.args.arg(2)) else {
            return Err(type_error("a promise, whether it is kept, and a value are wanted"));
        };
        let result: ExtFunctionResult = match (well, unstable::node(value)) {
            (false, MontyNode::Exception { exc_type, arg }) => MontyException::new(*exc_type, arg.clone()).into(),
            // What could not be taken back would end the run.
            _ => match value::to_json(value) {
                Ok(_) => value.to_owned().into(),
                Err(refusal) => {
                    let message = format!("the result of a spawned coroutine: {refusal}");
                    MontyException::new(ExcType::TypeError, Some(message)).into()
                }
            },
        };
        let first = self.pending.fulfilled.is_empty();
        self.pending.fulfilled.push((id, result));
        Ok(Answer::Now(MontyObject::bool(first)))
    }

    fn call(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        let mut args = call.args.args();
        let function = args.next().ok_or_else(|| type_error("a function is wanted"))?;
        let name = match unstable::node(function) {
            MontyNode::Function { name, .. } if !name.starts_with(prelude::HOST) => name.clone(),
            MontyNode::String(name) => name.clone(),
            _ => {
                let shown = function.py_repr();
                return Err(type_error(format!(
                    "{shown} is no function of a worker; await a coroutine of your own itself"
                )));
            }
        };
        check_name("the function", &name).map_err(|invalid| value_error(invalid.to_string()))?;
        let Rights { allowed, queue: own } = self.turn.rights;
        allowed.function(&name).map_err(not_allowed)?;
        let args = args
            .enumerate()
            .map(|(at, arg)| self.leaving(arg).map_err(|refusal| named(&format!("argument {}", at + 1), &refusal)));
        let args = args.collect::<Result<Vec<_>, _>>()?;
        let (mut kwargs, mut options, mut queue) = (Map::new(), Map::new(), None);
        for (key, value) in call.args.kwargs() {
            let key = key.as_str().ok_or_else(|| type_error("keywords must be texts"))?;
            let value = self.leaving(value).map_err(|refusal| named(&format!("argument {key}"), &refusal))?;
            match key {
                _ if value.is_null() && (CallOptions::has(key) || key == "queue") => {}
                "queue" => queue = Some(queue_name(&value)?),
                _ if CallOptions::has(key) => drop(options.insert(key.to_owned(), remaining(key, value))),
                _ => drop(kwargs.insert(key.to_owned(), value)),
            }
        }
        queue.as_ref().map_or(Ok(()), |queue| allowed.queue(queue, own)).map_err(not_allowed)?;
        let options = CallOptions::read(&name, &options).map_err(|error| value_error(error.to_string()))?;
        let line = self.line(&call.position);
        let (args, kwargs) = (Json::from(&Value::Array(args)), Json::from(&Value::Object(kwargs)));
        self.pending.add(call.call_id, CallKind::Function);
        let id = self.ids.make(call.call_id);
        self.calls.push(NewCall { args, kwargs, queue, options, ..NewCall::new(id, CallKind::Function, &name, line) });
        Ok(Answer::Later)
    }

    fn wait_signal(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        let [name, timeout] = bind(&call.args, ["name", "timeout"])?;
        let name = named_thing("signal", name)?;
        let delay = seconds("timeout", timeout)?;
        let line = self.line(&call.position);
        self.pending.add(call.call_id, CallKind::Signal);
        let id = self.ids.make(call.call_id);
        self.calls.push(NewCall { delay, ..NewCall::new(id, CallKind::Signal, name, line) });
        Ok(Answer::Later)
    }

    fn callback(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        if self.turn.secret.is_empty() && self.again.is_none() {
            let why = "this execution was started before executions had secrets, so that its callbacks could be guessed: \
                       start another, or use a signal";
            return Err(Wrong(ExcType::RuntimeError, why.to_owned()));
        }
        let delay = seconds("timeout", call.args.arg(0))?;
        let name = delay.map_or_else(|| "callback".to_owned(), |delay| format!("callback within {}", in_words(delay)));
        let id = self.ids.make(call.call_id);
        let token = Some(self.token(call.call_id));
        self.pending.add(call.call_id, CallKind::Callback);
        self.calls.push(NewCall { delay, token, ..NewCall::new(id, CallKind::Callback, &name, None) });
        Ok(Answer::Later)
    }

    /// Nobody can guess it, and a repeated turn makes the same.
    fn token(&self, call_id: u32) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("durable-monty callback token");
        hasher.update(self.turn.secret.as_bytes()).update(self.turn.execution.as_str().as_bytes());
        hasher.update(&self.id(call_id).0.to_le_bytes());
        hasher.finalize().to_hex()[..48].to_owned()
    }

    fn start_child(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        let [workflow, inputs, id, source, detached, deadline] =
            bind(&call.args, ["workflow", "inputs", "id", "source", "detached", "deadline"])?;
        let given = |value: Option<ObjectRef<'_>>| value.and_then(|value| value.as_str()).map(str::to_owned);
        let source = given(source);
        let Workflow { name, own } = self.workflow(workflow)?;
        if source.is_some() && workflow.and_then(|workflow| workflow.as_str()).is_none() {
            return Err(type_error("source= goes with a name: leave it out"));
        }
        let inputs =
            match inputs.map(|inputs| self.leaving(inputs)).transpose().map_err(|refusal| named("inputs", &refusal))? {
                None | Some(Value::Null) => Map::new(),
                Some(Value::Object(inputs)) if !inputs.contains_key("$py") => inputs,
                Some(_) => return Err(type_error("inputs= wants a dict with a value for each name")),
            };
        let id = given(id).map(|id| children::chosen_id(&id)).transpose().map_err(value_error)?;
        if !own && source.is_none() && !split_name(&name).0.ends_with(".py") {
            self.turn.rights.allowed.child(&name).map_err(not_allowed)?;
        }
        if source.as_ref().is_some_and(|source| source.contains('\0')) {
            return Err(value_error("source= is no text of a workflow: source code cannot contain null bytes"));
        }
        let inputs = Json::from(&Value::Object(inputs));
        let detached = detached.is_some_and(|detached| detached.is_truthy());
        let deadline = seconds("deadline", deadline)?;
        let child = NewChild { id, source, own, inputs, detached, deadline };
        let args = Json(format!("[{}]", child.inputs));
        let line = self.line(&call.position);
        self.pending.add(call.call_id, CallKind::Child);
        let made = NewCall::new(self.ids.make(call.call_id), CallKind::Child, &name, line);
        self.calls.push(NewCall { args, child: Some(child), ..made });
        Ok(Answer::Later)
    }

    /// What a child is to run: a name, or a function of this file or of one beside it.
    fn workflow(&self, given: Option<ObjectRef<'_>>) -> Result<Workflow, Wrong> {
        const WANTED: &str = "a workflow is wanted: an async function of this file or of one beside it, the name of a file \
                              beside it, or that of a deployed workflow";
        let given = given.ok_or_else(|| type_error(WANTED))?;
        match unstable::node(given) {
            MontyNode::String(name) if !name.is_empty() => {
                check_name("workflow", name).map_err(|invalid| value_error(invalid.to_string()))?;
                Ok(Workflow { name: name.clone(), own: false })
            }
            MontyNode::Function { name, .. } if !name.starts_with(prelude::HOST) => match name.rsplit_once('.') {
                Some((module, function)) => {
                    Ok(Workflow { name: format!("{}:{function}", children::file_of(module)), own: false })
                }
                None => Err(type_error(format!("{name} is a function of a worker: await it itself"))),
            },
            MontyNode::Repr(shown) if shown.starts_with("<coroutine object ") => {
                Err(type_error("a coroutine cannot be a child: hand over the function itself, and its inputs by name"))
            }
            MontyNode::Repr(shown) => match shown.strip_prefix("<function '").and_then(|rest| rest.split_once("' at "))
            {
                Some(("<lambda>", _)) => Err(type_error(
                    "a lambda cannot be a child: define an async def at the top level of the file, and hand over that",
                )),
                Some((function, _)) => {
                    let name = self.turn.program.child(function).map_err(type_error)?;
                    Ok(Workflow { name, own: true })
                }
                None => Err(type_error(format!("{shown} is no workflow: {WANTED}"))),
            },
            _ => Err(type_error(format!("{} is no workflow: {WANTED}", given.py_repr()))),
        }
    }

    fn send(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        let [id, name, value] = bind(&call.args, ["id", "name", "value"])?;
        let to = id.and_then(|id| id.as_str()).ok_or_else(|| type_error("the id of an execution is wanted, a text"))?;
        let to: ExecutionId = to.parse().map_err(|error| value_error(format!("{error}")))?;
        let name = named_thing("signal", name)?;
        let value = value.map_or(Ok(Value::Null), |value| self.leaving(value))?;
        let args = Json::from(&Value::Array(vec![Value::from(to.as_str()), value]));
        let (line, id) = (self.line(&call.position), self.ids.make(call.call_id));
        self.pending.add(call.call_id, CallKind::Send);
        self.calls.push(NewCall { args, ..NewCall::new(id, CallKind::Send, name, line) });
        Ok(Answer::Later)
    }

    fn drain(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        let mut delay = None;
        for (name, value) in call.args.kwargs() {
            match name.as_str() {
                Some("timeout") => delay = seconds("timeout", Some(value))?,
                name => return Err(type_error(format!("unexpected keyword argument {name:?}; there is timeout"))),
            }
        }
        let ids = call.args.args().map(|handle| promise_id(Some(handle)).map(|id| self.id(id).0));
        let ids: Vec<u32> = ids.collect::<Result<_, _>>()?;
        let args = Json(format!("{ids:?}"));
        let line = self.line(&call.position);
        self.pending.add(call.call_id, CallKind::Drain);
        let id = self.ids.make(call.call_id);
        let made = NewCall::new(id, CallKind::Drain, "the end of what was cancelled", line);
        self.calls.push(NewCall { args, delay, ..made });
        Ok(Answer::Later)
    }

    fn continue_as_new(&mut self, call: &FunctionCall) -> Result<Answer, Wrong> {
        let mut inputs = match call.args.arg(0).map(|inputs| self.leaving(inputs)).transpose()? {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(inputs)) if !inputs.contains_key("$py") => inputs,
            Some(_) => return Err(type_error("a dict with a value for each input is wanted")),
        };
        for (name, value) in call.args.kwargs() {
            let name = name.as_str().unwrap_or_default();
            let value = self.leaving(value).map_err(|refusal| named(&format!("input {name}"), &refusal))?;
            inputs.insert(name.to_owned(), value);
        }
        let inputs = self.turn.program.check_inputs(&inputs).map_err(|error| type_error(error.to_string()))?;
        Ok(Answer::Never(End::Again { inputs, first_call: self.id(call.call_id).0.wrapping_add(1) }))
    }
}

/// Arguments by position or name; None counts as not given.
fn bind<'a, const N: usize>(args: &'a CallArgs, names: [&str; N]) -> Result<[Option<ObjectRef<'a>>; N], Wrong> {
    let mut bound = [None; N];
    if args.args().len() > N {
        return Err(type_error(format!("takes at most {N} arguments")));
    }
    for (place, value) in args.args().enumerate() {
        bound[place] = Some(value);
    }
    for (name, value) in args.kwargs() {
        let name = name.as_str().unwrap_or_default();
        let place = names.iter().position(|known| *known == name);
        let place = place.ok_or_else(|| {
            type_error(format!("unexpected keyword argument {name:?}; there are {}", names.join(", ")))
        })?;
        bound[place] = Some(value);
    }
    Ok(bound.map(|value| value.filter(|value| !matches!(unstable::node(*value), MontyNode::None))))
}

/// A time as a number of seconds or a timedelta. What remains of one that has run out is none, and infinity is for ever.
fn seconds(name: &str, value: Option<ObjectRef<'_>>) -> Result<Option<Duration>, Wrong> {
    let Some(value) = value.filter(|value| !matches!(unstable::node(*value), MontyNode::None)) else { return Ok(None) };
    #[expect(clippy::cast_precision_loss, reason = "a time in seconds")]
    let seconds = match unstable::node(value) {
        MontyNode::Int(int) => Some(*int as f64),
        MontyNode::Float(float) => Some(*float),
        MontyNode::TimeDelta(delta) => {
            Some(f64::from(delta.days) * 86_400.0 + f64::from(delta.seconds) + f64::from(delta.microseconds) / 1e6)
        }
        _ => None,
    };
    match seconds.filter(|seconds| !seconds.is_nan()) {
        // Longer than any clock goes.
        Some(seconds) => Ok(Duration::try_from_secs_f64(seconds.max(0.0)).ok().filter(|time| *time < FOR_EVER)),
        None => Err(value_error(format!("{name}={}: a number of seconds or a timedelta is wanted", value.py_repr()))),
    }
}

/// A limit of time as [`CallOptions`] takes it: what has run out is none left, and infinity is for ever.
fn remaining(option: &str, value: Value) -> Value {
    if !matches!(option, "timeout" | "total_timeout") {
        return value;
    }
    match (value.as_f64(), value["$py"].as_str(), value["value"].as_str()) {
        (Some(seconds), ..) if seconds <= 0.0 => Value::from(1e-6),
        (_, Some("float"), Some("-inf")) => Value::from(1e-6),
        (_, Some("float"), Some("inf")) => Value::from(FOR_EVER.as_secs()),
        _ => value,
    }
}

/// The name of a signal or workflow.
fn named_thing<'a>(what: &'static str, name: Option<ObjectRef<'a>>) -> Result<&'a str, Wrong> {
    let name = name.and_then(|name| name.as_str()).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| type_error(format!("the name of a {what} is wanted, a text")))?;
    check_name(what, name).map_err(|invalid| value_error(invalid.to_string()))?;
    Ok(name)
}

fn queue_name(value: &Value) -> Result<String, Wrong> {
    let name = value.as_str().ok_or_else(|| type_error("queue= wants a text"))?;
    check_queue(name).map_err(|error| value_error(format!("queue={error}")))?;
    Ok(name.to_owned())
}

/// The number of an awaitable that the host made, which reaches the host as a text.
fn promise_id(value: Option<ObjectRef<'_>>) -> Result<u32, Wrong> {
    let number = value.and_then(|value| match unstable::node(value) {
        MontyNode::Repr(text) => text.strip_prefix("<coroutine external_future(")?.strip_suffix(")>")?.parse().ok(),
        _ => None,
    });
    number.ok_or_else(|| type_error("an awaitable of the host is wanted"))
}
