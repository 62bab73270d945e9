"""Runs the user's functions in a CPython process of its own.

What they write goes to their call's log. When the worker is gone, the process ends at once, with everything that
it started.
"""

import asyncio
import base64
import collections
import contextvars
import dataclasses
import datetime
import decimal
import enum
import faulthandler
import importlib
import importlib.util
import inspect
import io
import json
import keyword
import math
import os
import pathlib
import queue
import shutil
import signal
import sys
import threading
import traceback
import types
import uuid

import durable
from durable import NonRetryable, _call

from _durable_marks import Marks, NoMarks
from _durable_output import LATE, Descriptors, Pen, Stream
from _durable_threads import install as follow_threads
from _durable_wire import Wire

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_BYTES = 256 << 20
MAX_DEPTH = 90
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)

# --- values: the table is in the documentation of durable_core::interpreter::value ---------------


class Refused(TypeError):
    pass


def encode(value, depth=0):
    if depth > MAX_DEPTH:
        raise Refused("the value is nested too deeply, or contains itself")
    kind = type(value)
    if value is None or kind in (bool, int):
        return value
    if kind is str:
        return checked(value)
    if kind is float:
        return value if math.isfinite(value) else {"$py": "float", "value": str(value)}
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind is dict:
        return encode_dict(value, depth)
    if kind in (tuple, set, frozenset):
        return {"$py": kind.__name__, "items": [encode(item, depth + 2) for item in value]}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$py": "bytes", "base64": base64.b64encode(value).decode()}
    encoder = next((encoder for base, encoder in ENCODERS if isinstance(value, base)), encode_object)
    return encoder(value, depth)


def checked(text):
    """A lone surrogate, as in a file name that is not UTF-8, has no place in JSON."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"character {error.start} of the text is a lone surrogate (\\u{ord(text[error.start]):04x})"
        raise Refused(f"{where}: send bytes, for example os.fsencode(name)") from None
    return text


def encode_dict(value, depth):
    if all(type(key) is str and key != "$py" for key in value):
        return {checked(key): encode(item, depth + 1) for key, item in value.items()}
    items = [[encode(key, depth + 3), encode(item, depth + 3)] for key, item in value.items()]
    return {"$py": "dict", "items": items}


def with_zone(tagged, value):
    zone = value.tzinfo
    if zone is not None and zone is not datetime.timezone.utc:
        name = value.tzname()
        if name and not name.startswith("UTC"):
            tagged["zone"] = name
    if getattr(value, "fold", 0):
        tagged["fold"] = 1
    return tagged


def encode_timezone(value, depth):
    tagged = {"$py": "timezone", "seconds": int(value.utcoffset(None).total_seconds())}
    name = value.tzname(None)
    return tagged if name.startswith("UTC") else {**tagged, "zone": name}


def encode_tuple(value, depth):
    if not hasattr(value, "_fields"):
        return encode(tuple(value), depth)
    fields = {name: encode(getattr(value, name), depth + 2) for name in value._fields}
    return {"$py": "namedtuple", "type": type(value).__name__, "fields": fields}


UNSENDABLE = (io.IOBase, types.ModuleType, types.GeneratorType, types.CoroutineType)


def encode_object(value, depth):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        fields = {name: getattr(value, name) for name in names}
    elif isinstance(value, UNSENDABLE) or callable(value) or not hasattr(value, "__dict__"):
        raise Refused(f"a {type(value).__name__} cannot be sent: return plain data")
    else:
        fields = vars(value)
    try:
        return {"$py": "object", "type": type(value).__name__, "fields": encode_dict(fields, depth + 1)}
    except Refused as error:
        raise Refused(f"in a {type(value).__name__}: {error}") from None


ENCODERS = [
    (enum.Enum, lambda value, depth: encode(value.value, depth)),
    (bool, lambda value, depth: bool(value)),
    (int, lambda value, depth: int(value)),
    (float, lambda value, depth: encode(float(value), depth)),
    (str, lambda value, depth: checked(str.__str__(value))),
    (complex, lambda value, depth: {"$py": "complex", "real": encode(value.real), "imag": encode(value.imag)}),
    (decimal.Decimal, lambda value, depth: {"$py": "decimal", "value": str(value)}),
    (uuid.UUID, lambda value, depth: {"$py": "object", "type": "UUID", "fields": {"hex": value.hex, "int": value.int}}),
    (pathlib.PurePath, lambda value, depth: {"$py": "path", "value": str(value)}),
    (datetime.datetime, lambda value, depth: with_zone({"$py": "datetime", "value": value.isoformat()}, value)),
    (datetime.date, lambda value, depth: {"$py": "date", "value": value.isoformat()}),
    (datetime.time, lambda value, depth: with_zone({"$py": "time", "value": value.isoformat()}, value)),
    (
        datetime.timedelta,
        lambda value, depth: {
            "$py": "timedelta",
            "days": value.days,
            "seconds": value.seconds,
            "microseconds": value.microseconds,
        },
    ),
    (datetime.timezone, encode_timezone),
    (tuple, encode_tuple),
    (list, lambda value, depth: encode(list(value), depth)),
    (dict, lambda value, depth: encode_dict(dict(value), depth)),
    (set, lambda value, depth: encode(set(value), depth)),
    (frozenset, lambda value, depth: encode(frozenset(value), depth)),
    (
        BaseException,
        lambda value, depth: {"$py": "exception", "type": builtin_name(type(value)), "message": str(value)},
    ),
    (type(...), lambda value, depth: {"$py": "ellipsis"}),
]


class Received:
    """An object that arrived by value: its attributes, under its class's name."""

    def __repr__(self):
        inside = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({inside})"

    def __eq__(self, other):
        return type(self).__name__ == type(other).__name__ and vars(self) == vars(other)

    __hash__ = None


