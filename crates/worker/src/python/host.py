"""Runs the user's functions in a CPython process of its own.

Frames on the original stdin and stdout: eight bytes of length, big endian, then JSON. Whatever the
user's code writes goes to the call's log, never between the frames. When stdin ends, the process
ends at once, with everything that it started.
"""

import asyncio
import contextvars
import importlib
import importlib.util
import inspect
import io
import json
import keyword
import os
import queue
import signal
import struct
import sys
import threading
import traceback
import types

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


# --- exceptions ---------------------------------------------------------------------------------


def describe(error):
    return {
        "type": builtin_name(type(error)),
        "message": clipped(message_of(error), MAX_MESSAGE),
        "bases": builtin_bases(type(error)),
        "traceback": clipped(user_traceback(error), MAX_TRACEBACK),
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
            raise too_large(len(payload))
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
    decoder = Decoder()
    args, kwargs = decoder.decode(call["args"]), decoder.decode(call["kwargs"])
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some functions of C have none
        signature = None
    if signature is not None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise Misfit(f"{call['function']}() {error}") from None
    return fit_call(call["function"], fn, args, kwargs, decoder.records)


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
