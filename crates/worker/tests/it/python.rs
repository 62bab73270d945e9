//! Functions in real CPython processes.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use durable_core::{model::Stream, offers::Offers, store::logs};
use durable_worker::{
    Registry, WorkerSettings,
    python::{PythonHost, PythonSettings},
};
use serde_json::{Value, json};

use crate::{
    invocation,
    worker::{Installation, install},
};

const TASKS: &str = r#"
import asyncio
import dataclasses
import datetime
import decimal
import os
import pathlib
import subprocess
import sys
import time

import durable


def add(a, b=1, *rest, scale=1):
    return (a + b + sum(rest)) * scale


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


async def overlap(seconds):
    begun = time.monotonic()
    await asyncio.sleep(seconds)
    return [os.getpid(), begun, time.monotonic()]


def chatty(text):
    print(text)
    print("to stderr", file=sys.stderr)
    sys.stdout.write("no newline")
    sys.stdout.buffer.write(b", bytes")
    subprocess.run(["sh", "-c", "echo from a child process"])
    return len(text)


async def chatty_async(text):
    print(f"begin {text}")
    await asyncio.sleep(0.05)
    print(f"end {text}")


class Refused(ValueError):
    pass


def refuse(code):
    raise Refused(f"code {code}")


@durable.function(retries=0)
def boom():
    return {}["missing"]


@durable.function(retries=0)
def exits():
    sys.exit(3)


@durable.function(retries=0)
def dies():
    os.kill(os.getpid(), 9)


@durable.function(retries=0, timeout="400ms")
def wedged(path):
    child = subprocess.Popen(["sleep", "60"])
    pathlib.Path(path).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)


@durable.function(retries=0, timeout=0.2)
async def wedged_async():
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up")


@durable.function(retries=0)
def never_again():
    raise durable.NonRetryable("no use")


@durable.function(max_attempts=3, backoff="10ms")
def third_time(path):
    with open(path, "a") as file:
        file.write(f"{durable.idempotency_key()} {durable.attempt()}\n")
    if durable.attempt() < 3:
        raise ConnectionError("not yet")
    return durable.attempt()


def echo(value):
    return value


@dataclasses.dataclass
class Video:
    width: int
    path: pathlib.Path


def describe():
    return [
        Video(3, pathlib.Path("/a/b")),
        (1, 2),
        {1, 2},
        b"\x00\xff",
        datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
        decimal.Decimal("1.10"),
        float("inf"),
        10**30,
        {1: "a"},
        {"$py": "x"},
        ...,
    ]


def kinds(value):
    return [type(item).__name__ for item in value]


def unsendable():
    return open(os.devnull)


def surrogate():
    return "file-\udc80"


class Mute(Exception):
    def __str__(self):
        return str(1 / 0)


@durable.function(retries=0)
def mute():
    raise Mute()


def big(megabytes):
    return "x" * (megabytes << 20)


def length(value):
    return len(value)


_private = lambda: 1
imported_name = os.path.join
"#;

pub(crate) struct Python {
    pub(crate) installation: Installation,
    offers: Offers,
    pub(crate) folder: tempfile::TempDir,
}

async fn host(folder: &Path, tasks: &str) -> Result<PythonHost, String> {
    let file = folder.join("tasks.py");
    fs::write(&file, tasks).unwrap();
    let settings = PythonSettings {
        files: vec![file],
        processes: 3,
        directory: Some(folder.to_owned()),
        ..PythonSettings::default()
    };
    PythonHost::start(settings).await.map_err(|error| error.to_string())
}

async fn python() -> Python {
    python_with(TASKS).await
}

/// An installation whose functions are those of a file `tasks.py`.
pub(crate) async fn python_with(tasks: &str) -> Python {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path(), tasks).await.unwrap();
    let mut registry = Registry::new();
    host.offer(&mut registry);
    let offers = registry.offers();
    Python { installation: install(registry, WorkerSettings::default()), offers, folder }
}

impl Python {
    /// The value of a Python expression that awaits functions of `tasks`.
    pub(crate) async fn eval(&self, expression: &str) -> Result<Value, String> {
        let source =
            format!("import asyncio\nimport durable\nimport tasks\nasync def main():\n    return {expression}\n");
        let id = self.installation.start(&source).await;
        let ended = self.installation.end(&id).await;
        match (ended.output, ended.error) {
            (Some(output), _) => Ok(output.parse().unwrap()),
            (_, Some(failure)) => Err(format!("{failure}\n{}", failure.traceback.clone().unwrap_or_default())),
            _ => panic!("no end"),
        }
    }

