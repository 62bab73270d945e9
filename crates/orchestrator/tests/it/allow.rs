//! What a workflow may do, said over the API and on the command line of a client.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{cluster, get, post, until};

const TWO: &str = "from builtin import add, echo

async def main():
    try:
        await echo(1)
    except PermissionError as error:
        return [await add(1, 1), str(error)]
";

fn request(workflow: &Value, id: &str, allow: &Value) -> Value {
    json!({"workflow": workflow, "id": id, "allow": allow})
}

#[test]
fn a_start_and_a_deployment_say_what_may_be_called() {
    let file = json!({"name": "two.py", "source": TWO});
    let (status, said) = post("/executions", &request(&file, "allow-start", &json!({"functions": ["builtin.add"]})));
    assert_eq!(status, StatusCode::CREATED, "{said}");
    let ended = until("allow-start", "completed");
    assert_eq!(ended["output"][0], 2);
    assert!(ended["output"][1].as_str().unwrap().contains("builtin.echo may not be called"), "{ended}");
    assert_eq!(get("/executions/allow-start").1["allow"], json!([{"functions": ["builtin.add"]}]));

    let may = json!({"functions": ["builtin.*"], "children": []});
    let deployed = json!({"name": "allow-two", "file": "two.py", "source": TWO, "allow": may});
    let (status, said) = post("/workflows", &deployed);
    assert_eq!((status, &said["allow"]), (StatusCode::CREATED, &may));
    let named = json!({"name": "allow-two"});
    let narrow = json!({"functions": ["builtin.add"]});
    post("/executions", &request(&named, "allow-both", &narrow));
    assert_eq!(until("allow-both", "completed")["output"][0], 2, "both lists hold");
    assert_eq!(get("/executions/allow-both").1["allow"], json!([narrow, may]));
    let (status, said) = post("/executions", &request(&named, "allow-both", &json!(null)));
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
}

#[test]
fn lists_that_name_nothing_are_refused() {
    for (allow, part) in [
        (json!({"functions": ["a b"]}), "names no function"),
        (json!({"queues": ["a:b"]}), "cannot name a queue"),
        (json!({"children": ["a\u{0}"]}), "control character"),
        (json!({"function": []}), "unknown field"),
        (json!({"functions": vec!["f"; 101]}), "101 names"),
    ] {
        let file = json!({"name": "two.py", "source": TWO});
        let (status, said) = post("/executions", &request(&file, "allow-bad", &allow));
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{said}");
        assert!(said.to_string().contains(part), "{part}: {said}");
        let deploy = json!({"name": "allow-bad", "file": "two.py", "source": TWO, "allow": allow});
        assert_eq!(post("/workflows", &deploy).0, StatusCode::UNPROCESSABLE_ENTITY);
    }
}

#[test]
fn clients_say_it_with_options() {
    let (_, folder) = durable_testing::sqlite();
    let file = folder.path().join("two.py");
    std::fs::write(&file, TWO).unwrap();
    let file = file.display().to_string();
    let server = cluster().api(0);
    let said = cluster().run("durable-start", &[&file, "--wait", "--allow-function", "builtin.add"]);
    let out = String::from_utf8(said.stdout).unwrap();
    assert!(out.starts_with("[2,") && out.contains("--allow-function"), "{out}");
    let deploy = ["deploy", "allow-cli", &file, "--server", &server, "--allow-function", "builtin.*", "--allow-queue="];
    let said = cluster().run("durable", &deploy);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let deployed = get("/workflows").1;
    let deployed = deployed.as_array().unwrap().iter().find(|one| one["name"] == "allow-cli").unwrap();
    assert_eq!(deployed["allow"], json!({"functions": ["builtin.*"], "queues": []}));
}
