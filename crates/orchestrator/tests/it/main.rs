//! The program and its HTTP API, from the outside.

mod allow;
mod children;
mod edge;
mod fuzz;
mod mend;
mod views;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use durable_testing::{Cluster, ClusterSettings, Redis, free_port, program};
use reqwest::{
    StatusCode,
    blocking::{Client, RequestBuilder},
};
use serde_json::{Value, json};

/// One cluster for all tests: they share nothing but servers.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(ClusterSettings { workers: 1, ..ClusterSettings::default() }).unwrap())
}

fn send(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.timeout(Duration::from_secs(70)).send().unwrap();
    (response.status(), response.json().unwrap())
}

fn get(path: &str) -> (StatusCode, Value) {
    send(Client::new().get(format!("{}{path}", cluster().api(0))))
}

fn post(path: &str, body: &Value) -> (StatusCode, Value) {
    send(Client::new().post(format!("{}{path}", cluster().api(0))).json(body))
}

fn workflow(source: &str) -> Value {
    json!({"name": "workflow.py", "source": source})
}

const ADD: &str = "from builtin import add\n\nasync def main(a: int, b: int = 2):\n    return await add(a, b)\n";

#[test]
fn an_execution_is_started_shown_and_waited_for() {
    let (status, started) = post("/executions", &json!({"workflow": workflow(ADD), "inputs": {"a": 40}}));
    assert_eq!(status, StatusCode::CREATED, "{started}");
    let id = started["id"].as_str().unwrap();
    let (status, ended) = get(&format!("/executions/{id}?wait=30s"));
    assert_eq!((status, &ended["status"], &ended["output"]), (StatusCode::OK, &json!("completed"), &json!(42)));
    let (status, calls) = get(&format!("/executions/{id}/calls"));
    assert_eq!(status, StatusCode::OK);
    assert_eq!(calls[0]["function"], "builtin.add");
    assert_eq!(calls[0]["result"], 42);
    assert_eq!(calls[0]["failed_attempts"], json!([]));
}

#[test]
fn the_same_id_or_key_is_the_same_execution() {
    let request = json!({"workflow": workflow(ADD), "inputs": {"a": 1}, "id": "api-same"});
    assert_eq!(post("/executions", &request).0, StatusCode::CREATED);
    let (status, again) = post("/executions", &request);
    assert_eq!((status, &again["id"]), (StatusCode::OK, &json!("api-same")));
    let other = json!({"workflow": workflow(ADD), "inputs": {"a": 2}, "id": "api-same"});
    let (status, refused) = post("/executions", &other);
    assert_eq!((status, &refused["error"]["type"]), (StatusCode::CONFLICT, &json!("conflict")));
    let keyed = || {
        let request = Client::new().post(format!("{}/executions", cluster().api(0)));
        send(
            request
                .header("Idempotency-Key", "order 42 / pay")
                .json(&json!({"workflow": workflow(ADD), "inputs": {"a": 1}})),
        )
    };
    let ((first, one), (second, two)) = (keyed(), keyed());
    assert_eq!((first, second), (StatusCode::CREATED, StatusCode::OK));
    assert_eq!(one["id"], two["id"]);
}

