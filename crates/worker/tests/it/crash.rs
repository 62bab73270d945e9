//! When a process of functions ends, or does not go on, only the call that was the cause pays for it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use durable_core::{
    id::ExecutionId,
    model::{CallStatus, ExecutionStatus},
    orchestrator::{cancel::cancel, drive::drive},
    store::{calls, logs},
};
use serde_json::json;

use crate::python::{Python, python_with};

const TASKS: &str = r#"
import asyncio
import ctypes
import os
import pathlib
import signal
import sys
import threading
import time

import durable

pathlib.Path("/dev/null").touch()


def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\n")


@durable.function(retries=0)
async def innocent(path, name):
    note(path, f"began {name}")
    await asyncio.sleep(0.8)
    return os.getpid()


@durable.function(retries=0)
async def aborts(path, after):
    note(path, "began aborts")
    await asyncio.sleep(after)
    os.abort()


@durable.function(retries=0)
async def aborts_in_a_thread(path, after):
    note(path, "began aborts_in_a_thread")
    await asyncio.sleep(after)
    await asyncio.to_thread(os.abort)


@durable.function(retries=0)
async def exits(after, code):
    await asyncio.sleep(after)
    os._exit(code)


@durable.function(retries=2, backoff="10ms")
async def crashes_twice():
    await asyncio.sleep(0.1)
    if durable.attempt() < 3:
        os.abort()
    return os.getpid()


async def pid():
    return os.getpid()


@durable.function(retries=0)
async def exits_in_a_task():
    async def inner():
        sys.exit(3)

    await asyncio.create_task(inner())


@durable.function(retries=0)
async def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)


@durable.function(retries=0)
def interrupted_sync():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)


@durable.function(retries=0)
def interrupts_later():
    threading.Thread(target=lambda: (time.sleep(0.2), os.kill(os.getpid(), signal.SIGINT))).start()
    return os.getpid()


@durable.function(retries=0)
def sync_pid(seconds=0):
    time.sleep(seconds)
    return os.getpid()


@durable.function(retries=0)
def exits_with(code):
    print("last words")
    os._exit(code)


@durable.function(retries=0)
def segfaults():
    ctypes.string_at(0)


@durable.function(retries=0)
async def blocks(seconds):
    time.sleep(seconds)
    return "blocked"


@durable.function(retries=0, timeout="1s")
async def blocks_for_ever():
    time.sleep(600)


@durable.function(retries=0, timeout="1s")
async def short():
    return os.getpid()


@durable.function(retries=0, timeout="1s")
async def short_wait():
    await asyncio.sleep(0.3)
    return "in time"


@durable.function(retries=0, timeout="500ms")
async def heedless():
    end = time.monotonic() + 8
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            print("not me")


async def long_one(seconds):
    await asyncio.sleep(seconds)
    return "unharmed"


async def cleans_up(path):
    note(path, "began")
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaning up")
        await asyncio.sleep(0.3)
        print("cleaned up")
        note(path, "cleaned")


def leaves_an_alarm():
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    return os.getpid()
"#;

