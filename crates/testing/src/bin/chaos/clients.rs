//! Clients of the worse kind: they hang up in the middle, open connections and say nothing, pause what computes.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use durable_testing::Cluster;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{invariants::Check, load::Load};

const KINDS: [&str; 5] = [
    "hung up in the middle of a request",
    "hung up before the answer",
    "half-open connections, hundreds at a time",
    "executions paused, and resumed soon",
    "asked how it is beside half-open connections",
];

/// How the ids of those begin whose client did not wait for the answer.
pub(crate) const PREFIX: &str = "left-";

/// Connections of one burst, and how long they stay.
const HALF_OPEN: usize = 300;
const STAYS: Duration = Duration::from_secs(4);

/// How long the answer to a client may take that comes beside them; a process that has just been thawed or started has as long.
const ANSWER: Duration = Duration::from_secs(3);

/// How long an execution stays paused at most, in ms.
const PAUSED: u64 = 400;

/// What is paused may be resumed as long as this after the last fault.
const RESUME: Duration = Duration::from_secs(60);

/// A wish that was not answered may still be granted for so long: a process may have been frozen with it.
const CALM: Duration = Duration::from_secs(6);

/// What an execution runs whose client hangs up: `n` to its end.
const LEFT: &str = "
from builtin import add

async def main(n: int):
    return await add(n, 1)
";

pub(crate) struct Clients {
    random: StdRng,
    http: reqwest::blocking::Client,
    counts: [usize; KINDS.len()],
    /// Connections that say half a request, and until when.
    open: Vec<(TcpStream, Instant)>,
    /// What may be paused still.
    paused: BTreeSet<String>,
    unhealthy: Vec<String>,
    left: usize,
}

impl Clients {
    pub(crate) fn new(seed: u64) -> Option<Self> {
        let http = reqwest::blocking::Client::builder().timeout(Duration::from_secs(5)).build().ok()?;
        let random = StdRng::seed_from_u64(seed ^ 0xc11e);
        Some(Self {
            random,
            http,
            counts: [0; KINDS.len()],
            open: Vec::new(),
            paused: BTreeSet::new(),
            unhealthy: Vec::new(),
            left: 0,
        })
    }

    pub(crate) fn counts(&self) -> Vec<(&'static str, usize)> {
        KINDS.into_iter().zip(self.counts).collect()
    }