def decode_object(tagged):
    fields = decode(tagged["fields"])
    if tagged["type"] == "UUID" and isinstance(fields.get("hex"), str):  # what a workflow's uuid.uuid4() gives
        return uuid.UUID(fields["hex"])
    value = type(tagged["type"], (Received,), {})()
    vars(value).update(fields)
    return value


def decode_zone(tagged, value):
    value = value.replace(fold=tagged.get("fold", 0))
    if value.tzinfo is not None and "zone" in tagged:
        return value.replace(tzinfo=datetime.timezone(value.utcoffset(), tagged["zone"]))
    return value


def decode_timezone(tagged):
    offset = datetime.timedelta(seconds=tagged["seconds"])
    return datetime.timezone(offset, tagged["zone"]) if "zone" in tagged else datetime.timezone(offset)


def decode_namedtuple(tagged):
    fields = tagged["fields"]
    kind = collections.namedtuple(tagged["type"], list(fields), rename=True)
    return kind(*[decode(value) for value in fields.values()])


def decode_exception(tagged):
    kind = getattr(__builtins__, tagged["type"], None) or vars(importlib.import_module("builtins")).get(tagged["type"])
    kind = kind if isinstance(kind, type) and issubclass(kind, BaseException) else Exception
    message = tagged.get("message")
    return kind() if message is None else kind(message)


def decode_number(tagged):
    value = tagged["real"], tagged["imag"]
    return complex(*[decode(part) for part in value])


DECODERS = {
    "tuple": lambda tagged: tuple(decode(tagged["items"])),
    "set": lambda tagged: set(decode(tagged["items"])),
    "frozenset": lambda tagged: frozenset(decode(tagged["items"])),
    "dict": lambda tagged: {decode(key): decode(value) for key, value in tagged["items"]},
    "bytes": lambda tagged: base64.b64decode(tagged["base64"]),
    "float": lambda tagged: float(tagged["value"]),
    "complex": decode_number,
    "decimal": lambda tagged: decimal.Decimal(tagged["value"]),
    "path": lambda tagged: pathlib.PurePosixPath(tagged["value"]) if os.name != "posix" else pathlib.Path(tagged["value"]),
    "date": lambda tagged: datetime.date.fromisoformat(tagged["value"]),
    "time": lambda tagged: decode_zone(tagged, datetime.time.fromisoformat(tagged["value"])),
    "datetime": lambda tagged: decode_zone(tagged, datetime.datetime.fromisoformat(tagged["value"])),
    "timedelta": lambda tagged: datetime.timedelta(tagged["days"], tagged["seconds"], tagged["microseconds"]),
    "timezone": decode_timezone,
    "namedtuple": decode_namedtuple,
    "object": decode_object,
    "exception": decode_exception,
    "ellipsis": lambda tagged: ...,
}


def decode(value):
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        tag = value.get("$py")
        if tag is None:
            return {key: decode(item) for key, item in value.items()}
        if tag not in DECODERS:
            raise TypeError(f'{{"$py": {tag!r}}} is no kind of value')
        return DECODERS[tag](value)
    return value


# --- exceptions ---------------------------------------------------------------------------------