async fn attempts(python: &Python) -> Vec<(String, bool)> {
    let db = &python.installation.engine.db;
    db.read(|conn| {
        let last = durable_core::store::executions::list(conn, None, 1)?.remove(0);
        let attempts = calls::attempts(conn, &last.id)?;
        Ok(attempts.into_iter().map(|attempt| (attempt.error.to_string(), attempt.lost)).collect())
    })
    .await
    .unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(String::from).collect()
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is().await {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_fails_the_call_that_crashed_and_the_others_are_attempted_again_uncounted() {
    let python = python_with(TASKS).await;
    for culprit in ["aborts", "aborts_in_a_thread"] {
        let file = python.folder.path().join(culprit);
        let path = file.display();
        let ended = python
            .eval(&format!(
                "[(r if isinstance(r, int) else str(r)) for r in await durable.settle(tasks.innocent('{path}', 'a'), \
                 tasks.innocent('{path}', 'b'), tasks.{culprit}('{path}', 0.3))]"
            ))
            .await
            .unwrap();
        assert!(ended[0].is_i64() && ended[1].is_i64(), "{ended}");
        let lost = ended[2].as_str().unwrap();
        let expected = format!("the process that ran tasks.{culprit} was ended by SIGABRT (abort)");
        assert!(lost.contains(&expected), "{lost}");
        let mut begun = lines(&file);
        begun.sort();
        let mut expected = [&*format!("began {culprit}"), "began a", "began a", "began b", "began b"].map(String::from);
        expected.sort();
        assert_eq!(begun, expected, "the culprit ran once");
        let attempts = attempts(&python).await;
        assert_eq!(attempts.iter().filter(|(_, lost)| *lost).count(), 2, "{attempts:?}");
        let because = format!("because of tasks.{culprit} (call ");
        assert!(attempts.iter().filter(|(_, lost)| *lost).all(|(error, _)| error.contains(&because)), "{attempts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn innocents_of_another_execution_do_not_pay_either() {
    let python = python_with(TASKS).await;
    let file = python.folder.path().join("begun");
    let innocent = format!("await tasks.innocent('{}', 'x')", file.display());
    let crash = async {
        until("the innocent one has begun", async || !lines(&file).is_empty()).await;
        python.eval("await tasks.exits(0, 7)").await
    };
    let (innocent, crash) = tokio::join!(python.eval(&innocent), crash);
    assert!(innocent.is_ok(), "{innocent:?}");
    let crash = crash.unwrap_err();
    assert!(crash.contains("the process that ran tasks.exits ended with exit code 7"), "{crash}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_is_not_known_who_it_was_all_are_run_again_each_alone() {
    let python = python_with(TASKS).await;
    let file = python.folder.path().join("begun");
    let path = file.display();
    let kill = async {
        until("both have begun", async || lines(&file).len() == 2).await;
        // Both wait at an await.
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill_shared(&python);
    };
    let expression = format!("await durable.settle(tasks.innocent('{path}', 'a'), tasks.innocent('{path}', 'b'))");
    let (pids, ()) = tokio::join!(python.eval(&expression), kill);
    let pids = pids.unwrap();
    assert_ne!(pids[0], pids[1], "each had a process of its own");
    let attempts = attempts(&python).await;
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|(error, lost)| *lost && error.contains("SIGKILL")), "{attempts:?}");
}

/// Kills the process in which asynchronous functions run: other tests of this program have such children, too, but in
/// other directories.
fn kill_shared(python: &Python) {
    let is_shared = |pid: i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("main('async')") && directory == python.folder.path()
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid| is_shared(*pid)) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_known_to_crash_runs_alone_the_next_time() {
    let python = python_with(TASKS).await;
    let file = python.folder.path().join("begun");
    let path = file.display();
    let ended = python
        .eval(&format!(
            "await asyncio.gather(tasks.crashes_twice(), *[tasks.innocent('{path}', str(n)) for n in range(3)])"
        ))
        .await
        .unwrap();
    assert!(ended.as_array().unwrap()[1..].iter().all(|pid| *pid != ended[0]), "{ended}");
    let attempts = attempts(&python).await;
    let counted = attempts.iter().filter(|(_, lost)| !lost).count();
    assert_eq!((counted, attempts.len()), (2, 5), "its second crash took nobody along: {attempts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_in_a_task_ends_its_call_and_not_the_process() {
    let python = python_with(TASKS).await;
    let before = python.eval("await tasks.pid()").await.unwrap();
    let exit = python.eval("await tasks.exits_in_a_task()").await.unwrap_err();
    assert!(exit.contains("SystemExit: 3"), "{exit}");
    assert_eq!(python.eval("await tasks.pid()").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_is_for_the_function_that_runs_and_for_no_later_one() {
    let python = python_with(TASKS).await;
    let before = python.eval("await tasks.pid()").await.unwrap();
    let interrupted = python.eval("await tasks.interrupted()").await.unwrap_err();
    assert!(interrupted.contains("KeyboardInterrupt"), "{interrupted}");
    assert_eq!(python.eval("await tasks.pid()").await.unwrap(), before, "the same process");
    let before = python.eval("await tasks.sync_pid()").await.unwrap();
    let interrupted = python.eval("await tasks.interrupted_sync()").await.unwrap_err();
    assert!(interrupted.contains("KeyboardInterrupt"), "{interrupted}");
    // One that comes when nothing runs is nobody's.
    assert_eq!(python.eval("await tasks.interrupts_later()").await.unwrap(), before);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(python.eval("await tasks.sync_pid()").await.unwrap(), before, "the same process");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_that_a_function_leaves_behind_rings_for_nobody() {
    let python = python_with(TASKS).await;
    let before = python.eval("await tasks.leaves_an_alarm()").await.unwrap();
    assert_eq!(python.eval("await tasks.sync_pid(1.3)").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_process_ended_is_said_with_the_traceback_of_the_crash() {
    let python = python_with(TASKS).await;
    let exit = python.eval("await tasks.exits_with(7)").await.unwrap_err();
    assert!(exit.contains("the process that ran tasks.exits_with ended with exit code 7"), "{exit}");
    assert_eq!(python.logs_of_last().await[0].1, "last words\n");
    let crash = python.eval("await tasks.segfaults()").await.unwrap_err();
    assert!(crash.contains("was ended by SIGSEGV (segmentation fault)"), "{crash}");
    let db = &python.installation.engine.db;
    let attempt = db
        .read(|conn| {
            let last = durable_core::store::executions::list(conn, None, 1)?.remove(0);
            Ok(calls::attempts(conn, &last.id)?.remove(0))
        })
        .await
        .unwrap();
    let traceback = attempt.error.traceback.unwrap();
    assert!(traceback.contains("in segfaults") && !traceback.contains("_durable_"), "{traceback}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_idle_fails_no_call() {
    let python = python_with(TASKS).await;
    for _ in 0..3 {
        for function in ["sync_pid", "pid"] {
            let pid = python.eval(&format!("await tasks.{function}()")).await.unwrap().as_i64().unwrap();
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            let next = python.eval(&format!("await durable.call(tasks.{function}, retries=0)")).await;
            assert!(next.is_ok(), "{next:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_behind_a_blocked_loop_runs_elsewhere_and_nobody_is_killed_for_it() {
    let python = python_with(TASKS).await;
    let begun = Instant::now();
    let ended = python.eval("await asyncio.gather(tasks.short_wait(), tasks.blocks(4), tasks.short())").await.unwrap();
    assert_eq!((&ended[0], &ended[1]), (&json!("in time"), &json!("blocked")), "{ended}");
    assert!(ended[2].is_i64() && begun.elapsed() < Duration::from_secs(20));
    assert!(attempts(&python).await.is_empty(), "nothing was attempted twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_blocks_the_loop_is_named_with_those_that_it_holds_up() {
    let python = python_with(TASKS).await;
    let source = "import asyncio\nimport tasks\nasync def main():\n    return await \
                  asyncio.gather(tasks.long_one(0.5), tasks.blocks(4))\n";
    let id = python.installation.start(source).await;
    let said = async |call: usize, wanted: &str| {
        let key = id.clone();
        let calls = python.installation.engine.db.read(move |conn| calls::list(conn, &key)).await.unwrap();
        calls[call].progress.clone().is_some_and(|progress| progress.0.contains(wanted))
    };
    until("the blocker is named", async || said(1, "holds up the event loop").await).await;
    until("so is what waits", async || said(0, "tasks.blocks (call ").await).await;
    assert_eq!(python.installation.end(&id).await.status, ExecutionStatus::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_blocks_the_loop_beyond_its_time_is_interrupted_and_the_others_go_on() {
    let python = python_with(TASKS).await;
    let ended = python
        .eval("[str(r) for r in await durable.settle(tasks.long_one(3), tasks.blocks_for_ever())]")
        .await
        .unwrap();
    assert_eq!(ended, json!(["unharmed", "tasks.blocks_for_ever took longer than 1s"]));
    assert_eq!(attempts(&python).await.len(), 1, "only the one that took too long");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_heed_its_cancellation_takes_nobody_along() {
    let python = python_with(TASKS).await;
    let ended =
        python.eval("[str(r) for r in await durable.settle(tasks.long_one(7), tasks.heedless())]").await.unwrap();
    assert_eq!(ended, json!(["unharmed", "tasks.heedless took longer than 500ms"]));
    assert!(attempts(&python).await.iter().all(|(_, lost)| !lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_call_writes_while_it_cleans_up_is_kept() {
    let python = python_with(TASKS).await;
    let file = python.folder.path().join("cleaned");
    let source = format!("import tasks\nasync def main():\n    return await tasks.cleans_up('{}')\n", file.display());
    let id: ExecutionId = python.installation.start(&source).await;
    until("it has begun", async || lines(&file) == ["began"]).await;
    let engine = &python.installation.engine;
    if let durable_core::orchestrator::cancel::Cancelled::Told(Some(claimed)) =
        cancel(engine, &id, false).await.unwrap()
    {
        drive(engine, claimed).await.unwrap();
    }
    until("it has cleaned up", async || lines(&file) == ["began", "cleaned"]).await;
    let log = async || {
        let key = id.clone();
        let lines = engine.db.read(move |conn| logs::list(conn, &key)).await.unwrap();
        lines.into_iter().map(|line| line.text).collect::<String>()
    };
    until("that is in the log", async || log().await == "cleaning up\ncleaned up\n").await;
    let key = id.clone();
    let calls = engine.db.read(move |conn| calls::list(conn, &key)).await.unwrap();
    assert_eq!(calls[0].status, CallStatus::Cancelled);
}
