//! The same loads on a private cluster: Postgres with fsync, Redis, an orchestrator, worker processes.
//!
//! Nothing is asked of the processes that are measured: commits are what Postgres counts as writing
//! transactions, round trips what Redis counts as commands from outside its scripts.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use durable_core::{
    id::{ExecutionId, WorkerId},
    interpreter::Program,
    model::{Call, Worker},
    store::{Db, calls, executions, meter, workers},
    time::{Clock, SystemClock},
};
use durable_queue::{RedisQueue, RedisSettings};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

use super::{CHAINS, DEADLINE, Figure, Sizes, count, figure, joined, machine, print, quantile, works};
use crate::{
    args::{self, Server},
    client::{Client, start_request},
    failure::wrong,
    output::line,
};

const FANOUT: &str = "
import asyncio
from builtin import noop

async def main(n: int):
    return len(await asyncio.gather(*[noop(i) for i in range(n)]))
";

const CHAIN: &str = "
from builtin import noop

async def main(n: int):
    for i in range(n):
        await noop(i)
    return n
";

/// Executions that are under way at the same time in `fanout`.
const IN_FLIGHT: usize = 64;

/// Functions that each worker runs at the same time.
const CONCURRENCY: usize = 32;

/// Starts a cluster, measures, prints.
pub(super) async fn bench(args: &args::Bench, sizes: &Sizes) -> anyhow::Result<()> {
    let bench = Arc::new(Bench::open(args).await?);
    if !args.json {
        let workers = args.workers;
        line(format_args!(
            "private Postgres (fsync on) and Redis, 1 orchestrator, {workers} workers of {CONCURRENCY} no-op Rust \
             functions at a time, {}",
            machine()
        ));
    }
    for work in works(args) {
        let raw = bench.raw_commits().await?;
        let timed = tokio::time::timeout(DEADLINE, Bench::run(bench.clone(), &work, sizes)).await;
        let mut figures = timed.map_err(|_| wrong(format!("{work} took longer than {DEADLINE:?}")))??;
        figures.push(figure("raw_commits_per_s", raw, "1/s"));
        figures.iter().for_each(|figure| print(&work, figure, args.json));
    }
    Ok(())
}

struct Bench {
    client: Client,
    db: Db,
    redis: RedisQueue,
    /// Ends when its stdin closes.
    _cluster: Child,
}

/// What the servers have counted.
struct Counts {
    transactions: i64,
    round_trips: u64,
}

