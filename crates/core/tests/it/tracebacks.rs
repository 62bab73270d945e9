//! Tracebacks say what CPython's say: the lines, the functions, and what an exception followed from.

use std::{fmt::Write as _, process::Command, time::Duration};

use durable_core::{
    id::ExecutionId,
    interpreter::{End, Limits, Origin, Program, Turn, advance},
    model::{Failure, Json, Outcome},
    offers::Offers,
    time::Timestamp,
};
use serde_json::Value;

/// Bodies of files that end with an exception. `fail(x)` of a worker raises `ValueError(x)`, `ok(x)` gives `x`.
const SHAPES: &[(&str, &str)] = &[
    (
        "an unmatched except",
        "async def main():\n    try:\n        {}['missing']\n    except TimeoutError:\n        print()\n",
    ),
    (
        "several unmatched clauses",
        "def main():\n    try:\n        x = 1\n        int('x')\n        x = 2\n    except KeyError:\n        print(1)\n    except (TypeError, IndexError) as e:\n        print(e)\n    else:\n        print(2)\n",
    ),
    ("a finally", "def main():\n    try:\n        1 / 0\n    finally:\n        print('a')\n        print('b')\n"),
    (
        "nested try, except and finally",
        "def main():\n    try:\n        try:\n            try:\n                [][1]\n            except KeyError:\n                pass\n        finally:\n            x = 1\n    except ValueError:\n        x = 2\n",
    ),
    (
        "a bare raise",
        "def main():\n    try:\n        x = 1\n        int('q')\n    except ValueError:\n        print('seen')\n        raise\n",
    ),
    (
        "a bare raise after another raise",
        "def main(n=0):\n    try:\n        int('q')\n    except ValueError:\n        if n:\n            raise ValueError('other')\n        raise\n",
    ),
    (
        "raise of what was caught",
        "def main():\n    try:\n        int('q')\n    except ValueError as error:\n        print(error)\n        raise error\n",
    ),
    (
        "a function called in try",
        "def deep(x):\n    y = x\n    return int(y)\n\ndef middle(x):\n    return deep(x)\n\ndef main():\n    try:\n        middle('q')\n    except KeyError:\n        print()\n",
    ),
    (
        "try in each function",
        "def deep(x):\n    try:\n        return int(x)\n    finally:\n        x = 1\n\ndef middle(x):\n    try:\n        return deep(x)\n    except KeyError:\n        pass\n\ndef main():\n    try:\n        middle('q')\n    except TypeError:\n        print()\n",
    ),
    (
        "with",
        "class Box:\n    def __enter__(self):\n        return self\n    def __exit__(self, *args):\n        return False\n\ndef main():\n    with Box() as box:\n        x = 1\n        {}['k']\n        x = 2\n",
    ),
    (
        "caught before in the same block",
        "def main():\n    for text in ['1', 'q']:\n        try:\n            x = {'1': 1}[text]\n            y = [1][x]\n        except IndexError:\n            print()\n",
    ),
    (
        "caught in a loop and then not",
        "def main():\n    found = {'a': 1}\n    for row in [{'n': 'x'}, {}, {'n': '7'}]:\n        try:\n            n = row['n']\n            found[int(n)] = 1\n            n + 1\n        except (KeyError, ValueError):\n            continue\n",
    ),
    (
        "attempts",
        "def main():\n    for attempt in range(3):\n        try:\n            int('q')\n        except ValueError:\n            if attempt == 2:\n                raise\n",
    ),
    (
        "same text twice",
        "def main():\n    try:\n        int('q')\n    except ValueError:\n        pass\n    x = 1\n    try:\n        int('q')\n    finally:\n        x = 2\n",
    ),
    (
        "raise from",
        "def main():\n    try:\n        int('q')\n    except ValueError as error:\n        raise RuntimeError('no number') from error\n",
    ),
    (
        "raise from None",
        "def main():\n    try:\n        int('q')\n    except ValueError as error:\n        raise RuntimeError('no number') from None\n",
    ),
    ("raise while handling", "def main():\n    try:\n        int('q')\n    except ValueError:\n        {}['k']\n"),
    (
        "a function that raises while handling",
        "def undo():\n    raise RuntimeError('undo')\n\ndef main():\n    try:\n        int('q')\n    except ValueError:\n        undo()\n",
    ),
    (
        "a chain of three",
        "def main():\n    try:\n        try:\n            int('q')\n        except ValueError as error:\n            raise KeyError('second') from error\n    except KeyError as error:\n        raise RuntimeError('third') from error\n",
    ),
    ("raise in finally", "def main():\n    try:\n        int('q')\n    finally:\n        {}['k']\n"),
    (
        "after a try that was well",
        "def main():\n    try:\n        int('q')\n    except ValueError:\n        x = 1\n    y = 2\n    {}['after']\n",
    ),
    (
        "else",
        "def main():\n    try:\n        x = 1\n    except ValueError:\n        x = 2\n    else:\n        {}['else']\n    finally:\n        x = 3\n",
    ),
    ("assert", "def main():\n    try:\n        x = 1\n        assert False, 'never'\n    finally:\n        x = 2\n"),
    ("attribute", "def main():\n    try:\n        x = 1\n        x.nope\n    except KeyError:\n        print()\n"),
    (
        "undefined",
        "def main():\n    try:\n        x = 1\n        y = nowhere_defined\n    except KeyError:\n        print()\n",
    ),
    (
        "a call that fails in try",
        "from tasks import fail, ok\n\nasync def main():\n    try:\n        x = await ok(1)\n        await fail('boom')\n        x = 2\n    except TimeoutError:\n        print()\n",
    ),
    (
        "a call that fails in a function",
        "from tasks import fail, ok\n\nasync def step(n):\n    await ok(n)\n    return await fail('boom')\n\nasync def main():\n    try:\n        await step(1)\n    finally:\n        x = 2\n",
    ),
    (
        "compensation that awaits",
        "from tasks import fail, ok\n\nasync def main():\n    try:\n        await ok(1)\n        await fail('boom')\n    except ValueError:\n        await ok(2)\n        await ok(3)\n        raise\n",
    ),
    (
        "finally that awaits",
        "from tasks import fail, ok\n\nasync def main():\n    try:\n        x = [1]\n        x[4]\n    finally:\n        await ok(2)\n",
    ),
    (
        "raise from over awaits",
        "from tasks import fail, ok\n\nasync def main():\n    try:\n        await fail('boom')\n    except ValueError as error:\n        await ok(2)\n        raise RuntimeError('order 7') from error\n",
    ),
    (
        "another while a clean-up awaits",
        "from tasks import fail, ok\n\nasync def main():\n    try:\n        await fail('boom')\n    except ValueError:\n        await ok(2)\n        await fail('undo')\n",
    ),
    (
        "caught over awaits and forgotten",
        "from tasks import fail, ok\n\nasync def main():\n    try:\n        await fail('boom')\n    except ValueError:\n        await ok(2)\n    await ok(3)\n    {}['k']\n",
    ),
    (
        "finally that ends with a raise of its kind",
        "def main(n=0):\n    try:\n        int('q')\n    finally:\n        if n:\n            raise ValueError('other')\n",
    ),
    (
        "an attribute in finally",
        "class Box:\n    size = 1\n\ndef main():\n    box = Box()\n    try:\n        box.nope\n    finally:\n        box.size\n",
    ),
    (
        "raise of what was caught, elsewhere",
        "def check(text):\n    int(text)\n\ndef main():\n    kept = None\n    try:\n        check('q')\n    except ValueError as error:\n        kept = error\n    if kept:\n        raise kept\n",
    ),
    (
        "return in the way",
        "def pick(rows):\n    for row in rows:\n        try:\n            return int(row)\n        except ValueError:\n            continue\n        finally:\n            x = 1\n    raise LookupError('none')\n\ndef main():\n    try:\n        pick(['a', 'b'])\n    except KeyError:\n        pass\n",
    ),
    (
        "a lambda",
        "def main():\n    f = lambda text: int(text)\n    try:\n        f('q')\n    except KeyError:\n        pass\n",
    ),
    (
        "a comprehension",
        "def one(text):\n    return int(text)\n\ndef main():\n    try:\n        x = 1\n        for text in ['1', 'q']:\n            one(text)\n    except KeyError:\n        pass\n",
    ),
    (
        "a method",
        "class Shop:\n    def sell(self, n):\n        try:\n            return {}[n]\n        finally:\n            self.sold = n\n\ndef main():\n    shop = Shop()\n    try:\n        shop.sell('a')\n    except TypeError:\n        pass\n",
    ),
    (
        "with the module durable",
        "import durable\nfrom tasks import fail, ok\n\nasync def main():\n    durable.log('x')\n    try:\n        await fail('boom')\n    except KeyError:\n        await ok(2)\n",
    ),
];

