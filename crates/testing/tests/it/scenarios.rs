//! Failures between database, queue and worker, on real servers. Numbers as in docs/queue.md.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use durable_core::{
    id::{ExecutionId, WorkerId},
    interpreter::Program,
    model::{ExecutionStatus, Json, Outcome},
    offers::Offers,
    orchestrator::{
        Engine,
        claim::claim,
        dispatch,
        drive::drive,
        settle::{Attempted, Retry, Settled, settle},
        start,
    },
    store::{DatabaseUrl, Db, meter},
    time::{Clock, ManualClock, SetClock, SystemClock},
};
use durable_queue::{Job, JobId, Lease, RedisQueue, RedisSettings};
use durable_testing::{Postgres, Redis};
use durable_worker::{FunctionError, Listed, Registry, Worker, WorkerSettings};
use rustix::process::Signal;
use serde_json::Map;
use tokio_util::sync::CancellationToken;

const ONE: &str = "from tasks import work\n\nasync def main():\n    return await work()\n";

fn engine(database: &DatabaseUrl, redis: &Redis, name: &str) -> Arc<Engine> {
    let lease = Duration::from_secs(2);
    let queue = RedisQueue::new(RedisSettings { lease, ..RedisSettings::new(redis.url()) }).unwrap();
    let db = Db::open(database).unwrap();
    let mut engine = Engine::new(db, Arc::new(queue), WorkerId(name.into()), Offers::anything());
    engine.settings.lease = lease;
    engine.settings.push_again = Duration::from_secs(2);
    Arc::new(engine)
}

async fn begin(engine: &Engine, source: &str) -> ExecutionId {
    let program = Arc::new(Program::compile("workflow.py", source).unwrap());
    let request = start::Start::new(program, Map::new());
    let id = start::start(engine, request).await.unwrap().execution.id;
    let claimed = claim(engine, &id).await.unwrap().unwrap();
    drive(engine, claimed).await.unwrap();
    id
}

async fn until_ended(engine: &Engine, id: &ExecutionId) -> Option<Json> {
    for _ in 0..600 {
        if let Ok(execution) = start::find(engine, id).await
            && execution.status.is_final()
        {
            assert_eq!(execution.status, ExecutionStatus::Completed, "{:?}", execution.error);
            return execution.output;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} does not end");
}

async fn pop(engine: &Engine) -> Lease {
    let queues = ["default".to_owned()];
    engine.queue.pop(&queues, "w", 1, Duration::from_secs(5)).await.unwrap().remove(0)
}

struct Working {
    stop: CancellationToken,
    _tasks: tokio::task::JoinSet<()>,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn work(engine: &Arc<Engine>, registry: Registry) -> Working {
    let stop = CancellationToken::new();
    let listed = Some(Listed { host: "here".into(), pid: 1 });
    let settings = WorkerSettings { beat: Duration::from_millis(300), listed, ..WorkerSettings::default() };
    let worker = Worker::new(engine.clone(), registry, settings).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    let stopped = stop.clone();
    tasks.spawn(async move {
        let _began = worker.run(stopped).await;
    });
    tasks.spawn(durable_orchestrator::run(engine.clone(), stop.clone()));
    Working { stop, _tasks: tasks }
}

fn counted(body: impl Fn() + Clone + Send + Sync + 'static, wait: Duration) -> (Registry, Arc<AtomicUsize>) {
    let ran = Arc::new(AtomicUsize::new(0));
    let count = ran.clone();
    let registry = Registry::new().function("tasks.work", move || {
        let (count, body) = (count.clone(), body.clone());
        async move {
            body();
            tokio::time::sleep(wait).await;
            Ok::<_, FunctionError>(count.fetch_add(1, Ordering::SeqCst) + 1)
        }
    });
    (registry, ran)
}

/// 21: the worker died after its commit and before its acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_outcome_is_not_worked_for_again() {
    let redis = Redis::start(&[]);
    let engine = engine(&Postgres::shared().database(), &redis, "w");
    let id = begin(&engine, ONE).await;
    let lease = pop(&engine).await;
    let work = dispatch::load_work(&engine, &lease).await.unwrap().unwrap();
    let outcome = Outcome::Completed(Json("7".into()));
    let attempted =
        Attempted { of: work.attempt, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() };
    let Settled::Recorded(Some(claimed)) = settle(&engine, attempted.clone()).await.unwrap() else {
        panic!("no claim")
    };
    drive(&engine, claimed).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(engine.queue.sweep().await.unwrap().put_back, 1);
    let again = pop(&engine).await;
    assert_eq!(again.deliveries, 2);
    assert_eq!(dispatch::load_work(&engine, &again).await.unwrap(), None, "there is nothing left to do");
    assert!(matches!(settle(&engine, attempted).await.unwrap(), Settled::Ignored));
    assert_eq!(until_ended(&engine, &id).await, Some(Json("7".into())));
}

/// 22: Postgres is away when the outcome is to be recorded. The function does not run again.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_waits_for_a_database_that_is_away() {
    let (postgres, redis) = (Postgres::start(false).unwrap(), Redis::start(&[]));
    let engine = engine(&postgres.database(), &redis, "w");
    let (registry, ran) = counted(|| {}, Duration::from_millis(700));
    let id = begin(&engine, ONE).await;
    let _working = work(&engine, registry);
    tokio::time::sleep(Duration::from_millis(400)).await;
    postgres.kill(Signal::KILL);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    postgres.restart().unwrap();
    assert_eq!(until_ended(&engine, &id).await, Some(Json("1".into())));
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

/// 23: Redis is away while a function runs. Its outcome is recorded, and the worker goes on when Redis is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_does_not_wait_for_redis() {
    let redis = Redis::start(&[]);
    let engine = engine(&Postgres::shared().database(), &redis, "w");
    let (registry, ran) = counted(|| {}, Duration::from_millis(800));
    let id = begin(&engine, ONE).await;
    let _working = work(&engine, registry);
    tokio::time::sleep(Duration::from_millis(400)).await;
    redis.kill();
    assert_eq!(until_ended(&engine, &id).await, Some(Json("1".into())));
    redis.restart().unwrap();
    let next = begin(&engine, ONE).await;
    assert_eq!(until_ended(&engine, &next).await, Some(Json("2".into())));
    assert_eq!(ran.load(Ordering::SeqCst), 2);
}