    /// Goes on until told to stop, and resumes what it has paused.
    pub(crate) fn run(&mut self, cluster: &Cluster, load: &Load, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.open.retain(|(_, until)| *until > Instant::now());
            match self.random.random_range(0..10) {
                0..2 => self.hang_up(cluster),
                2..4 => self.leave(cluster),
                4 => self.half_open(cluster),
                _ => self.pause(cluster, load),
            }
            thread::sleep(Duration::from_millis(self.random.random_range(20..200)));
        }
        self.open.clear();
        let deadline = Instant::now() + RESUME;
        let mut calm = Instant::now() + CALM;
        while Instant::now() < calm && Instant::now() < deadline {
            let held = cluster.sql("SELECT id FROM executions WHERE held AND finished_at IS NULL");
            self.paused.extend(held.lines().filter(|id| !id.is_empty()).map(str::to_owned));
            if !self.paused.is_empty() {
                calm = Instant::now() + CALM;
                self.resume(cluster);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn connect(&mut self, cluster: &Cluster) -> Option<TcpStream> {
        let api = cluster.api(self.random.random_range(0..2));
        let address = api.trim_start_matches("http://").parse().ok()?;
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
    }

    fn request(&mut self) -> String {
        let n = self.left;
        self.left += 1;
        let workflow = json!({"name": "left.py", "source": LEFT});
        let body = json!({"workflow": workflow, "inputs": {"n": n}, "id": format!("{PREFIX}{n}")}).to_string();
        let length = body.len();
        format!(
            "POST /executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    /// Says a part of a request, and is gone.
    fn hang_up(&mut self, cluster: &Cluster) {
        let request = self.request();
        let part = self.random.random_range(1..request.len());
        if let Some(mut connection) = self.connect(cluster)
            && connection.write_all(&request.as_bytes()[..part]).is_ok()
        {
            self.counts[0] += 1;
        }
    }

    /// Says all of it, and is gone before it is answered.
    fn leave(&mut self, cluster: &Cluster) {
        let request = self.request();
        if let Some(mut connection) = self.connect(cluster)
            && connection.write_all(request.as_bytes()).is_ok()
        {
            self.counts[1] += 1;
            thread::sleep(Duration::from_millis(self.random.random_range(0..5)));
        }
    }

    /// Many connections that have begun a request, to one orchestrator; another client asks how that is.
    fn half_open(&mut self, cluster: &Cluster) {
        if !self.open.is_empty() {
            return;
        }
        let until = Instant::now() + STAYS;
        for _ in 0..HALF_OPEN {
            let Some(mut connection) = self.connect(cluster) else { return };
            if connection.write_all(b"POST /executions HTTP/1.1\r\nHost: localhost\r\nContent-Le").is_ok() {
                self.open.push((connection, until));
            }
        }
        self.counts[2] += 1;
        for n in 0..2 {
            let before = cluster.running_orchestrator(n);
            if health(&cluster.api(n)) {
                self.counts[4] += 1;
            } else if before.is_some() && cluster.running_orchestrator(n) == before {
                // It was neither killed nor frozen meanwhile.
                self.unhealthy.push(format!("orchestrator {n} said nothing for {} s", ANSWER.as_secs()));
            }
        }
    }

    /// Pauses an execution that was just started, perhaps in the middle of a turn.
    fn pause(&mut self, cluster: &Cluster, load: &Load) {
        let Some(id) = load.recent(&mut self.random) else { return };
        let url = format!("{}/executions/{id}/pause", cluster.api(self.random.random_range(0..2)));
        // Whatever was answered, or not: it may be paused.
        self.paused.insert(id);
        if self.http.post(url).json(&json!({})).send().is_ok_and(|answer| answer.status().is_success()) {
            self.counts[3] += 1;
        }
        thread::sleep(Duration::from_millis(self.random.random_range(0..PAUSED)));
        self.resume(cluster);
    }

    /// Resumes what is paused. What cannot be now is tried again.
    fn resume(&mut self, cluster: &Cluster) {
        let api = cluster.api(self.random.random_range(0..2));
        for id in std::mem::take(&mut self.paused) {
            let sent = self.http.post(format!("{api}/executions/{id}/resume")).json(&json!({})).send();
            let done = sent.is_ok_and(|answer| answer.status().is_success() || answer.status().is_client_error());
            if !done {
                self.paused.insert(id);
            }
        }
    }

    /// Whether those executions came to their end that were started by a whole request.
    pub(crate) fn check(&self, cluster: &Cluster) -> Vec<Check> {
        let rows = cluster.sql(&format!(
            "SELECT id || ' ' || coalesce(output, error, status) FROM executions WHERE id LIKE '{PREFIX}%'"
        ));
        let seen: Vec<(&str, &str)> = rows.lines().filter_map(|row| row.split_once(' ')).collect();
        let right = |id: &str, output: &str| {
            let n = id.trim_start_matches(PREFIX).parse::<usize>();
            n.is_ok_and(|n| output == (n + 1).to_string())
        };
        let wrong: Vec<String> =
            seen.iter().filter(|(id, end)| !right(id, end)).map(|(id, end)| format!("{id}: {end}")).collect();
        let (left, held) = (self.counts[1], wrong.is_empty());
        let detail = if held { format!("{} right, {left} whole requests", seen.len()) } else { wrong.join("; ") };
        let resumed = self.paused.is_empty();
        vec![
            Check { what: "what a client began and left is right", held, detail },
            Check {
                what: "half-open connections kept nobody out",
                held: self.unhealthy.is_empty(),
                detail: match self.unhealthy.is_empty() {
                    true => format!("{} bursts of {HALF_OPEN}", self.counts[2]),
                    false => self.unhealthy.join("; "),
                },
            },
            Check {
                what: "everything that was paused could be resumed",
                held: resumed,
                detail: format!("{} pauses, {} left", self.counts[3], self.paused.len()),
            },
        ]
    }
}

/// Whether an orchestrator says in time that it lives.
fn health(api: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let address = api.trim_start_matches("http://");
        let address = address.parse().map_err(std::io::Error::other)?;
        let mut connection = TcpStream::connect_timeout(&address, ANSWER)?;
        connection.set_read_timeout(Some(ANSWER))?;
        connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        connection.read_exact(&mut answer)?;
        Ok(answer == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
