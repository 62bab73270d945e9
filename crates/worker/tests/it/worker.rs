//! The loop, with real engines, real time and a real SQLite file.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use durable_core::{
    id::{ExecutionId, WorkerId},
    interpreter::Program,
    model::{CallStatus, Execution, ExecutionStatus, Failure, Json},
    orchestrator::{Engine, claim::claim, drive::drive, start},
    retry::RetryPolicy,
    store::{Db, calls, executions},
};
use durable_queue::MemoryQueue;
use durable_testing::sqlite;
use durable_worker::{FunctionError, FunctionOptions, Registry, Worker, WorkerSettings};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

type Done<T> = Result<T, FunctionError>;

/// A whole small installation.
pub(crate) struct Installation {
    pub(crate) engine: Arc<Engine>,
    pub(crate) stop: CancellationToken,
    pub(crate) worker: tokio::task::JoinHandle<bool>,
    _folder: tempfile::TempDir,
}

pub(crate) fn install(registry: Registry, settings: WorkerSettings) -> Installation {
    let (url, folder) = sqlite();
    let db = Db::open(&url).unwrap();
    let queue = Arc::new(MemoryQueue::new(Duration::from_secs(60), 10_000));
    let engine = Arc::new(Engine::new(db, queue, WorkerId("test".into()), registry.offers()));
    let stop = CancellationToken::new();
    let worker = Worker::new(engine.clone(), registry, settings).unwrap();
    let worker = tokio::spawn(worker.run(stop.clone()));
    tokio::spawn(durable_orchestrator::run(engine.clone(), stop.clone()));
    Installation { engine, stop, worker, _folder: folder }
}

impl Installation {
    pub(crate) async fn start(&self, source: &str) -> ExecutionId {
        let program = Arc::new(Program::compile("workflow.py", source).unwrap_or_else(|error| panic!("{error}")));
        let request = start::Start::new(program, Map::new());
        let id = start::start(&self.engine, request).await.unwrap().execution.id;
        let claimed = claim(&self.engine, &id).await.unwrap().unwrap();
        drive(&self.engine, claimed).await.unwrap();
        id
    }

    pub(crate) async fn until(&self, id: &ExecutionId, what: impl Fn(&Execution) -> bool) -> Execution {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let key = id.clone();
            let execution = self.engine.db.read(move |conn| executions::get(conn, &key)).await.unwrap().unwrap();
            if what(&execution) {
                return execution;
            }
            assert!(Instant::now() < deadline, "still {execution:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn end(&self, id: &ExecutionId) -> Execution {
        self.until(id, |execution| execution.status.is_final()).await
    }
}

/// Calls one function through a workflow that passes on what it gets.
pub(crate) async fn call(registry: &Registry, function: &str, args: Value, kwargs: Value) -> Result<Value, Failure> {
    let installation = install(registry.clone(), WorkerSettings::default());
    let (module, name) = function.rsplit_once('.').unwrap_or(("tasks", function));
    let mut arguments: Vec<String> = args.as_array().unwrap().iter().map(python).collect();
    arguments.extend(kwargs.as_object().unwrap().iter().map(|(key, value)| format!("{key}={}", python(value))));
    let source =
        format!("from {module} import {name}\nasync def main():\n    return await {name}({})\n", arguments.join(", "));
    let id = installation.start(&source).await;
    let key = id.clone();
    installation.end(&id).await;
    let calls = installation.engine.db.read(move |conn| calls::list(conn, &key)).await.unwrap();
    let call = calls.into_iter().next().expect("a call");
    match (call.result, call.error) {
        (Some(result), _) => Ok(result.parse().unwrap()),
        (_, Some(failure)) => Err(failure),
        _ => panic!("the call has no outcome"),
    }
}

/// A JSON value as a Python literal.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(flag) => if *flag { "True" } else { "False" }.into(),
        Value::Object(object) if object.contains_key("$py") => "b'\\x00'".into(),
        other => other.to_string(),
    }
}

