//! Workflows are mended while they run, over the API.

use durable_testing::program;
use reqwest::{StatusCode, blocking::Client};
use serde_json::{Value, json};

use crate::{cluster, get, post, send, start, until, workflow};

const BUGGY: &str = "
from durable import wait_signal
from builtin import add

async def main(a: int = 1):
    sum = await add(a, 1)
    go = await wait_signal('go')
    return {}[sum + go]
";

fn fixed() -> String {
    BUGGY.replace("{}[sum + go]", "await add(sum, go)")
}

fn message(said: &Value) -> &str {
    said["error"]["message"].as_str().unwrap_or_default()
}

fn to_signal(id: &str) {
    durable_testing::eventually(std::time::Duration::from_secs(20), || {
        let (_, calls) = get(&format!("/executions/{id}/calls"));
        if calls[1]["kind"] == "signal" { Ok(()) } else { Err(calls.to_string()) }
    })
    .unwrap();
}

#[test]
fn a_failed_execution_goes_on_with_the_code_of_the_request() {
    start(BUGGY, "mend-1");
    to_signal("mend-1");
    assert_eq!(post("/executions/mend-1/signals/go", &json!(40)).0, StatusCode::OK);
    until("mend-1", "failed");
    let (status, said) = post("/executions/mend-1/retry", &json!({"workflow": workflow(&fixed()), "dry_run": true}));
    assert_eq!(
        (status, &said["status"], &said["dry_run"]),
        (StatusCode::OK, &json!("retrying"), &json!(true)),
        "{said}"
    );
    assert_eq!((&said["outcomes"], &said["waits"][0]["line"]), (&json!(1), &json!(7)), "{said}");
    assert_eq!(get("/executions/mend-1").1["status"], "failed");
    let parts = workflow(&fixed().replace("add(a, 1)", "add(a, 2)"));
    let (status, said) = post("/executions/mend-1/retry", &json!({"workflow": parts}));
    assert_eq!((status, &said["error"]["type"]), (StatusCode::CONFLICT, &json!("conflict")), "{said}");
    assert!(message(&said).contains("builtin.add [1,1] {} on record (line 6)"), "{said}");
    let (status, said) = post("/executions/mend-1/retry", &json!({"workflow": workflow("async def main(:")}));
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && message(&said).contains("workflow.py:1"), "{said}");
    let inputs = workflow(&fixed().replace("a: int = 1", "a, b"));
    let (status, said) = post("/executions/mend-1/retry", &json!({"workflow": inputs}));
    assert_eq!((status, &said["error"]["type"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("bad_inputs")), "{said}");
    assert_eq!(post("/executions/mend-1/retry", &json!({"dry_run": true})).0, StatusCode::BAD_REQUEST);
    assert_eq!(post("/executions/mend-1/retry", &json!({"workflows": 1})).0, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, said) = post("/executions/mend-1/retry", &json!({"workflow": workflow(&fixed())}));
    assert_eq!((status, &said["version"]), (StatusCode::OK, &json!(2)), "{said}");
    let ended = until("mend-1", "completed");
    assert_eq!(ended["output"], 42);
    assert_eq!(ended["versions"].as_array().unwrap().len(), 2, "{ended}");
    assert_eq!(get("/executions/mend-1/code?version=1").1["source"], BUGGY);
    assert_eq!(get("/executions/mend-1/code").1["source"], json!(fixed()));
    assert_eq!(get("/executions/mend-1/code?version=9").0, StatusCode::NOT_FOUND);
    let (status, said) = post("/executions/mend-1/retry", &json!({"workflow": workflow(BUGGY)}));
    assert!(status == StatusCode::CONFLICT && message(&said).contains("cannot be mended"), "{said}");
}

#[test]
fn a_waiting_execution_and_a_fork_take_deployed_code_by_its_name() {
    start(BUGGY, "mend-2");
    to_signal("mend-2");
    let deployed = json!({"name": "mended", "file": "mended.py", "source": fixed()});
    assert_eq!(post("/workflows", &deployed).0, StatusCode::CREATED);
    let (_, said) = post("/executions/mend-2/fork", &json!({"workflow": {"name": "mended"}, "dry_run": true}));
    assert_eq!((&said["status"], &said["pause"]), (&json!("forked"), &json!(2)), "{said}");
    let request = json!({"workflow": {"name": "mended"}, "id": "mend-2-fork", "set": {}});
    let (status, said) = post("/executions/mend-2/fork", &request);
    assert_eq!((status, &said["workflow"]), (StatusCode::CREATED, &json!("mended.py")), "{said}");
    assert_eq!(get("/executions/mend-2").1["workflow"], "workflow.py");
    let (_, said) = post("/executions/mend-2/retry", &json!({"workflow": {"name": "mended"}}));
    assert_eq!((&said["status"], &said["held"]), (&json!("mended"), &json!(false)), "{said}");
    for id in ["mend-2", "mend-2-fork"] {
        assert_eq!(post(&format!("/executions/{id}/signals/go"), &json!(5)).0, StatusCode::OK);
        assert_eq!(until(id, "completed")["output"], 7, "{id}");
    }
    // Without a body: what a web page could not make a browser send.
    let ask = |path: &str| {
        let url = format!("{}/executions/{path}", cluster().api(0));
        send(Client::new().post(url).header("content-type", "application/json"))
    };
    let (status, said) = ask("mend-2/retry");
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    let (status, said) = ask("mend-2/fork");
    assert_eq!(status, StatusCode::CONFLICT, "no state is kept of one that completed: {said}");
}

#[test]
fn the_command_line_mends_through_a_server() {
    start(BUGGY, "mend-3");
    to_signal("mend-3");
    let (_, folder) = durable_testing::sqlite();
    let file = folder.path().join("fixed.py");
    std::fs::write(&file, fixed()).unwrap();
    let durable = |arguments: &[&str]| {
        let mut command = std::process::Command::new(program("durable"));
        command.args(arguments).args(["--server", &cluster().api(0)]).current_dir(folder.path());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = durable(&["retry", "mend-3", "--with", "fixed.py", "--dry-run"]);
    assert!(
        code == Some(0) && out.contains("nothing was changed: execution mend-3 would wait with fixed.py"),
        "{out}{err}"
    );
    let (code, out, err) = durable(&["fork", "mend-3", "--with", "fixed.py", "--id", "mend-3-fork", "--no-wait"]);
    assert_eq!((code, out.as_str()), (Some(0), "mend-3-fork\n"), "{err}");
    let (code, _, err) = durable(&["retry", "mend-3", "--with", "fixed.py"]);
    assert!(code == Some(0) && err.contains("waits with fixed.py as version 2"), "{err}");
    std::fs::write(&file, fixed().replace("add(a, 1)", "add(a, 3)")).unwrap();
    let (code, _, err) = durable(&["retry", "mend-3", "--with", "fixed.py"]);
    assert!(code == Some(2) && err.contains("and function builtin.add [1,3] {} now (line 6)"), "{err}");
    for id in ["mend-3", "mend-3-fork"] {
        assert_eq!(durable(&["signal", id, "go", "1"]).0, Some(0));
        assert_eq!(until(id, "completed")["output"], 3);
    }
}
