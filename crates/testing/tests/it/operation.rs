//! Workers and servers as those see them who run them: stops, names, wrong options, servers that are away.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use durable_core::store::DatabaseUrl;
use durable_testing::{Cluster, ClusterSettings, Postgres, Redis, eventually, free_port, program};
use rustix::process::Signal;
use serde_json::Value;

fn example(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(path).display().to_string()
}

/// Runs a program to its end.
fn run(name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program(name)).args(arguments).stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), format!("{out}{err}"))
}

fn database() -> String {
    let DatabaseUrl::Postgres(url) = Postgres::shared().database() else { unreachable!() };
    url
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn the_video_example_runs_across_workers() {
    let settings = ClusterSettings {
        workers: 3,
        worker_options: ["--functions", &example("video_encoding/tasks.py"), "--concurrency", "2"]
            .map(String::from)
            .to_vec(),
        ..ClusterSettings::default()
    };
    let cluster = Cluster::start(settings).unwrap();
    let output = cluster.complete(Path::new(&example("video_encoding/workflow.py")), &[]);
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(output["videos"].as_array().unwrap().len(), 4);
    let workers: u32 = cluster.sql("SELECT count(DISTINCT worker) FROM calls").parse().unwrap();
    assert!(workers >= 2, "the calls ran on {workers} worker");
    let started = cluster.run("durable-start", &[&example("video_encoding/workflow.py"), "--id", "video-2"]);
    assert_eq!(String::from_utf8_lossy(&started.stdout), "video-2\n", "the id alone is on stdout");
    let shown = cluster.run("durable", &["show", "video-2"]);
    assert!(shown.status.success());
}

#[test]
fn a_worker_that_is_asked_to_stop_finishes_what_it_can_and_gives_the_rest_back() {
    let folder = tempfile::tempdir().unwrap();
    let source = "
import asyncio
from builtin import sleep

async def main():
    return await asyncio.gather(sleep(0.7), sleep(6.0))
";
    let workflow = file(&folder, "workflow.py", source);
    let settings = ClusterSettings {
        workers: 1,
        worker_options: ["--grace", "2s"].map(String::from).to_vec(),
        ..ClusterSettings::default()
    };
    let cluster = Cluster::start(settings).unwrap();
    let id = String::from_utf8(cluster.run("durable-start", &[&workflow]).stdout).unwrap();
    eventually(Duration::from_secs(10), || match cluster.redis.cli(&["ZCARD", "rq:wip:default"]).as_str() {
        "2" => Ok(()),
        other => Err(format!("{other} jobs are held")),
    })
    .unwrap();
    cluster.signal_worker(0, Signal::TERM);
    assert!(cluster.worker_ends_within(0, Duration::from_secs(4)), "{}", cluster.logs());
    assert_eq!(
        cluster.sql("SELECT status, attempt FROM calls ORDER BY call_id"),
        "completed|1\npending|1",
        "uncounted"
    );
    assert_eq!(cluster.redis.cli(&["ZCARD", "rq:wip:default"]), "0");
    assert_eq!(cluster.redis.cli(&["KEYS", "rq:worker:*"]), "");
    assert_eq!(cluster.sql("SELECT count(*) FROM workers"), "0");
    let stopped = Instant::now();
    cluster.start_worker(0).unwrap();
    let url = format!("{}/executions/{}?wait=30s", cluster.api(0), id.trim());
    let ended: Value =
        reqwest::blocking::Client::new().get(url).timeout(Duration::from_secs(60)).send().unwrap().json().unwrap();
    assert_eq!(ended["output"], serde_json::json!([0.7, 6.0]), "{ended}");
    assert!(stopped.elapsed() < Duration::from_secs(12), "given back at once, not found by its lease");
    assert_eq!(cluster.sql("SELECT count(*) FROM attempts"), "0");
}

#[test]
fn a_second_signal_ends_a_worker_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let source = "from builtin import sleep\n\nasync def main():\n    await sleep(60.0)\n";
    let workflow = file(&folder, "workflow.py", source);
    let cluster = Cluster::start(ClusterSettings { workers: 1, ..ClusterSettings::default() }).unwrap();
    cluster.run("durable-start", &[&workflow]);
    eventually(Duration::from_secs(10), || match cluster.redis.cli(&["ZCARD", "rq:wip:default"]).as_str() {
        "1" => Ok(()),
        other => Err(format!("{other} jobs are held")),
    })
    .unwrap();
    cluster.signal_worker(0, Signal::TERM);
    assert!(!cluster.worker_ends_within(0, Duration::from_secs(1)), "the function has ten seconds of grace");
    cluster.signal_worker(0, Signal::TERM);
    assert!(cluster.worker_ends_within(0, Duration::from_secs(1)));
}

#[test]
fn burst_and_max_jobs_end_by_themselves_and_two_workers_may_have_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let source = "
import asyncio
from builtin import echo

async def main():
    return await asyncio.gather(*[echo(i) for i in range(10)])
";
    let workflow = file(&folder, "workflow.py", source);
    let cluster = Cluster::start(ClusterSettings { workers: 0, ..ClusterSettings::default() }).unwrap();
    let id = String::from_utf8(cluster.run("durable-start", &[&workflow]).stdout).unwrap();
    eventually(Duration::from_secs(10), || match cluster.redis.cli(&["LLEN", "rq:queue:default"]).as_str() {
        "10" => Ok(()),
        other => Err(format!("{other} jobs wait")),
    })
    .unwrap();
    let limited = cluster.run("durable-worker", &["--max-jobs", "3", "--name", "twin"]);
    assert!(limited.status.success(), "{}", String::from_utf8_lossy(&limited.stderr));
    assert_eq!(cluster.sql("SELECT count(*) FROM calls WHERE status = 'completed'"), "3");
    let burst = cluster.run("durable-worker", &["--burst", "--name", "twin"]);
    assert!(burst.status.success(), "{}", String::from_utf8_lossy(&burst.stderr));
    assert_eq!(cluster.sql("SELECT status FROM executions"), "completed", "{id}");
    let names = cluster.sql("SELECT DISTINCT worker FROM calls");
    assert_eq!(names.lines().filter(|name| name.starts_with("twin~")).count(), 2, "told apart: {names}");
}

