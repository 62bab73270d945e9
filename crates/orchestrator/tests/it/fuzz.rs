//! Random and hostile requests against a real server. The seed is in the output when one fails.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use reqwest::{StatusCode, blocking::Client};
use serde_json::json;

use crate::{ADD, edge::Server, post, start, until, workflow};

const REQUESTS: u64 = 5000;
const THREADS: u64 = 8;

/// Small numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides.max(1)
    }

    fn of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.roll(choices.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.roll(most)).map(|_| u8::try_from(self.roll(256)).unwrap()).collect()
    }

    /// Part of an address, percent-encoded where it has to be.
    fn name(&mut self) -> String {
        match self.roll(12) {
            0..4 => self.of(&["fuzz-waits", "fuzz-ends", "nobody", "go"]).to_owned(),
            4 => "%00".into(),
            5 => "a%00b".into(),
            6 => "x".repeat(self.roll(9000)),
            7 => self.bytes(40).iter().map(|byte| format!("%{byte:02x}")).collect(),
            8 => "%".into(),
            9 => "..%2f..%2fetc".into(),
            10 => "%f0%9f%a6%80".repeat(self.roll(80)),
            _ => format!("-{}", self.roll(1 << 30)),
        }
    }

    /// An address, and a method that it takes.
    fn address(&mut self) -> (&'static str, String) {
        let name = self.name();
        let (method, path) = match self.roll(16) {
            0..3 => ("POST", "/executions".to_owned()),
            3 => (self.of(&["GET", "POST"]), "/workflows".into()),
            4 => ("POST", format!("/callbacks/{name}/{}", self.of(&["complete", "fail", "x"]))),
            5 => ("GET", format!("/executions/{name}")),
            6 => (
                "GET",
                self.of(&["/", "/healthz", "/readyz", "/workers", "//", "/executions", "*", "/a/../b"]).to_owned(),
            ),
            7 | 8 => ("POST", format!("/executions/{name}/signals/{}", self.name())),
            9 | 10 => {
                let what = ["calls", "logs", "code", "signals", "snapshots"];
                ("GET", format!("/executions/{name}/{}", self.of(&what)))
            }
            _ => {
                let what = ["cancel", "pause", "resume", "retry", "fork", "fork", "retry"];
                ("POST", format!("/executions/{name}/{}", self.of(&what)))
            }
        };
        (method, self.asked(path))
    }

    fn asked(&mut self, path: String) -> String {
        match self.roll(3) {
            0 => format!(
                "{path}?{}={}",
                self.of(&["wait", "after", "limit", "key", "force", "version", "status", "x"]),
                self.value()
            ),
            _ => path,
        }
    }

    fn value(&mut self) -> String {
        match self.roll(6) {
            0 => self.name(),
            1 => self.of(&["0", "-1", "1", "9223372036854775807", "-9223372036854775808", "1e999", "true"]).to_owned(),
            2 => "9".repeat(self.roll(400)),
            3 => self.of(&["10ms", "1e300d", "-1s", "nan", "inf", "0s"]).to_owned(),
            4 => self.of(&["1.fuzz-ends", ".", "9223372036854775807.x", "a&a=a&a", "completed"]).to_owned(),
            _ => String::new(),
        }
    }

    fn json(&mut self, depth: usize) -> String {
        match self.roll(if depth > 4 { 9 } else { 13 }) {
            0 => self.of(&["null", "true", "false", "\"\"", "{}", "[]"]).to_owned(),
            1 => format!("{}{}", self.of(&["", "-"]), self.roll(1 << 30)),
            2 => format!("1{}", "0".repeat(self.roll(5000))),
            3 => self.of(&["1e999999", "-0.0", "1e-999999", "1E400", "0.1", "01", "NaN", "+1"]).to_owned(),
            4 => self
                .of(&["\"\\u0000\"", "\"\\ud800\"", "\"\\udfff\\ud800\"", "\"a\\", "\"fuzz-ends\"", "\"x.py\""])
                .to_owned(),
            5 => format!("\"{}\"", "y".repeat(self.roll(3000))),
            6 => "[".repeat(self.roll(100_000)),
            7 => "{\"a\":".repeat(self.roll(300)),
            8 => self.tagged(),
            9 | 10 => {
                let items: Vec<String> = (0..self.roll(5)).map(|_| self.json(depth + 1)).collect();
                format!("[{}]", items.join(","))
            }
            _ => {
                let keys = [
                    "workflow",
                    "name",
                    "source",
                    "inputs",
                    "id",
                    "queue",
                    "deadline",
                    "on_conflict",
                    "result",
                    "type",
                    "message",
                    "retryable",
                    "at",
                    "set",
                    "dry_run",
                    "file",
                    "idempotency_key",
                    "\\u0000",
                    "a",
                    "$py",
                ];
                let fields: Vec<String> =
                    (0..self.roll(6)).map(|_| format!("\"{}\":{}", self.of(&keys), self.json(depth + 1))).collect();
                format!("{{{}}}", fields.join(","))
            }
        }
    }

    fn tagged(&mut self) -> String {
        let tag = self.of(&[
            "tuple",
            "set",
            "dict",
            "bytes",
            "float",
            "decimal",
            "uuid",
            "date",
            "datetime",
            "timedelta",
            "timezone",
            "namedtuple",
            "object",
            "exception",
            "zzz",
        ]);
        let field = self.of(&["items", "value", "base64", "fields", "type", "days", "seconds"]);
        let value = self.of(&[
            "[]",
            "[[1,2]]",
            "\"nan\"",
            "\"1e999999999999999999\"",
            "{}",
            "\"9999-99-99\"",
            "999999999999",
            "\"%%%\"",
        ]);
        format!("{{\"$py\":\"{tag}\",\"{field}\":{value}}}")
    }

    /// Bodies that the addresses take, nearly.
    fn body(&mut self) -> String {
        let code = json!(ADD).to_string();
        match self.roll(8) {
            0 => format!("{{\"workflow\":{{\"name\":\"w.py\",\"source\":{code}}},\"inputs\":{}}}", self.json(2)),
            1 => format!("{{\"workflow\":{{\"name\":{},\"source\":{}}}}}", self.json(4), self.json(4)),
            2 => format!("{{\"result\":{}}}", self.json(1)),
            6 => format!("{{\"workflow\":{{\"name\":\"w.py\",\"source\":{code}}},\"inputs\":{{\"a\":1}}}}"),
            3 => format!("{{\"at\":{},\"set\":{},\"id\":{}}}", self.json(4), self.json(3), self.json(4)),
            4 => format!("{{\"name\":{},\"file\":\"x.py\",\"source\":{code}}}", self.json(4)),
            5 => format!(
                "{{\"workflow\":{{\"name\":\"w.py\",\"source\":{code}}},\"inputs\":{{\"a\":{}}},\"queue\":{},\"deadline\":{}}}",
                self.json(3),
                self.json(4),
                self.json(4)
            ),
            _ => self.json(0),
        }
    }

    /// A request, and whether its answer is waited for.
    fn request(&mut self) -> (Vec<u8>, bool) {
        if self.roll(12) == 0 {
            return (self.bytes(2000), false);
        }
        let (fits, path) = self.address();
        let method = match self.roll(8) {
            0 => self.of(&["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "get", "TRACE", "X"]),
            _ => fits,
        };
        let kind = match self.roll(8) {
            0 => self.of(&["text/plain", "application/x+json", "\u{1}", ""]),
            _ => "application/json",
        };
        let host = if self.roll(8) == 0 { self.of(&["localhost", "evil", "", "[::1"]) } else { "127.0.0.1" };
        let version = if self.roll(40) == 0 { self.of(&["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "X"]) } else { "HTTP/1.1" };
        let head =
            format!("{method} {path} {version}\r\nHost: {host}\r\nContent-Type: {kind}\r\nConnection: close\r\n");
        let body = if self.roll(10) == 0 { self.bytes(500) } else { self.body().into_bytes() };
        let (framing, body, whole) = match self.roll(20) {
            0 => (format!("Content-Length: {}\r\n", body.len() + 1 + self.roll(1000)), body, false),
            1 => (format!("Content-Length: {}\r\n", body.len() / 2), body, true),
            2 => (
                format!("Content-Length: {}\r\n", self.of(&["-1", "x", "99999999999999999999", "9999999999", "1, 2"])),
                body,
                false,
            ),
            3 => (
                "Transfer-Encoding: chunked\r\n".into(),
                [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat(),
                true,
            ),
            4 => ("Transfer-Encoding: chunked\r\n".into(), [b"zz\r\n", &body[..]].concat(), false),
            5 => ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n".into(), body, false),
            6 => (
                format!("X-Long: {}\r\nContent-Length: {}\r\n", "z".repeat(self.roll(100_000)), body.len()),
                body,
                true,
            ),
            7 => (format!("Idempotency-Key: {}\r\nContent-Length: {}\r\n", self.name(), body.len()), body, true),
            _ => (format!("Content-Length: {}\r\n", body.len()), body, true),
        };
        ([head.as_bytes(), framing.as_bytes(), b"\r\n", &body].concat(), whole)
    }
}

/// Answers how often each status was seen; 0 is no answer.
fn hostile(server: &Server, seed: u64, requests: u64) -> BTreeMap<u16, usize> {
    let mut seen = BTreeMap::new();
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for number in 0..requests {
        let (request, whole) = dice.request();
        let time = Duration::from_secs(if whole { 20 } else { 0 }) + Duration::from_millis(20);
        let asked = Instant::now();
        let answer = server.raw(&request, time);
        let status: u16 = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let shown = String::from_utf8_lossy(&request[..request.len().min(600)]).into_owned();
        assert!(status < 500, "seed {seed}, request {number}: {answer}\nto {shown}");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(15), "seed {seed}, request {number} took {took:?}: {answer}\nto {shown}");
        *seen.entry(status).or_default() += 1;
    }
    seen
}

#[test]
fn five_thousand_random_and_hostile_requests_break_nothing() {
    start(
        "from durable import wait_signal\n\nasync def main():\n    return await wait_signal('never')\n",
        "fuzz-waits",
    );
    start("async def main():\n    return 1\n", "fuzz-ends");
    until("fuzz-ends", "completed");
    let server = Server::start(&[], 1024);
    let before = server.peak();
    let begun = Instant::now();
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    std::thread::scope(|scope| {
        let server = &server;
        let threads: Vec<_> =
            (1..=THREADS).map(|seed| scope.spawn(move || hostile(server, seed, REQUESTS / THREADS))).collect();
        for (status, times) in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            *seen.entry(status).or_default() += times;
        }
    });
    // Otherwise nothing much was tried.
    for status in [200, 201, 400, 403, 404, 405, 409, 415, 422] {
        assert!(seen.get(&status).is_some_and(|times| *times > 5), "{status}: {seen:?}");
    }
    let grown = server.peak() - before;
    assert!(grown < 256, "it grew by {grown} MiB");
    server.healthy().unwrap();
    let ready = Client::new().get(server.url("/readyz")).send().unwrap();
    assert_eq!(ready.status(), StatusCode::OK);
    let request = json!({"workflow": workflow(ADD), "inputs": {"a": 1}, "id": "fuzz-after"});
    assert_eq!(crate::send(Client::new().post(server.url("/executions")).json(&request)).0, StatusCode::CREATED);
    assert_eq!(until("fuzz-after", "completed")["output"], 3);
    println!("{REQUESTS} requests in {:?}, {grown} MiB: {seen:?}", begun.elapsed());
    post("/executions/fuzz-waits/cancel?force=true", &json!(null));
}
