//! What is told of a workflow's text before anything runs.

use std::{collections::BTreeSet, process::Command};

use durable_core::{
    id::ExecutionId,
    interpreter::{CompileError, End, Known, Limits, Origin, Program, Turn, advance, check},
    model::Json,
    offers::Offers,
    time::Timestamp,
};
use serde_json::Value;

fn found(source: &str) -> Vec<CompileError> {
    check("w.py", source, &Known::NOTHING)
}

/// All findings, none of them but these: line, a part of the message, a part of the hint.
fn tells(source: &str, expected: &[(u32, &str, &str)]) {
    let found = found(source);
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{}\n{source}", shown.join("\n"));
    for (found, (line, message, hint)) in found.iter().zip(expected) {
        assert_eq!(found.line, Some(*line), "{found}\n{source}");
        assert!(found.message.contains(message), "{message:?} is not in {found}");
        assert!(found.advice.as_deref().unwrap_or_default().contains(hint), "{hint:?} is not in {found}");
        assert!(found.excerpt.as_ref().is_some_and(|excerpt| excerpt.contains('^')), "{found}");
    }
}

fn refused(source: &str, line: u32, message: &str, hint: &str) {
    tells(source, &[(line, message, hint)]);
    assert!(found(source).iter().all(|found| !found.warning), "{source}");
    assert!(Program::accept("w.py", source, &Known::NOTHING).is_err());
}

fn warned(source: &str, line: u32, message: &str, hint: &str) {
    tells(source, &[(line, message, hint)]);
    assert!(found(source).iter().all(|found| found.warning), "{source}");
    assert!(Program::accept("w.py", source, &Known::NOTHING).is_ok(), "a warning refuses nothing");
}

/// Runs a workflow that calls nothing.
fn run(source: &str) -> End {
    let program = Program::compile("w.py", source).unwrap_or_else(|error| panic!("{error}\n{source}"));
    let id: ExecutionId = "c-1".parse().unwrap();
    let turn = Turn {
        program: &program,
        execution: &id,
        now: Timestamp(1_800_000_000_000_000),
        secret: "",
        offers: &Offers::anything(),
        limits: Limits::default(),
        rights: durable_core::allow::Rights::all(),
    };
    advance(&turn, Origin::Start { inputs: &Json("{}".into()), first_call: 0 }).unwrap().end
}

fn output(source: &str) -> Value {
    match run(source) {
        End::Finish { output, .. } => output.parse().unwrap(),
        other => panic!("{other:?}\n{source}"),
    }
}