#[test]
fn what_is_wrong_is_answered_with_a_sentence() {
    let refused = |body: Value, status: StatusCode, part: &str| {
        let (seen, answer) = post("/executions", &body);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(seen == status && message.contains(part), "{seen}: {answer}");
    };
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    refused(json!({"workflow": workflow("async def main(:\n")}), unprocessable, "workflow.py:1");
    refused(json!({"workflow": workflow(ADD), "inputs": {"c": 1}}), unprocessable, "c");
    refused(json!({"workflow": workflow(ADD), "input": {"a": 1}}), unprocessable, "unknown field `input`");
    refused(json!({"inputs": {}}), unprocessable, "missing field `workflow`");
    refused(json!({"workflow": workflow(ADD), "id": "a/b"}), unprocessable, "is not an execution id");
    refused(
        json!({"workflow": workflow(ADD), "inputs": {"a": 1}, "queue": "a b"}),
        StatusCode::BAD_REQUEST,
        "cannot name a queue",
    );
    let url = format!("{}/executions", cluster().api(0));
    let text = send(Client::new().post(&url).body("{").header("content-type", "application/json"));
    assert_eq!(text.0, StatusCode::BAD_REQUEST, "{}", text.1);
    assert_eq!(get("/executions/nobody").0, StatusCode::NOT_FOUND);
    assert_eq!(get("/executions/nobody/calls").0, StatusCode::NOT_FOUND);
    assert_eq!(get("/executions/a%20b").0, StatusCode::BAD_REQUEST);
    assert_eq!(get("/executions/x?wait=soon").0, StatusCode::BAD_REQUEST);
    assert_eq!(get("/nowhere").0, StatusCode::NOT_FOUND);
    assert_eq!(send(Client::new().delete(&url)).0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(post("/callbacks/nonsense/complete", &json!({"result": 1})).0, StatusCode::NOT_FOUND);
}

#[test]
fn a_call_that_nobody_offers_waits_and_says_so() {
    let source = "from builtin import ad\n\nasync def main():\n    return await ad(1, 2)\n";
    let (_, started) = post("/executions", &json!({"workflow": workflow(source)}));
    let id = started["id"].as_str().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (_, shown) = get(&format!("/executions/{id}?wait=1s"));
        if let Some(reason) = shown["waiting"][0].as_str() {
            assert_eq!(shown["status"], "waiting");
            assert_eq!(reason, "no worker offers builtin.ad on the queue default (there is builtin.add)");
            break;
        }
        assert!(Instant::now() < deadline, "{shown}");
    }
    let (_, calls) = get(&format!("/executions/{id}/calls"));
    assert!(calls[0]["waiting"].as_str().unwrap().contains("builtin.ad"), "{calls}");
}