impl Bench {
    async fn open(args: &args::Bench) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("durable-cluster");
        if !program.is_file() {
            let shown = program.display();
            return Err(wrong(format!("--distributed needs {shown}: build it with cargo build --workspace")));
        }
        let mut cluster = Command::new(program)
            .args(["--workers", &args.workers.to_string(), "--concurrency", &CONCURRENCY.to_string(), "--until-eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = cluster.stdout.take().ok_or_else(|| anyhow::anyhow!("the cluster has no stdout"))?;
        let mut lines = BufReader::new(stdout).lines();
        let mut said = Map::new();
        while said.len() < 3 {
            let line = lines.next_line().await?.ok_or_else(|| anyhow::anyhow!("the cluster did not start"))?;
            let (name, value) = line.split_once(' ').unwrap_or((&line, ""));
            said.insert(name.to_owned(), value.into());
        }
        let at = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let url = at("database").parse()?;
        let db = tokio::task::spawn_blocking(move || Db::open_migrated(&url)).await??;
        let redis = RedisQueue::new(RedisSettings::new(at("redis")))?;
        let client = Client::new(&Server { url: at("api"), token: None })?;
        Ok(Self { client, db, redis, _cluster: cluster })
    }

    /// Commits of one small write each, one after the other: what the disk allows.
    async fn raw_commits(&self) -> anyhow::Result<f64> {
        let now = SystemClock.now();
        let nobody = Worker {
            name: WorkerId("bench".into()),
            host: "bench".into(),
            pid: 0,
            queues: Vec::new(),
            functions: Vec::new(),
            concurrency: 0,
            started_at: now,
            due_at: now,
        };
        let begun = Instant::now();
        let mut commits = 0_usize;
        while begun.elapsed() < Duration::from_millis(500) {
            let worker = nobody.clone();
            self.db.write(move |conn| workers::beat(conn, &worker)).await?;
            commits += 1;
        }
        Ok(count(commits) / begun.elapsed().as_secs_f64())
    }

    async fn counts(&self) -> anyhow::Result<Counts> {
        let transactions = self.db.read(meter::transactions).await?;
        Ok(Counts { transactions, round_trips: self.redis.round_trips().await? })
    }

    /// Runs a workflow to its end; answers the execution, and how long that took.
    async fn complete(&self, source: &str, n: usize) -> anyhow::Result<(Value, f64)> {
        Program::compile("bench.py", source)?;
        let inputs = Map::from_iter([("n".to_owned(), Value::from(n))]);
        let id = ExecutionId::generate();
        let begun = Instant::now();
        self.client
            .start(&start_request(&json!({"name": "bench.py", "source": source}), &inputs, &id, "default"))
            .await?;
        loop {
            let execution = self.client.wait(id.as_str()).await?;
            match execution["status"].as_str() {
                Some("completed") => return Ok((execution, begun.elapsed().as_secs_f64() * 1e3)),
                Some("failed" | "cancelled") => anyhow::bail!("an execution failed: {}", execution["error"]),
                _ => {}
            }
        }
    }

    async fn run(this: Arc<Self>, work: &str, sizes: &Sizes) -> anyhow::Result<Vec<Figure>> {
        let before = this.counts().await?;
        let begun = Instant::now();
        let (calls, mut figures) = match work {
            "fanout" => Self::fanout(this.clone(), sizes.of(500)).await?,
            "chain" => this.chain(sizes.of(1000)).await?,
            "latency" => this.latency(sizes.of(100)).await?,
            _ => this.wide(sizes.of(10_000)).await?,
        };
        let seconds = begun.elapsed().as_secs_f64();
        let after = this.counts().await?;
        figures.insert(0, figure("calls_per_s", count(calls) / seconds, "1/s"));
        // One of them was the first look at the counter.
        let transactions = usize::try_from(after.transactions - before.transactions - 1)?;
        figures.push(figure("commits_per_call", count(transactions) / count(calls), "1"));
        let round_trips = usize::try_from(after.round_trips - before.round_trips)?;
        figures.push(figure("redis_round_trips_per_call", count(round_trips) / count(calls), "1"));
        Ok(figures)
    }

    async fn fanout(this: Arc<Self>, executions: usize) -> anyhow::Result<(usize, Vec<Figure>)> {
        let mut times = Vec::new();
        let mut started = JoinSet::new();
        for _ in 0..executions {
            if started.len() >= IN_FLIGHT {
                times.push(joined(started.join_next().await)?);
            }
            let this = this.clone();
            started.spawn(async move { anyhow::Ok(this.complete(FANOUT, 10).await?.1) });
        }
        while let Some(time) = started.join_next().await {
            times.push(joined(Some(time))?);
        }
        Ok((executions * 10, percentiles(&mut times)))
    }

    /// The same chain several times; the ratio of its last to its first tenth is the median over all.
    async fn chain(&self, steps: usize) -> anyhow::Result<(usize, Vec<Figure>)> {
        let (mut times, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..CHAINS {
            let (execution, _) = self.complete(CHAIN, steps).await?;
            let id: ExecutionId = execution["id"].as_str().unwrap_or_default().parse()?;
            let calls: Vec<Call> = self.db.read(move |conn| calls::list(conn, &id)).await?;
            let marks: Vec<_> = calls.iter().filter_map(|call| call.completed_at).collect();
            let steps: Vec<f64> = marks.windows(2).map(|pair| pair[1].since(pair[0]).as_secs_f64() * 1e3).collect();
            let tenth = (steps.len() / 10).max(1);
            let first = quantile(&mut steps[..tenth].to_vec(), 0.5);
            let last = quantile(&mut steps[steps.len() - tenth..].to_vec(), 0.5);
            ratios.push(last / first);
            times.extend(steps);
        }
        let mut figures = percentiles(&mut times);
        figures.push(figure("last_over_first", quantile(&mut ratios, 0.5), "1"));
        Ok((steps * CHAINS, figures))
    }

    async fn latency(&self, executions: usize) -> anyhow::Result<(usize, Vec<Figure>)> {
        let mut times = Vec::new();
        for _ in 0..executions {
            times.push(self.complete(CHAIN, 1).await?.1);
        }
        Ok((executions, percentiles(&mut times)))
    }

    async fn wide(&self, calls: usize) -> anyhow::Result<(usize, Vec<Figure>)> {
        let (execution, _) = self.complete(FANOUT, calls).await?;
        let id: ExecutionId = execution["id"].as_str().unwrap_or_default().parse()?;
        let execution = self.db.read(move |conn| executions::get(conn, &id)).await?;
        let epoch = execution.map_or(0, |execution| execution.epoch.0);
        // The first claim starts the workflow, each further one resumes it.
        Ok((calls, vec![figure("resumes", count(usize::try_from(epoch)?) - 1.0, "1")]))
    }
}

fn percentiles(times: &mut [f64]) -> Vec<Figure> {
    vec![figure("p50_ms", quantile(times, 0.5), "ms"), figure("p99_ms", quantile(times, 0.99), "ms")]
}
