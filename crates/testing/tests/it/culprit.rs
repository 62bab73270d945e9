//! Processes of Python functions are killed and crash in a cluster: whoever was not the cause does not pay.

use std::{fs, path::Path, time::Duration};

use durable_testing::{Cluster, ClusterSettings, eventually};
use rustix::process::{Pid, Signal, kill_process};

const TASKS: &str = r#"
import asyncio
import os

import durable


@durable.function(retries=0)
async def innocent(folder, name):
    open(os.path.join(folder, f"{name}.{durable.attempt()}.{os.getpid()}"), "w").close()
    await asyncio.sleep(1.5)
    return name


@durable.function(retries=0)
async def crashes():
    await asyncio.sleep(0.5)
    os.abort()


def environment():
    return sorted(name for name in os.environ if name.startswith(("DURABLE_", "PG", "KEPT_")))
"#;

fn cluster(folder: &Path) -> Cluster {
    let tasks = folder.join("tasks.py");
    fs::write(&tasks, TASKS).unwrap();
    let secrets = [("PGPASSWORD", "sesame"), ("KEPT_KEY", "mine")];
    Cluster::start(ClusterSettings {
        worker_options: vec!["--functions".into(), tasks.display().to_string()],
        env: secrets.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..ClusterSettings::default()
    })
    .unwrap()
}

fn workflow(folder: &Path, name: &str, body: &str) -> String {
    let path = folder.join(format!("{name}.py"));
    let text = format!("import asyncio\nimport tasks\n\nasync def main(name: str = ''):\n    return {body}\n");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Starts an execution of three innocent calls, by one name.
fn start(cluster: &Cluster, workflow: &str, name: &str) {
    let input = format!("name=\"{name}\"");
    let said = cluster.run("durable-start", &[workflow, "--id", name, "--input", &input]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

fn begun(marks: &Path) -> Vec<String> {
    let names = fs::read_dir(marks).unwrap().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn until_all_have_ended(cluster: &Cluster) {
    eventually(Duration::from_secs(60), || {
        match cluster
            .sql("SELECT count(*) FROM executions WHERE status NOT IN ('completed', 'failed', 'cancelled')")
            .as_str()
        {
            "0" => Ok(()),
            open => Err(format!("{open} executions are open\n{}", cluster.logs())),
        }
    })
    .unwrap();
}

#[test]
fn a_function_that_crashes_on_a_cluster_fails_no_other_execution() {
    let folder = tempfile::tempdir().unwrap();
    let marks = folder.path().join("marks");
    fs::create_dir(&marks).unwrap();
    let cluster = cluster(folder.path());
    let three =
        format!("await asyncio.gather(*[tasks.innocent('{}', name + str(n)) for n in range(3)])", marks.display());
    let (innocent, crash) =
        (workflow(folder.path(), "innocent", &three), workflow(folder.path(), "crash", "await tasks.crashes()"));
    for round in ["a", "b", "c", "d"] {
        start(&cluster, &innocent, round);
    }
    eventually(Duration::from_secs(20), || match begun(&marks).len() {
        12 => Ok(()),
        other => Err(format!("{other} of 12 have begun")),
    })
    .unwrap();
    for name in ["x", "y"] {
        start(&cluster, &crash, name);
    }
    until_all_have_ended(&cluster);
    let failed = cluster.sql("SELECT id FROM executions WHERE status = 'failed' ORDER BY id");
    assert_eq!(failed, "x\ny", "{}", cluster.logs());
    let how = cluster.sql("SELECT count(*) FROM calls WHERE error LIKE '%was ended by SIGABRT (abort)%'");
    assert_eq!(how, "2");
    let lost =
        cluster.sql("SELECT count(*) FROM attempts WHERE lost AND error LIKE '%because of tasks.crashes (call %'");
    assert_ne!(lost, "0", "they shared a process");
    assert_eq!(cluster.sql("SELECT count(*) FROM attempts WHERE NOT lost"), "2", "the crashes alone are counted");
}

#[test]
fn processes_that_are_killed_from_outside_fail_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let marks = folder.path().join("marks");
    fs::create_dir(&marks).unwrap();
    let cluster = cluster(folder.path());
    let three =
        format!("await asyncio.gather(*[tasks.innocent('{}', name + str(n)) for n in range(3)])", marks.display());
    let innocent = workflow(folder.path(), "innocent", &three);
    for round in ["a", "b", "c", "d"] {
        start(&cluster, &innocent, round);
    }
    eventually(Duration::from_secs(20), || match begun(&marks).len() {
        12 => Ok(()),
        other => Err(format!("{other} of 12 have begun")),
    })
    .unwrap();
    let mut pids: Vec<i32> = begun(&marks).iter().filter_map(|name| name.rsplit('.').next()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.len() <= 2, "one shared process per worker: {pids:?}");
    for pid in &pids {
        kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
    }
    until_all_have_ended(&cluster);
    assert_eq!(cluster.sql("SELECT count(*) FROM executions WHERE status <> 'completed'"), "0", "{}", cluster.logs());
    assert_eq!(cluster.sql("SELECT count(*) FROM attempts WHERE NOT lost"), "0");
    assert_eq!(cluster.sql("SELECT count(*) FROM attempts WHERE error NOT LIKE '%SIGKILL%'"), "0");
}

#[test]
fn functions_do_not_inherit_the_keys_of_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path());
    let flow = workflow(folder.path(), "environment", "await tasks.environment()");
    assert_eq!(cluster.complete(Path::new(&flow), &[]).trim(), r#"["KEPT_KEY"]"#);
}
