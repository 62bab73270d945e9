//! What the API costs those who run it, whoever sends whatever: memory, connections, time, secrets.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use durable_testing::{Cluster, ClusterSettings, Guard, eventually, free_port, program};
use reqwest::{StatusCode, blocking::Client};
use serde_json::{Value, json};

use crate::{ADD, cluster, get, post, send, start, until, workflow};

/// An orchestrator of its own in the cluster of all tests.
pub(crate) struct Server {
    process: Guard,
    pub(crate) listen: String,
    _folder: Box<dyn std::any::Any + Send + Sync>,
}

impl Server {
    /// With these options, and at most so many files.
    pub(crate) fn start(options: &[&str], files: u32) -> Self {
        Self::start_in(cluster(), options, files)
    }

    pub(crate) fn start_in(cluster: &Cluster, options: &[&str], files: u32) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let (_, folder) = durable_testing::sqlite();
        let limited = format!("ulimit -n {files} && exec \"$@\"");
        let mut command: Vec<String> = ["sh", "-c", &limited, "sh"].map(String::from).into();
        command.push(program("durable-orchestrator").display().to_string());
        command.extend(["--listen", &listen].map(String::from));
        command.extend(options.iter().map(|option| (*option).to_owned()));
        let env = [
            ("DURABLE_DATABASE_URL".to_owned(), cluster.database_url()),
            ("DURABLE_REDIS_URL".to_owned(), cluster.redis_url()),
        ];
        let process = Guard::start_in(&command, &env, &folder.path().join("log"), "KILL", Some(folder.path())).unwrap();
        let server = Self { process, listen, _folder: Box::new(folder) };
        eventually(Duration::from_secs(20), || server.healthy()).unwrap();
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Whether it answers within two seconds.
    pub(crate) fn healthy(&self) -> Result<(), String> {
        let asked = Client::new().get(self.url("/healthz")).timeout(Duration::from_secs(2)).send();
        asked.and_then(reqwest::blocking::Response::error_for_status).map(drop).map_err(|error| error.to_string())
    }

    /// The most memory that it has ever had, in MiB.
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Sends bytes and answers what comes back until the server closes or `time` is over.
    pub(crate) fn raw(&self, request: &[u8], time: Duration) -> String {
        raw(&self.listen, request, time)
    }
}

fn raw(listen: &str, request: &[u8], time: Duration) -> String {
    let mut stream = TcpStream::connect(listen).unwrap();
    stream.set_read_timeout(Some(time)).unwrap();
    // The server may have said all that it has to say before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        if text.contains("\r\n\r\n") && text.trim_end().ends_with('}') {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// `{"NAME": [0,0,…]}` of so many MiB.
fn zeros(name: &str, mib: usize) -> Vec<u8> {
    let mut body = format!("{{\"{name}\": [0").into_bytes();
    body.extend(b",0".iter().cycle().take(mib << 20));
    body.extend_from_slice(b"]}");
    body
}

#[test]
fn a_request_that_nobody_may_send_costs_nothing() {
    let server = Server::start(&["--token", "t"], 1024);
    let before = server.peak();
    let body = zeros("result", 31);
    let send = |path: &str, chunked: bool| {
        let request = Client::new().post(server.url(path)).header("content-type", "application/json");
        let request = match chunked {
            true => request.body(reqwest::blocking::Body::new(std::io::Cursor::new(body.clone()))),
            false => request.body(body.clone()),
        };
        request.send().unwrap().status()
    };
    for (path, status) in [
        ("/callbacks/anything/complete", StatusCode::NOT_FOUND),
        ("/callbacks/anything/fail", StatusCode::NOT_FOUND),
        ("/callbacks/000000000000000000000000000000000000000000000000/complete", StatusCode::NOT_FOUND),
        ("/executions", StatusCode::UNAUTHORIZED),
        ("/nowhere", StatusCode::NOT_FOUND),
    ] {
        for chunked in [false, true] {
            let asked = Instant::now();
            assert_eq!(send(path, chunked), status, "{path}");
            assert!(asked.elapsed() < Duration::from_secs(1), "{path} took {:?}", asked.elapsed());
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(send("/callbacks/anything/complete", false), StatusCode::NOT_FOUND));
        }
    });
    let grown = server.peak() - before;
    assert!(grown < 64, "it grew by {grown} MiB");
    server.healthy().unwrap();
}

