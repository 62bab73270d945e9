//! What hostile or unlucky workflows do to a cluster of real processes: nothing to the others.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use durable_testing::{Cluster, ClusterSettings, eventually};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

/// A call, a second of sleep, a call.
const HEALTHY: &str = "
import asyncio
from builtin import add

async def main():
    n = await add(1, 1)
    await asyncio.sleep(1)
    return await add(n, 1)
";

/// Four lines of innocent Python: a workflow's clock stands still within a turn.
const WAITS_BUSILY: &str = "
import time
from builtin import add

async def main(call: bool):
    if call:
        await add(1, 1)
    end = time.time() + 1
    while time.time() < end:
        pass
";

/// Computes for some seconds, less than a turn may.
const COMPUTES: &str = "
async def main():
    n = 0
    for i in range(12_000_000):
        n += i
    return n
";

/// Takes more memory while it is parsed than its process has.
const BREAKS: &str = "
from builtin import add

async def main():
    await add(1, 1)
    exec('x=1\\n' * 6_000_000)
";

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn start(cluster: &Cluster, file: &std::path::Path, id: &str, more: &[&str]) {
    let file = file.display().to_string();
    let arguments = [&[file.as_str(), "--id", id], more].concat();
    let output = cluster.run("durable-start", &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn count(cluster: &Cluster, like: &str, status: &str) -> u32 {
    let query = format!("SELECT count(*) FROM executions WHERE id LIKE '{like}' AND status = '{status}'");
    cluster.sql(&query).parse().unwrap()
}

#[test]
fn turns_that_never_end_stop_no_clock_no_worker_and_no_shutdown() {
    let env = vec![("DURABLE_CLAIM".to_owned(), "3s".to_owned())];
    let options = vec!["--concurrency".to_owned(), "4".to_owned()];
    let settings = ClusterSettings { workers: 1, worker_options: options, env, ..ClusterSettings::default() };
    let (cluster, files) = (Cluster::start(settings).unwrap(), Files::new());
    let (busy, healthy) = (files.write("busy.py", WAITS_BUSILY), files.write("healthy.py", HEALTHY));
    for n in 0..8 {
        let call = if n % 2 == 0 { "call=true" } else { "call=false" };
        start(&cluster, &busy, &format!("busy-{n}"), &["--input", call]);
    }
    let began = Instant::now();
    for n in 0..10 {
        start(&cluster, &healthy, &format!("healthy-{n}"), &[]);
    }
    eventually(Duration::from_secs(20), || match count(&cluster, "healthy-%", "completed") {
        10 => Ok(()),
        done => Err(format!("{done} of 10 after {:?}{}", began.elapsed(), cluster.logs())),
    })
    .unwrap();
    // Each computed for as long as it may, and failed with a sentence.
    eventually(Duration::from_secs(90), || match count(&cluster, "busy-%", "failed") {
        8 => Ok(()),
        failed => Err(format!("{failed} of 8 failed{}", cluster.logs())),
    })
    .unwrap();
    let said =
        cluster.sql("SELECT count(*) FROM executions WHERE id LIKE 'busy-%' AND error LIKE '%time limit exceeded%'");
    assert_eq!(said, "8");

    start(&cluster, &busy, "last", &["--input", "call=true"]);
    start(&cluster, &busy, "first", &["--input", "call=false"]);
    std::thread::sleep(Duration::from_secs(1));
    cluster.signal_orchestrator(0, Signal::TERM);
    cluster.signal_worker(0, Signal::TERM);
    assert!(cluster.worker_ends_within(0, Duration::from_secs(13)), "{}", cluster.logs());
    eventually(Duration::from_secs(5), || match cluster.orchestrator_lives(0) {
        true => Err(format!("the orchestrator lives{}", cluster.logs())),
        false => Ok(()),
    })
    .unwrap();
}

#[test]
fn a_machine_that_stands_still_for_longer_than_a_turn_may_take_fails_nobody() {
    let (cluster, files) = (Cluster::start(ClusterSettings::default()).unwrap(), Files::new());
    start(&cluster, &files.write("computes.py", COMPUTES), "frozen", &[]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(count(&cluster, "frozen", "running"), 1, "it computes");
    cluster.signal_orchestrator(0, Signal::STOP);
    std::thread::sleep(Duration::from_secs(7));
    cluster.signal_orchestrator(0, Signal::CONT);
    eventually(Duration::from_secs(30), || match count(&cluster, "frozen", "completed") {
        1 => Ok(()),
        _ => Err(cluster.sql("SELECT status, error FROM executions") + &cluster.logs()),
    })
    .unwrap();
}

/// What a process may address, in bytes.
fn address_space(pid: i32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    pages.split(' ').next().and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

#[test]
fn an_execution_that_breaks_its_processes_is_not_handed_on_for_ever() {
    let env = vec![("DURABLE_CLAIM".to_owned(), "1s".to_owned()), ("DURABLE_LEASE".to_owned(), "3s".to_owned())];
    let settings = ClusterSettings { workers: 1, env, ..ClusterSettings::default() };
    let (cluster, files) = (Cluster::start(settings).unwrap(), Files::new());
    let limit = |pid: i32| {
        // What it has, and some hundred MiB more: less than a turn may hold.
        let size = Some(address_space(pid) + (600 << 20));
        let size = Rlimit { current: size, maximum: size };
        prlimit(Pid::from_raw(pid), Resource::As, size).map(drop)
    };
    for pid in cluster.worker_pids() {
        limit(pid).unwrap();
    }
    limit(cluster.orchestrator_pid(0)).unwrap();
    start(&cluster, &files.write("breaks.py", BREAKS), "breaks", &[]);
    start(&cluster, &files.write("healthy.py", HEALTHY), "healthy", &[]);
    let mut deaths = 0;
    eventually(Duration::from_secs(150), || {
        if !cluster.worker_lives(0) {
            deaths += 1;
            cluster.start_worker(0)?;
            cluster.worker_pids().into_iter().try_for_each(limit).map_err(|error| error.to_string())?;
        }
        if !cluster.orchestrator_lives(0) {
            deaths += 1;
            cluster.start_orchestrator(0)?;
            limit(cluster.orchestrator_pid(0)).map_err(|error| error.to_string())?;
        }
        match count(&cluster, "breaks", "failed") {
            1 => Ok(()),
            _ => Err(format!("{deaths} deaths{}", cluster.sql("SELECT id, status, claims FROM executions"))),
        }
    })
    .unwrap();
    let error = cluster.sql("SELECT error FROM executions WHERE id = 'breaks'");
    assert!(error.contains("durable.WorkerLost") && error.contains("5 times in a row"), "{error}");
    assert!((4..=6).contains(&deaths), "{deaths} processes died");
    // Its function had ended, which was recorded before the turn that followed could break anything.
    assert_eq!(cluster.sql("SELECT attempt FROM calls WHERE execution_id = 'breaks'"), "1");
    eventually(Duration::from_secs(20), || match count(&cluster, "healthy", "completed") {
        1 => Ok(()),
        _ => Err(cluster.logs()),
    })
    .unwrap();
}
