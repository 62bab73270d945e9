//! What functions write: bounded, whole at both ends, and under its own call or nowhere.

use std::time::Duration;

use durable_core::model::Stream;

use crate::python::{Python, python_with};

const TASKS: &str = r#"
import asyncio
import os
import subprocess
import sys
import threading
import time

import durable

print("at import")


@durable.function(retries=0)
def floods(megabytes):
    print("the beginning")
    sys.stdout.flush()
    subprocess.run(["sh", "-c", f"yes 0123456789abcdef | head -c {megabytes << 20}"])
    print("ERROR: the disk is full")


@durable.function(retries=0, timeout="700ms")
def hangs():
    print("python line")
    sys.stdout.write("no end of line")
    os.write(1, b"raw out\n")
    os.write(2, b"raw err\n")
    subprocess.run(["sh", "-c", "echo child out; echo child err >&2"])
    time.sleep(60)


@durable.function(retries=0, timeout="700ms")
async def hangs_async():
    print("python line")
    os.write(1, b"raw out\n")
    await asyncio.sleep(60)


def prints_later():
    def later():
        time.sleep(0.3)
        print("late print")
        os.system("true")

    threading.Thread(target=later).start()
    subprocess.Popen(["sh", "-c", "sleep 0.3; echo late child; sleep 0.2; echo still alive > \"$0.alive\"", __file__])
    return "returned"


def prints_now():
    time.sleep(0.7)
    print("mine")


def prints_in_threads():
    from concurrent.futures import ThreadPoolExecutor

    thread = threading.Thread(target=lambda: print("from a thread"))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(print, "from a pool").result()


async def child_of(name, seconds):
    await asyncio.sleep(seconds)
    process = await asyncio.create_subprocess_exec("sh", "-c", f"echo child of {name}; sleep 0.2; echo end of {name}")
    await process.wait()
    os.write(2, f"raw of {name}\n".encode())


def many(count):
    begun = time.monotonic()
    for number in range(count):
        print("line", number, flush=True)
    return time.monotonic() - begun


def as_cpython_does(count):
    code = f"for number in range({count}): print('line', number, flush=True)"
    begun = time.monotonic()
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", code], stdout=reader.stdin)
    reader.stdin.close()
    reader.wait()
    return time.monotonic() - begun
"#;

async fn output(python: &Python, wanted: Stream) -> String {
    python.logs_of_last().await.into_iter().filter(|(stream, _)| *stream == wanted).map(|(_, text)| text).collect()
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_flood_the_beginning_and_the_end_are_kept_in_bounded_memory() {
    let python = python_with(TASKS).await;
    let before = memory();
    python.eval("await tasks.floods(600)").await.unwrap();
    let stdout = output(&python, Stream::Stdout).await;
    let stderr = output(&python, Stream::Stderr).await;
    assert!(stdout.contains("the beginning\n"), "{}", &stdout[..60]);
    assert!(stdout.contains("ERROR: the disk is full\n"), "{}", &stdout[stdout.len() - 60..]);
    assert!(stderr.contains("bytes of this attempt's output were cut out here]"), "{stderr}");
    assert!(stdout.len() < 2 << 20);
    assert!(memory() - before < 200, "{before} MB before, {} MB at most", memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_a_timeout_is_kept_under_its_stream() {
    let python = python_with(TASKS).await;
    let failed = python.eval("await tasks.hangs()").await.unwrap_err();
    assert!(failed.starts_with("TimeoutError"), "{failed}");
    let (stdout, stderr) = (output(&python, Stream::Stdout).await, output(&python, Stream::Stderr).await);
    for part in ["python line\n", "no end of line", "raw out\n", "child out\n"] {
        assert!(stdout.contains(part), "{part} in {stdout}");
    }
    assert!(stderr.contains("raw err\n") && stderr.contains("child err\n"), "{stderr}");
    python.eval("await tasks.hangs_async()").await.unwrap_err();
    let stdout = output(&python, Stream::Stdout).await;
    assert!(stdout.contains("python line\n") && stdout.contains("raw out\n"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_its_function_returned_is_in_no_other_calls_log() {
    let python = python_with(TASKS).await;
    assert_eq!(python.eval("await tasks.prints_later()").await.unwrap(), "returned");
    assert_eq!(output(&python, Stream::Stdout).await, "");
    python.eval("await tasks.prints_now()").await.unwrap();
    assert_eq!(output(&python, Stream::Stdout).await, "mine\n");
    // Nor does a child die of it that writes on.
    let alive = python.folder.path().join("tasks.py.alive");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !alive.exists() {
        assert!(std::time::Instant::now() < deadline, "the child is gone");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_calls_threads_and_children_write_is_in_its_log() {
    let python = python_with(TASKS).await;
    python.eval("await tasks.prints_in_threads()").await.unwrap();
    assert_eq!(output(&python, Stream::Stdout).await, "from a thread\nfrom a pool\n");
    python.eval("await asyncio.gather(tasks.child_of('a', 0), tasks.child_of('b', 0.1))").await.unwrap();
    let mut texts = python.logs_of_last().await;
    texts.sort_by_key(|(_, text)| text.clone());
    let texts: Vec<(Stream, &str)> = texts.iter().map(|(stream, text)| (*stream, text.as_str())).collect();
    assert_eq!(
        texts,
        [
            (Stream::Stdout, "child of a\nend of a\n"),
            (Stream::Stdout, "child of b\nend of b\n"),
            (Stream::Stderr, "raw of a\n"),
            (Stream::Stderr, "raw of b\n")
        ],
        "each call has its own log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_prints_cost_about_what_they_cost_in_cpython() {
    let python = python_with(TASKS).await;
    let mut best = f64::MAX;
    // The machine may be busy with something else for one of them.
    for _ in 0..4 {
        let ours = python.eval("await tasks.many(100_000)").await.unwrap().as_f64().unwrap();
        let theirs = python.eval("await tasks.as_cpython_does(100_000)").await.unwrap().as_f64().unwrap();
        best = best.min(ours / theirs);
    }
    assert!(best < 4.0, "{best} times as long");
}
