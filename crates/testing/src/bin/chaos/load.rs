//! Executions of mixed shape, and what each has to come to, computed here and not by a workflow.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use durable_testing::Cluster;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::faults::Faults;

/// Calls `add` n times side by side.
const FAN_OUT: &str = "
import asyncio
from builtin import add

async def main(n: int, base: int):
    return sum(await asyncio.gather(*[add(base, i) for i in range(n)]))
";

/// Pipelines side by side, some of them with a sleep in the middle.
const PIPELINES: &str = "
import asyncio
from builtin import add, echo

async def pipeline(n: int, steps: int):
    value = n
    for i in range(steps):
        value = await add(value, i)
        if i == n % steps:
            await asyncio.sleep(0.05 * n)
    return await echo([n, value])

async def main(n: int, steps: int):
    return await asyncio.gather(*[pipeline(i, steps) for i in range(n)])
";

/// Timers one after the other.
const TIMERS: &str = "
import asyncio
from builtin import add

async def main(n: int, seconds: float):
    total = 0
    for i in range(n):
        await asyncio.sleep(seconds)
        total = await add(total, i)
    return total
";

/// Failures: retried ones, and one that is caught.
const FAILURES: &str = "
import asyncio
from builtin import flaky, fail, sleep

async def caught(message: str):
    try:
        await fail(message)
    except RuntimeError as error:
        return str(error)

async def main(n: int, message: str):
    values = await asyncio.gather(*[flaky(i, i % 3) for i in range(n)])
    return [values, await caught(message), await sleep(0.3)]
";

/// One call after the other.
const CHAIN: &str = "
from builtin import add

async def main(n: int):
    value = 0
    for i in range(n):
        value = await add(value, i)
    return value
";

/// Turns that take a while, then several things that are waited for at once: to be paused in the middle.
const BUSY: &str = "
import asyncio
from builtin import add

async def main(n: int):
    total = 0
    for i in range(n):
        for _ in range(60000):
            pass
        await asyncio.gather(asyncio.sleep(0.2), asyncio.sleep(0.3))
        total = await add(total, i)
    return total
";

/// Children, a task beside, a function that is given up while it runs, a signal.
const LIFE: &str = "
import asyncio
from builtin import add, echo, sleep
from durable import TaskTimeout, run_child, spawn, timeout, wait_signal

CHILD = '''
from builtin import add

async def main(a, b):
    return await add(a, b)
'''

async def side(n: int):
    return await echo(n)

async def main(n: int):
    handle = spawn(side(n))
    children = await asyncio.gather(*[run_child('child.py', {'a': n, 'b': i}, source=CHILD) for i in range(n)])
    try:
        await timeout(sleep(600.0), 0.2)
    except TaskTimeout:
        late = await add(n, 1)
    return [children, await handle, late, await wait_signal('go')]
";

/// What every execution of `LIFE` is sent.
const GO: &str = "{\"go\": true}";

/// An execution, and the output that it has to have.
pub(crate) struct Expected {
    pub(crate) id: String,
    pub(crate) output: Value,
}

/// What was started.
pub(crate) struct Load {
    seed: u64,
    started: Mutex<Vec<Expected>>,
    /// Who was sent a signal without a key, once, and it was acknowledged.
    noted: Mutex<Vec<String>>,
}