/// An execution that waits for its callback, and the token.
fn waits_for_callback(id: &str, after: &str) -> String {
    let source = format!(
        "from durable import callback, set_status\n\nasync def main():\n    token, answer = callback(timeout=600)\n    \
         set_status(token)\n    got = await answer\n{after}    return got\n"
    );
    start(&source, id);
    until(id, "waiting")["progress"].as_str().unwrap().to_owned()
}

#[test]
fn a_callback_takes_a_mebibyte_unless_more_is_asked_for() {
    let token = waits_for_callback("edge-callback", "");
    let path = format!("/callbacks/{token}/complete");
    let text = json!({"result": "x".repeat(2 << 20)});
    let (status, said) = post(&path, &text);
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{said}");
    assert!(
        said["error"]["message"]
            .as_str()
            .unwrap()
            .contains("larger than 1 MiB (durable-orchestrator --callback-limit)")
    );
    let (status, said) = post(&path, &json!({"result": {"$py": "zzz"}}));
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{said}");
    let generous = Server::start(&["--callback-limit", "4MiB"], 1024);
    let (status, said) = send(Client::new().post(generous.url(&path)).json(&text));
    assert_eq!((status, &said["status"]), (StatusCode::OK, &json!("recorded")), "{said}");
    assert_eq!(until("edge-callback", "completed")["output"].as_str().unwrap().len(), 2 << 20);
    let (status, said) = post(&path, &json!({"result": 2}));
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
}

#[test]
fn values_are_counted_before_they_are_built() {
    let server = Server::start(&[], 1024);
    start("from durable import wait_signal\n\nasync def main():\n    return await wait_signal('go')\n", "edge-many");
    until("edge-many", "waiting");
    let before = server.peak();
    let zeros = |head: &str, tail: &str| [head.as_bytes(), &zeros("x", 28), tail.as_bytes()].concat();
    let code = json!(workflow(ADD)).to_string();
    for (path, body) in [
        ("/executions", zeros(&format!("{{\"workflow\": {code}, \"inputs\": "), "}")),
        ("/executions/edge-many/signals/go", zeros("", "")),
        ("/executions/edge-many/fork", zeros("{\"set\": ", "}")),
        ("/executions/edge-many/retry", zeros("{\"workflow\": ", "}")),
        ("/workflows", zeros("", "")),
        ("/executions/edge-many/signals/go", "[".repeat(20 << 20).into_bytes()),
    ] {
        let asked = Instant::now();
        let request = Client::new().post(server.url(path)).header("content-type", "application/json").body(body);
        let (status, said) = send(request);
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {said}");
        assert!(said["error"]["message"].as_str().unwrap().contains("at most 1048576 are taken"), "{path}: {said}");
        assert!(asked.elapsed() < Duration::from_secs(2), "{path} took {:?}", asked.elapsed());
    }
    let long = json!({"workflow": workflow(&format!("{ADD}{}", "x = 1\n".repeat(2 << 20)))});
    let (status, said) = send(Client::new().post(server.url("/executions")).json(&long));
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{said}");
    assert!(said["error"]["message"].as_str().unwrap().contains("at most 1024 KiB are taken"), "{said}");
    let grown = server.peak() - before;
    assert!(grown < 128, "it grew by {grown} MiB");
    assert_eq!(post("/executions/edge-many/signals/go", &json!(1)).1["status"], "delivered");
}

#[test]
fn half_requests_leave_the_health_checks_alive() {
    durable_process::open_files();
    let server = Server::start(&[], 1024);
    let heads = [
        "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "",
        "POST /executions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
        "POST /callbacks/x/complete HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        "GET /executions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n",
    ];
    for head in heads {
        let open: Vec<TcpStream> = (0..1100)
            .filter_map(|_| {
                let mut stream = TcpStream::connect(&server.listen).ok()?;
                let _ = stream.write_all(head.as_bytes());
                Some(stream)
            })
            .collect();
        assert!(open.len() > 1000, "{} connections", open.len());
        for _ in 0..5 {
            server.healthy().unwrap_or_else(|error| panic!("beside 1,100 × {head:?}: {error}"));
        }
        let workers = Client::new().get(server.url("/workers")).timeout(Duration::from_secs(3)).send().unwrap();
        assert_eq!(workers.status(), StatusCode::OK);
    }
    eventually(Duration::from_secs(5), || server.healthy()).unwrap();
}

