//! Stock RQ beside us: its tools see our queues, its workers run our jobs. Scenarios 14 to 16, 29, 30 of docs/queue.md.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use durable_testing::{Cluster, ClusterSettings, Guard, eventually};
use serde_json::{Value, json};

const TASKS: &str = "
import os

def double(x):
    return x * 2

def count(x, path):
    with open(path, 'a') as file:
        file.write(f'{x}\\n')
    return x

def refuse(x, why='no'):
    raise ValueError(f'{why} {x}')

def die_once(path):
    if not os.path.exists(path):
        open(path, 'w').close()
        os.kill(os.getpid(), 9)
    return {'alive': True, 'list': [1, 2.5, None, 'ü']}
";

const WORKFLOW: &str = "
import asyncio
from rqtasks import double, refuse, die_once, nowhere

async def main(path: str):
    values = await asyncio.gather(*[double(i) for i in range(5)])
    try:
        await refuse(7, why='not')
    except ValueError as error:
        caught = str(error)
    try:
        await nowhere()
    except Exception as error:
        missing = str(error)
    return [values, caught, await die_once(path), 'nowhere' in missing]
";

const MIXED: &str = "
import asyncio
from rqtasks import count

async def main(path: str):
    return sum(await asyncio.gather(*[count(i, path) for i in range(800)]))
";

fn rq(version: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/rq").join(version).join("bin/rq");
    assert!(program.is_file(), "{} is missing: ./scripts/test installs it", program.display());
    program
}