/// 5, 26: functions that hold every thread of the runtime for longer than the lease keep it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_functions_do_not_cost_their_worker_its_leases() {
    let redis = Redis::start(&[]);
    let database = Postgres::shared().database();
    let engine = engine(&database, &redis, "w");
    let four = "import asyncio\nfrom tasks import work\n\nasync def main():\n    return len(await asyncio.gather(work(), work(), work(), work()))\n";
    let (registry, ran) = counted(|| std::thread::sleep(Duration::from_millis(3000)), Duration::ZERO);
    let id = begin(&engine, four).await;
    let _working = work(&engine, registry);
    // Others look for leases that have expired, from threads of their own.
    let (url, redis_url) = (database.clone(), redis.url());
    let others = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let queue = RedisQueue::new(RedisSettings::new(redis_url)).unwrap();
            let db = Db::open(&url).unwrap();
            let other = Arc::new(Engine::new(db, Arc::new(queue), WorkerId("other".into()), Offers::anything()));
            let clock = durable_orchestrator::run(other, CancellationToken::new());
            let _ = tokio::time::timeout(Duration::from_secs(5), clock).await;
        });
    });
    assert_eq!(until_ended(&engine, &id).await, Some(Json("4".into())));
    tokio::task::spawn_blocking(move || others.join()).await.unwrap().unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), 4, "none was taken for lost and run again");
}

/// 28: jobs that make no sense are put where people look for failed jobs; the worker lives.
#[tokio::test(flavor = "multi_thread")]
async fn senseless_jobs_are_refused_and_the_worker_lives() {
    let redis = Redis::start(&[]);
    let engine = engine(&Postgres::shared().database(), &redis, "w");
    let senseless =
        |id: &str, body: &str| Job { id: JobId(id.into()), queue: "default".into(), generation: 1, body: body.into() };
    let jobs = vec![
        senseless("nobody", "[\"tasks.work\",null,[],{}]"),
        senseless("e-1", "\u{0}pickle"),
        senseless("e-2", "[]"),
    ];
    engine.queue.enqueue(jobs).await.unwrap();
    // As a stock producer would write it.
    redis.cli(&["HSET", "rq:job:stock", "data", "x", "origin", "default", "status", "queued"]);
    redis.cli(&["RPUSH", "rq:queue:default", "stock"]);
    let (registry, _) = counted(|| {}, Duration::ZERO);
    let _working = work(&engine, registry);
    let id = begin(&engine, ONE).await;
    assert_eq!(until_ended(&engine, &id).await, Some(Json("1".into())));
    let failed = durable_testing::eventually(Duration::from_secs(5), || {
        let failed = redis.cli(&["ZRANGE", "rq:failed:default", "0", "-1"]);
        if failed.lines().count() == 4 { Ok(failed) } else { Err(failed) }
    });
    assert!(failed.unwrap().contains("stock"));
}

/// 36: clocks that differ between machines. All go by the database's.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_minutes_off_is_set_by_the_databases() {
    let db = Db::open(&Postgres::shared().database()).unwrap();
    let real = SystemClock.now();
    let behind = Arc::new(ManualClock::new(durable_core::time::Timestamp(real.0 - 300_000_000)));
    let clock = SetClock::new(behind);
    let offset = clock.set(db.read(meter::now).await.unwrap().unwrap());
    assert!((299_000_000..310_000_000).contains(&offset), "{offset}");
    assert!(clock.now().since(real) < Duration::from_secs(10) && clock.now() >= real);
}

/// 38: a long backlog beyond a small window is fed from the database, and nothing is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_beyond_the_window_stays_in_the_database_and_is_fed() {
    let redis = Redis::start(&[]);
    let database = Postgres::shared().database();
    let queue = RedisQueue::new(RedisSettings { capacity: 20, ..RedisSettings::new(redis.url()) }).unwrap();
    let engine =
        Arc::new(Engine::new(Db::open(&database).unwrap(), Arc::new(queue), WorkerId("w".into()), Offers::anything()));
    let wide = "import asyncio\nfrom tasks import work\n\nasync def main():\n    return len(await asyncio.gather(*[work() for _ in range(500)]))\n";
    let id = begin(&engine, wide).await;
    assert_eq!(engine.queue.depth("default").await.unwrap(), 20);
    let (registry, ran) = counted(|| {}, Duration::ZERO);
    let _working = work(&engine, registry);
    assert_eq!(until_ended(&engine, &id).await, Some(Json("500".into())));
    assert_eq!(ran.load(Ordering::SeqCst), 500);
}
