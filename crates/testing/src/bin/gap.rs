//! Runs one execution and, when told to, dies by SIGKILL right after a named step.
//!
//! `durable-gap DATABASE EFFECTS ID [STEP N]`: functions append their idempotency key to the file
//! EFFECTS; the process kills itself after the N-th occurrence of STEP, or runs to the end.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use durable_core::{
    id::{ExecutionId, WorkerId},
    interpreter::Program,
    model::{ExecutionStatus, Json},
    orchestrator::{
        Engine, Event, Observer, OrchestrationError,
        claim::claim,
        drive::drive,
        mend,
        rescue::take_over,
        signal::{Sent, Signalling, signal},
        start,
    },
    store::{Db, executions::Whose},
};
use durable_queue::MemoryQueue;
use durable_worker::{
    CallLog, Function, FunctionError, FunctionOptions, Invocation, Registry, Returned, Worker, WorkerSettings,
};
use serde_json::Map;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const WORKFLOW: &str = "
import asyncio
from tasks import work

async def pipeline(name):
    first = await work(name + '1')
    return await work(first + '2')

async def main():
    alone = await work('alone')
    await asyncio.sleep(0.05)
    parts = await asyncio.gather(pipeline('a'), pipeline('b'), work('c'))
    group = await asyncio.gather(*[work(f'g{i}') for i in range(4)])
    return [alone, parts, group]
";

/// A signal, a new beginning, children, a spawned coroutine, a timeout that gives its work up. Executions whose ids begin with `life` run it.
const LIFE: &str = "
import asyncio
from durable import TaskTimeout, continue_as_new, run_child, spawn, timeout, wait_signal
from tasks import work

CHILD = '''
from tasks import work

async def main(n):
    return await work('child' + str(n))
'''

async def side():
    return await work('side')

async def main(go=None):
    if go is None:
        go = await wait_signal('go')
        continue_as_new(go=await work(go))
    handle = spawn(side())
    children = await asyncio.gather(*[run_child('c.py', {'n': n}, source=CHILD) for n in (1, 2)])
    try:
        await timeout(asyncio.sleep(30), 0.05)
    except TaskTimeout:
        late = await work('late')
    return [go, children, await handle, late]
";

/// Fails by a mistake of its own, and what it is mended with, which asks the host for more. Executions whose ids begin with
/// `mend` run it.
const BUGGY: &str = "
import asyncio
from tasks import work

async def main():
    alone = await work('alone')
    await asyncio.sleep(0.05)
    both = await asyncio.gather(work('a'), work('b'))
    return [alone, both, {}['late']]
";
const MENDED: &str = "
import asyncio
import durable
from tasks import work

async def main():
    alone = await work('alone')
    durable.log(alone)
    await asyncio.sleep(0.05)
    both = await asyncio.gather(work('a'), work('b'))
    return [alone, both, await work('late')]
";

/// Answers its argument, after a line with its key has reached the disk.
struct Work(String);

#[async_trait::async_trait]
impl Function for Work {
    async fn call(&self, invocation: Invocation, _: &CallLog) -> Result<Returned, FunctionError> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.0)?;
        // One write: lines of functions that run at the same time must not mix.
        file.write_all(format!("{}\n", invocation.idempotency_key()).as_bytes())?;
        file.sync_all()?;
        let args = invocation.args.parse()?;
        Ok(Json::from(&args[0]).into())
    }
}

/// Kills the process at the chosen step.
struct Death {
    id: ExecutionId,
    at: Option<(String, usize)>,
    seen: AtomicUsize,
    finished: Notify,
}

