"""Runs the user's functions in a CPython process of its own.

Frames on the original stdin and stdout: eight bytes of length, big endian, then JSON. Whatever the
user's code writes goes to the call's log, never between the frames. When stdin ends, the process
ends at once, with everything that it started.
"""

import asyncio
import base64
import collections
import contextvars
import dataclasses
import datetime
import decimal
import enum
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
import signal
import struct
import sys
import threading
import traceback
import types
import uuid

MAX_BYTES = 256 << 20
MAX_DEPTH = 90
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)

# --- frames ---------------------------------------------------------------------------------

_in = os.fdopen(os.dup(0), "rb")
_out = os.fdopen(os.dup(1), "wb")
_out_lock = threading.Lock()


def _detach_standard_streams():
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # stderr is the file that the worker reads: C code and child processes write there


def send(message):
    payload = message if isinstance(message, bytes) else json.dumps(message, allow_nan=False).encode()
    with _out_lock:
        _out.write(struct.pack(">Q", len(payload)))
        _out.write(payload)
        _out.flush()


def receive():
    header = _in.read(8)
    if len(header) < 8:
        return None
    (length,) = struct.unpack(">Q", header)
    payload = _in.read(length)
    return json.loads(payload) if len(payload) == length else None


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


def user_traceback(error):
    """The traceback without the frames of this file."""
    seen = set()

    def trim(error):
        if error is None or id(error) in seen:
            return
        seen.add(id(error))
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        error.__traceback__ = frames
        trim(error.__cause__)
        trim(error.__context__)

    trim(error)
    try:
        return plain("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    except Exception:
        return plain("".join(traceback.format_tb(error.__traceback__)) + builtin_name(type(error)))


# --- the module `durable`, as functions see it -----------------------------------------------------

_call = contextvars.ContextVar("durable_call", default=None)


class NonRetryable(RuntimeError):
    """Raise it, or a subclass, when another attempt could not help."""


def function(fn=None, **options):
    """Marks a function and sets its options: retries or max_attempts, backoff, timeout."""

    def mark(fn):
        fn.__durable_options__ = options
        return fn

    return mark if fn is None else mark(fn)


def idempotency_key():
    """The same text for every attempt of the present call, and for no other call."""
    call = _call.get()
    if call is None:
        raise RuntimeError("idempotency_key() is known only while a function runs for a workflow")
    return call["key"]


def attempt():
    """The number of the present attempt, from 1."""
    call = _call.get()
    return 1 if call is None else call["attempt"]


def heartbeat(fraction=None, message=None):
    """Says how far the present call has come, from 0 to 1, and what it does; shown with the call."""
    call = _call.get()
    if call is not None:
        fraction = None if fraction is None else float(fraction)
        send({"op": "heartbeat", "id": call["id"], "fraction": fraction, "message": message and plain(str(message))})


def cancelled():
    """Whether nobody wants the present call's result any more. An asynchronous function is cancelled instead; a
    synchronous one that goes on is killed five seconds later."""
    call = _call.get()
    return call is not None and call["id"] in _cancelled


_cancelled = set()


def _install_durable():
    module = types.ModuleType("durable", "What functions can use of durable-monty.")
    for value in (function, idempotency_key, attempt, heartbeat, cancelled, NonRetryable):
        setattr(module, value.__name__, value)
    NonRetryable.__module__ = "durable"
    sys.modules["durable"] = module


# --- output --------------------------------------------------------------------------------------


class CallBytes(io.RawIOBase):
    """sys.stdout.buffer: bytes that are shown as text."""

    def __init__(self, stream):
        self._stream = stream

    def writable(self):
        return True

    def fileno(self):
        return self._stream.fileno()

    def write(self, data):
        data = bytes(data)
        self._stream.write(data.decode("utf-8", "replace"))
        return len(data)


class CallStream(io.TextIOBase):
    """sys.stdout and sys.stderr: what is written belongs to the call that writes it."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name, fallback):
        self.name = name
        self._fallback = fallback
        self.buffer = CallBytes(self)

    def writable(self):
        return True

    def fileno(self):
        return self._fallback

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        call = _call.get()
        if call is None:
            os.write(self._fallback, text.encode("utf-8", "replace"))
        elif text:
            send({"op": "log", "id": call["id"], "stream": self.name, "text": text.encode("utf-8", "replace").decode()})
        return len(text)


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


def finish(call, outcome):
    try:
        payload = json.dumps({"op": "done", "id": call["id"], "result": encode(outcome)}, allow_nan=False).encode()
        if len(payload) > MAX_BYTES:
            size = len(payload) >> 20
            raise Refused(
                f"it is larger than {MAX_BYTES >> 20} MiB ({size} MiB): store it in a file or an object store and "
                "return its name"
            )
        send(payload)
    except (Refused, RecursionError, ValueError) as error:
        message = f"the result of {call['function']}: {error or 'it is nested too deeply'}"
        send({"op": "error", "id": call["id"], "retryable": False, "error": {"type": "TypeError", "message": message}})


def fail(call, error):
    retryable = not isinstance(error, (NonRetryable, Misfit))
    described = {"type": "TypeError", "message": str(error)} if isinstance(error, Misfit) else describe(error)
    send({"op": "error", "id": call["id"], "retryable": retryable, "error": described})


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


def run_sync(call, fn):
    _call.set(call)
    try:
        args, kwargs = arguments(call, fn)
        outcome = fn(*args, **kwargs)
        if inspect.isawaitable(outcome):
            outcome = asyncio.run(as_coroutine(outcome))
    except BaseException as error:  # SystemExit too: it must end the call, not the process
        fail(call, error)
    else:
        finish(call, outcome)
    finally:
        _call.set(None)


async def as_coroutine(awaitable):
    return await awaitable


async def run_async(call, fn):
    _call.set(call)
    try:
        args, kwargs = arguments(call, fn)
        outcome = await fn(*args, **kwargs)
    except asyncio.CancelledError:
        send({"op": "cancelled", "id": call["id"]})
    except BaseException as error:
        fail(call, error)
    else:
        finish(call, outcome)


# --- the two ways of working -------------------------------------------------------------------------


def end_now():
    """The worker is gone: so is this process, and what it started."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def frames(handle):
    """Hands every frame to `handle`, on a thread that a busy function cannot hold up."""

    def read():
        while (message := receive()) is not None:
            handle(message)
        end_now()

    threading.Thread(target=read, name="durable-frames", daemon=True).start()


def serve_sync(functions):
    calls = queue.SimpleQueue()

    def handle(message):
        if message["op"] == "cancel":
            _cancelled.add(message["id"])
        else:
            calls.put(message)

    frames(handle)
    while True:
        call = calls.get()
        run_sync(call, functions[call["function"]])
        _cancelled.discard(call["id"])


async def serve_async(functions):
    loop = asyncio.get_running_loop()
    tasks = {}

    def handle(message):
        if message["op"] == "cancel":
            if (task := tasks.get(message["id"])) is not None:
                task.cancel()
            return
        task = loop.create_task(run_async(message, functions[message["function"]]))
        tasks[message["id"]] = task
        task.add_done_callback(lambda _: tasks.pop(message["id"], None))

    frames(lambda message: loop.call_soon_threadsafe(handle, message))
    await asyncio.Event().wait()


def main(mode):
    _detach_standard_streams()
    sys.stdin = open(os.devnull)
    _install_durable()
    request = receive()
    if request is None:
        return
    sys.stdout = CallStream("stdout", 1)
    sys.stderr = CallStream("stderr", 2)
    try:
        functions = load(request["files"], request["modules"])
        send({"op": "loaded", "functions": offer(functions)})
    except BaseException as error:
        send({"op": "failed", "error": describe(error)})
        return
    if mode == "async":
        asyncio.run(serve_async(functions))
    else:
        serve_sync(functions)


main(sys.argv[1])
