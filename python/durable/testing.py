"""Runs workflows in tests: no server, no database, and no waiting.

>>> run = Run("workflow.py", amount=5.0)            # or a main() itself
>>> run.replace("tasks.pay", lambda *args: "receipt")
>>> run.signal("decision", "yes", after=3600)
>>> run.result()                                    # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import builtins
import itertools
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from . import _run
from ._run import Call, SkippingLoop

__all__ = ["Run", "load"]

_numbers = itertools.count(1)


class Run:
    """One execution of a workflow: say what will happen, then ask for its result."""

    def __init__(self, workflow: str | os.PathLike[str] | Callable[..., Any], /, *, skip_time: bool = True, **inputs: Any):
        self._main = workflow if callable(workflow) else load_file(workflow)
        self._inputs = inputs
        self._skip = skip_time
        self._run = _run.Run()
        self._run.quiet = True
        self._sent: list[tuple[str, Any]] = []
        self._script: list[tuple[float, Callable[[asyncio.Task[Any]], Any]]] = []

    def replace(self, name: str, fn: Callable[..., Any]) -> Run:
        """Runs ``fn`` instead of the function of that name, with or without its module."""
        self._run.replaced[name] = fn
        return self

    def workflow(self, name: str, main: str | os.PathLike[str] | Callable[..., Any]) -> Run:
        """What children of that name run."""
        self._run.workflows[name] = main if callable(main) else load_file(main)
        return self

    def signal(self, name: str, payload: Any = None, *, after: float = 0) -> Run:
        """Sends a signal, ``after`` so many seconds."""
        self._script.append((after, lambda _: self._sent.append((name, payload))))
        return self

    def callback(self, value: Any, *, after: float = 0) -> Run:
        """Completes the next callback, so long after it was made; an exception fails it."""
        self._run._answers.append((after, value))
        return self

    def cancel(self, *, after: float = 0) -> Run:
        """Cancels the execution."""
        self._script.append((after, lambda task: task.cancel()))
        return self

    def result(self) -> Any:
        """Runs it to its end: its output, or what it raised."""
        loop = SkippingLoop(self._skip)
        loop.idle = self._idle
        loop.set_exception_handler(_tell)
        try:
            return loop.run_until_complete(self._go(loop))
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    def _idle(self) -> bool:
        # A signal that comes at the instant of a timer comes after it.
        if self._run.quiescent():
            return True
        if not self._sent:
            return False
        self._run.signal(*self._sent.pop(0))
        return True

    async def _go(self, loop: asyncio.AbstractEventLoop) -> Any:
        task = loop.create_task(self._run.run(self._main, self._inputs))
        for after, act in self._script:
            loop.call_later(after, act, task)
        return await task

    @property
    def calls(self) -> list[Call]:
        """What it awaited, in the order in which it was called."""
        return self._run.calls

    @property
    def log(self) -> list[str]:
        """What it logged."""
        return self._run.log

    @property
    def sent(self) -> list[tuple[str, str, Any]]:
        """The signals that it sent to executions elsewhere: id, name, value."""
        return self._run.sent

    @property
    def status(self) -> Any:
        """What it last said of itself."""
        return self._run.status


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """That nobody has seen the end of what was cancelled is no news."""
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


def load_file(path: str | os.PathLike[str], name: str = "main", folder: str | None = None) -> Callable[..., Any]:
    """A workflow file's main(), or another function of it. What it imports from beside it are functions: they become awaitable."""
    path = os.path.abspath(path)
    with open(path) as file:
        return load(file.read(), path, name, folder)


def load(source: str, path: str, name: str = "main", folder: str | None = None) -> Callable[..., Any]:
    """A workflow's main(), or another function of it, from its text. What it imports is in ``folder``."""
    module = types.ModuleType(f"durable_workflow_{next(_numbers)}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses look there
    vars(module)["__durable_source__"] = source
    folder = folder or os.path.dirname(os.path.abspath(path))
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": imports_of(folder)}
    exec(compile(source, path, "exec"), vars(module))
    main: Callable[..., Any] | None = vars(module).get(name)
    if main is None or not callable(main):
        raise TypeError(f"{path} has no {name}()")
    return main


def imports_of(folder: str) -> Callable[..., Any]:
    """A workflow's import: what is neither Python's nor ours is a module of functions, which become awaitable. In the
    workflow only: a function that calls another one calls it directly."""

    def imports(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        top = name.split(".")[0]
        if top == "durable" or top in sys.stdlib_module_names:
            return builtins.__import__(name, globals, locals, fromlist, level)
        # Beside each workflow there may be another module of the same name.
        loaded = getattr(sys.modules.get(top), "__file__", None)
        beside = os.path.join(folder, f"{top}.py")
        if loaded is not None and os.path.exists(beside) and os.path.abspath(loaded) != beside:
            del sys.modules[top]
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
        return Functions(builtins.__import__(name, globals, locals, fromlist, level))

    return imports


class Functions:
    """A module whose functions are awaitable."""

    def __init__(self, module: types.ModuleType):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        from . import function

        value = getattr(self._module, name)
        if isinstance(value, types.ModuleType):
            return Functions(value)
        if isinstance(value, types.FunctionType) and not hasattr(value, "__durable_options__"):
            return function(value)
        return value
