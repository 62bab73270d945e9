"""Runs the user's functions in a CPython process of its own.

What they write goes to their call's log. When the worker is gone, the process ends at once, with everything that
it started.
"""

import asyncio
import contextvars
import faulthandler
import importlib
import importlib.util
import inspect
import json
import keyword
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
import types

import durable
from durable import NonRetryable, _call

from _durable_fit import Misfit, fit_call
from _durable_marks import Marks, NoMarks
from _durable_output import LATE, Descriptors, Pen, Stream
from _durable_threads import install as follow_threads
from _durable_values import (
    MAX_BYTES,
    MAX_MESSAGE,
    MAX_TRACEBACK,
    Decoder,
    Refused,
    builtin_bases,
    builtin_name,
    clipped,
    encode,
    message_of,
    plain,
    too_large,
)
from _durable_wire import Wire

HERE = os.path.dirname(os.path.abspath(__file__))
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)

# --- exceptions ---------------------------------------------------------------------------------


def describe(error):
    return {
        "type": builtin_name(type(error)),
        "message": clipped(message_of(error), MAX_MESSAGE),
        "bases": builtin_bases(type(error)),
        "traceback": clipped(user_traceback(error), MAX_TRACEBACK),
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
            raise too_large(len(payload))
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
    # A worker that a script starts in the background ignores it, and functions are none of that script's.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