    pub(crate) async fn logs_of_last(&self) -> Vec<(Stream, String)> {
        let db = &self.installation.engine.db;
        let lines = db
            .read(|conn| {
                let last = durable_core::store::executions::list(conn, None, 1)?.remove(0);
                logs::list(conn, &last.id)
            })
            .await
            .unwrap();
        lines.into_iter().map(|line| (line.stream, line.text)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_take_and_give_what_python_does() {
    let python = python().await;
    assert_eq!(python.eval("await tasks.add(1)").await.unwrap(), 2);
    assert_eq!(python.eval("await tasks.add(1, 2, 3, 4, scale=10)").await.unwrap(), 100);
    assert_eq!(python.eval("await tasks.add(b=5, a=1)").await.unwrap(), 6);
    let kinds =
        python.eval("await tasks.kinds([(1,), {1}, frozenset([1]), b'x', 1.5, None, 10**30, {1: 2}, ...])").await;
    assert_eq!(
        kinds.unwrap(),
        json!(["tuple", "set", "frozenset", "bytes", "float", "NoneType", "int", "dict", "ellipsis"])
    );
    assert!(!python.offers.offers("tasks._private") && !python.offers.offers("tasks.imported_name"));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_kind_come_back() {
    let python = python().await;
    let described = python.eval("await tasks.describe()").await.unwrap();
    let expected = json!([
        {"$py": "object", "type": "Video", "fields": {"width": 3, "path": {"$py": "path", "value": "/a/b"}}},
        {"$py": "tuple", "items": [1, 2]},
        {"$py": "set", "items": [1, 2]},
        {"$py": "bytes", "base64": "AP8="},
        {"$py": "datetime", "value": "2024-02-29T12:30:00+00:00"},
        {"$py": "decimal", "value": "1.10"},
        {"$py": "float", "value": "inf"},
        serde_json::from_str::<Value>("1000000000000000000000000000000").unwrap(),
        {"$py": "dict", "items": [[1, "a"]]},
        {"$py": "dict", "items": [["$py", "x"]]},
        {"$py": "ellipsis"}
    ]);
    assert_eq!(described.to_string(), expected.to_string());
    // And through CPython once more, unchanged.
    let echoed = python.eval("await tasks.echo(await tasks.describe())").await.unwrap();
    assert_eq!(echoed.to_string(), expected.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronous_functions_run_in_parallel_processes() {
    let python = python().await;
    let begun = Instant::now();
    let pids = python.eval("sorted(set(await asyncio.gather(*[tasks.pid_after(0.6) for _ in range(3)])))").await;
    assert_eq!(pids.unwrap().as_array().unwrap().len(), 3);
    assert!(begun.elapsed() < Duration::from_millis(1750), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_functions_overlap_in_one_process() {
    let python = python().await;
    let spans = python.eval("await asyncio.gather(*[tasks.overlap(0.3) for _ in range(8)])").await.unwrap();
    let spans = spans.as_array().unwrap();
    let pids: std::collections::BTreeSet<i64> = spans.iter().map(|span| span[0].as_i64().unwrap()).collect();
    assert_eq!(pids.len(), 1, "one process for all");
    let last_begin = spans.iter().map(|span| span[1].as_f64().unwrap()).fold(0.0, f64::max);
    let first_end = spans.iter().map(|span| span[2].as_f64().unwrap()).fold(f64::MAX, f64::min);
    assert!(last_begin < first_end, "all were under way at the same time: {spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_captured_and_never_mixes_with_results() {
    let python = python().await;
    assert_eq!(python.eval("await tasks.chatty('hello')").await.unwrap(), 5);
    let logs = python.logs_of_last().await;
    let text = |wanted: Stream| -> String {
        logs.iter().filter(|(stream, _)| *stream == wanted).map(|(_, text)| text.as_str()).collect()
    };
    let stdout = text(Stream::Stdout);
    assert!(stdout.contains("hello\nno newline, bytes") && stdout.contains("from a child process\n"), "{stdout}");
    assert_eq!(text(Stream::Stderr), "to stderr\n");
    python.eval("await asyncio.gather(tasks.chatty_async('a'), tasks.chatty_async('b'))").await.unwrap();
    let mut texts: Vec<String> = python.logs_of_last().await.into_iter().map(|(_, text)| text).collect();
    texts.sort();
    assert_eq!(texts, ["begin a\nend a\n", "begin b\nend b\n"], "each call has its own log");
}

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_arrive_with_their_traceback_and_no_frame_of_ours() {
    let python = python().await;
    let failed = python.eval("await tasks.boom()").await.unwrap_err();
    assert!(failed.starts_with("KeyError: missing"), "{failed}");
    assert!(failed.contains("tasks.py\", line ") && failed.contains("in boom"), "{failed}");
    assert!(failed.contains("workflow.py\", line 5, in main"), "{failed}");
    assert!(!failed.contains("_durable_"), "{failed}");
    let own = python.eval("await tasks.refuse(7)").await.unwrap_err();
    assert!(own.starts_with("ValueError: tasks.Refused: code 7"), "{own}");
    let exit = python.eval("await tasks.exits()").await.unwrap_err();
    assert!(exit.starts_with("RuntimeError: SystemExit: 3"), "{exit}");
    let wrong = python.eval("await tasks.never_again()").await.unwrap_err();
    assert!(wrong.starts_with("RuntimeError") || wrong.starts_with("Exception: durable.NonRetryable"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_fails_its_own_attempt_and_is_replaced() {
    let python = python().await;
    let (dead, alive) = tokio::join!(python.eval("await tasks.dies()"), python.eval("await tasks.pid_after(0.3)"));
    let dead = dead.unwrap_err();
    assert!(dead.contains("durable.WorkerLost: the process that ran tasks.dies was ended by SIGKILL"), "{dead}");
    assert!(alive.is_ok(), "its neighbour is not touched");
    for _ in 0..4 {
        assert_eq!(python.eval("await tasks.add(1)").await.unwrap(), 2, "it is replaced");
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wedged_function_is_killed_with_all_that_it_started() {
    let python = python().await;
    let file = python.folder.path().join("pids");
    let failed = python.eval(&format!("await tasks.wedged('{}')", file.display())).await.unwrap_err();
    assert!(failed.starts_with("TimeoutError: tasks.wedged took longer than 400ms"), "{failed}");
    let pids = fs::read_to_string(&file).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while pids.split(' ').any(is_alive) {
        assert!(Instant::now() < deadline, "{pids} still live");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(python.eval("await tasks.add(1)").await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_function_is_cancelled_not_its_process() {
    let python = python().await;
    let before = python.eval("(await tasks.overlap(0))[0]").await.unwrap();
    let failed = python.eval("await tasks.wedged_async()").await.unwrap_err();
    assert!(failed.starts_with("TimeoutError"), "{failed}");
    assert_eq!(python.eval("(await tasks.overlap(0))[0]").await.unwrap(), before, "the same process");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_share_their_key_and_count() {
    let python = python().await;
    let file = python.folder.path().join("tries");
    assert_eq!(python.eval(&format!("await tasks.third_time('{}')", file.display())).await.unwrap(), 3);
    let tries = fs::read_to_string(&file).unwrap();
    let (keys, numbers): (Vec<&str>, Vec<&str>) = tries.lines().map(|line| line.split_once(' ').unwrap()).unzip();
    assert_eq!(numbers, ["1", "2", "3"]);
    assert!(keys.iter().all(|key| *key == keys[0] && key.contains('/')), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused_with_a_sentence() {
    let python = python().await;
    let failed = python.eval("await tasks.unsendable()").await.unwrap_err();
    assert!(failed.starts_with("TypeError: the result of tasks.unsendable: "), "{failed}");
    let surrogate = python.eval("await tasks.surrogate()").await.unwrap_err();
    assert!(surrogate.contains("is a lone surrogate (\\udc80): send bytes"), "{surrogate}");
    let misfit = python.eval("await tasks.add(1, scal=2)").await.unwrap_err();
    assert!(misfit.starts_with("TypeError: tasks.add() got an unexpected keyword argument 'scal'"), "{misfit}");
    let mute = python.eval("await tasks.mute()").await.unwrap_err();
    assert!(mute.contains("tasks.Mute: <its text cannot be had: ZeroDivisionError>"), "{mute}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_pass_and_more_than_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path(), TASKS).await.unwrap();
    let mut registry = Registry::new();
    host.offer(&mut registry);
    let installation = install(registry, WorkerSettings::default());
    let python = Python { installation, offers: Offers::anything(), folder };
    assert_eq!(python.eval("await tasks.length('x' * 100_000_000)").await.unwrap(), 100_000_000);
    assert_eq!(python.eval("len(await tasks.big(100))").await.unwrap(), 100 << 20);
    let refused = python.eval("await tasks.big(300)").await.unwrap_err();
    assert!(refused.contains("larger than 256 MiB (300 MiB)"), "{refused}");
}

#[tokio::test]
async fn functions_that_cannot_be_imported_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let raised = host(folder.path(), "import durable\n\ndef f(): pass\n\n1 / 0\n").await.err().unwrap();
    assert!(raised.contains("ZeroDivisionError") && raised.contains("tasks.py\", line 5"), "{raised}");
    let syntax = host(folder.path(), "def f(:\n").await.err().unwrap();
    assert!(syntax.contains("SyntaxError"), "{syntax}");
    let option =
        host(folder.path(), "import durable\n@durable.function(retires=1)\ndef f(): pass\n").await.err().unwrap();
    assert!(option.contains("tasks.f: option retires=1"), "{option}");
    let died = host(folder.path(), "import os\nos._exit(9)\n").await.err().unwrap();
    assert!(died.contains("ended with exit code 9 before it had imported"), "{died}");
    let settings = PythonSettings { python: "/no/such/python".into(), ..PythonSettings::default() };
    let missing = PythonHost::start(settings).await.err().unwrap().to_string();
    assert!(missing.contains("cannot start /no/such/python"), "{missing}");
}

#[tokio::test]
async fn functions_of_a_module_are_offered_under_its_full_name() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("shop")).unwrap();
    fs::write(folder.path().join("shop/__init__.py"), "").unwrap();
    fs::write(folder.path().join("shop/orders.py"), "def ship(x): return x\n").unwrap();
    let settings = PythonSettings {
        modules: vec!["shop.orders".into()],
        directory: Some(folder.path().to_owned()),
        ..PythonSettings::default()
    };
    let host = PythonHost::start(settings).await.unwrap();
    assert_eq!(host.names().collect::<Vec<_>>(), ["shop.orders.ship"]);
    assert_eq!(invocation("f", &json!([]), &json!({})).idempotency_key(), "e1/7");
}
