"""Runs every workflow of the suite under CPython and prints what came of it, as JSON: a line each."""

import json
import logging
import pathlib
import sys

from durable.testing import Run

logging.disable(logging.CRITICAL)  # asyncio's notes on exceptions that nobody fetched

for path in sorted((pathlib.Path(__file__).parent / "workflows").glob("*.py")):
    if path.stem == "tasks":
        continue
    run = Run(path)
    told = {"name": path.stem, "output": None, "error": None}
    try:
        told["output"] = run.result()
    except Exception as error:
        told["error"] = [type(error).__name__, str(error)]
    told["calls"] = [[call.kind, call.function, list(call.args)] for call in run.calls]
    json.dump(told, sys.stdout)
    print()
