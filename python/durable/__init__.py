"""What durable-monty's workflows and functions import, for plain CPython.

A workflow file that imports this runs under asyncio as it is; in production its functions run on workers and its state is
saved at every await. :mod:`durable.testing` runs workflows in tests.
"""

from __future__ import annotations

import asyncio
import datetime as _datetime
import functools
import sys
import uuid as _uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from ._run import call_of, current, in_function

__all__ = [
    "Cancelled",
    "NonRetryable",
    "SignalTimeout",
    "TaskError",
    "TaskTimeout",
    "attempt",
    "call",
    "callback",
    "cancelled",
    "cancelled_ended",
    "continue_as_new",
    "execution_id",
    "function",
    "heartbeat",
    "idempotency_key",
    "log",
    "map",
    "now",
    "race",
    "run_child",
    "set_status",
    "settle",
    "signal",
    "sleep_until",
    "spawn",
    "start_child",
    "timeout",
    "uuid4",
    "wait_signal",
]

T = TypeVar("T")


class TaskError(RuntimeError):
    """A function failed with an exception that the sandbox has no type for; in production it is caught as RuntimeError."""


class NonRetryable(TaskError):
    """Raise it in a function, or a subclass, when another attempt could not help."""


class TaskTimeout(TimeoutError):
    """Something was not done in its time."""


class SignalTimeout(TimeoutError):
    """No signal of that name came in time."""


Cancelled = asyncio.CancelledError
"""The execution was cancelled. It passes ``except Exception``; clean up and raise it again."""


# --- functions ------------------------------------------------------------------------------------