def builtin_name(kind):
    return kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"


def plain(text):
    """A text that JSON can carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def message_of(error):
    try:
        return str(error.args[0]) if isinstance(error, KeyError) and len(error.args) == 1 else str(error)
    except Exception as broken:
        return f"<its text cannot be had: {type(broken).__name__}>"


def describe(error):
    return {
        "type": builtin_name(type(error)),
        "message": plain(message_of(error)),
        "bases": [base.__name__ for base in type(error).__mro__[1:] if base.__module__ == "builtins"],
        "traceback": user_traceback(error),
    }


def without_ours(frames):
    """A traceback without the frames of the host."""
    while frames is not None and os.path.dirname(frames.tb_frame.f_code.co_filename) == HERE:
        frames = frames.tb_next
    if frames is not None:
        frames.tb_next = without_ours(frames.tb_next)
    return frames


def user_traceback(error):
    """The traceback without the frames of the host."""
    seen = set()

    def trim(error):
        if error is None or id(error) in seen:
            return
        seen.add(id(error))
        error.__traceback__ = without_ours(error.__traceback__)
        trim(error.__cause__)
        trim(error.__context__)

    trim(error)
    try:
        return plain("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    except Exception:
        return plain("".join(traceback.format_tb(error.__traceback__)) + builtin_name(type(error)))


# --- functions -------------------------------------------------------------------------------------


def load(files, modules):
    functions, loaded = {}, {}
    for path in files:
        path = os.path.abspath(path)
        name = os.path.splitext(os.path.basename(path))[0]
        if name in loaded:
            raise ImportError(f"two files are called {name}.py: {loaded[name]} and {path}; rename one of them")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ImportError(f"{path}: {name} is no Python name, so no workflow could import it; rename the file")
        if name == "durable" or name in getattr(sys, "stdlib_module_names", ()):
            raise ImportError(f"{path} would stand in for Python's own module {name}; rename the file")
        loaded[name] = path
        sys.path.insert(0, os.path.dirname(path))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        collect(module, name, functions)
    # Processes that functions start find this module `durable`, too.
    sys.path.remove(HERE)
    sys.path.insert(0, HERE)
    for name in modules:
        collect(importlib.import_module(name), name, functions)
    return functions


def collect(module, name, functions):
    for attribute, value in vars(module).items():
        marked = hasattr(value, "__durable_options__")
        own = inspect.isfunction(value) and value.__module__ == name and not attribute.startswith("_")
        if marked or own:
            functions[f"{name}.{attribute}"] = value


def is_async(fn):
    return inspect.iscoroutinefunction(inspect.unwrap(fn))


def offer(functions):
    return [
        {"name": name, "async": is_async(fn), "options": getattr(fn, "__durable_options__", {})}
        for name, fn in functions.items()
    ]


def finish(host, call, outcome):
    try:
        payload = json.dumps({"op": "done", "id": call["id"], "result": encode(outcome)}, allow_nan=False).encode()
        if len(payload) > MAX_BYTES:
            size = len(payload) >> 20
            raise Refused(
                f"it is larger than {MAX_BYTES >> 20} MiB ({size} MiB): store it in a file or an object store and "
                "return its name"
            )
        host.wire.send(payload)
    except (Refused, RecursionError, ValueError) as error:
        message = f"the result of {call['function']}: {error or 'it is nested too deeply'}"
        described = {"type": "TypeError", "message": message}
        host.wire.send({"op": "error", "id": call["id"], "retryable": False, "error": described})


def fail(host, call, error):
    retryable = not isinstance(error, (NonRetryable, Misfit))
    described = {"type": "TypeError", "message": str(error)} if isinstance(error, Misfit) else describe(error)
    host.wire.send({"op": "error", "id": call["id"], "retryable": retryable, "error": described})


def arguments(call, fn):
    """The decoded arguments. What does not fit the function's parameters fits no better next time."""
    args, kwargs = decode(call["args"]), decode(call["kwargs"])
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some functions of C have none
        return args, kwargs
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise Misfit(f"{call['function']}() {error}") from None
    return args, kwargs


class Misfit(TypeError):
    pass


# --- where calls run --------------------------------------------------------------------------------