fn worker(cluster: &Cluster, folder: &Path, version: &str, queue: &str, serializer: &str) -> Guard {
    let url = cluster.redis.url();
    let folder_name = folder.display().to_string();
    let program = rq(version).display().to_string();
    let command = [&program, "worker", queue, "-u", &url, "-P", &folder_name, "-S", serializer, "-q"];
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    // rq forks on macOS only with this set; elsewhere it changes nothing.
    let env = [("OBJC_DISABLE_INITIALIZE_FORK_SAFETY".to_owned(), "YES".to_owned())];
    Guard::start(&command, &env, &folder.join(format!("rq-{version}-{queue}.log")), "KILL").unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("rqtasks.py", TASKS), ("workflow.py", WORKFLOW), ("mixed.py", MIXED)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn stock_workers_of_both_versions_run_a_workflow_also_when_functions_fail_and_work_horses_die() {
    let folder = folder();
    let queues =
        ["py2=pickle", "js2=json", "py3=pickle", "js3=json"].map(|queue| format!("{queue}:rqtasks.*")).join(",");
    let settings =
        ClusterSettings { workers: 0, env: vec![("DURABLE_RQ_QUEUES".into(), queues)], ..ClusterSettings::default() };
    let cluster = Cluster::start(settings).unwrap();
    let fleet =
        [("2.12.0", "py2", "pickle"), ("2.12.0", "js2", "json"), ("3.0.0", "py3", "pickle"), ("3.0.0", "js3", "json")];
    let _workers =
        fleet.map(|(version, queue, serializer)| worker(&cluster, folder.path(), version, queue, serializer));
    let workflow = folder.path().join("workflow.py");
    let outputs: Vec<String> = std::thread::scope(|scope| {
        let runs = fleet.map(|(_, queue, _)| {
            let (cluster, workflow) = (&cluster, &workflow);
            let path = json!(folder.path().join(format!("died-{queue}"))).to_string();
            scope.spawn(move || cluster.complete(workflow, &["--queue", queue, "--input", &format!("path={path}")]))
        });
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let expected = json!([[0, 2, 4, 6, 8], "not 7", {"alive": true, "list": [1, 2.5, null, "ü"]}, true]);
    for (output, (version, queue, _)) in outputs.iter().zip(fleet) {
        assert_eq!(serde_json::from_str::<Value>(output).unwrap(), expected, "{version} {queue}");
    }
    // The killed work-horses and the refusals were attempts like any other.
    let lost = cluster.sql("SELECT count(*) FROM attempts WHERE error LIKE '%durable.WorkerLost%'");
    assert_eq!(lost, "4");
    let refused = cluster.sql("SELECT count(*) FROM attempts WHERE error LIKE '%Traceback%not 7%'");
    assert_eq!(refused, "12");
}

/// Calls what nobody meant to be called, and a queue that it was not started in.
const ESCAPES: &str = "
import durable

async def main(queue: str):
    said = []
    for function in ['subprocess.getoutput', 'rqtasks.os.system', 'eval', 'rqtasks.double']:
        try:
            await durable.call(function, 'id', queue=queue)
        except PermissionError as error:
            said.append(str(error))
    return said
";

#[test]
fn a_queue_of_stock_workers_is_no_way_out_of_the_sandbox() {
    let folder = folder();
    let path = folder.path().join("escapes.py");
    std::fs::write(&path, ESCAPES).unwrap();
    let queues = "legacy=json:rqtasks.refuse,open=pickle".to_owned();
    let settings =
        ClusterSettings { workers: 0, env: vec![("DURABLE_RQ_QUEUES".into(), queues)], ..ClusterSettings::default() };
    let cluster = Cluster::start(settings).unwrap();
    let not_listed = "--rq-queue does not list it";
    let not_named = "only executions that are started in the queue legacy, or whose start or deployment names it";
    for (start, queue, named, part) in [
        ("legacy", "legacy", &[][..], not_listed),
        ("open", "open", &[], not_listed),
        ("default", "legacy", &[], not_named),
        ("default", "legacy", &["--allow-function", "*"], not_named),
        ("default", "legacy", &["--allow-queue", "leg*"], not_named),
        ("default", "legacy", &["--allow-queue", "other"], "nothing may be called in the queue legacy"),
        ("default", "legacy", &["--allow-queue", "legacy"], not_listed),
    ] {
        let input = format!("queue=\"{queue}\"");
        let output = cluster.complete(&path, &[&["--queue", start, "--input", &input], named].concat());
        let said: Vec<String> = serde_json::from_str(&output).unwrap();
        assert!(said.len() == 4 && said.iter().all(|said| said.contains(part)), "{start} {queue}: {said:?}");
    }
    assert_eq!(cluster.redis.cli(&["LLEN", "rq:queue:legacy"]), "0");
}

#[test]
fn a_mixed_fleet_runs_eight_hundred_jobs_once_each() {
    let folder = folder();
    let functions = folder.path().join("rqtasks.py").display().to_string();
    let settings = ClusterSettings {
        workers: 1,
        worker_options: vec![
            "--queue".into(),
            "mixed".into(),
            "--functions".into(),
            functions,
            "--concurrency".into(),
            "2".into(),
        ],
        env: vec![("DURABLE_RQ_QUEUES".into(), "mixed=json:rqtasks.*".into())],
        ..ClusterSettings::default()
    };
    let cluster = Cluster::start(settings).unwrap();
    let _workers = ["2.12.0", "3.0.0"].map(|version| worker(&cluster, folder.path(), version, "mixed", "json"));
    // They are slow to start, and should have their part.
    eventually(Duration::from_secs(20), || match cluster.redis.cli(&["SCARD", "rq:workers"]).as_str() {
        "3" => Ok(()),
        other => Err(format!("{other} workers")),
    })
    .unwrap();
    let ran = folder.path().join("ran");
    let path = format!("path={}", json!(ran));
    let output = cluster.complete(&folder.path().join("mixed.py"), &["--queue", "mixed", "--input", &path]);
    assert_eq!(output, (799 * 800 / 2).to_string());
    let text = std::fs::read_to_string(&ran).unwrap();
    let mut lines: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..800).collect::<Vec<_>>(), "each function ran once");
    assert_eq!(
        cluster.sql("SELECT count(*) FROM calls WHERE status = 'completed' AND delivered_in IS NOT NULL"),
        "800"
    );
    assert_eq!(cluster.sql("SELECT count(*) FROM attempts"), "0");
    let ours = cluster.sql("SELECT count(*) FROM calls WHERE worker IS NOT NULL");
    assert!((1..800).contains(&ours.parse().unwrap()), "both kinds of worker took part: {ours} by ours");
    eventually(Duration::from_secs(10), || {
        let left: Vec<String> = ["rq:queue:mixed", "rq:queue:durable-resume", "rq:queue:mixed:intermediate"]
            .map(|list| cluster.redis.cli(&["LLEN", list]))
            .into_iter()
            .chain(
                ["rq:wip:mixed", "rq:wip:durable-resume", "rq:failed:mixed"]
                    .map(|set| cluster.redis.cli(&["ZCARD", set])),
            )
            .collect();
        if left.iter().all(|count| count == "0") { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .unwrap();
}

/// 16 too: `rq info` counts, and what it thinks of our leases does no harm.
#[test]
fn rq_info_shows_queues_workers_and_counts() {
    let cluster = Cluster::start(ClusterSettings { workers: 2, ..ClusterSettings::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let workflow = folder.path().join("workflow.py");
    let source = "
import asyncio
from builtin import sleep

async def main():
    return len(await asyncio.gather(*[sleep(4.0) for _ in range(40)]))
";
    std::fs::write(&workflow, source).unwrap();
    let id = String::from_utf8(cluster.run("durable-start", &[&workflow.display().to_string()]).stdout).unwrap();
    eventually(Duration::from_secs(10), || match cluster.redis.cli(&["ZCARD", "rq:wip:default"]).as_str() {
        "16" => Ok(()),
        other => Err(format!("{other} jobs are held")),
    })
    .unwrap();
    for version in ["2.12.0", "3.0.0"] {
        let output = Command::new(rq(version)).args(["info", "--raw", "-u", &cluster.redis.url()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.lines().any(|line| line.starts_with("queue default 24")), "{version}: {text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("worker ")).count(), 2, "{version}: {text}");
        assert!(text.contains("busy"), "{version}: {text}");
    }
    let id = id.trim();
    let url = format!("{}/executions/{id}?wait=60s", cluster.api(0));
    let ended: Value =
        reqwest::blocking::Client::new().get(url).timeout(Duration::from_secs(90)).send().unwrap().json().unwrap();
    assert_eq!(ended["output"], json!(40), "{ended}");
    assert_eq!(cluster.sql("SELECT count(*) FROM attempts"), "0");
}