def function(fn: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Marks a function that workers run, and sets its options.

    ``retries`` (or ``max_attempts``), ``backoff`` (``"1s..1m"``), ``timeout``, ``total_timeout``, ``non_retryable`` (names of
    exception types). Called from a workflow it gives an awaitable; called from anywhere else it is the function itself.
    """

    def mark(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def called(*args: Any, **kwargs: Any) -> Any:
            if in_function() or not _in_loop():
                return fn(*args, **kwargs)
            return current().start(fn, name_of(fn), args, kwargs, options)

        called.__durable_options__ = options  # type: ignore[attr-defined]
        called.__durable_function__ = fn  # type: ignore[attr-defined]
        return called

    return mark if fn is None else mark(fn)


def name_of(fn: Callable[..., Any]) -> str:
    return f"{fn.__module__}.{fn.__qualname__}"


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def idempotency_key() -> str:
    """The same text for every attempt of the present call, and for no other call."""
    present = call_of()
    if present is None:
        raise RuntimeError("idempotency_key() is known only while a function runs for a workflow")
    return present.key


def attempt() -> int:
    """The number of the present attempt, from 1."""
    present = call_of()
    return 1 if present is None else present.attempt


def heartbeat(fraction: float | None = None, message: str | None = None) -> None:
    """Says how far the present call has come, from 0 to 1, and what it does."""
    present = call_of()
    if present is not None:
        present.progress = (fraction, message)


def cancelled() -> bool:
    """Whether nobody wants the present call's result any more."""
    present = call_of()
    return present is not None and present.cancelled


# --- workflows --------------------------------------------------------------------------------------


def call(fn: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Awaitable[Any]:
    """Calls a function with options of its own.

    ``retries``, ``max_attempts``, ``backoff``, ``timeout``, ``total_timeout``, ``non_retryable``, ``queue``,
    ``idempotency_key``; everything else goes to the function.
    """
    names = (
        "retries", "max_attempts", "backoff", "timeout", "total_timeout", "non_retryable", "queue", "idempotency_key",
    )
    given = {name: kwargs.pop(name) for name in names if name in kwargs}
    options = {name: value for name, value in given.items() if value is not None}
    if isinstance(fn, str):
        fn = _find(fn)
    inner = getattr(fn, "__durable_function__", fn)
    declared = getattr(fn, "__durable_options__", {})
    name = getattr(fn, "__durable_name__", None) or name_of(inner)
    return current().start(inner, name, args, kwargs, {**declared, **options})


def _find(name: str) -> Callable[..., Any]:
    module, _, attribute = name.rpartition(".")
    candidates = [sys.modules[module]] if module in sys.modules else list(sys.modules.values())
    for candidate in candidates:
        found: Callable[..., Any] | None = getattr(candidate, attribute, None)
        if found is not None and callable(found) and (module or hasattr(found, "__durable_options__")):
            return found
    raise NameError(f"no function is called {name}")


async def race(*awaitables: Awaitable[Any]) -> tuple[int, Any]:
    """The index and value of the first that ends; if it raised, that is raised. The others go on."""
    if not awaitables:
        raise ValueError("race() needs at least one awaitable")
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    index = min(tasks.index(task) for task in done)
    return index, tasks[index].result()


async def timeout(awaitable: Awaitable[T], seconds: float) -> T:
    """The value, unless it takes longer: then it is cancelled and :class:`TaskTimeout` raised."""
    task = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait([task], timeout=None if seconds == float("inf") else seconds)
    if done:
        return task.result()
    task.cancel()
    raise TaskTimeout(f"not done within {seconds} s")


async def settle(*awaitables: Awaitable[Any]) -> list[Any]:
    """All values, exceptions among them: gather that does not raise."""

    async def run(awaitable: Awaitable[Any]) -> Any:
        try:
            return await awaitable
        except Exception as error:
            return error

    return await asyncio.gather(*[run(awaitable) for awaitable in awaitables])


async def map(fn: Callable[[Any], Awaitable[T]], items: Iterable[Any], *, limit: int | None = None) -> list[T]:
    """``fn`` of every item, in order, at most ``limit`` at a time."""
    items = list(items)
    if limit is None:
        return await asyncio.gather(*[fn(item) for item in items])
    if limit < 1:
        raise ValueError(f"map(limit={limit}): at least 1 is wanted")
    results: list[Any] = [None] * len(items)
    todo = list(enumerate(items))
    todo.reverse()

    async def run() -> None:
        while todo:
            index, item = todo.pop()
            results[index] = await fn(item)

    await asyncio.gather(*[run() for _ in range(min(limit, len(items)))])
    return results


def spawn(coroutine: Awaitable[T]) -> Awaitable[T]:
    """Runs a coroutine beside; what comes back can be awaited any number of times."""
    task = asyncio.ensure_future(coroutine)
    spawned = current()._spawned
    spawned.add(task)
    task.add_done_callback(spawned.discard)
    return task


def wait_signal(name: str, timeout: float | None = None) -> Awaitable[Any]:
    """The next signal of that name; :class:`SignalTimeout` when none comes in time."""
    return current().wait_signal(name, timeout)


def signal(id: str, name: str, value: Any = None) -> Awaitable[None]:
    """Sends another execution a signal, once; ``RuntimeError`` when there is none of that id, or it has ended."""
    return current().send(id, name, value)


async def cancelled_ended(*calls: Awaitable[Any], timeout: float | None = None) -> None:
    """Waits until the functions of these calls, or of all that were cancelled, run no more."""
    await current().cancelled_ended(calls, timeout)


def callback(*, timeout: float | None = None) -> tuple[str, Awaitable[Any]]:
    """A token, and what comes when somebody completes it."""
    return current().callback(timeout)


def start_child(
    workflow: str | Callable[..., Any],
    inputs: dict[str, Any] | None = None,
    id: str | None = None,
    source: str | None = None,
    detached: bool = False,
    deadline: float | None = None,
) -> Awaitable[Any]:
    """Starts another workflow: an async function of this file or of one beside it, the file beside it or the deployed one of
    that name, or the text ``source``. Its output, or with ``detached`` its id."""
    return current().start_child(workflow, inputs or {}, id, source, detached, deadline)


run_child = start_child


def continue_as_new(inputs: dict[str, Any] | None = None, **named: Any) -> None:
    """Begins anew with these inputs and without a past. Nothing after it runs."""
    current().continue_as_new({**(inputs or {}), **named})


def sleep_until(when: _datetime.datetime) -> Awaitable[None]:
    """Sleeps until that instant."""
    return asyncio.sleep(max(0.0, (when - current().now().astimezone(when.tzinfo)).total_seconds()))


def now() -> _datetime.datetime:
    """The present instant, in UTC."""
    return current().now()


def uuid4() -> str:
    """A random UUID, as text."""
    return str(_uuid.uuid4())


def execution_id() -> str:
    """The execution's id."""
    return current().id


def log(*values: Any, **fields: Any) -> None:
    """Writes to the execution's log."""
    words = [str(value) for value in values] + [f"{name}={value!r}" for name, value in fields.items()]
    current().write(" ".join(words))


def set_status(status: Any) -> None:
    """What the workflow says of itself, shown with the execution."""
    current().status = status
