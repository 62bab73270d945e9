//! The engine's own costs in one process, with a queue in memory.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use durable_core::{
    id::ExecutionId,
    interpreter::Program,
    model::{LogLine, Stream},
    orchestrator::{Engine, Event, Observer, claim::claim, drive::drive, start},
    store::{DatabaseUrl, Db, executions, logs},
};
use durable_queue::MemoryQueue;
use durable_worker::{FunctionError, Registry, Worker, WorkerSettings};
use serde_json::{Map, Value};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{CHAINS, DEADLINE, Figure, Sizes, count, figure, joined, machine, print, quantile, works};
use crate::{args, failure::wrong, output::line};

const FANOUT: &str = "
import asyncio

async def main(n: int):
    return len(await asyncio.gather(*[noop(i) for i in range(n)]))
";

const CHAIN: &str = "
async def main(n: int):
    for i in range(n):
        await noop(i)
    return n
";

/// Executions that are under way at the same time in `fanout`.
const IN_FLIGHT: usize = 64;

/// Jobs that run at the same time.
const CONCURRENCY: usize = 64;

/// Measures and prints.
pub(super) async fn bench(args: &args::Bench, sizes: &Sizes) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bench.db");
    let url = match &args.url {
        Some(url) => url.parse()?,
        None => DatabaseUrl::Sqlite(file.display().to_string()),
    };
    if !args.json {
        line(format_args!("{url}, {}, {CONCURRENCY} no-op Rust functions at a time", machine()));
    }
    for work in works(args) {
        let bench = Bench::open(&url).await?;
        let raw = bench.raw_commits().await?;
        let timed = tokio::time::timeout(DEADLINE, bench.run(&work, sizes)).await;
        let mut figures = timed.map_err(|_| wrong(format!("{work} took longer than {DEADLINE:?}")))??;
        figures.push(figure("raw_commits_per_s", raw, "1/s"));
        figures.iter().for_each(|figure| print(&work, figure, args.json));
    }
    Ok(())
}

struct Bench {
    engine: Arc<Engine>,
    seen: Arc<Seen>,
    stop: CancellationToken,
}

/// What happened, and when.
#[derive(Default)]
struct Seen {
    inner: Mutex<Inner>,
    finished: Notify,
}

#[derive(Default)]
struct Inner {
    settled: Vec<Instant>,
    snapshots: Vec<f64>,
    finished: usize,
    claims: usize,
    failure: Option<String>,
}

impl Observer for Seen {
    fn observe(&self, event: &Event<'_>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Settled { .. } => inner.settled.push(Instant::now()),
            #[expect(clippy::cast_precision_loss, reason = "sizes are small")]
            Event::Paused { snapshot_bytes, .. } => inner.snapshots.push(*snapshot_bytes as f64),
            Event::Claimed(..) => inner.claims += 1,
            Event::Finished { failure, .. } => {
                inner.finished += 1;
                inner.failure = failure.map(ToString::to_string).or(inner.failure.take());
                self.finished.notify_waiters();
            }
            _ => {}
        }
    }
}