class Host:
    """What calls need of this process."""

    def __init__(self):
        self.process = os.getpid()
        self.wire = Wire()
        self.descriptors = Descriptors()
        self.streams = [Stream(which, which + 1, self.descriptors.nowhere[which]) for which in (0, 1)]
        self.marks = NoMarks()
        self.calls = {}
        sys.stdin = open(os.devnull)
        sys.stdout, sys.stderr = self.streams
        durable._tell = self.tell
        os.register_at_fork(after_in_child=self.forked)
        LATE.start()

    def forked(self):
        """A process that a function has forked off has nothing to do with the worker."""
        self.wire.close()
        self.marks.close()
        durable._tell = None
        for stream in self.streams:
            stream.forked()
        if faulthandler.is_enabled():
            faulthandler.enable(file=2)

    def tell(self, call, fraction, message):
        for pen in call["pens"]:
            pen.flush()
        message = message and plain(message[:4096])
        self.wire.send({"op": "heartbeat", "id": call["id"], "fraction": fraction, "message": message})

    def take(self, call, pipes):
        """A call has come, on the thread that reads."""
        if len(pipes) != 2:  # there were no descriptors left for them
            for pipe in pipes:
                os.close(pipe)
            pipes = None
        call["pipes"] = pipes
        call["pens"] = [Pen(self.wire, call["id"], kind) for kind in (b"o", b"e")]
        self.calls[call["id"]] = call

    def began(self, call):
        """The function's time runs from now on."""
        self.wire.send({"op": "began", "id": call["id"]})

    def end(self, call, tell):
        """Whatever it has written is sent before what it led to."""
        for pen in call["pens"]:
            pen.flush()
        try:
            tell()
        except BaseException as error:  # of the code of a value that is to be sent
            fail(self, call, error)
        self.calls.pop(call["id"], None)
        for pen in call["pens"]:
            pen.close()
        pipes, call["pipes"] = call["pipes"], None
        self.descriptors.close(pipes)

    def leave_if_forked(self, error):
        """Both sides of a fork come back from the function: its copy ends as a program does."""
        if os.getpid() == self.process:
            return
        if error is not None and not isinstance(error, SystemExit):
            sys.stderr.write(user_traceback(error))
            error = SystemExit(1)
        raise error or SystemExit(0)

    def read(self, handle):
        """Hands every frame to `handle`, on a thread that a busy function cannot hold up."""

        def read():
            while (received := self.wire.receive()) is not None:
                message, pipes = received
                handle(message, pipes)
                if message["op"] == "exit":
                    return
            end_now()

        threading.Thread(target=read, name="durable-frames", daemon=True).start()


def end_now():
    """The worker is gone: so is this process, and what it started."""
    shutil.rmtree(HERE, ignore_errors=True)
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class Interrupts:
    """SIGINT and the alarm belong to the function that runs; between two calls they are nobody's."""

    def __init__(self):
        self._theirs = signal.getsignal(signal.SIGINT)
        self._alarm = signal.getitimer(signal.ITIMER_REAL)[0]
        self.take()

    def give(self):
        if self._theirs is not None:
            signal.signal(signal.SIGINT, self._theirs)
        self._alarm = signal.getitimer(signal.ITIMER_REAL)[0]

    def take(self):
        if self._theirs is not None:
            self._theirs = signal.signal(signal.SIGINT, lambda number, frame: None)
        if not self._alarm and signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0)


def run_sync(host, interrupts, call, fn):
    outcome = error = None
    _call.set(call)
    host.descriptors.point(call["pipes"])
    host.began(call)
    try:
        try:
            interrupts.give()
            args, kwargs = arguments(call, fn)
            outcome = fn(*args, **kwargs)
            if inspect.isawaitable(outcome):
                outcome = asyncio.run(as_coroutine(outcome))
        finally:
            interrupts.take()
    except BaseException as raised:  # SystemExit too: it must end the call, not the process
        error = raised
    host.leave_if_forked(error)
    host.end(call, lambda: finish(host, call, outcome) if error is None else fail(host, call, error))
    _call.set(None)


async def as_coroutine(awaitable):
    return await awaitable


def serve_sync(host, functions):
    calls = queue.SimpleQueue()

    def handle(message, pipes):
        if message["op"] == "call":
            host.take(message, pipes)
            calls.put(message)
        elif message["op"] == "cancel":
            if (call := host.calls.get(message["id"])) is not None:
                call["cancelled"] = True
        else:
            calls.put(None)

    interrupts = Interrupts()
    host.read(handle)
    while True:
        try:
            call = calls.get()
        except BaseException:  # of a signal handler that a function has left behind
            continue
        if call is None:
            return
        run_sync(host, interrupts, call, functions[call["function"]])