#[test]
fn health_and_workers_are_shown() {
    assert_eq!(get("/healthz").0, StatusCode::OK);
    assert_eq!(get("/readyz"), (StatusCode::OK, json!({"status": "ready"})));
    let (_, workers) = get("/workers");
    let offered: Vec<&str> = workers[0]["functions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(offered.contains(&"builtin.add"), "{workers}");
}

fn orchestrator(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program("durable-orchestrator")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn it_listens_beyond_this_machine_only_with_a_token() {
    let (code, said) = orchestrator(&["--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the API needs a token"), "{said}");
    let url = cluster().database_url();
    let (code, said) = orchestrator(&["--database-url", &url, "--listen", &cluster().api(0).replace("http://", "")]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("cannot listen on") && said.contains("in use"), "{said}");
}

#[test]
fn a_token_is_asked_for() {
    let redis = Redis::start(&[]);
    let (port, url) = (free_port(), cluster().database_url());
    let listen = format!("127.0.0.1:{port}");
    let mut child = Command::new(program("durable-orchestrator"))
        .args(["--listen", &listen, "--database-url", &url, "--redis-url", &redis.url(), "--token", "s3cret"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let ask = |token: Option<&str>| {
        let request = Client::new().get(format!("http://{listen}/workers"));
        token.map_or(request.try_clone().unwrap(), |token| request.bearer_auth(token)).send()
    };
    durable_testing::eventually(Duration::from_secs(20), || ask(None).map_err(|error| error.to_string())).unwrap();
    assert_eq!(ask(None).unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask(Some("wrong!")).unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask(Some("s3cret")).unwrap().status(), StatusCode::OK);
    let health = Client::new().get(format!("http://{listen}/healthz")).send().unwrap();
    assert_eq!(health.status(), StatusCode::OK);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_no_workflow_could_be_given_is_refused_before_anything_is_recorded() {
    let tagged = json!({"workflow": workflow(ADD), "inputs": {"a": {"$py": "tuple"}}});
    let (status, said) = post("/executions", &tagged);
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{said}");
    assert!(said["error"]["message"].as_str().unwrap().contains("input \"a\""), "{said}");
    let (status, said) = post("/executions", &json!({"workflow": {"name": "x\u{0}", "source": "1"}}));
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{said}");
    let (status, said) = post("/callbacks/none/complete", &json!({"result": {"$py": "zzz"}}));
    assert_eq!(status, StatusCode::NOT_FOUND, "nothing is read for somebody without a token: {said}");
    let (status, said) = post("/executions", &json!({"workflow": workflow(&"#".repeat(33 << 20))}));
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{said}");
    assert!(said["error"]["message"].as_str().unwrap().contains("larger than 32 MiB"), "{said}");
}

fn until(id: &str, status: &str) -> Value {
    durable_testing::eventually(Duration::from_secs(20), || {
        let (_, shown) = get(&format!("/executions/{id}"));
        if shown["status"] == status { Ok(shown) } else { Err(shown.to_string()) }
    })
    .unwrap()
}

fn start(source: &str, id: &str) {
    let (status, said) = post("/executions", &json!({"workflow": workflow(source), "id": id}));
    assert_eq!(status, StatusCode::CREATED, "{said}");
}

#[test]
fn signals_wake_an_execution_and_a_repeated_one_is_sent_once() {
    start(
        "from durable import wait_signal\n\nasync def main():\n    return [await wait_signal('go'), await wait_signal('go')]\n",
        "api-signal",
    );
    until("api-signal", "waiting");
    let go = |key: &str, n: i64| post(&format!("/executions/api-signal/signals/go?key={key}"), &json!(n)).1;
    assert_eq!(go("a", 1)["status"], "delivered");
    assert_eq!(go("a", 1)["status"], "repeated");
    assert!(["delivered", "kept"].contains(&go("b", 2)["status"].as_str().unwrap()), "it may not wait again yet");
    assert_eq!(until("api-signal", "completed")["output"], json!([1, 2]));
    let (_, sent) = get("/executions/api-signal/signals");
    assert_eq!(sent.as_array().unwrap().len(), 2, "{sent}");
    let (status, said) = post("/executions/api-signal/signals/go", &json!(3));
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    assert_eq!(post("/executions/nobody/signals/go", &json!(3)).0, StatusCode::NOT_FOUND);
}

#[test]
fn a_cancelled_execution_stops_its_running_function_soon() {
    start("from builtin import sleep\n\nasync def main():\n    await sleep(600.0)\n", "api-cancel");
    durable_testing::eventually(Duration::from_secs(20), || {
        let (_, calls) = get("/executions/api-cancel/calls");
        if calls[0]["status"] == "running" { Ok(()) } else { Err(calls.to_string()) }
    })
    .unwrap();
    let asked = Instant::now();
    assert_eq!(post("/executions/api-cancel/cancel", &json!(null)).0, StatusCode::OK);
    let ended = until("api-cancel", "cancelled");
    assert_eq!(ended["error"]["type"], "durable.Cancelled");
    durable_testing::eventually(Duration::from_secs(20), || {
        match cluster().redis.cli(&["ZCARD", "rq:wip:default"]).as_str() {
            "0" => Ok(()),
            other => Err(format!("{other} jobs are still held")),
        }
    })
    .unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "not at the next beat, but when its bell rang: {:?}",
        asked.elapsed()
    );
    let (status, said) = post("/executions/api-cancel/cancel", &json!(null));
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    assert_eq!(post("/executions/api-cancel/retry", &json!(null)).1["calls"], 1);
    until("api-cancel", "waiting");
    assert_eq!(post("/executions/api-cancel/cancel?force=true", &json!(null)).1["status"], "cancelled");
}

#[test]
fn an_execution_is_paused_and_resumed() {
    let source = "import asyncio\nfrom builtin import add\n\nasync def main():\n    await asyncio.sleep(0.3)\n    return await add(1, 2)\n";
    start(source, "api-pause");
    until("api-pause", "waiting");
    assert_eq!(post("/executions/api-pause/pause", &json!(null)).1["status"], "paused");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(get("/executions/api-pause").1["status"], "paused");
    assert_eq!(post("/executions/api-pause/resume", &json!(null)).0, StatusCode::OK);
    assert_eq!(until("api-pause", "completed")["output"], 3);
}

#[test]
fn named_workflows_are_deployed_by_version_and_started_by_name() {
    let deploy = |source: &str| post("/workflows", &json!({"name": "adder", "file": "adder.py", "source": source}));
    let (status, one) = deploy(ADD);
    assert_eq!((status, &one["version"]), (StatusCode::CREATED, &json!(1)), "{one}");
    assert_eq!(deploy(ADD).1["version"], 1, "the same text is the same version");
    assert_eq!(deploy(&format!("{ADD}# two\n")).1["version"], 2);
    let (status, said) = deploy("def main(:");
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{said}");
    let request = json!({"workflow": {"name": "adder"}, "inputs": {"a": 1}, "id": "api-named"});
    assert_eq!(post("/executions", &request).0, StatusCode::CREATED);
    let ended = until("api-named", "completed");
    assert_eq!((&ended["output"], &ended["workflow"]), (&json!(3), &json!("adder.py")));
    let parent = "from durable import run_child\n\nasync def main():\n    return await run_child('adder', {'a': 5})\n";
    start(parent, "api-parent");
    assert_eq!(until("api-parent", "completed")["output"], 7);
    let (status, said) = post("/executions", &json!({"workflow": {"name": "nothing"}}));
    assert_eq!(status, StatusCode::NOT_FOUND, "{said}");
    assert!(get("/workflows").1.as_array().unwrap().len() >= 2);
}

#[test]
fn what_to_do_about_a_taken_id_and_how_long_it_may_take_are_said_at_the_start() {
    let request =
        |wish: &str| json!({"workflow": workflow(ADD), "inputs": {"a": 1}, "id": "api-wish", "on_conflict": wish});
    assert_eq!(post("/executions", &request("fail")).0, StatusCode::CREATED);
    let (status, said) = post("/executions", &request("fail"));
    assert!(
        status == StatusCode::CONFLICT && said["error"]["message"].as_str().unwrap().contains("exists already"),
        "{said}"
    );
    assert_eq!(post("/executions", &request("use_existing")).0, StatusCode::OK);
    assert_eq!(post("/executions", &request("whatever")).0, StatusCode::UNPROCESSABLE_ENTITY);
    let slow = json!({"workflow": workflow("import asyncio\n\nasync def main():\n    await asyncio.sleep(600)\n"), "deadline": "300ms", "id": "api-late"});
    assert_eq!(post("/executions", &slow).0, StatusCode::CREATED);
    let ended = until("api-late", "failed");
    assert!(ended["error"]["message"].as_str().unwrap().contains("not done by its deadline"), "{ended}");
    let bad = json!({"workflow": workflow(ADD), "inputs": {"a": 1}, "deadline": "soon"});
    assert_eq!(post("/executions", &bad).0, StatusCode::BAD_REQUEST);
}

#[test]
fn a_client_that_is_still_sending_reads_the_answer() {
    let api = cluster().api(0);
    let address = api.strip_prefix("http://").unwrap();
    for (method, path, status) in [
        ("POST", "/executions", "413"),
        ("POST", "/executions/none/cancel", "404"),
        ("POST", "/nowhere", "404"),
        ("PUT", "/executions", "405"),
    ] {
        let size = 40 << 20;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let part = vec![b' '; 1 << 16];
        for _ in 0..size / part.len() {
            stream.write_all(&part).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {answer}");
    }
}