impl Observer for Death {
    fn observe(&self, event: &Event<'_>) {
        let step = match event {
            Event::Started(_) => "start",
            Event::Claimed(..) => "claim",
            Event::Advanced(_) => "advance",
            Event::Paused { .. } => "pause",
            Event::Dispatched(_) => "dispatch",
            Event::Began(_) => "begin",
            Event::Ran(_) => "function",
            Event::Settled { .. } => "settle",
            Event::Retrying { .. } => "retry",
            Event::Again { .. } => "again",
            Event::Mended(_) => "mend",
            Event::Finished { .. } => "finish",
        };
        if let Some((chosen, count)) = &self.at
            && chosen == step
            && self.seen.fetch_add(1, Ordering::SeqCst) + 1 == *count
        {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        if let Event::Finished { execution, .. } = event
            && **execution == self.id
        {
            self.finished.notify_one();
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [database, effects, id, rest @ ..] = args.as_slice() else { anyhow::bail!("DATABASE EFFECTS ID [STEP N]") };
    let id: ExecutionId = id.parse()?;
    let at = match rest {
        [step, count] => Some((step.clone(), count.parse()?)),
        _ => None,
    };
    let death = Arc::new(Death { id: id.clone(), at, seen: AtomicUsize::new(0), finished: Notify::new() });
    let mut registry = Registry::new();
    registry.add("tasks.work", FunctionOptions::default(), Arc::new(Work(effects.clone())));
    let db = Db::open(&database.parse()?)?;
    let queue = Arc::new(MemoryQueue::new(Duration::from_secs(60), 1000));
    let me = WorkerId::new("gap", std::process::id(), &id.to_string());
    let mut engine = Engine::new(db, queue, me, registry.offers()).observed_by(death.clone());
    engine.whose = Whose::Run(engine.worker.clone());
    let engine = Arc::new(engine);
    let (life, mends) = (id.as_str().starts_with("life"), id.as_str().starts_with("mend"));
    let source = if life { LIFE } else { [WORKFLOW, BUGGY][usize::from(mends)] };
    let program = Arc::new(Program::compile("workflow.py", source)?);
    let request = start::Start { id: Some(id.clone()), ..start::Start::new(program, Map::new()) };
    let found = match start::find(&engine, &id).await {
        Ok(found) => Some(found),
        Err(_) => Some(start::start(&engine, request).await?).filter(|started| !started.created).map(|it| it.execution),
    };
    if let Some(found) = found {
        match found.status {
            ExecutionStatus::Failed if mends => mend(&engine, &id).await?,
            status if status.is_final() => return Ok(()),
            _ => {}
        }
        take_over(&engine, &id, found.runner.as_ref()).await?;
    }
    let stop = CancellationToken::new();
    let worker = Worker::new(engine.clone(), registry, WorkerSettings::default())?;
    tokio::spawn(worker.run(stop.clone()));
    tokio::spawn(durable_orchestrator::run(engine.clone(), stop));
    if let Some(claimed) = claim(&engine, &id).await? {
        drive(&engine, claimed).await?;
    }
    if life {
        go(&engine, &id).await?;
    }
    tokio::time::timeout(Duration::from_secs(30), death.finished.notified()).await?;
    if mends && start::find(&engine, &id).await?.status == ExecutionStatus::Failed {
        mend(&engine, &id).await?;
        tokio::time::timeout(Duration::from_secs(30), death.finished.notified()).await?;
    }
    Ok(())
}

/// Gives `BUGGY` the code that it should have had.
async fn mend(engine: &Engine, id: &ExecutionId) -> anyhow::Result<()> {
    let program = Arc::new(Program::compile("workflow.py", MENDED)?);
    mend::mend(engine, id, mend::NewCode { program, files: std::collections::BTreeMap::new(), launch: None }, false)
        .await?;
    Ok(())
}

/// Sends the signal that `LIFE` waits for; a repeated one is the same.
async fn go(engine: &Engine, id: &ExecutionId) -> anyhow::Result<()> {
    let (name, payload, key) = ("go".into(), Json("7".into()), Some("once".into()));
    match signal(engine, Signalling { execution: id.clone(), name, payload, key }).await {
        Ok(Sent::Taken(Some(claimed))) => Ok(drive(engine, claimed).await?),
        Ok(_) | Err(OrchestrationError::Ended { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