#[test]
fn functions_that_cannot_be_imported_end_the_worker_with_their_traceback() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = file(&folder, "tasks.py", "import json\n\nraise RuntimeError('no licence')\n");
    let (code, said) =
        run("durable-worker", &["--functions", &tasks, "--database-url", "postgres://nobody@127.0.0.1:1/x"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("tasks.py\", line 3") && said.contains("RuntimeError: no licence"), "{said}");
    let (code, said) = run("durable-worker", &["--functions", "nowhere.py"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("there is no file of functions nowhere.py"), "{said}");
}

#[test]
fn a_database_that_is_wrong_away_old_or_new_is_told_of_without_its_password() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    for name in ["durable-worker", "durable-orchestrator"] {
        let with = |database: &str| {
            let mut arguments = vec!["--database-url", database, "--redis-url", &url];
            if name == "durable-orchestrator" {
                arguments.extend(["--listen", "127.0.0.1:0"]);
            }
            let (code, said) = run(name, &arguments);
            assert!(!said.contains("hidden"), "{said}");
            (code, said)
        };
        let (code, said) = with("mysql://me:hidden@host/db");
        assert!(code == Some(2) && said.contains("names no database"), "{said}");
        let away = format!("postgres://me:hidden@127.0.0.1:{}/db", free_port());
        let (code, said) = with(&away);
        assert!(code == Some(3) && said.contains("refused") && said.contains("me:***@"), "{said}");
        let empty = database();
        let (code, said) = with(&empty);
        assert!(code == Some(3) && said.contains("run durable migrate"), "{said}");
        assert_eq!(run("durable", &["migrate", "--db", &empty]).0, Some(0));
        let newer = "INSERT INTO __diesel_schema_migrations (version) VALUES ('20990101000001')";
        Postgres::shared().query(empty.rsplit('/').next().unwrap(), newer).unwrap();
        let (code, said) = with(&empty);
        assert!(code == Some(3) && said.contains("migrated by a newer version"), "{said}");
    }
    let (code, said) = run("durable-worker", &["--redis-url", &url]);
    assert!(code == Some(2) && said.contains("DURABLE_DATABASE_URL"), "{said}");
}

#[test]
fn a_redis_that_is_wrong_or_away_is_told_of_without_its_password() {
    let database = database();
    assert_eq!(run("durable", &["migrate", "--db", &database]).0, Some(0));
    let with = |redis: &str| run("durable-worker", &["--database-url", &database, "--redis-url", redis]);
    let (code, said) = with("http://me:hidden@host");
    assert!(code == Some(2) && said.contains("names no Redis") && !said.contains("hidden"), "{said}");
    let (code, said) = with(&format!("redis://:hidden@127.0.0.1:{}", free_port()));
    assert!(code == Some(3) && said.contains("refused") && !said.contains("hidden"), "{said}");
    let guarded = Redis::start(&[]);
    guarded.cli(&["CONFIG", "SET", "requirepass", "right"]);
    let (code, said) = with(&format!("redis://:hidden@127.0.0.1:{}", guarded.port()));
    assert!(code == Some(3) && said.contains("hint: put the password") && !said.contains("hidden"), "{said}");
    let (code, said) = run("durable-worker", &["--database-url", &database, "--queue", "a:b"]);
    assert!(code == Some(2) && said.contains("cannot name a queue"), "{said}");
    let (code, said) = run("durable-worker", &["--database-url", &database, "--rq-queue", "q=yaml"]);
    assert!(code == Some(2) && said.contains("there are json and pickle"), "{said}");
}

#[test]
fn a_server_that_is_away_is_named_with_what_to_do() {
    let server = format!("http://127.0.0.1:{}", free_port());
    let (code, said) = run("durable-start", &[&example("simple_parallel/workflow.py"), "--server", &server]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&format!("cannot reach the server {server}")) && said.contains("hint: start one"), "{said}");
    let (code, said) = run("durable-start", &["nowhere.py"]);
    assert!(code == Some(2) && said.contains("cannot read the workflow nowhere.py"), "{said}");
}

#[test]
fn logs_are_text_or_json_with_the_same_fields() {
    let folder = tempfile::tempdir().unwrap();
    let source = "from builtin import ad\n\nasync def main():\n    await ad(1, 2)\n";
    let workflow = file(&folder, "workflow.py", source);
    let env = [("DURABLE_LOG_FORMAT", "json"), ("DURABLE_LOG", "debug")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let cluster = Cluster::start(ClusterSettings { workers: 1, env, ..ClusterSettings::default() }).unwrap();
    let id = String::from_utf8(cluster.run("durable-start", &[&workflow]).stdout).unwrap();
    let line = eventually(Duration::from_secs(10), || {
        let text = std::fs::read_to_string(cluster.log("worker0")).unwrap();
        let found = text.lines().find(|line| line.contains("no worker of this queue offers")).map(String::from);
        found.ok_or(text)
    });
    let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
    assert_eq!(line["execution.id"], id.trim());
    assert_eq!(line["level"], "WARN");
    let text = std::fs::read_to_string(cluster.log("orchestrator0")).unwrap();
    let spans = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let named = spans.filter(|line| line["execution.id"] == id.trim() || line["span"]["execution.id"] == id.trim());
    assert!(named.count() >= 1, "{text}");
}
