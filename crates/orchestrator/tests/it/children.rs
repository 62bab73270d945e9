//! Children by a function of the workflow's file or by a file beside it, on a server.

use std::process::Command;

use durable_testing::program;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{cluster, get, post, until};

const FLOW: &str = "from durable import run_child
from builtin import add

async def plus(n):
    return await add(n, 1)

async def main():
    return [await run_child(plus, {'n': 1}), await run_child('child.py', {'n': 2})]
";

const CHILD: &str = "from durable import run_child\nimport grand\n\nasync def main(n):\n    return await run_child(grand.main, {'n': n})\n";

const GRAND: &str = "async def main(n):\n    return ['grand', n]\n";

fn files() -> Value {
    json!({"child.py": CHILD, "grand.py": GRAND})
}

#[test]
fn a_start_over_the_api_brings_its_files_along() {
    let request =
        |files: Value, id: &str| json!({"workflow": {"name": "flow.py", "source": FLOW, "files": files}, "id": id});
    let (status, said) = post("/executions", &request(files(), "api-files"));
    assert_eq!(status, StatusCode::CREATED, "{said}");
    assert_eq!(until("api-files", "completed")["output"], json!([2, ["grand", 2]]));
    let calls = get("/executions/api-files/calls").1;
    assert_eq!(calls[0]["function"], "flow.py:plus");
    let child = format!("api-files-{}", calls[0]["id"]);
    assert_eq!(get(&format!("/executions/{child}")).1["workflow"], "flow.py:plus");
    for (files, said) in [
        (json!({}), "flow.py:8:62"),
        (json!({"child.py": CHILD}), "there is no grand.py beside the workflow"),
        (json!({"child.py": CHILD, "grand.py": "async def main(n):\n    return m\n"}), "grand.py:2"),
        (json!({"child.py": CHILD, "grand.py": GRAND, "more.py": "yield 1\n"}), "more.py"),
    ] {
        let (status, answer) = post("/executions", &request(files, "api-refused"));
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        assert!(answer.to_string().contains(said), "{said}: {answer}");
    }
    for path in ["../child.py", "/child.py", "child.txt", ""] {
        let (status, answer) = post("/executions", &request(json!({path: GRAND}), "api-refused"));
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {answer}");
    }
    let named = json!({"workflow": {"name": "nothing", "files": files()}});
    assert_eq!(post("/executions", &named).0, StatusCode::BAD_REQUEST);
    // The same id with another file is another workflow.
    let other = json!({"child.py": CHILD, "grand.py": format!("{GRAND}\n")});
    assert_eq!(post("/executions", &request(other, "api-files")).0, StatusCode::CONFLICT);
}

#[test]
fn a_workflow_that_is_deployed_over_the_api_has_its_files() {
    let deploy = |files: Value| {
        post("/workflows", &json!({"name": "with-files", "file": "flow.py", "source": FLOW, "files": files}))
    };
    assert_eq!(deploy(json!({})).0, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, one) = deploy(files());
    assert_eq!((status, &one["version"]), (StatusCode::CREATED, &json!(1)), "{one}");
    assert_eq!(deploy(files()).0, StatusCode::OK, "the same texts are the same version");
    assert_eq!(
        post("/executions", &json!({"workflow": {"name": "with-files"}, "id": "api-by-name"})).0,
        StatusCode::CREATED
    );
    assert_eq!(until("api-by-name", "completed")["output"], json!([2, ["grand", 2]]));
}

#[test]
fn the_command_line_sends_the_files_beside_a_workflow() {
    let (_, folder) = durable_testing::sqlite();
    for (name, text) in [("flow.py", FLOW), ("child.py", CHILD), ("grand.py", GRAND)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let durable = |arguments: &[&str]| {
        let mut command = Command::new(program("durable"));
        let output = command.args(arguments).args(["--server", &cluster().api(0)]).current_dir(folder.path()).output();
        let output = output.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = durable(&["start", "flow.py", "--id", "cli-files", "--wait"]);
    assert_eq!((code, out.as_str()), (Some(0), "[2,[\"grand\",2]]\n"), "{err}");
    let (code, _, err) = durable(&["deploy", "from-cli", "flow.py"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, out, err) = durable(&["start", "from-cli", "--wait"]);
    assert_eq!((code, out.as_str()), (Some(0), "[2,[\"grand\",2]]\n"), "{err}");
    let (code, out, err) = durable(&["fork", "cli-files", "--at", "1", "--with", "flow.py", "--dry-run"]);
    assert!(code == Some(0) && out.contains("with flow.py"), "{out}{err}");
}