fn fast_retries(max_attempts: i64) -> FunctionOptions {
    let retry = RetryPolicy { max_attempts, initial: Duration::from_millis(10), ..RetryPolicy::default() };
    FunctionOptions { retry, ..FunctionOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_fails_twice_succeeds_at_the_third_attempt() {
    let tries = Arc::new(AtomicUsize::new(0));
    let seen = tries.clone();
    let registry = Registry::new().function_with("flaky", &[], fast_retries(3), move || {
        let n = seen.fetch_add(1, Ordering::SeqCst);
        async move { if n < 2 { Err(FunctionError::new("ConnectionError", format!("try {n}"))) } else { Ok("done") } }
    });
    let installation = install(registry, WorkerSettings::default());
    let id = installation.start("async def main():\n    return await flaky()\n").await;
    assert_eq!(installation.end(&id).await.output, Some(Json("\"done\"".into())));
    let key = id.clone();
    let attempts = installation.engine.db.read(move |conn| calls::attempts(conn, &key)).await.unwrap();
    let told: Vec<String> = attempts.iter().map(|attempt| attempt.error.to_string()).collect();
    assert_eq!(told, ["ConnectionError: try 0", "ConnectionError: try 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_retryable_is_tried_once() {
    let tries = Arc::new(AtomicUsize::new(0));
    let seen = tries.clone();
    let registry = Registry::new().function_with("fatal", &[], fast_retries(5), move || {
        seen.fetch_add(1, Ordering::SeqCst);
        async { Err::<(), _>(FunctionError::new("ValueError", "never").not_retryable()) }
    });
    let installation = install(registry, WorkerSettings::default());
    let id = installation.start("async def main():\n    return await fatal()\n").await;
    assert_eq!(installation.end(&id).await.status, ExecutionStatus::Failed);
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_too_long_is_ended() {
    let options = FunctionOptions { timeout: Duration::from_millis(50), retry: RetryPolicy::never() };
    let registry = Registry::new().function_with("slow", &[], options, || async {
        std::future::pending::<()>().await;
        Done::Ok(())
    });
    let installation = install(registry, WorkerSettings::default());
    let source =
        "async def main():\n    try:\n        await slow()\n    except TimeoutError as e:\n        return str(e)\n";
    let id = installation.start(source).await;
    assert_eq!(installation.end(&id).await.output, Some(Json("\"slow took longer than 50ms\"".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_jobs_run_at_a_time_than_there_are_slots() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (n, m) = (now.clone(), most.clone());
    let registry = Registry::new().function("work", move |_: i64| {
        let (n, m) = (n.clone(), m.clone());
        async move {
            m.fetch_max(n.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            n.fetch_sub(1, Ordering::SeqCst);
            Done::Ok(())
        }
    });
    let installation = install(registry, WorkerSettings { concurrency: 3, ..WorkerSettings::default() });
    let source = "import asyncio\nasync def main():\n    await asyncio.gather(*[work(i) for i in range(12)])\n";
    let id = installation.start(source).await;
    assert_eq!(installation.end(&id).await.status, ExecutionStatus::Completed);
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_functions_finish_within_their_grace() {
    let registry = Registry::new().function("work", || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Done::Ok(1)
    });
    let installation = install(registry, WorkerSettings::default());
    let id = installation.start("async def main():\n    return await work()\n").await;
    running(&installation, &id).await;
    installation.stop.cancel();
    installation.worker.await.unwrap();
    let key = id.clone();
    let ended = installation.engine.db.read(move |conn| executions::get(conn, &key)).await.unwrap().unwrap();
    assert_eq!(ended.output, Some(Json("1".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_grace_is_given_back_uncounted() {
    let registry = Registry::new().function("work", || async {
        std::future::pending::<()>().await;
        Done::Ok(1)
    });
    let settings = WorkerSettings { grace: Duration::from_millis(50), ..WorkerSettings::default() };
    let installation = install(registry, settings);
    let id = installation.start("async def main():\n    return await work()\n").await;
    running(&installation, &id).await;
    installation.stop.cancel();
    installation.worker.await.unwrap();
    let (key, db) = (id.clone(), installation.engine.db.clone());
    let call = db.read(move |conn| calls::list(conn, &key)).await.unwrap().remove(0);
    assert_eq!((call.status, call.attempt), (CallStatus::Pending, 1));
    assert_eq!(installation.engine.queue.depth("default").await.unwrap(), 1, "it is in the queue again");
}

async fn running(installation: &Installation, id: &ExecutionId) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let key = id.clone();
        let calls = installation.engine.db.read(move |conn| calls::list(conn, &key)).await.unwrap();
        if calls.iter().any(|call| call.status == CallStatus::Running) {
            return;
        }
        assert!(Instant::now() < deadline, "no call is running: {calls:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_wakes_the_clock_in_time() {
    let installation = install(Registry::new(), WorkerSettings::default());
    let begun = Instant::now();
    let id =
        installation.start("import asyncio\nasync def main():\n    await asyncio.sleep(0.2)\n    return 1\n").await;
    installation.end(&id).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(1000), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_arguments_travel_by_the_database() {
    let registry = Registry::new().function("size", |text: String| async move { Done::Ok(text.len()) });
    let installation = install(registry, WorkerSettings::default());
    let id = installation.start("async def main():\n    return await size('x' * 5_000_000)\n").await;
    assert_eq!(installation.end(&id).await.output, Some(Json("5000000".into())));
    assert_eq!(json!(1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_function_says_how_far_it_is_and_is_told_when_nobody_wants_it() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    let registry = Registry::new().function("tasks.work", || async {
        durable_worker::heartbeat(0.5, "half");
        assert!(durable_worker::idempotency_key().is_some_and(|key| key == "mine"));
        durable_worker::cancellation().cancelled().await;
        TOLD.fetch_add(1, Ordering::SeqCst);
        Done::Ok(())
    });
    let installation = install(registry, WorkerSettings::default());
    let source = "
import durable
from tasks import work

async def main():
    return await durable.call(work, idempotency_key='mine')
";
    let id = installation.start(source).await;
    let progress = async || {
        let key = id.clone();
        let calls = installation.engine.db.read(move |conn| calls::list(conn, &key)).await.unwrap();
        calls[0].progress.clone()
    };
    let begun = Instant::now();
    while progress().await != Some(Json(r#"{"fraction":0.5,"message":"half"}"#.into())) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", progress().await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    match durable_core::orchestrator::cancel::cancel(&installation.engine, &id, false).await.unwrap() {
        durable_core::orchestrator::cancel::Cancelled::Told(Some(claimed)) => {
            drive(&installation.engine, claimed).await.unwrap();
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(installation.end(&id).await.status, ExecutionStatus::Cancelled);
    let asked = Instant::now();
    while TOLD.load(Ordering::SeqCst) == 0 {
        assert!(asked.elapsed() < Duration::from_secs(3), "it was not told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_hangs_keeps_no_function_from_its_slot() {
    let registry = Registry::new().function("tasks.quick", || async { Done::Ok(()) });
    let installation = install(registry, WorkerSettings { concurrency: 2, ..WorkerSettings::default() });
    let hangs = "from tasks import quick\nasync def main():\n    await quick()\n    while True: pass\n";
    for _ in 0..4 {
        installation.start(hangs).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    for _ in 0..10 {
        let id =
            installation.start("from tasks import quick\nasync def main():\n    await quick()\n    return 1\n").await;
        assert_eq!(installation.end(&id).await.status, ExecutionStatus::Completed);
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    installation.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_has_no_more_time_than_its_call_or_its_total_allows() {
    let registry = Registry::new().function("tasks.slow", || async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Done::Ok(())
    });
    let installation = install(registry, WorkerSettings::default());
    let source = "
import durable
from tasks import slow

async def main():
    seen = []
    for options in ({'timeout': 0.1, 'retries': 0}, {'total_timeout': 0.2}):
        try:
            await durable.call(slow, **options)
        except durable.TaskTimeout as error:
            seen.append(str(error))
    return seen
";
    let begun = Instant::now();
    let id = installation.start(source).await;
    let output = installation.end(&id).await.output.unwrap().parse().unwrap();
    assert!(output[0].as_str().unwrap().contains("took longer than 100ms"), "{output}");
    assert_eq!(output[1], "tasks.slow was not done within its total_timeout", "{output}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_within_a_tenth_of_a_second() {
    let installation = install(Registry::new(), WorkerSettings::default());
    let source = "
import asyncio

async def main():
    await asyncio.gather(*[asyncio.sleep(0.05 * n) for n in range(1, 30)])
";
    let id = installation.start(source).await;
    installation.end(&id).await;
    let key = id.clone();
    let calls = installation.engine.db.read(move |conn| calls::list(conn, &key)).await.unwrap();
    let late: Vec<Duration> = calls
        .iter()
        .zip(1u32..)
        .map(|(call, n)| call.completed_at.unwrap().since(call.created_at.after(Duration::from_millis(50) * n)))
        .collect();
    let mut sorted = late.clone();
    sorted.sort();
    // One may be late on a machine where other tests run; the median may not.
    assert!(sorted[late.len() / 2] < Duration::from_millis(100), "{late:?}");
    assert!(calls.iter().all(|call| call.completed_at.unwrap() >= call.created_at));
}
