//! The program and its HTTP API, from the outside.

use std::{
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
    let large = send(Client::new().post(&url).json(&json!({"workflow": workflow(&"#".repeat(17 << 20))})));
    assert_eq!(large.0, StatusCode::PAYLOAD_TOO_LARGE, "{}", large.1);
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