class Loop:
    """One event loop for all asynchronous calls of this process."""

    def __init__(self, host, functions):
        self.host, self.functions = host, functions
        self.loop = asyncio.new_event_loop()
        self.tasks = {}
        # Calls that have come and whose task is not yet made.
        self.inbox = {}
        # Calls that hold up the loop and are to end.
        self.overdue = set()
        # The call whose turn it is, and whether its own code runs.
        self.present = None
        self.theirs = False
        self.stopped = False

    def handle(self, message, pipes):
        """On the thread that reads."""
        op, id = message["op"], message.get("id")
        if op == "call":
            self.host.take(message, pipes)
            self.inbox[id] = message
            self.loop.call_soon_threadsafe(self.begin, id)
        elif op == "exit":
            self.loop.call_soon_threadsafe(self.stop)
        elif self.inbox.pop(id, None) is not None:
            call = self.host.calls[id]
            reply = "withdrawn" if op == "withdraw" else "cancelled"
            self.host.end(call, lambda: self.host.wire.send({"op": reply, "id": id}))
        elif op == "cancel":
            self.loop.call_soon_threadsafe(self.cancel, id)
        elif op == "interrupt":
            self.overdue.add(id)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def begin(self, id):
        call = self.inbox.pop(id, None)
        if call is None:
            return
        context = contextvars.copy_context()
        context.run(_call.set, call)
        task = context.run(self.loop.create_task, self.run_call(call))
        self.tasks[id] = task
        task.add_done_callback(lambda task: self.ended(call, task))

    def cancel(self, id):
        if (task := self.tasks.get(id)) is not None:
            self.host.calls[id]["cancelled"] = True
            task.cancel()

    async def run_call(self, call):
        try:
            self.host.began(call)
            fn = self.functions[call["function"]]
            args, kwargs = arguments(call, fn)
            return True, await fn(*args, **kwargs)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.host.leave_if_forked(error)
            return False, error
        finally:
            self.host.leave_if_forked(None)

    def ended(self, call, task):
        self.tasks.pop(call["id"], None)
        self.overdue.discard(call["id"])
        self.theirs = False
        if task.cancelled() or task.exception() is not None:
            self.host.end(call, lambda: self.host.wire.send({"op": "cancelled", "id": call["id"]}))
            return
        well, outcome = task.result()
        self.host.end(call, lambda: (finish if well else fail)(self.host, call, outcome))

    def watch_turns(self):
        """Notes whose turn it is: a task's step, a callback, whatever began in a call's name."""
        run, host = asyncio.events.Handle._run, self.host

        def run_noted(handle):
            call = handle._context.get(_call)
            if call is None:
                return run(handle)
            if os.getpid() != host.process:
                # In a fork, the turns of the other calls are not its own.
                return run(handle) if call is self.present or handle._loop is not self.loop else None
            host.marks.enter(call["id"])
            host.descriptors.point(call["pipes"])
            self.present, self.theirs = call, True
            try:
                return run(handle)
            finally:
                self.theirs = False
                host.marks.enter(0)
                if len(self.tasks) > 1:
                    host.descriptors.point(None)

        asyncio.events.Handle._run = run_noted

    def interrupt(self, number, frame):
        """SIGINT: for the call whose turn it is, or for nobody."""
        if not self.theirs:
            return
        if self.present["id"] in self.overdue:
            self.overdue.discard(self.present["id"])
            raise asyncio.CancelledError
        if not self.overdue:
            raise KeyboardInterrupt

    def stop(self):
        self.stopped = True
        self.loop.stop()

    def serve(self):
        asyncio.set_event_loop(self.loop)
        self.watch_turns()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self.interrupt)
        self.host.read(self.handle)
        while not self.stopped:
            try:
                self.loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                # Of a task that a function has made; who awaits it sees the exception, too.
                if os.getpid() != self.host.process:
                    raise


def main(mode):
    host = Host()
    received = host.wire.receive()
    if received is None:
        return
    request, (marks, crash) = received
    faulthandler.enable(file=crash)
    if mode == "async":
        host.marks = Marks(marks)
    follow_threads(host.marks)
    sys.argv = (request["files"] + request["modules"])[:1]
    try:
        functions = load(request["files"], request["modules"])
    except BaseException as error:
        host.wire.send({"op": "failed", "error": describe(error)})
        return
    host.wire.send({"op": "loaded", "functions": offer(functions)})
    if mode == "async":
        Loop(host, functions).serve()
    else:
        serve_sync(host, functions)
