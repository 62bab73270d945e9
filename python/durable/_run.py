"""One execution of a workflow under asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import inspect
import os
import random
import re
import selectors
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from ._child import find
from ._fit import Misfit, fit_call
from ._reach import reached

_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("durable_run", default=None)
_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("durable_call", default=None)


@dataclasses.dataclass
class Call:
    """Something that a workflow awaited."""

    kind: str
    function: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    key: str = ""
    attempt: int = 1
    progress: tuple[float | None, str | None] | None = None
    cancelled: bool = False


class ContinueAsNew(BaseException):
    def __init__(self, inputs: dict[str, Any]):
        self.inputs = inputs


class Started(asyncio.Task):
    """A function that runs for a call."""

    def __init__(self, call: Call, body: Any):
        super().__init__(body, loop=asyncio.get_running_loop())
        self.call = call

    def cancel(self, *args: Any, **kwargs: Any) -> bool:
        self.call.cancelled = not self.done()
        return super().cancel(*args, **kwargs)


class Wait(asyncio.futures._PyFuture):  # type: ignore[name-defined,misc]
    """A wait for a signal, which knows whether anybody has read what came."""

    read = False

    def result(self) -> Any:
        self.read = True
        return super().result()


def call_of() -> Call | None:
    return _call.get()


def in_function() -> bool:
    return _call.get() is not None


def current() -> Run:
    """The execution that is running; one is made for a workflow that was started without."""
    run = _current.get()
    if run is None:
        run = Run()
        _current.set(run)
    return run


class Run:
    """The state of one execution."""

    def __init__(self, id: str | None = None, parent: Run | None = None):
        self.id = id or str(uuid.uuid4())
        self.calls: list[Call] = []
        self.log: list[str] = []
        self.status: Any = None
        self.quiet = False
        self.replaced: dict[str, Callable[..., Any]] = parent.replaced if parent else {}
        self.workflows: dict[str, Any] = parent.workflows if parent else {}
        # The signals that it has sent to executions that are not here.
        self.sent: list[tuple[str, str, Any]] = parent.sent if parent else []
        self._executions: dict[str, Run] = parent._executions if parent else {}
        self._executions[self.id] = self
        # Where the workflow that began it all is.
        self._folder: str | None = None
        self._main: tuple[asyncio.Task[Any], dict[str, Any]] | None = None
        self._spawned: set[asyncio.Future[Any]] = set()
        self._functions: list[Started] = []
        # What waits for somebody outside, until it has an outcome or nobody can await it any more.
        self._waits: list[asyncio.Future[Any]] = []
        # What is kept, in the order in which it was sent, and what waits were given.
        self._signals: dict[str, list[tuple[int, Any]]] = {}
        self._given: list[tuple[Wait, str, int, Any]] = []
        self._count = 0
        self._waiting: dict[str, list[asyncio.Future[Any]]] = {}
        self._callbacks: dict[str, asyncio.Future[Any]] = {}
        self._answers: list[tuple[float, Any]] = parent._answers if parent else []
        self._detached: set[asyncio.Future[Any]] = set()
        self._began: tuple[datetime.datetime, float] | None = None

    # --- functions

    def start(
        self,
        fn: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
    ) -> asyncio.Future[Any]:
        """Starts a call at once, as the engine does: whether it is awaited or not."""
        key = options.get("idempotency_key") or f"{self.id}/{len(self.calls)}"
        call = Call("function", name, args, kwargs, key)
        self.calls.append(call)
        fn = self.replaced.get(name) or self.replaced.get(name.rpartition(".")[2]) or fn
        started = Started(call, self._attempts(fn, call, options))
        self._functions.append(started)
        return started

    async def cancelled_ended(self, handles: tuple[Any, ...], timeout: float | None) -> None:
        """Waits until functions whose calls were cancelled have ended."""
        self.calls.append(Call("drain", "the end of what was cancelled"))
        wanted = [task for task in self._functions if task in handles or (not handles and task.call.cancelled)]
        open_ = [task for task in wanted if not task.done()]
        if not open_:
            return
        _, left = await asyncio.wait(open_, timeout=remaining(timeout))
        if left:
            names = ", ".join(task.call.function for task in left)
            raise TimeoutError(f"after {words(timeout)} still running: {names}")

    async def _attempts(self, fn: Callable[..., Any], call: Call, options: dict[str, Any]) -> Any:
        from . import NonRetryable, TaskTimeout

        loop = asyncio.get_running_loop()
        most = options.get("max_attempts") or options.get("retries", 2) + 1
        initial, longest = backoff(options.get("backoff", "1s..1m"))
        total = options.get("total_timeout")
        deadline = None if total is None else loop.time() + seconds(total)
        final = options.get("non_retryable", ())
        while True:
            try:
                return await self._attempt(fn, call, options.get("timeout"))
            except NonRetryable:
                raise
            except Misfit as error:  # fits no better next time
                raise TypeError(str(error)) from None
            except asyncio.TimeoutError as error:
                failure: Exception = error if str(error) else TaskTimeout(f"{call.function} took too long")
            except Exception as error:
                failure = error
            names = {kind.__name__ for kind in type(failure).__mro__}
            wait = min(initial * 2 ** (call.attempt - 1), longest)
            late = deadline is not None and loop.time() + wait >= deadline
            if call.attempt >= most or late or names & set(final):
                raise failure
            call.attempt += 1
            await asyncio.sleep(wait)

    async def _attempt(self, fn: Callable[..., Any], call: Call, timeout: Any) -> Any:
        async def body() -> Any:
            _call.set(call)
            args, kwargs = fit_call(call.function, fn, call.args, call.kwargs)
            result = fn(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        # Not before the workflow has gone on to its next await.
        await asyncio.sleep(0)
        if timeout is None:
            return await asyncio.ensure_future(body())
        return await asyncio.wait_for(body(), seconds(timeout))

    # --- signals and callbacks

    def wait_signal(self, name: str, timeout: float | None) -> Awaitable[Any]:
        from . import SignalTimeout

        if not isinstance(name, str) or not name:
            raise TypeError("wait_signal(): the name of a signal is wanted, a text")
        self.calls.append(Call("signal", name))
        future = Wait(loop=asyncio.get_running_loop())
        kept = self._signals.get(name)
        # In a test it is handed out when nothing can run: one that was given back may come first.
        if kept and (remaining(timeout) == 0 or not isinstance(asyncio.get_running_loop(), SkippingLoop)):
            self._give(future, name, *kept.pop(0))
            return future
        self._waiting.setdefault(name, []).append(future)
        self._waits.append(future)
        return self._within(future, timeout, lambda: SignalTimeout(f"no signal {name} within {words(timeout)}"))

    def signal(self, name: str, payload: Any) -> None:
        """Sends a signal, which is kept until somebody waits for it."""
        self.withdraw()
        self._count += 1
        self._send(name, self._count, payload)

    def _send(self, name: str, number: int, payload: Any) -> None:
        waiting = [future for future in self._waiting.get(name, []) if not future.done()]
        self._waiting[name] = waiting[1:]
        if waiting:
            self._give(waiting[0], name, number, payload)
        else:
            kept = self._signals.setdefault(name, [])
            kept.append((number, payload))
            kept.sort(key=lambda signal: signal[0])

    def _give(self, future: Any, name: str, number: int, payload: Any) -> None:
        future.set_result(payload)
        self._given.append((future, name, number, payload))

    def callback(self, timeout: float | None) -> tuple[str, Awaitable[Any]]:
        self.calls.append(Call("callback", "callback"))
        loop = asyncio.get_running_loop()
        token, future = uuid.uuid4().hex, loop.create_future()
        self._callbacks[token] = future
        self._waits.append(future)
        if self._answers:
            after, value = self._answers.pop(0)
            loop.call_later(after, lambda: self.complete(token, value))
        return token, self._within(future, timeout, lambda: TimeoutError(f"no callback within {words(timeout)}"))

    def complete(self, token: str, value: Any) -> bool:
        """Completes a callback; false when it has its outcome already, or nobody can await it any more."""
        self.withdraw()
        future = self._callbacks[token]
        if future.done():
            return False
        if isinstance(value, BaseException):
            future.set_exception(value)
        else:
            future.set_result(value)
        return True

    def _within(
        self, future: asyncio.Future[Any], timeout: float | None, error: Callable[[], Exception]
    ) -> Awaitable[Any]:
        timeout = remaining(timeout)
        if timeout is not None:

            def over() -> None:
                if not future.done():
                    future.set_exception(error())

            handle = asyncio.get_running_loop().call_later(timeout, over)
            future.add_done_callback(lambda _: handle.cancel())
        return future

    def send(self, id: str, name: str, value: Any) -> asyncio.Future[Any]:
        """Sends another execution a signal. One that is not here is taken to be elsewhere."""
        self.calls.append(Call("send", name, (id, value)))
        sent: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        target = self._executions.get(id)
        if target is None:
            self.sent.append((id, name, value))
        elif target._main is not None and target._main[0].done():
            sent.set_exception(RuntimeError(f"execution {id} has ended and cannot take a signal"))
            return sent
        else:
            target.signal(name, value)
        sent.set_result(None)
        return sent

    def quiescent(self) -> bool:
        """Nothing can run: answers whether something can now."""
        runs = list(self._executions.values())
        return any([run.withdraw() for run in runs]) or any([run._hand_out() for run in runs])

    def _hand_out(self) -> bool:
        given = False
        for name, kept in self._signals.items():
            waiting = [future for future in self._waiting.get(name, []) if not future.done()]
            while kept and waiting:
                self._give(waiting.pop(0), name, *kept.pop(0))
                given = True
            self._waiting[name] = waiting
        return given

    def withdraw(self) -> bool:
        """Cancels what nobody can await any more, as the engine does at every pause; signals that came to it and that nobody
        has read go to who waits next. Answers whether there was anything."""
        self._waits = [future for future in self._waits if not future.done()]
        self._given = [given for given in self._given if not given[0].read]
        # What a task that runs just now holds cannot be seen.
        if self._main is None or not (self._waits or self._given) or asyncio.current_task() is not None:
            return False
        task, namespace = self._main
        if not self._given and all(getattr(task, "_fut_waiter", None) is future for future in self._waits):
            return False
        seen = reached([task, namespace, *self._spawned], namespace, (Run,))
        lost = [future for future in self._waits if id(future) not in seen]
        for future in lost:
            future.cancel()
        # Whoever has been woken by it reads it soon.
        unread = [given for given in self._given if id(given[0]) not in seen and not given[0]._callbacks]
        self._given = [given for given in self._given if given not in unread]
        for _, name, number, payload in unread:
            self._send(name, number, payload)
        return bool(lost or unread)

    # --- children

    def start_child(
        self,
        workflow: Any,
        inputs: dict[str, Any],
        id: str | None,
        source: str | None,
        detached: bool,
        deadline: float | None,
    ) -> asyncio.Future[Any]:
        if id is not None and id.startswith("key-"):
            raise ValueError(
                f'start_child(): id="{id}": ids that begin with key- stand for the idempotency keys of clients: '
                "choose another beginning"
            )
        namespace = self._main[1] if self._main else {}
        folder = self._folder or os.path.dirname(os.path.abspath(namespace.get("__file__") or "workflow.py"))
        name, load = find(workflow, source, namespace, folder, self.workflows)
        self.calls.append(Call("child", name, (inputs,)))
        child = Run(id or f"{self.id}-{len(self.calls)}", parent=self)
        child._folder = folder

        async def run() -> Any:
            return await child.run(load(), inputs)

        task = asyncio.ensure_future(run())
        if not detached:
            self._waits.append(task)
            return task
        self._detached.add(task)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(child.id)
        return done

    def continue_as_new(self, inputs: dict[str, Any]) -> None:
        raise ContinueAsNew(inputs)

    async def run(self, main: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        """Runs a workflow's main to its end."""
        _current.set(self)
        _call.set(None)
        self.now()
        task = asyncio.current_task()
        if task is not None:
            self._main = task, getattr(main, "__globals__", {})
        while True:
            try:
                result = main(**inputs)
                return await result if inspect.isawaitable(result) else result
            except ContinueAsNew as again:
                inputs = again.inputs
                self.calls.clear()

    # --- the rest

    def now(self) -> datetime.datetime:
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = datetime.datetime.now(datetime.timezone.utc), loop.time()
        at, then = self._began
        return at + datetime.timedelta(seconds=loop.time() - then)

    def write(self, text: str) -> None:
        self.log.append(text)
        if not self.quiet:
            print(text)


