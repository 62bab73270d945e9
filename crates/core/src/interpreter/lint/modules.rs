//! What the interpreter's own modules have, and what Python's standard library has besides.
//!
//! The interpreter itself is asked, so that no list can tell another story than it.

use std::time::Duration;

use monty::{MontyRun, RunProgress};
use monty_types::{CompileOptions, PrintWriter, ResourceLimits, ResourceTracker};

use super::asyncio;
use crate::interpreter::prelude;

/// The names of the modules of CPython 3.11, one a line.
const STANDARD_LIBRARY: &str = include_str!("standard_library.txt");

/// Whether a module is the interpreter's own, and not one that a worker or the prelude serves.
pub(super) fn is_own(module: &str) -> bool {
    monty::builtin_module_names().contains(&module)
}

/// Whether `module` means a part of Python that a workflow does not have.
pub(super) fn is_lacking(module: &str) -> bool {
    let top = module.split('.').next().unwrap_or_default();
    let is_standard = || STANDARD_LIBRARY.lines().any(|name| name == top);
    !prelude::has(top) && !is_own(module) && (is_own(top) || is_standard())
}

/// What to write instead of a module that is lacking.
pub(super) fn instead_of(module: &str) -> &'static str {
    match module.split('.').next().unwrap_or_default() {
        "zoneinfo" => "datetime.timezone.utc, or a timedelta of hours; local times are for functions of a worker",
        "enum" => "names with texts as values: OPEN = \"open\"",
        "contextlib" => "try and finally, or try and except: pass",
        "logging" => "durable.log(…), or print(…): both go to the execution's log",
        "concurrent" | "threading" | "multiprocessing" | "queue" => "await asyncio.gather(…), or durable.map(…)",
        "collections" => "typing has these names",
        "contextvars" => "a plain variable, or an argument",
        "traceback" => "str(error): the traceback of a failure is kept with the execution",
        "abc" | "types" | "inspect" => "leave it out: plain classes and functions need none of it",
        "secrets" => "uuid.uuid4(), or random",
        "string" => "write the letters out",
        "heapq" => "sorted(…), or bisect.insort",
        "operator" => "a lambda: key=lambda item: item[0]",
        _ => "use it in a function of a worker, and await that",
    }
}

/// Whether the interpreter's own module has a name.
pub(super) fn has(module: &str, name: &str) -> bool {
    runs(&format!("from {module} import {name}\n"))
}

/// Whether a name is one of the interpreter's builtins.
pub(super) fn is_builtin(name: &str) -> bool {
    runs(&format!("{name}\n"))
}

/// Whether a text without side effects runs to its end.
fn runs(text: &str) -> bool {
    let Ok(run) = MontyRun::new(text.to_owned(), "probe.py", Vec::new(), CompileOptions::default()) else {
        return false;
    };
    let limits = ResourceLimits::default().max_turn_duration(Duration::from_secs(1));
    let end = run.start(Vec::new(), ResourceTracker::new(limits), PrintWriter::Disabled);
    matches!(end, Ok(RunProgress::Complete(_)))
}

/// What to write instead of a name that a module of the interpreter lacks.
pub(super) fn instead(module: &str, name: &str) -> &'static str {
    match (module, name) {
        ("asyncio", name) => {
            asyncio::instead(name).unwrap_or("it has gather, run and sleep; the module durable has more")
        }
        ("dataclasses", "asdict" | "astuple" | "fields") => "write the fields out: {\"name\": order.name}",
        ("dataclasses", "replace") => "make a new one: Order(name=order.name, paid=True)",
        ("functools", "wraps" | "update_wrapper") => "leave it out: functions of a workflow have no __name__ to keep",
        ("functools", "cached_property" | "singledispatch" | "singledispatchmethod" | "total_ordering") => {
            "a plain function"
        }
        ("datetime", "UTC") => "datetime.timezone.utc",
        ("collections", "OrderedDict") => "a dict: it keeps its order",
        ("collections", "ChainMap" | "UserDict" | "UserList" | "UserString") => "a dict or a list",
        ("collections", "abc") => "typing has these names, or leave them out",
        ("typing", "NamedTuple" | "TypedDict" | "Protocol" | "Generic") => "a dataclass, or a dict",
        ("sys", "exit") => "return from main, or raise RuntimeError(\"…\")",
        ("os", "getenv" | "environ") => "read it in a function of a worker, or give it as an input",
        _ => "write it out, or use it in a function of a worker",
    }
}

/// What these modules have and a workflow may not use: it has no files and no system.
pub(super) fn is_system(dotted: &str) -> bool {
    const PURE: [&str; 8] = ["sep", "linesep", "fspath", "name", "urandom", "PathLike", "path", "curdir"];
    const READS: [&str; 12] = [
        "exists", "isfile", "isdir", "islink", "getsize", "getmtime", "getatime", "getctime", "samefile", "realpath",
        "lexists", "ismount",
    ];
    if let Some(name) = dotted.strip_prefix("os.path.").or_else(|| dotted.strip_prefix("posixpath.")) {
        return READS.contains(&name);
    }
    dotted.strip_prefix("os.").is_some_and(|name| !PURE.contains(&name.split('.').next().unwrap_or_default()))
}

/// CPython's builtins that the interpreter lacks, with what to write instead.
pub(super) fn builtin_instead(name: &str) -> Option<&'static str> {
    Some(match name {
        "callable" | "issubclass" | "dir" | "vars" | "globals" | "delattr" | "super" | "classmethod"
        | "staticmethod" | "compile" | "__import__" | "memoryview" | "bytearray" | "aiter" | "anext" | "help"
        | "breakpoint" => "write it another way, or in a function of a worker",
        "ascii" => "repr(value)",
        "input" => "await durable.wait_signal(name), or a parameter of main",
        "exit" | "quit" => "return from main, or raise RuntimeError(\"…\")",
        "ConnectionError"
        | "ConnectionRefusedError"
        | "ConnectionResetError"
        | "ConnectionAbortedError"
        | "BrokenPipeError"
        | "IOError"
        | "EnvironmentError"
        | "InterruptedError"
        | "ProcessLookupError"
        | "ChildProcessError"
        | "BlockingIOError" => "OSError: a function's error of that type arrives as one",
        "EOFError"
        | "BufferError"
        | "ReferenceError"
        | "SystemError"
        | "StopAsyncIteration"
        | "GeneratorExit"
        | "FloatingPointError"
        | "IndentationError"
        | "TabError"
        | "UnboundLocalError"
        | "UnicodeError"
        | "UnicodeTranslateError"
        | "ModuleNotFoundError"
        | "ExceptionGroup"
        | "BaseExceptionGroup" => "its nearest base that the interpreter has: Exception, ValueError, RuntimeError",
        name if name.ends_with("Warning") => "durable.log(…)",
        _ => return None,
    })
}