#[test]
fn a_request_that_is_not_sent_on_is_given_up() {
    let server = Server::start(&[], 1024);
    let asked = Instant::now();
    let body =
        b"POST /executions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    std::thread::scope(|scope| {
        let head = scope.spawn(|| server.raw(b"GET /healthz HTT", Duration::from_secs(40)));
        let answer = server.raw(body, Duration::from_secs(40));
        assert_eq!(status_of(&answer), 408, "{answer}");
        assert!(answer.contains("did not come in time"), "{answer}");
        assert_eq!(head.join().unwrap(), "", "it is closed");
    });
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
}

/// Sends a request and hangs up without waiting for the answer.
fn hang_up(path: &str, body: &Value) {
    let (listen, body) = (cluster().api(0).replace("http://", ""), body.to_string());
    let mut stream = TcpStream::connect(listen).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    // Long enough for the request to be heard, and not for its answer.
    std::thread::sleep(Duration::from_millis(5));
}

/// A turn that takes some tenths of a second.
const BUSY: &str = "    for _ in range(1_000_000):\n        pass\n";

#[test]
fn a_client_that_hangs_up_takes_nothing_with_it() {
    let token = waits_for_callback("edge-gone", BUSY);
    hang_up(&format!("/callbacks/{token}/complete"), &json!({"result": 7}));
    assert_eq!(until("edge-gone", "completed")["output"], 7, "long before its claim expires");
    hang_up("/executions", &json!({"workflow": workflow(ADD), "inputs": {"a": 1}, "id": "edge-gone-start"}));
    until_there("edge-gone-start");
    assert_eq!(until("edge-gone-start", "completed")["output"], 3);
    start(
        &format!(
            "from durable import wait_signal\n\nasync def main():\n    got = await wait_signal('go')\n{BUSY}    return got\n"
        ),
        "edge-gone-signal",
    );
    until("edge-gone-signal", "waiting");
    hang_up("/executions/edge-gone-signal/signals/go", &json!(9));
    assert_eq!(until("edge-gone-signal", "completed")["output"], 9);
    start("import asyncio\n\nasync def main():\n    await asyncio.sleep(600)\n", "edge-gone-cancel");
    until("edge-gone-cancel", "waiting");
    hang_up("/executions/edge-gone-cancel/cancel", &json!(null));
    until("edge-gone-cancel", "cancelled");
    hang_up("/executions/edge-gone-cancel/retry", &json!(null));
    eventually(Duration::from_secs(10), || match get("/executions/edge-gone-cancel").1["status"].as_str() {
        Some("cancelled") => Err("nobody tried it again".to_owned()),
        _ => Ok(()),
    })
    .unwrap();
    post("/executions/edge-gone-cancel/cancel?force=true", &json!(null));
}

fn until_there(id: &str) {
    eventually(Duration::from_secs(10), || match get(&format!("/executions/{id}")) {
        (StatusCode::OK, _) => Ok(()),
        (status, said) => Err(format!("{status}: {said}")),
    })
    .unwrap();
}

#[test]
fn a_callback_is_answered_as_soon_as_it_is_recorded() {
    let token = waits_for_callback("edge-soon", &BUSY.repeat(2));
    let asked = Instant::now();
    let (status, said) = post(&format!("/callbacks/{token}/complete"), &json!({"result": 7}));
    assert_eq!((status, &said["status"]), (StatusCode::OK, &json!("recorded")), "{said}");
    let (_, seen) = get("/executions/edge-soon");
    assert_ne!(seen["status"], "completed", "its turn is still under way, {:?} later", asked.elapsed());
    assert_eq!(until("edge-soon", "completed")["output"], 7);
}