fn run(source: &str) -> Failure {
    let program = Program::compile("w.py", source).unwrap_or_else(|error| panic!("{error}"));
    let id: ExecutionId = "t-1".parse().unwrap();
    let turn = Turn {
        program: &program,
        execution: &id,
        now: Timestamp(1_800_000_000_000_000),
        secret: "",
        offers: &Offers::anything(),
        limits: Limits { turn: Duration::from_secs(2), ..Limits::default() },
        rights: durable_core::allow::Rights::all(),
    };
    let inputs = Json("{}".into());
    let mut step = advance(&turn, Origin::Start { inputs: &inputs, first_call: 0 }).unwrap();
    let mut base = None;
    loop {
        let pause = match step.end {
            End::Pause(pause) => pause,
            End::Fail { failure, .. } => return failure,
            other => panic!("{other:?}\n{source}"),
        };
        base = base.or(pause.base);
        let outcome = |call: &durable_core::interpreter::NewCall| {
            let first = call.args.parse().unwrap().get(0).cloned().unwrap_or(Value::Null);
            let failed = call.function == "tasks.fail";
            let outcome = if failed {
                Outcome::Failed(Failure::new("ValueError", first.as_str().unwrap()))
            } else {
                Outcome::Completed(Json::from(&first))
            };
            (call.id, outcome)
        };
        let outcomes: Vec<_> = pause.new_calls.iter().map(outcome).collect();
        let origin = Origin::Paused { snapshot: &pause.snapshot, base: base.as_ref().unwrap(), outcomes: &outcomes };
        step = advance(&turn, origin).unwrap();
    }
}

