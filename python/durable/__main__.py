"""``python -m durable workflow.py``: runs a workflow in this process. Nothing is saved, and sleeping takes no time."""

from __future__ import annotations

import argparse
import json
import sys

from .testing import Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m durable", description=__doc__)
    parser.add_argument("workflow", help="a workflow file")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=JSON", help="an input of its main()")
    parser.add_argument("--real-time", action="store_true", help="sleep for as long as the workflow says")
    args = parser.parse_args()
    inputs = {}
    for text in args.input:
        name, _, value = text.partition("=")
        try:
            inputs[name] = json.loads(value)
        except ValueError as error:
            parser.error(f"--input {name}: {value} is not JSON ({error})")
    run = Run(args.workflow, skip_time=not args.real_time, **inputs)
    run._run.quiet = False
    print(json.dumps(run.result(), default=str))
    return 0


sys.exit(main())
