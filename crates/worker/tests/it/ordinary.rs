//! A function runs as in an ordinary program.

use std::{
    fs,
    time::{Duration, Instant},
};

use durable_worker::{
    Registry,
    python::{PythonHost, PythonSettings},
};
use serde_json::json;

use crate::{python::python_with, worker::call};

const TASKS: &str = r#"
import atexit
import concurrent.futures
import inspect
import multiprocessing
import os
import pathlib
import pickle
import signal
import sys
import time

import durable

AT_EXIT = pathlib.Path(__file__).with_suffix(".exit")
atexit.register(lambda: AT_EXIT.open("a").write("at exit\n"))

if __name__ == "__main__":
    raise SystemExit("this is for the command line")


def square(number):
    return number * number


def put(queue):
    print("in the child")
    queue.put(durable.attempt())


@durable.function(retries=0, timeout="40s")
def parallel(kind, method):
    context = multiprocessing.get_context(method)
    if kind == "Pool":
        with context.Pool(2) as pool:
            return pool.map(square, [1, 2, 3])
    if kind == "Process":
        queue = context.Queue()
        process = context.Process(target=put, args=(queue,))
        process.start()
        got = queue.get(timeout=30)
        process.join()
        return [got, process.exitcode]
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(square, [1, 2, 3]))


class Thing:
    def __init__(self, number):
        self.number = number


def pickles():
    return [pickle.loads(pickle.dumps(square))(3), pickle.loads(pickle.dumps(Thing(4))).number]


def source():
    return inspect.getsource(square)


def handles_signals():
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.05)
    signal.signal(signal.SIGUSR1, before)
    return [len(seen), signal.getsignal(signal.SIGINT) is signal.default_int_handler]


def forks(path):
    pid = os.fork()
    with open(path, "a") as file:
        file.write("parent\n" if pid else "child\n")
    if pid:
        os.waitpid(pid, 0)
    return "from both sides"


async def forks_async(path):
    return forks(path)


def environment():
    return sorted(name for name in os.environ if name.startswith(("DURABLE_", "PGPASS", "KEPT_")))


def main_is():
    main = sys.modules["__main__"]
    return [getattr(main, "__file__", None), __name__, len(sys.argv)]


def pid():
    return os.getpid()


async def async_pid():
    return os.getpid()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn multiprocessing_works_in_all_its_ways() {
    let python = python_with(TASKS).await;
    for method in ["fork", "spawn", "forkserver"] {
        for (kind, expected) in
            [("Pool", json!([1, 4, 9])), ("Process", json!([1, 0])), ("ProcessPoolExecutor", json!([1, 4, 9]))]
        {
            let result = python.eval(&format!("await tasks.parallel('{kind}', '{method}')")).await;
            assert_eq!(result, Ok(expected), "{kind} by {method}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_and_classes_are_pickled_and_read_as_those_of_a_module() {
    let python = python_with(TASKS).await;
    assert_eq!(python.eval("await tasks.pickles()").await.unwrap(), json!([9, 4]));
    let source = python.eval("await tasks.source()").await.unwrap();
    assert_eq!(source, "def square(number):\n    return number * number\n");
    assert_eq!(python.eval("await tasks.main_is()").await.unwrap(), json!([null, "tasks", 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_handlers_work_and_ctrl_c_is_as_python_has_it() {
    let python = python_with(TASKS).await;
    for _ in 0..2 {
        assert_eq!(python.eval("await tasks.handles_signals()").await.unwrap(), json!([1, true]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_fork_may_return_and_the_call_returns_once() {
    let python = python_with(TASKS).await;
    for function in ["forks", "forks_async"] {
        let file = python.folder.path().join(function);
        for _ in 0..2 {
            let result = python.eval(&format!("await tasks.{function}('{}')", file.display())).await;
            assert_eq!(result, Ok(json!("from both sides")), "{function}");
        }
        let mut sides: Vec<String> = fs::read_to_string(&file).unwrap().lines().map(String::from).collect();
        sides.sort();
        assert_eq!(sides, ["child", "child", "parent", "parent"], "{function}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_done_at_exit_is_done_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.py");
    fs::write(&file, TASKS).unwrap();
    let settings = PythonSettings { files: vec![file], ..PythonSettings::default() };
    let host = PythonHost::start(settings).await.unwrap();
    host.offer(&mut Registry::new());
    host.end().await;
    assert_eq!(fs::read_to_string(folder.path().join("tasks.exit")).unwrap(), "at exit\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_run_nothing_end_after_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.py");
    fs::write(&file, TASKS).unwrap();
    let idle = Duration::from_millis(200);
    let host =
        PythonHost::start(PythonSettings { files: vec![file], idle, ..PythonSettings::default() }).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(folder.path().join("tasks.exit")).unwrap_or_default() != "at exit\n" {
        assert!(Instant::now() < deadline, "it still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(host);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_wants_more_memory_than_its_process_may_have_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("greedy.py");
    let text = "import durable\n\n@durable.function(retries=0)\ndef take(mib):\n    return len(bytes(mib << 20))\n";
    fs::write(&file, text).unwrap();
    let settings = PythonSettings { files: vec![file], memory: Some(1 << 30), ..PythonSettings::default() };
    let host = PythonHost::start(settings).await.unwrap();
    let mut registry = Registry::new();
    host.offer(&mut registry);
    let failure = call(&registry, "greedy.take", json!([2048]), json!({})).await.unwrap_err();
    assert_eq!(failure.kind, "MemoryError");
    assert_eq!(call(&registry, "greedy.take", json!([16]), json!({})).await.unwrap(), json!(16 << 20));
    host.end().await;
}
