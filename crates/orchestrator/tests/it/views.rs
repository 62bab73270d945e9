//! What executions became is told over the API page by page, and by the command line alike through both doors.

use std::process::Command;

use durable_testing::program;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{ADD, cluster, get, post, start, until, workflow};

/// The command line, without a variable that would choose its door.
fn durable(arguments: &[&str], door: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program("durable"));
    let (_, folder) = durable_testing::sqlite();
    for variable in ["DURABLE_DATABASE_URL", "DURABLE_API_URL", "DURABLE_API_TOKEN"] {
        command.env_remove(variable);
    }
    let output = command.args(arguments).args(door).current_dir(folder.path()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const FAILS: &str = "
from builtin import add

async def main():
    print('a line', 'of its log')
    print('another')
    first = await add(1, 2)
    big = [10 ** 30, 1.5, {'k': (1, 2)}, 'ä\u{2028}']
    await add(first, 'x')
";

#[test]
fn both_doors_tell_the_same() {
    start(FAILS, "door-failed");
    until("door-failed", "failed");
    let (_, started) = post("/executions", &json!({"workflow": workflow(ADD), "inputs": {"a": 4}, "id": "door-done"}));
    assert_eq!(started["id"], "door-done");
    until("door-done", "completed");
    start("from durable import wait_signal\n\nasync def main():\n    await wait_signal('never')\n", "door-waits");
    until("door-waits", "waiting");
    let (api, url) = (cluster().api(0), cluster().database_url());
    let (server, database) = (["--server", api.as_str()], ["--db", url.as_str()]);
    for id in ["door-failed", "door-done", "door-waits", "door-nobody"] {
        for command in ["show", "calls", "logs", "result"] {
            for json in [&[][..], &["--json"]] {
                let arguments: Vec<&str> = [command, id].into_iter().chain(json.iter().copied()).collect();
                let (one, two) = (durable(&arguments, &server), durable(&arguments, &database));
                assert_eq!(one, two, "{arguments:?}");
                assert_eq!(
                    one.0 == Some(4),
                    id == "door-nobody" || (command, id) == ("result", "door-waits"),
                    "{one:?}"
                );
            }
        }
    }
    let (_, calls, _) = durable(&["calls", "door-failed", "--json"], &server);
    let calls: Value = serde_json::from_str(&calls).unwrap();
    assert_eq!(calls[1]["args"], json!([3, "x"]));
    let (code, logs, _) = durable(&["logs", "door-failed"], &server);
    assert!(code == Some(0) && logs.contains("workflow  a line of its log"), "{logs}");
    let (code, out, err) = durable(&["result", "door-done"], &server);
    assert_eq!((code, out.as_str()), (Some(0), "6\n"), "{err}");
    let (code, out, err) = durable(&["list", "--status", "waiting", "--limit", "1000", "--json"], &server);
    assert!(code == Some(0) && out.contains("door-waits") && !out.contains("door-done"), "{out}{err}");
    let (code, _, err) = durable(&["list"], &["--server", "http://127.0.0.1:1"]);
    assert!(code == Some(3) && err.contains("cannot reach the server http://127.0.0.1:1"), "{err}");
    assert_eq!(post("/executions/door-waits/cancel?force=true", &Value::Null).0, StatusCode::OK);
}

#[test]
fn executions_are_listed_by_pages_that_neither_skip_nor_repeat() {
    for n in 0..7 {
        let request = json!({"workflow": workflow("async def main():\n    return 1\n"), "id": format!("page-{n}")});
        assert_eq!(post("/executions", &request).0, StatusCode::CREATED);
        until(&format!("page-{n}"), "completed");
    }
    let (mut seen, mut after): (Vec<String>, _) = (Vec::new(), String::new());
    loop {
        let (status, page) = get(&format!("/executions?status=completed&limit=3{after}"));
        assert_eq!(status, StatusCode::OK, "{page}");
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3 && items.iter().all(|item| item["status"] == "completed"), "{page}");
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let mine: Vec<&String> = seen.iter().filter(|id| id.starts_with("page-") && *id != "page-calls").collect();
    assert_eq!(mine, ["page-6", "page-5", "page-4", "page-3", "page-2", "page-1", "page-0"]);
    let mut once = seen.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), seen.len());
    for (wrong, part) in [
        ("status=done", "one of scheduled, running"),
        ("limit=0", "a number from 1 to 1000"),
        ("after=zzz", "the next of a former answer"),
        ("limit=x", "invalid digit"),
        ("page=2", "unknown field"),
    ] {
        let (status, said) = get(&format!("/executions?{wrong}"));
        let message = said["error"]["message"].as_str().unwrap_or_default();
        assert!(status == StatusCode::BAD_REQUEST && message.contains(part), "{wrong}: {said}");
    }
}

#[test]
fn calls_and_logs_are_told_by_pages() {
    let source = "import asyncio\nfrom builtin import add\n\nasync def main():\n    for n in range(5):\n        print(n)\n        await add(n, n)\n";
    start(source, "page-calls");
    until("page-calls", "completed");
    let (_, all) = get("/executions/page-calls/calls");
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 5);
    let (_, two) = get("/executions/page-calls/calls?limit=2");
    assert_eq!(two.as_array().unwrap()[..], all[..2]);
    let (_, rest) = get(&format!("/executions/page-calls/calls?after={}", two[1]["id"]));
    assert_eq!(rest.as_array().unwrap()[..], all[2..]);
    let (_, logs) = get("/executions/page-calls/logs");
    assert_eq!((logs["items"].as_array().unwrap().len(), &logs["next"]), (5, &Value::Null), "{logs}");
    let (_, first) = get("/executions/page-calls/logs?limit=2");
    let (_, second) = get(&format!("/executions/page-calls/logs?limit=4&after={}", first["next"].as_str().unwrap()));
    assert_eq!((second["items"][0]["text"].as_str(), second["items"].as_array().unwrap().len()), (Some("2\n"), 3));
    assert_eq!(get("/executions/nobody/logs").0, StatusCode::NOT_FOUND);
    assert_eq!(get("/executions/nobody/code").0, StatusCode::NOT_FOUND);
    assert_eq!(get("/executions/page-calls/logs?after=x").0, StatusCode::BAD_REQUEST);
}