#[test]
fn large_outputs_are_read_only_by_who_shows_them() {
    let server = Server::start(&[], 1024);
    start("async def main():\n    return 1\n", "edge-large");
    until("edge-large", "completed");
    // Of random text, which the database cannot compress.
    cluster().sql(
        "UPDATE executions SET output = '\"' || (SELECT string_agg(md5(random()::text || n), '') \
         FROM generate_series(1, 3000000) n) || '\"' WHERE id = 'edge-large'",
    );
    let before = server.peak();
    let asked = Instant::now();
    for path in [
        "/readyz",
        "/readyz",
        "/executions",
        "/executions?status=completed",
        "/executions/edge-large/calls",
        "/executions/edge-large/signals",
        "/executions/edge-large/snapshots",
        "/executions/edge-large/logs",
    ] {
        let status = Client::new().get(server.url(path)).send().unwrap().status();
        assert_eq!(status, StatusCode::OK, "{path}");
    }
    let (status, said) = send(Client::new().post(server.url("/executions/edge-large/signals/go")).json(&json!(1)));
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    let grown = server.peak() - before;
    assert!(grown < 32 && asked.elapsed() < Duration::from_secs(3), "it grew by {grown} MiB in {:?}", asked.elapsed());
    let (_, page) = get("/executions?limit=1000");
    let listed = page["items"].as_array().unwrap().iter().find(|one| one["id"] == "edge-large").unwrap().clone();
    assert_eq!(listed["output"], Value::Null);
    let (_, shown) = get("/executions/edge-large");
    assert_eq!(shown["output"].as_str().unwrap().len(), 96_000_000);
    cluster().sql("UPDATE executions SET output = '1' WHERE id = 'edge-large'");
}

#[test]
fn a_clock_that_stands_still_is_told_by_the_readiness_check() {
    let still = Cluster::start(ClusterSettings { workers: 0, ..ClusterSettings::default() }).unwrap();
    let ready = || {
        let answer = Client::new().get(format!("{}/readyz", still.api(0))).send().unwrap();
        (answer.status(), answer.text().unwrap())
    };
    assert_eq!(ready().0, StatusCode::OK);
    std::thread::scope(|scope| {
        // Whoever looks for what is due waits for this lock; the database answers everything else.
        scope.spawn(|| still.sql("BEGIN; LOCK TABLE calls IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(14); COMMIT"));
        eventually(Duration::from_secs(14), || match ready() {
            (StatusCode::SERVICE_UNAVAILABLE, said) if said.contains("the clock has not ticked for") => Ok(()),
            (status, said) => Err(format!("{status}: {said}")),
        })
        .unwrap();
    });
    eventually(Duration::from_secs(10), || (ready().0 == StatusCode::OK).then_some(()).ok_or(ready().1)).unwrap();
}

#[test]
fn what_servers_say_is_not_told_to_clients() {
    let dead = Cluster::start(ClusterSettings { workers: 0, ..ClusterSettings::default() }).unwrap();
    let url = |path: &str| format!("{}{path}", dead.api(0));
    dead.postgres.kill(rustix::process::Signal::KILL);
    for request in [
        Client::new().get(url("/executions")),
        Client::new().get(url("/readyz")),
        Client::new().post(url("/callbacks/abc/complete")).json(&json!({})),
        Client::new().post(url("/executions")).json(&json!({"workflow": workflow(ADD), "inputs": {"a": 1}})),
    ] {
        let (status, said) = send(request);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
        let message = said["error"]["message"].as_str().unwrap();
        assert!(message.contains("the database"), "{message}");
        for secret in ["postgres", "127.0.0.1", "durable@", "server at", "socket", "connection"] {
            assert!(!message.contains(secret), "{message}");
        }
    }
}

#[test]
fn a_web_page_cannot_make_a_browser_ask_for_anything() {
    let listen = cluster().api(0).replace("http://", "");
    let ask = |head: &str, host: &str| {
        raw(&listen, format!("{head}\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n").as_bytes(), Duration::from_secs(5))
    };
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example"] {
        let answer = ask("GET /executions HTTP/1.1", host);
        assert_eq!(status_of(&answer), 403, "{answer}");
        assert!(answer.contains("is no name of this machine"), "{answer}");
    }
    assert_eq!(status_of(&ask("GET /executions HTTP/1.1", "localhost:1")), 200);
    assert_eq!(status_of(&ask("GET /healthz HTTP/1.1", "orchestrator")), 200, "health checks may use any name");
    start("import asyncio\n\nasync def main():\n    await asyncio.sleep(600)\n", "edge-browser");
    for path in ["cancel", "cancel?force=true", "pause", "resume", "retry", "fork"] {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            let answer =
                ask(&format!("POST /executions/edge-browser/{path} HTTP/1.1\r\nContent-Type: {kind}"), "localhost");
            assert_eq!(status_of(&answer), 415, "{path}: {answer}");
        }
        assert_eq!(status_of(&ask(&format!("POST /executions/edge-browser/{path} HTTP/1.1"), "localhost")), 415);
    }
    let said = ask("POST /executions/edge-browser/pause HTTP/1.1\r\nX-Requested-With: curl", "localhost");
    assert_eq!(status_of(&said), 200, "{said}");
    post("/executions/edge-browser/cancel?force=true", &json!(null));
    let known = Server::start(&["--host", "queue.lan"], 1024);
    let answer = known.raw(b"GET /workers HTTP/1.1\r\nHost: queue.lan:80\r\n\r\n", Duration::from_secs(5));
    assert_eq!(status_of(&answer), 200, "{answer}");
    let open = Server::start(&["--token", "t"], 1024);
    let bearer = b"GET /workers HTTP/1.1\r\nHost: any.example\r\nAuthorization: Bearer t\r\n\r\n";
    let answer = open.raw(bearer, Duration::from_secs(5));
    assert_eq!(status_of(&answer), 200, "a token is more than a name: {answer}");
}