/// Lines and functions, the last lines, and the sentences between.
fn essence(traceback: &str) -> String {
    let mut essence = String::new();
    for line in traceback.lines() {
        let frame = line.trim_start().strip_prefix("File \"w.py\", ");
        if let Some(frame) = frame {
            writeln!(essence, "{frame}").unwrap();
        } else if !line.starts_with([' ', '\n']) && !line.is_empty() && !line.starts_with("Traceback") {
            // A key is shown as a text: the interpreter does not keep what else it was.
            let line = if line.starts_with("KeyError: ") { line.replace('\'', "") } else { line.to_owned() };
            writeln!(essence, "{line}").unwrap();
        }
    }
    essence
}

fn cpython(sources: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let tasks = "async def ok(x=None): return x\nasync def fail(x): raise ValueError(x)\n";
    std::fs::write(folder.path().join("tasks.py"), tasks).unwrap();
    let driver = r#"
import asyncio, inspect, json, os, sys, traceback
sys.path.insert(0, os.getcwd())
sys.path.insert(0, sys.argv[1])
out = []
for source in json.load(sys.stdin):
    space = {"__name__": "w"}
    try:
        exec(compile(source, "w.py", "exec"), space)
        made = space["main"]()
        if inspect.iscoroutine(made):
            asyncio.run(made)
        out.append("no exception")
    except Exception as error:
        told = traceback.TracebackException.from_exception(error)
        open_, seen = [told], set()
        while open_:
            one = open_.pop()
            one.stack = traceback.StackSummary.from_list([f for f in one.stack if f.filename == "w.py"])
            open_ += [other for other in (one.__cause__, one.__context__) if other]
        out.append("".join(told.format()))
json.dump(out, sys.stdout)
"#;
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python");
    let mut child = Command::new("python3")
        .args(["-c", driver, package])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), sources).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let json = text.find('[').unwrap();
    let json = text.lines().last().filter(|line| line.starts_with('[')).unwrap_or(&text[json..]);
    serde_json::from_str(&json[json.find("[\"").unwrap()..]).unwrap()
}

#[test]
fn tracebacks_name_the_lines_and_functions_that_cpython_names() {
    let sources: Vec<&str> = SHAPES.iter().map(|(_, source)| *source).collect();
    let theirs = cpython(&sources);
    let mut wrong = String::new();
    for ((name, source), theirs) in SHAPES.iter().zip(theirs) {
        let ours = run(source).traceback.unwrap();
        let (ours, theirs) = (essence(&ours), essence(&theirs));
        if ours != theirs {
            write!(wrong, "---- {name}\n{source}\nours:\n{ours}\nCPython's:\n{theirs}\n").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cause_keeps_the_traceback_of_the_function_that_failed() {
    let source = "
async def main():
    try:
        await pay(1)
    except ValueError as error:
        await note(1)
        raise RuntimeError('order 7') from error
";
    let (url, _folder) = durable_testing::sqlite();
    let rig = durable_testing::Rig::new(&url, "w");
    let id = rig.insert(source).await;
    rig.tick().await;
    let ended = rig.run_queues(&id, &["default"], |work| match work.function.as_str() {
        "pay" => Err(Failure {
            traceback: Some("Traceback (most recent call last):\n  File \"tasks.py\", line 9, in pay".into()),
            ..Failure::new("ValueError", "no funds")
        }),
        _ => Ok(Value::Null),
    });
    let traceback = ended.await.error.unwrap().traceback.unwrap();
    let order = [
        "workflow.py\", line 4, in main",
        "ValueError: no funds",
        "In pay, called on line 4 (call 0):",
        "tasks.py\", line 9, in pay",
        "The above exception was the direct cause of the following exception:",
        "workflow.py\", line 7, in main",
        "RuntimeError: order 7",
    ];
    let places: Vec<_> = order.iter().map(|part| traceback.find(part)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{traceback}");
}

#[test]
fn a_cause_that_cannot_be_told_apart_from_one_before_is_left_out() {
    let source = "
def load(n):
    try:
        return {}[n]
    except KeyError as error:
        raise LookupError(f'no {n}') from error

def main():
    try:
        load('a')
    except LookupError:
        pass
    try:
        load('b')
    finally:
        print()
";
    let traceback = run(source).traceback.unwrap();
    assert!(traceback.contains("line 14, in main") && traceback.contains("line 6, in load"), "{traceback}");
    assert!(!traceback.contains("KeyError"), "{traceback}");
}
