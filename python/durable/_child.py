"""What a child runs: a function of the workflow's file, a file beside it, a text, or what a test deployed."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

WANTED = (
    "a workflow is wanted: an async function of this file or of one beside it, the name of a file beside it, or that of "
    "a deployed workflow"
)


def find(
    workflow: Any, source: str | None, namespace: dict[str, Any], folder: str, deployed: dict[str, Any]
) -> tuple[str, Callable[[], Callable[..., Any]]]:
    """The child's name, and what loads its main()."""
    from .testing import load, load_file

    if isinstance(workflow, str) and workflow:
        if source is not None:
            return workflow, lambda: load(source, workflow, folder=folder)
        if workflow in deployed:
            return workflow, lambda: deployed[workflow]
        file, _, function = workflow.partition(":")
        if file.endswith(".py") and os.path.isfile(os.path.join(folder, file)):
            return workflow, lambda: load_file(os.path.join(folder, file), function or "main", folder)
        return workflow, lambda: missing(workflow)
    if source is not None:
        raise TypeError("start_child(): source= goes with a name: leave it out")
    raw = getattr(workflow, "__durable_function__", workflow)
    if inspect.iscoroutine(raw):
        raw.close()
        raise TypeError(
            "start_child(): a coroutine cannot be a child: hand over the function itself, and its inputs by name"
        )
    if not inspect.isfunction(raw):
        raise TypeError(f"start_child(): {workflow!r} is no workflow: {WANTED}")
    name, there = raw.__name__, raw.__globals__
    if why := why_not(raw, there):
        raise TypeError(f"start_child(): {why}")
    path = there.get("__file__") or "workflow.py"
    if there is namespace:
        text = there.get("__durable_source__")
        shown = f"{os.path.basename(path)}:{name}"
        # A script that runs by itself has no text to be loaded anew.
        return shown, lambda: raw if text is None else load(text, path, name, folder)
    return f"{os.path.relpath(path, folder)}:{name}", lambda: load_file(path, name, folder)


def why_not(function: Any, namespace: dict[str, Any]) -> str | None:
    """Why a function cannot be a child."""
    name = function.__name__
    if name == "<lambda>":
        return "a lambda cannot be a child: define an async def at the top level of the file, and hand over that"
    cannot = f"{name} cannot be a child: "
    if "<locals>" in function.__qualname__:
        return (
            f"{cannot}it is defined inside something: define it at the top level of the file, and hand over what it "
            "needs as inputs"
        )
    if not inspect.iscoroutinefunction(function):
        return f"{cannot}it is no async def: write async def, or call it itself"
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    if kinds & {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL}:
        return f"{cannot}a child's inputs are given by name: leave / and *args out of its parameters"
    if namespace.get(name) is not function:
        return f"{cannot}it is not what {name} means at the top level of its file"
    return None


def missing(name: str) -> Any:
    file, _, function = name.partition(":")
    if not file.endswith(".py"):
        raise NameError(
            f"no workflow is deployed under the name {name}: durable deploy {name} FILE, or give its text with source="
        )
    raise NameError(f"there is no {file} beside the workflow")