#[test]
fn names_that_no_database_could_hold_are_refused_before_it_is_asked() {
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    for path in ["/executions/a%00b", "/executions/a%00b/calls", "/executions?after=%00", "/executions/x?wait=%00"] {
        let (status, said) = get(path);
        assert_eq!(status, unprocessable, "{path}: {said}");
    }
    start("from durable import wait_signal\n\nasync def main():\n    return await wait_signal('go')\n", "edge-names");
    let long = "x".repeat(201);
    for path in [
        "/callbacks/a%00b/complete".to_owned(),
        "/executions/edge-names/signals/a%00b".into(),
        "/executions/edge-names/signals/a%07b".into(),
        format!("/executions/edge-names/signals/{long}"),
        format!("/executions/edge-names/signals/go?key={long}"),
        "/executions/edge-names/signals/go?key=a%00".into(),
        format!("/executions/edge-names/signals/go?key={}", "x".repeat(6000)),
    ] {
        let (status, said) = post(&path, &json!(1));
        assert_eq!(status, unprocessable, "{path}: {said}");
    }
    for body in [
        json!({"workflow": {"name": "a\0b"}}),
        json!({"workflow": {"name": long}}),
        json!({"workflow": {"name": "x.py", "source": "async def main():\n    return '\0'\n"}}),
    ] {
        let (status, said) = post("/executions", &body);
        assert_eq!(status, unprocessable, "{said}");
    }
    let (status, said) = post("/workflows", &json!({"name": "a\0b", "file": "x.py", "source": ADD}));
    assert_eq!(status, unprocessable, "{said}");
    post("/executions/edge-names/cancel?force=true", &json!(null));
}

#[test]
fn long_lists_are_told_in_parts() {
    start("from durable import wait_signal\n\nasync def main():\n    return await wait_signal('go')\n", "edge-parts");
    for n in 0..5 {
        post("/executions/edge-parts/signals/other", &json!(n));
    }
    let payloads = |path: &str| -> Vec<Value> {
        let (status, list) = get(&format!("/executions/edge-parts/signals{path}"));
        assert_eq!(status, StatusCode::OK, "{list}");
        list.as_array().unwrap().iter().map(|signal| signal["payload"].clone()).collect()
    };
    assert_eq!(payloads(""), [0, 1, 2, 3, 4]);
    assert_eq!(payloads("?limit=2"), [0, 1]);
    assert_eq!(payloads("?limit=2&after=3"), [3, 4]);
    let deploy = |name: &str| post("/workflows", &json!({"name": name, "file": "x.py", "source": ADD}));
    deploy("edge-a");
    deploy("edge-b");
    assert_eq!(get("/workflows?limit=1").1.as_array().unwrap().len(), 1);
    assert_eq!(get("/executions/edge-parts/snapshots?limit=1").1, json!([]));
    for path in ["/workflows?limit=0", "/workflows?after=-1", "/executions/edge-parts/signals?after=x"] {
        assert_eq!(get(path).0, StatusCode::BAD_REQUEST, "{path}");
    }
    post("/executions/edge-parts/cancel?force=true", &json!(null));
}

#[test]
fn the_end_does_not_wait_for_slow_clients() {
    let server = Server::start(&[], 1024);
    let _half: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.listen).unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").unwrap();
            stream
        })
        .collect();
    server.healthy().unwrap();
    server.process.signal(rustix::process::Signal::TERM);
    assert!(server.process.ends_within(Duration::from_secs(15)));
}