fn python(script: &str) -> Value {
    let output = Command::new("python3").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// One line each, as it stands in a file of its own.
const REFUSED_SYNTAX: [(&str, u32, &str); 19] = [
    ("def f():\n    yield 1\n", 2, "build and return a list"),
    ("def f():\n    x = yield from []\n", 2, "build and return a list"),
    ("class A(ValueError):\n    pass\n", 1, "without bases"),
    ("class A(metaclass=type):\n    pass\n", 1, "without bases"),
    ("class A:\n    @property\n    def f(self): pass\n", 2, "decorated"),
    ("class A:\n    x, y = 1, 2\n", 2, ""),
    ("class A:\n    for x in []: pass\n", 2, ""),
    ("async def f():\n    async with g() as x:\n        pass\n", 2, "one by one"),
    ("async def f():\n    async for x in g():\n        pass\n", 2, "one by one"),
    ("async def f():\n    return [x async for x in g()]\n", 2, "one by one"),
    ("x = 1\ndel x\n", 2, "assign None"),
    ("try:\n    pass\nexcept* ValueError:\n    pass\n", 3, "plain except"),
    ("type X = int\n", 1, ""),
    ("from tasks import *\n", 1, "import each name"),
    ("from . import tasks\n", 1, "full name"),
    ("import asyncio\nasync def f():\n    async with asyncio.timeout(5): pass\n", 3, "durable.timeout"),
    ("import asyncio\nasync def f():\n    async with asyncio.TaskGroup() as g: pass\n", 3, "asyncio.gather"),
    ("async def f(lock):\n    async with Lock(): pass\n", 2, "plain variable"),
    ("async def f(n):\n    async with Semaphore(n): pass\n", 2, "limit=n"),
];

#[test]
fn syntax_that_the_interpreter_refuses_is_told_with_what_to_write_instead() {
    for (source, line, hint) in REFUSED_SYNTAX {
        assert!(Program::compile("w.py", source).is_err(), "the interpreter takes it now: {source}");
        let found: Vec<CompileError> =
            found(source).into_iter().filter(|found| found.kind == "NotImplementedError").collect();
        assert_eq!(found.len(), 1, "{found:?}\n{source}");
        assert_eq!(found[0].line, Some(line), "{source}");
        assert!(found[0].advice.as_deref().unwrap_or_default().contains(hint), "{}", found[0]);
    }
}

#[test]
fn all_findings_of_a_file_come_in_one_round() {
    let (mut all, mut lines) = (String::new(), BTreeSet::new());
    for (source, line, _) in REFUSED_SYNTAX {
        lines.insert(u32::try_from(all.lines().count()).unwrap() + line);
        all.push_str(source);
    }
    all.push_str("from dataclasses import asdict\nasync def main():\n    return totl\n");
    let count = u32::try_from(all.lines().count()).unwrap();
    lines.extend([count - 2, count]);
    let found: BTreeSet<u32> =
        found(&all).iter().filter(|found| !found.warning).filter_map(|found| found.line).collect();
    assert!(lines.is_subset(&found), "{:?}", lines.difference(&found));
    let broken = "def f(:\n    pass\nx = 1\ny = ]\nclass A(B):\n    pass\n";
    let told: Vec<Option<u32>> = check("w.py", broken, &Known::NOTHING).iter().map(|found| found.line).collect();
    assert_eq!(told, [Some(1), Some(4), Some(5)], "what cannot be read, and what cannot be had");
}

#[test]
fn what_the_interpreters_own_modules_lack_is_refused_and_nothing_else() {
    let modules = [
        "dataclasses",
        "functools",
        "collections",
        "datetime",
        "math",
        "itertools",
        "json",
        "re",
        "random",
        "copy",
        "typing",
        "asyncio",
        "time",
        "base64",
        "hashlib",
        "bisect",
        "decimal",
        "csv",
        "tomllib",
        "unicodedata",
    ];
    let names = python(&format!(
        "import importlib, json\nprint(json.dumps({{m: [n for n in dir(importlib.import_module(m)) if n[0] != '_'] for m in {modules:?}}}))"
    ));
    let mut lacking = 0;
    for (module, names) in names.as_object().unwrap() {
        for name in names.as_array().unwrap().iter().filter_map(Value::as_str) {
            for source in
                [format!("import {module}\nx = {module}.{name}\n0\n"), format!("from {module} import {name}\n0\n")]
            {
                let works = matches!(run(&source), End::Finish { .. });
                assert_eq!(found(&source).is_empty(), works, "{source}");
                lacking += usize::from(!works);
            }
        }
    }
    assert!(lacking > 100, "{lacking}");
    refused("from dataclasses import asdict\n", 1, "dataclasses has no asdict", "write the fields out");
    refused("import functools as f\n@f.wraps(print)\ndef g(): pass\n", 2, "functools has no wraps", "leave it out");
    refused("import datetime\nx = datetime.UTC\n", 2, "datetime has no UTC", "datetime.timezone.utc");
    refused("from collections import OrderedDict as O\n", 1, "no OrderedDict", "a dict");
    refused("import math\ndef f():\n    return math.nope(1)\n", 3, "math has no nope", "");
    tells("try:\n    from datetime import UTC\nexcept ImportError:\n    UTC = None\n", &[]);
    tells("def f(math):\n    return math.nope\n", &[]);
}

#[test]
fn every_module_of_the_standard_library_is_refused_unless_there_are_functions_of_that_name() {
    let modules = python("import sys, json\nprint(json.dumps([m for m in sys.stdlib_module_names if m[0] != '_']))");
    let has = ["durable", "uuid", "this", "antigravity", "idlelib"];
    let mut count = 0;
    for module in modules.as_array().unwrap().iter().filter_map(Value::as_str).filter(|module| !has.contains(module)) {
        let source = format!("import {module}\n0\n");
        let refused = !found(&source).is_empty();
        count += usize::from(refused);
        // Whatever is not refused is the interpreter's own.
        assert!(refused || Program::compile("w.py", &source).unwrap().modules().count() == 0, "{module}");
    }
    assert!(count > 145, "{count}");
    refused("from zoneinfo import ZoneInfo\n", 1, "no module zoneinfo", "datetime.timezone.utc");
    refused("import traceback\n", 1, "no module traceback", "str(error)");
    refused("from collections.abc import Callable\n", 1, "no module collections.abc", "typing");
    refused("import os.path as p\nimport calendar\n", 2, "no module calendar", "");
    let known = Known { module: &|module| module == "calendar", ..Known::NOTHING };
    let source = "from calendar import book\nasync def main():\n    return await book(1)\n";
    assert_eq!(check("w.py", source, &known), []);
    let source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zoneinfo import ZoneInfo\ndef main(z: 'ZoneInfo'):\n    return 1\n";
    tells(source, &[]);
    assert_eq!(Program::compile("w.py", source).unwrap().served.len(), 0);
    tells(
        "def main():\n    return 1\nif __name__ == '__main__':\n    import argparse, sys\n    print(argparse.x, sys.exit(), undefined)\n",
        &[],
    );
}

#[test]
fn a_name_that_is_defined_nowhere_is_refused_where_it_is_read() {
    let read = |body: &str| format!("async def main(total: int = 0):\n{body}");
    refused(&read("    return totl\n"), 2, "name 'totl' is not defined", "did you mean total?");
    refused(&read("    return [n + k for n in range(3)]\n"), 2, "name 'k'", "make it a parameter");
    refused(&read("    x = [n for n in range(3)]\n    return n\n"), 3, "name 'n'", "");
    refused(&read("    f = lambda a: a + bb\n    return f(1)\n"), 2, "name 'bb'", "");
    refused(&read("    y += 1\n").replace("y +=", "y.z ="), 2, "name 'y'", "");
    refused(
        "class A:\n    size = 1\n    def f(self):\n        return size\ndef main():\n    return A().f()\n",
        4,
        "name 'size'",
        "",
    );
    refused(&read("    return f'{totl}'\n"), 2, "name 'totl'", "");
    refused(&read("    match total:\n        case 1: return one\n"), 3, "name 'one'", "");
    refused(&read("    try: pass\n    except ConnectionError: pass\n"), 3, "no ConnectionError", "OSError");
    refused(&read("    return callable(total)\n"), 2, "no callable", "");
    warned(&read("    return prnit(total)\n"), 2, "name 'prnit'", "did you mean print?");
    warned(
        "from tasks import encode\nasync def main():\n    return await encod(1)\n",
        3,
        "name 'encod'",
        "did you mean encode?",
    );
    tells(&read("    return await charge(total)\n"), &[]);
    warned("total = 1\nasync def f():\n    return totl\nawait f()\n", 3, "name 'totl'", "did you mean total?");
    let known = Known { function: &|name| name == "charge", ..Known::NOTHING };
    assert_eq!(check("w.py", &read("    f = charge\n    return await f(1)\n"), &known), []);
    tells("import durable\nasync def main():\n    return await durable.map(charge, [1])\n", &[]);
}

#[test]
fn names_are_found_in_every_scope_that_python_has() {
    let fine = "
import json as j
LIMIT = 3
count = 0
def outer(a, *args, b=LIMIT, **kw):
    seen = []
    def inner():
        nonlocal seen
        global count, made
        count += 1
        made = later(a)
        seen = [a, b, args, kw, made]
        return seen
    return inner
def later(x: Nowhere) -> Elsewhere:
    return x
class Point:
    base = 1
    double = base * 2
    each = [base for _ in range(2)]
    def shift(self, by=double):
        return Point, by, self, __name__
async def main(rows: list = [], deep: 'Any' = None):
    made_here: Missing = 1
    try:
        pairs = {k: v for k, v in enumerate(rows) if (last := v)}
    except (ValueError, KeyError) as error:
        print(error, j.dumps(rows))
    else:
        last = 0
    match rows:
        case [first, *rest]: print(first, rest)
        case {'a': value, **others}: print(value, others)
        case Point(base=found): print(found)
        case str() as text: print(text)
    for i, (x, y) in []: print(i, x, y)
    with outer(1) as (left, right): print(left, right)
    key = lambda item, n=LIMIT: (item, n, last)
    print(pairs, key, made_here, [p + q for p in rows for q in p], made, count, outer, NotImplemented, ...)
    return sorted(rows, key=lambda r: r)
";
    tells(fine, &[]);
    tells("exec('x = 1')\nprint(x)\ndef main():\n    return x\n", &[]);
}

#[test]
fn values_that_the_interpreter_takes_another_way_are_refused() {
    let main = |body: &str| format!("async def main(d: dict = {{}}):\n    {body}\n");
    refused(&main("return max(d, key=d.get)"), 2, "method get is no value", "lambda item: d.get(item)");
    refused(&main("return sorted(d, key=str.lower)"), 2, "method lower", "lambda item: item.lower()");
    refused(&main("return list(map(str.strip, d))"), 2, "method strip", "lambda");
    refused(&main("out = []; add = out.append; add(1)"), 2, "method append", "lambda");
    refused(&main("return next(x for x in d)"), 2, "is a list", "next(iter(…), default)");
    refused(&main("return next((x for x in d), None)"), 2, "is a list", "next(iter(…), default)");
    refused(&main("g = (x for x in d); return next(g)"), 2, "is a list", "next(iter(");
    refused(&main("return open('x').read()"), 2, "cannot use files", "function of a worker");
    refused("import time\ntime.sleep(1)\n", 2, "would block", "await asyncio.sleep");
    refused("from time import sleep\ndef main():\n    sleep(1)\n", 3, "would block", "await asyncio.sleep");
    refused("import os\nhome = os.environ['HOME']\n", 2, "os.environ", "function of a worker");
    refused("from os import getenv\n", 1, "os.getenv", "function of a worker");
    refused("import os\nx = os.path.exists('a')\n", 2, "os.path.exists", "");
    tells("import os\nfrom os.path import join\nx = os.path.basename(join('a', 'b')) + os.sep\n", &[]);
    tells("class Box:\n    def get(self, k): return k\ndef main(d):\n    return sorted([1], key=Box().get)\n", &[]);
    tells(
        "def main(order):\n    n = order.items\n    return order.count + len(n) + next(iter(x for x in n), 0)\n",
        &[],
    );
    tells("def main(open):\n    return open('x')\n", &[]);
    for (name, hint) in [
        ("create_task", "durable.spawn"),
        ("wait_for", "durable.timeout"),
        ("timeout", "durable.timeout"),
        ("TaskGroup", "gather"),
        ("Lock", "plain variable"),
        ("Semaphore", "limit=n"),
        ("Event", "wait_signal"),
        ("Queue", "durable.map"),
        ("as_completed", "race"),
        ("shield", "finally"),
        ("to_thread", "worker"),
        ("get_event_loop", "no event loop"),
        ("wait", "race"),
        ("ensure_future", "durable.spawn"),
    ] {
        refused(&format!("import asyncio\nx = asyncio.{name}\n"), 2, &format!("asyncio has no {name}"), hint);
    }
}

#[test]
fn a_wait_that_is_made_and_dropped_is_warned_of() {
    let main = |body: &str| format!("import durable\nfrom tasks import f\nasync def main():\n    {body}\n");
    warned(&main("w = durable.wait_signal('x')"), 4, "made and dropped", "await");
    warned(&main("_ = durable.wait_signal('x')"), 4, "made and dropped", "await");
    warned(&main("durable.callback()"), 4, "a callback is made and dropped", "await answer");
    warned(&main("token, answer = durable.callback(); await f(token)"), 4, "answer is never awaited", "await answer");
    warned(&main("h = f(1)"), 4, "tasks.f() is made and dropped", "await");
    tells(&main("_ = f(1)"), &[]);
    tells(&main("w = durable.wait_signal('x'); return await w"), &[]);
    tells(&main("w = []; w.append(durable.wait_signal('x')); return await w[0]"), &[]);
    tells(&main("token, answer = durable.callback(); return await answer"), &[]);
    refused(&main("durable.wait_signal('x')"), 4, "durable.wait_signal() is not awaited", "await");
}

#[test]
fn the_texts_of_children_are_looked_over_as_files_of_their_own() {
    let child = |text: &str| {
        format!("import durable\nasync def main():\n    return await durable.run_child('c.py', source={text})\n")
    };
    refused(&child("'async def main():\\n    return totl\\n'"), 3, "in the text of c.py, line 2: NameError", "");
    refused(&child("'def main():\\n    yield 1\\n'"), 3, "line 2: NotImplementedError", "build and return a list");
    let named = format!("CHILD = 'import zoneinfo'\n{}", child("CHILD"));
    refused(&named, 4, "in the text of c.py, line 1: ModuleNotFoundError", "");
    tells(&child("'async def main(n): return n * n'"), &[]);
    tells(&child("make('x')").replace("async def", "def make(x): return x\nasync def"), &[]);
}

#[test]
fn hasattr_and_getattr_answer_as_cpython_or_refuse() {
    let values = "import collections, datetime, re, decimal\ndef plain(): pass\nclass Own:\n    def __init__(self): self.x = 1\n    def m(self): return 2\n";
    let pairs = "[(v, n) for v in ['a', b'b', 1, 1.5, True, [], (), {}, set(), frozenset(), range(2), None, collections.deque(), \
                 collections.Counter(), datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.timedelta(1), decimal.Decimal(1), \
                 re.compile('a'), plain, ValueError('x'), Own(), int, str, Own] \
                 for n in ['upper', 'items', 'append', 'get', 'real', 'isoformat', 'year', 'x', 'm', 'nope', '__len__', '__iter__', '__call__', \
                 '__name__', '__class__', '__dict__', 'args', 'pattern', 'match', 'from_bytes', 'as_tuple', 'add', 'count']]";
    let source = format!("{values}def main():\n    return [hasattr(v, n) for v, n in {pairs}]\n");
    let theirs = python(&format!("{source}import json\nprint(json.dumps(main()))"));
    let ours = output(&source);
    let named = python(&format!("{values}import json\nprint(json.dumps([f'{{v!r}}.{{n}}' for v, n in {pairs}]))"));
    for (place, name) in named.as_array().unwrap().iter().enumerate() {
        assert_eq!(ours[place], theirs[place], "hasattr of {name}");
    }
    let called = "def main():\n    d = {'a': 1}\n    out = []\n    f = getattr(out, 'append', None)\n    f(3)\n    return [getattr('a', 'upper', None)(), getattr(d, 'get')('a'), getattr(d, 'nope', 4), \
                  max(d, key=getattr(d, 'get')), out]\n";
    assert_eq!(output(called), python(&format!("{called}import json\nprint(json.dumps(main()))")));
    match run("def main():\n    return getattr('a', '__sizeof__', 1)\n") {
        End::Fail { failure, .. } => assert_eq!(failure.kind, "NotImplementedError", "{failure:?}"),
        other => panic!("{other:?}"),
    }
    match run("x = 1\ndef main():\n    return getattr(x, 'nope')\n") {
        End::Fail { failure, .. } => {
            assert_eq!(
                (failure.kind.as_str(), failure.message.as_str()),
                ("AttributeError", "'int' object has no attribute 'nope'")
            );
            assert!(failure.traceback.unwrap().contains("line 3, in main"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_function_is_found_by_its_name_in_a_module() {
    let source = "import tasks\nasync def main(name: str = 'charge'):\n    return await getattr(tasks, name)(7)\n";
    let program = Program::compile("w.py", source).unwrap();
    assert_eq!(found(source), []);
    let id: ExecutionId = "c-2".parse().unwrap();
    let start = |offers: &Offers, name: &str| {
        let turn = Turn {
            program: &program,
            execution: &id,
            now: Timestamp(1_800_000_000_000_000),
            secret: "",
            offers,
            limits: Limits::default(),
            rights: durable_core::allow::Rights::all(),
        };
        let inputs = Json(format!("{{\"name\": \"{name}\"}}"));
        advance(&turn, Origin::Start { inputs: &inputs, first_call: 0 }).unwrap().end
    };
    let known = Offers::only(["tasks.charge".to_owned()]);
    for (offers, name) in [(&known, "charge"), (&Offers::anything(), "anything")] {
        match start(offers, name) {
            End::Pause(pause) => assert_eq!(pause.new_calls[0].function, format!("tasks.{name}")),
            other => panic!("{other:?}"),
        }
    }
    match start(&known, "chrge") {
        End::Fail { failure, .. } => {
            assert_eq!(
                (failure.kind.as_str(), failure.message.as_str()),
                ("AttributeError", "module 'tasks' has no attribute 'chrge'")
            );
        }
        other => panic!("{other:?}"),
    }
}

fn workflows_in(folder: &str, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            workflows_in(path.to_str().unwrap(), found);
        } else if path.extension().is_some_and(|end| end == "py") && !path.ends_with("tasks.py") {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn nothing_is_told_of_files_that_are_well() {
    let mut files = Vec::new();
    workflows_in("../../examples", &mut files);
    workflows_in("../../python/tests/workflows", &mut files);
    let docs = include_str!("../../../../docs/workflows.md").split("```python\n").skip(1);
    files.extend(docs.map(|block| ("docs".to_owned(), block.split("```").next().unwrap().to_owned())));
    files.extend(ORDINARY.iter().map(|source| ("ordinary".to_owned(), (*source).to_owned())));
    assert!(files.len() > 70, "{}", files.len());
    let beside = |path: &str| match path {
        "child.py" => Some("async def resize(width):\n    return width\n".to_owned()),
        path => std::fs::read_to_string(format!("../../python/tests/workflows/{path}")).ok(),
    };
    for (name, source) in files {
        let known = Known { file: &beside, ..Known::NOTHING };
        let told: Vec<String> = check("w.py", &source, &known).iter().map(ToString::to_string).collect();
        assert!(told.is_empty(), "{name}:\n{}\n{source}", told.join("\n"));
    }
}

/// Workflows of the kinds that people write.
const ORDINARY: [&str; 15] = [
    "import asyncio\nfrom tasks import fetch, store\n\nasync def one(url: str) -> dict:\n    page = await fetch(url)\n    return {\"url\": url, \"size\": len(page)}\n\nasync def main(urls: list[str]):\n    pages = await asyncio.gather(*(one(url) for url in urls))\n    pages.sort(key=lambda page: page[\"size\"], reverse=True)\n    await store(pages)\n    return {page[\"url\"]: page[\"size\"] for page in pages}\n",
    "from dataclasses import dataclass, field\nfrom tasks import charge, ship\n\n@dataclass\nclass Order:\n    id: str\n    lines: list = field(default_factory=list)\n    total: float = 0.0\n\n    def add(self, name, price):\n        self.lines.append((name, price))\n        self.total += price\n\nasync def main(id: str, items: dict):\n    order = Order(id)\n    for name, price in items.items():\n        order.add(name, price)\n    if order.total > 100:\n        await charge(order.id, amount=order.total)\n    return await ship(order.id, [name for name, _ in order.lines])\n",
    "import durable\nfrom durable import TaskTimeout\nfrom tasks import book, undo\n\nasync def main(steps: list):\n    done = []\n    try:\n        for step in steps:\n            done.append(await durable.timeout(book(step), 60))\n    except (TaskTimeout, ValueError) as error:\n        for booking in reversed(done):\n            await undo(booking)\n        durable.set_status({\"undone\": len(done), \"why\": str(error)})\n        raise\n    return done\n",
    "import durable\nfrom datetime import timedelta\nfrom tasks import remind\n\nasync def main(user: str, days: int = 3):\n    due = durable.now() + timedelta(days=days)\n    for attempt in range(1, 4):\n        await durable.sleep_until(due)\n        try:\n            return await durable.wait_signal(\"answer\", timeout=86400)\n        except durable.SignalTimeout:\n            await remind(user, attempt)\n            due += timedelta(days=1)\n    return None\n",
    "import asyncio\nimport json\nimport re\nfrom tasks import ask_model, run_tool\n\nPATTERN = re.compile(r\"^(\\w+)\\((.*)\\)$\")\n\nasync def main(question: str, limit: int = 10):\n    messages = [{\"role\": \"user\", \"content\": question}]\n    while limit > 0:\n        limit -= 1\n        reply = await ask_model(messages)\n        match PATTERN.match(reply):\n            case None:\n                return reply\n            case found:\n                tool, args = found.group(1), json.loads(found.group(2) or \"{}\")\n        messages.append({\"role\": \"tool\", \"content\": json.dumps(await run_tool(tool, **args))})\n    raise RuntimeError(f\"no answer after {len(messages)} messages\")\n",
    "from collections import Counter, defaultdict\nfrom itertools import groupby\nfrom tasks import count_words\n\nasync def main(texts: list):\n    total, by_length = Counter(), defaultdict(list)\n    for text in texts:\n        total.update(await count_words(text))\n    for length, words in groupby(sorted(total, key=len), key=len):\n        by_length[length].extend(words)\n    return {\"top\": total.most_common(3), \"lengths\": dict(by_length)}\n",
    "import durable\nimport uuid\nfrom tasks import pay\n\nasync def main(amount: float):\n    key = str(uuid.uuid4())\n    token, answer = durable.callback(timeout=3600)\n    payment = await durable.call(pay, amount, token, retries=5, idempotency_key=key)\n    index, value = await durable.race(answer, durable.wait_signal(\"cancel\"))\n    return {\"payment\": payment, \"paid\": index == 0, \"value\": value}\n",
    "import asyncio\nimport tasks.video as video\n\nSIZES = (360, 720, 1080)\n\nasync def main(path: str, sizes: list = list(SIZES)):\n    info = await video.probe(path)\n    wanted = [size for size in sizes if size <= info[\"height\"]]\n    made = await asyncio.gather(*[video.encode(path, size=size) for size in wanted])\n    return dict(zip(wanted, made))\n\nif __name__ == \"__main__\":\n    import sys\n    print(asyncio.run(main(sys.argv[1])))\n",
    "import durable\n\nasync def main(state: dict = None, rounds: int = 0):\n    state = state or {\"seen\": 0}\n    while True:\n        event = await durable.wait_signal(\"event\")\n        if event == \"stop\":\n            return state\n        state[\"seen\"] += 1\n        if state[\"seen\"] % 100 == 0:\n            durable.continue_as_new(state=state, rounds=rounds + 1)\n",
    "import math\nimport random\nfrom decimal import Decimal, ROUND_HALF_UP\nfrom tasks import quote\n\ndef rounded(value):\n    return Decimal(str(value)).quantize(Decimal(\"0.01\"), rounding=ROUND_HALF_UP)\n\nasync def main(prices: list):\n    mean = sum(prices) / len(prices)\n    spread = math.sqrt(sum((p - mean) ** 2 for p in prices) / len(prices))\n    lucky = random.choice(prices)\n    return {\"mean\": str(rounded(mean)), \"spread\": spread, \"quote\": await quote(lucky)}\n",
    "from functools import partial, reduce\nfrom durable import map, settle\nfrom tasks import resize\n\nasync def main(images: list, width: int = 100):\n    small = partial(resize, width=width)\n    made = await map(small, images, limit=4)\n    good = [one for one in await settle(*[resize(m) for m in made]) if not isinstance(one, Exception)]\n    return reduce(lambda a, b: a + len(b), good, 0)\n",
    "import durable\nfrom tasks import audit, work\n\nclass Ledger:\n    def __init__(self, start=0):\n        self.balance = start\n        self.entries = []\n\n    def __repr__(self):\n        return f\"Ledger({self.balance})\"\n\n    def book(self, amount, *, note=\"\"):\n        self.balance += amount\n        self.entries.append((amount, note))\n        return self\n\nasync def watch(ledger):\n    await audit(repr(ledger))\n\nasync def main(amounts: list):\n    ledger = Ledger()\n    handle = durable.spawn(watch(ledger))\n    for amount in amounts:\n        ledger.book(await work(amount), note=\"auto\")\n    await handle\n    return ledger.balance\n",
    "x = await fetch_price(item)\nprint(f\"{item}: {x:.2f}\")\nx * quantity\n",
    "import asyncio\nfrom tasks import check_stock, order, notify\n\nasync def first_in(stores, item):\n    for store in stores:\n        if (left := await check_stock(store, item)) and left > 0:\n            return store, left\n    return None, 0\n\nasync def main(item: str, stores: list, *, urgent: bool = False, **extra):\n    store, left = await first_in(stores, item)\n    match (store, urgent):\n        case (None, True):\n            await notify(\"buyer\", item)\n            return {\"ordered\": False}\n        case (None, False):\n            await asyncio.sleep(3600)\n            store = stores[0]\n    return {\"ordered\": await order(store, item, **extra), \"left\": left}\n",
    "import datetime as dt\nimport time\nfrom typing import Any, Optional\n\nfrom tasks import report\n\ndef quarter(day: dt.date) -> str:\n    return f\"{day.year}Q{(day.month - 1) // 3 + 1}\"\n\nasync def main(rows: list[dict[str, Any]], when: Optional[str] = None):\n    day = dt.date.fromisoformat(when) if when else dt.datetime.now(dt.timezone.utc).date()\n    began = time.time()\n    try:\n        total = sum(row[\"amount\"] for row in rows)\n    except KeyError as error:\n        raise ValueError(f\"a row has no {error}\") from error\n    finally:\n        print(time.time() - began)\n    return await report(quarter(day), total)\n",
];
