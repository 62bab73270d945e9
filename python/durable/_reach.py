"""What a running workflow may still await, decided by its references as the engine decides it."""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import Iterable
from typing import Any


def reached(roots: Iterable[Any], namespace: dict[str, Any], never: tuple[type, ...]) -> set[int]:
    """The ids of all objects that ``roots`` lead to. Other modules than the workflow's own ``namespace`` are not gone into,
    nor objects of the types ``never``."""
    open_ = list(roots)
    seen: set[int] = set()
    while open_:
        thing = open_.pop()
        if id(thing) in seen or isinstance(thing, (types.ModuleType, asyncio.AbstractEventLoop, *never)):
            continue
        if isinstance(thing, type) and thing.__module__ != namespace.get("__name__"):
            continue
        # The names of another module.
        if isinstance(thing, dict) and thing is not namespace and "__name__" in thing and "__builtins__" in thing:
            continue
        seen.add(id(thing))
        open_.extend(_held_by(thing))
    return seen


def _held_by(thing: Any) -> Iterable[Any]:
    if isinstance(thing, asyncio.Task):
        # Not what waits for it: that would lead from a thing to whoever has given up on it.
        return [] if thing.done() else [thing.get_coro(), thing._fut_waiter]  # type: ignore[attr-defined]
    if isinstance(thing, asyncio.Future):
        if not thing.done():
            return getattr(thing, "_children", [])
        return [] if thing.cancelled() or thing.exception() is not None else [thing.result()]
    if isinstance(thing, (types.CoroutineType, types.AsyncGeneratorType, types.GeneratorType)):
        return [*gc.get_referents(thing), getattr(thing, "cr_await", None)]
    return gc.get_referents(thing) if gc.is_tracked(thing) else []