impl Load {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, started: Mutex::default(), noted: Mutex::default() }
    }

    pub(crate) fn count(&self) -> usize {
        self.with(<[Expected]>::len)
    }

    /// One of the last that were started.
    pub(crate) fn recent(&self, random: &mut StdRng) -> Option<String> {
        self.with(|started| {
            let last = started.len().checked_sub(1)?;
            let at = random.random_range(last.saturating_sub(4)..=last);
            started.get(at).map(|expected| expected.id.clone())
        })
    }

    pub(crate) fn noted(&self) -> Vec<String> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&[Expected]) -> T) -> T {
        look(&self.started.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts executions until told to stop. One that the API did not acknowledge is asked for again under the
    /// same id: it must not run twice.
    pub(crate) fn submit(&self, cluster: &Cluster, stop: &AtomicBool, rate: f64) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0x10ad);
        let client = reqwest::blocking::Client::builder().timeout(Duration::from_secs(5)).build();
        let Ok(client) = client else { return };
        let mut next = Instant::now();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let (source, inputs, output) = choose(&mut random);
            let id = format!("chaos-{number}");
            let request = json!({"workflow": {"name": "workflow.py", "source": source}, "inputs": inputs, "id": id});
            for attempt in 0.. {
                let sent = client.post(format!("{}/executions", cluster.api(attempt % 2))).json(&request).send();
                match sent.map(|response| response.status()) {
                    Ok(status) if status.is_success() => break,
                    _ => thread::sleep(Duration::from_millis(200)),
                }
            }
            if source == LIFE {
                if note(cluster, &client, &id) {
                    self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
                }
                signal(cluster, &client, &id);
            }
            self.started.lock().unwrap_or_else(PoisonError::into_inner).push(Expected { id, output });
            next += Duration::from_secs_f64(random.random_range(0.0..2.0) / rate);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Waits until all have ended; answers how many have not.
    pub(crate) fn until_finished(&self, cluster: &Cluster, faults: &mut Faults<'_>, time: Duration) -> usize {
        let deadline = Instant::now() + time;
        loop {
            faults.heal();
            let query = "SELECT count(*) FROM executions WHERE status NOT IN ('completed', 'failed')";
            let left: usize = cluster.sql(query).parse().unwrap_or(usize::MAX);
            if left == 0 || Instant::now() > deadline {
                return left;
            }
            thread::sleep(Duration::from_millis(250));
        }
    }
}

/// Sends a signal that nobody waits for, once and without a key; answers whether that was acknowledged.
fn note(cluster: &Cluster, client: &reqwest::blocking::Client, id: &str) -> bool {
    let url = format!("{}/executions/{id}/signals/note", cluster.api(0));
    let sent = client.post(url).header("content-type", "application/json").body(GO).send();
    sent.is_ok_and(|response| response.status().is_success())
}

/// Sends the signal until it is acknowledged: under one key it is one signal.
fn signal(cluster: &Cluster, client: &reqwest::blocking::Client, id: &str) {
    for attempt in 0.. {
        let url = format!("{}/executions/{id}/signals/go?key=once", cluster.api(attempt % 2));
        let sent = client.post(url).header("content-type", "application/json").body(GO).send();
        match sent.map(|response| response.status()) {
            // It cannot have ended without it.
            Ok(status) if status.is_success() || status == reqwest::StatusCode::CONFLICT => return,
            _ => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn choose(random: &mut StdRng) -> (&'static str, Value, Value) {
    match random.random_range(0..7) {
        0 => {
            let (n, base) = (random.random_range(1..40_i64), random.random_range(0..1000_i64));
            (FAN_OUT, json!({"n": n, "base": base}), json!(n * base + n * (n - 1) / 2))
        }
        1 => {
            let (n, steps) = (random.random_range(1..6_i64), random.random_range(1..5_i64));
            let sum = steps * (steps - 1) / 2;
            let output: Vec<Value> = (0..n).map(|i| json!([i, i + sum])).collect();
            (PIPELINES, json!({"n": n, "steps": steps}), json!(output))
        }
        2 => {
            let (n, seconds) = (random.random_range(1..5_i64), random.random_range(1..20_u8));
            let inputs = json!({"n": n, "seconds": f64::from(seconds) / 10.0});
            (TIMERS, inputs, json!(n * (n - 1) / 2))
        }
        3 => {
            let n = random.random_range(1..8_i64);
            let message = format!("no {}", random.random_range(0..1000_u32));
            let values: Vec<i64> = (0..n).collect();
            (FAILURES, json!({"n": n, "message": message}), json!([values, message, 0.3]))
        }
        4 => {
            let n = random.random_range(1..4_i64);
            let children: Vec<i64> = (0..n).map(|i| n + i).collect();
            (LIFE, json!({"n": n}), json!([children, n, n + 1, {"go": true}]))
        }
        5 => {
            let n = random.random_range(1..5_i64);
            (BUSY, json!({"n": n}), json!(n * (n - 1) / 2))
        }
        _ => {
            let n = random.random_range(1..25_i64);
            (CHAIN, json!({"n": n}), json!(n * (n - 1) / 2))
        }
    }
}