impl Seen {
    fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn until_finished(&self, count: usize) -> anyhow::Result<()> {
        loop {
            let bell = self.finished.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            if let Some(failure) = self.with(|inner| inner.failure.clone()) {
                anyhow::bail!("an execution failed: {failure}");
            }
            if self.with(|inner| inner.finished) >= count {
                return Ok(());
            }
            bell.await;
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bench {
    async fn open(url: &DatabaseUrl) -> anyhow::Result<Self> {
        let url = url.clone();
        let db = tokio::task::spawn_blocking(move || Db::open(&url)).await??;
        let registry = Registry::new().function("noop", |i: i64| async move { Ok::<_, FunctionError>(i) });
        let seen = Arc::new(Seen::default());
        let queue = Arc::new(MemoryQueue::new(Duration::from_secs(60), usize::MAX));
        let engine =
            Engine::new(db, queue, durable_process::this_process(), registry.offers()).observed_by(seen.clone());
        let engine = Arc::new(engine);
        let stop = CancellationToken::new();
        let settings = WorkerSettings { concurrency: CONCURRENCY, ..WorkerSettings::default() };
        tokio::spawn(Worker::new(engine.clone(), registry, settings)?.run(stop.clone()));
        tokio::spawn(durable_orchestrator::run(engine.clone(), stop.clone()));
        Ok(Self { engine, seen, stop })
    }

    /// Commits of one small write each, one after the other: what the disk allows.
    async fn raw_commits(&self) -> anyhow::Result<f64> {
        let id: ExecutionId = "bench-raw".parse()?;
        self.start_as("def main():\n    pass\n", Map::new(), Some(id.clone())).await?;
        let begun = Instant::now();
        let mut commits = 0.0;
        while begun.elapsed() < Duration::from_millis(500) {
            let (id, at) = (id.clone(), self.engine.now());
            let line = LogLine { call_id: None, attempt: None, stream: Stream::Stdout, text: "x".into(), at };
            self.engine.db.write(move |conn| logs::append(conn, &id, std::slice::from_ref(&line), u64::MAX)).await?;
            commits += 1.0;
        }
        let rate = commits / begun.elapsed().as_secs_f64();
        self.engine.db.write(move |conn| executions::delete(conn, &id)).await?;
        Ok(rate)
    }

    async fn start_as(
        &self,
        source: &str,
        inputs: Map<String, Value>,
        id: Option<ExecutionId>,
    ) -> anyhow::Result<ExecutionId> {
        let program = Arc::new(Program::compile("bench.py", source)?);
        let request = start::Start { id, ..start::Start::new(program, inputs) };
        Ok(start::start(&self.engine, request).await?.execution.id)
    }

    /// Starts an execution and takes it to its first pause.
    async fn start(&self, source: &str, n: usize) -> anyhow::Result<ExecutionId> {
        let _busy = self.engine.db.busy();
        let inputs = Map::from_iter([("n".to_owned(), Value::from(n))]);
        let id = self.start_as(source, inputs, None).await?;
        if let Some(claimed) = claim(&self.engine, &id).await? {
            drive(&self.engine, claimed).await?;
        }
        Ok(id)
    }

    async fn run(self, work: &str, sizes: &Sizes) -> anyhow::Result<Vec<Figure>> {
        let commits = self.engine.db.commits();
        let begun = Instant::now();
        let mut figures = match work {
            "fanout" => self.fanout(sizes.of(500)).await?,
            "chain" => self.chain(sizes.of(1000)).await?,
            "latency" => self.latency(sizes.of(100)).await?,
            _ => self.wide(sizes.of(10_000)).await?,
        };
        let seconds = begun.elapsed().as_secs_f64();
        let commits = count(usize::try_from(self.engine.db.commits() - commits)?);
        let calls = self.seen.with(|inner| count(inner.settled.len()));
        figures.insert(0, figure("calls_per_s", calls / seconds, "1/s"));
        figures.push(figure("commits_per_call", commits / calls, "1"));
        let mut snapshots = self.seen.with(|inner| std::mem::take(&mut inner.snapshots));
        figures.push(figure("snapshot_bytes_p50", quantile(&mut snapshots, 0.5), "B"));
        Ok(figures)
    }

    async fn fanout(&self, executions: usize) -> anyhow::Result<Vec<Figure>> {
        let mut times = Vec::new();
        let mut started = JoinSet::new();
        for number in 0..executions {
            if started.len() >= IN_FLIGHT {
                times.push(joined(started.join_next().await)?);
            }
            let this = Self { engine: self.engine.clone(), seen: self.seen.clone(), stop: CancellationToken::new() };
            started.spawn(async move {
                let begun = Instant::now();
                this.start(FANOUT, 10).await?;
                // An execution's end is not told apart from another's; a few more than are under way
                // have to end before the next may start.
                this.seen.until_finished(number.saturating_sub(IN_FLIGHT) + 1).await?;
                anyhow::Ok(begun.elapsed().as_secs_f64() * 1e3)
            });
        }
        while let Some(time) = started.join_next().await {
            times.push(joined(Some(time))?);
        }
        self.seen.until_finished(executions).await?;
        Ok(vec![figure("p50_ms", quantile(&mut times, 0.5), "ms"), figure("p99_ms", quantile(&mut times, 0.99), "ms")])
    }

    /// The same chain several times, because a tenth of one takes only a tenth of a second: the ratio
    /// of its last to its first tenth is the median over all.
    async fn chain(&self, steps: usize) -> anyhow::Result<Vec<Figure>> {
        let (mut times, mut ratios) = (Vec::new(), Vec::new());
        for round in 1..=CHAINS {
            let mut marks = vec![Instant::now()];
            let before = self.seen.with(|inner| inner.settled.len());
            self.start(CHAIN, steps).await?;
            self.seen.until_finished(round).await?;
            self.seen.with(|inner| marks.extend_from_slice(&inner.settled[before..]));
            let steps: Vec<f64> = marks.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
            let tenth = (steps.len() / 10).max(1);
            let first = quantile(&mut steps[..tenth].to_vec(), 0.5);
            let last = quantile(&mut steps[steps.len() - tenth..].to_vec(), 0.5);
            ratios.push(last / first);
            times.extend(steps);
        }
        Ok(vec![
            figure("p50_ms", quantile(&mut times, 0.5), "ms"),
            figure("p99_ms", quantile(&mut times, 0.99), "ms"),
            figure("last_over_first", quantile(&mut ratios, 0.5), "1"),
        ])
    }

    async fn latency(&self, executions: usize) -> anyhow::Result<Vec<Figure>> {
        let mut times = Vec::new();
        for number in 1..=executions {
            let begun = Instant::now();
            self.start(CHAIN, 1).await?;
            self.seen.until_finished(number).await?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(vec![figure("p50_ms", quantile(&mut times, 0.5), "ms"), figure("p99_ms", quantile(&mut times, 0.99), "ms")])
    }

    async fn wide(&self, calls: usize) -> anyhow::Result<Vec<Figure>> {
        self.start(FANOUT, calls).await?;
        self.seen.until_finished(1).await?;
        // The first claim starts the workflow, each further one resumes it.
        Ok(vec![figure("resumes", self.seen.with(|inner| count(inner.claims)) - 1.0, "1")])
    }
}
