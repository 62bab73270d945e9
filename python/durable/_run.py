"""One execution of a workflow under asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import inspect
import random
import re
import selectors
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from ._fit import Misfit, fit_call

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
        self._signals: dict[str, list[Any]] = {}
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
        return asyncio.ensure_future(self._attempts(fn, call, options))

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
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        kept = self._signals.get(name)
        if kept:
            future.set_result(kept.pop(0))
            return future
        self._waiting.setdefault(name, []).append(future)
        return self._within(future, timeout, lambda: SignalTimeout(f"no signal {name} within {words(timeout)}"))

    def signal(self, name: str, payload: Any) -> None:
        """Sends a signal, which is kept until somebody waits for it."""
        waiting = [future for future in self._waiting.get(name, []) if not future.done()]
        if waiting:
            self._waiting[name] = waiting[1:]
            waiting[0].set_result(payload)
        else:
            self._signals.setdefault(name, []).append(payload)

    def callback(self, timeout: float | None) -> tuple[str, Awaitable[Any]]:
        self.calls.append(Call("callback", "callback"))
        loop = asyncio.get_running_loop()
        token, future = uuid.uuid4().hex, loop.create_future()
        self._callbacks[token] = future
        if self._answers:
            after, value = self._answers.pop(0)
            loop.call_later(after, lambda: self.complete(token, value))
        return token, self._within(future, timeout, lambda: TimeoutError(f"no callback within {words(timeout)}"))

    def complete(self, token: str, value: Any) -> bool:
        """Completes a callback; false when it has its outcome already."""
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
        if timeout is not None:

            def over() -> None:
                if not future.done():
                    future.set_exception(error())

            handle = asyncio.get_running_loop().call_later(seconds(timeout), over)
            future.add_done_callback(lambda _: handle.cancel())
        return future

    # --- children

    def start_child(
        self,
        workflow: str,
        inputs: dict[str, Any],
        id: str | None,
        source: str | None,
        detached: bool,
        deadline: float | None,
    ) -> asyncio.Future[Any]:
        from .testing import load

        self.calls.append(Call("child", workflow, (inputs,)))
        child = Run(id or f"{self.id}-{len(self.calls)}", parent=self)

        async def run() -> Any:
            if source is None and workflow not in self.workflows:
                raise NameError(
                    f"no workflow is deployed under the name {workflow}: durable deploy {workflow} FILE, or give its "
                    "text with source="
                )
            main = load(source, workflow) if source is not None else self.workflows[workflow]
            return await child.run(main, inputs)

        task = asyncio.ensure_future(run())
        if not detached:
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


def backoff(time: Any) -> tuple[float, float]:
    if isinstance(time, str) and ".." in time:
        first, longest = time.split("..")
        return seconds(first), seconds(longest)
    return seconds(time), seconds(time)


def words(time: Any) -> str:
    """A time as the engine writes it in messages."""
    number = seconds(time)
    if number < 60:
        return f"{int(number)}s" if number == int(number) else f"{number}s"
    whole = int(number)
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    return " ".join(f"{count}{unit}" for count, unit in units if count)


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time: when nothing can run, its clock jumps to what is due next."""

    def __init__(self) -> None:
        self._skipped = 0.0
        super().__init__(_SkippingSelector(self))

    def time(self) -> float:
        return super().time() + self._skipped


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: SkippingLoop):
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self._loop._skipped += timeout
        return ready