def seconds(time: Any) -> float:
    """A time as the options have it: a number of seconds, a timedelta, or a text such as ``"90s"``."""
    if isinstance(time, datetime.timedelta):
        return time.total_seconds()
    if isinstance(time, (int, float)):
        return float(time)
    match = re.fullmatch(r"\s*([0-9.]+)\s*(ms|s|m|min|h|d)?\s*", time)
    if match is None:
        raise ValueError(f"{time!r}: a time such as '90s', '10m' or 2.5 is wanted")
    unit = {"ms": 0.001, None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[match[2]]
    return float(match[1]) * unit


def remaining(time: Any) -> float | None:
    """A time that is left. One that has run out is none, and infinity is for ever."""
    number = None if time is None else seconds(time)
    if number is None or number == float("inf"):
        return None
    if number != number:
        raise ValueError(f"timeout={time!r}: a number of seconds or a timedelta is wanted")
    return max(0.0, number)


def backoff(time: Any) -> tuple[float, float]:
    if isinstance(time, str) and ".." in time:
        first, longest = time.split("..")
        return seconds(first), seconds(longest)
    return seconds(time), seconds(time)


def words(time: Any) -> str:
    """A time as the engine writes it in messages."""
    number = max(0.0, seconds(time))
    if number < 60:
        return f"{int(number)}s" if number == int(number) else f"{number}s"
    whole = int(number)
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    return " ".join(f"{count}{unit}" for count, unit in units if count)


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time: when nothing can run, its clock jumps to what is due next."""

    def __init__(self, skips: bool = True) -> None:
        self.skips = skips
        self._skipped = 0.0
        # Asked when nothing can run; what it does may let something run.
        self.idle: Callable[[], bool] = lambda: False
        super().__init__(_SkippingSelector(self))

    def time(self) -> float:
        return super().time() + self._skipped


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: SkippingLoop):
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0) or self._loop.idle():
            return ready
        if timeout is None or not self._loop.skips:
            return super().select(timeout)
        self._loop._skipped += timeout
        return ready
