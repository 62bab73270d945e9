//! The Redis queue against a real server: QUEUE.md's scenarios, by their numbers in docs/queue.md.

use std::{sync::Arc, time::Duration};

use durable_queue::{
    Enqueued, Fate, ForeignQueue, Job, JobId, Lease, Presence, Queue, QueueError, RedisQueue, RedisSettings, Way,
    conformance,
};
use durable_testing::{Redis, eventually};

const ROOMY: usize = 1_000_000;

fn settings(redis: &Redis) -> RedisSettings {
    RedisSettings { capacity: ROOMY, ..RedisSettings::new(redis.url()) }
}

fn queue(settings: RedisSettings) -> RedisQueue {
    RedisQueue::new(settings).unwrap()
}

fn job(id: &str, generation: u64) -> Job {
    Job { id: JobId(id.into()), queue: "q".into(), generation, body: r#"["tasks.f",null,[1],{}]"#.into() }
}

async fn push(queue: &RedisQueue, job: Job) -> Enqueued {
    queue.enqueue(vec![job]).await.unwrap()[0]
}

async fn pop(queue: &RedisQueue, worker: &str) -> Vec<Lease> {
    queue.pop(&["q".into()], worker, 10, Duration::ZERO).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_queue_conforms() {
    let redis = Arc::new(Redis::start(&[]));
    let server = redis.clone();
    conformance::run(move |lease, capacity| {
        let redis = server.clone();
        async move {
            redis.cli(&["FLUSHALL"]);
            queue(RedisSettings { lease, capacity, ..RedisSettings::new(redis.url()) })
        }
    })
    .await;
}

/// 18: a cluster serves a prefix with a hash tag, and refuses one without, at the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_needs_a_hash_tag() {
    let redis = Arc::new(Redis::start(&["--cluster-enabled", "yes"]));
    redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually(Duration::from_secs(20), || match redis.cli(&["CLUSTER", "INFO"]) {
        info if info.contains("cluster_state:ok") => Ok(()),
        info => Err(info),
    })
    .unwrap();
    let refused = queue(settings(&redis)).check().await.unwrap_err().to_string();
    assert!(refused.contains("--redis-prefix '{rq}'"), "{refused}");
    let server = redis.clone();
    conformance::run(move |lease, capacity| {
        let redis = server.clone();
        async move {
            redis.cli(&["FLUSHALL"]);
            queue(RedisSettings { lease, capacity, prefix: "{rq}".into(), ..RedisSettings::new(redis.url()) })
        }
    })
    .await;
}

/// 3, 25: whoever was silent too long has lost, before and after somebody else took the job.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_changes_nothing() {
    let redis = Redis::start(&[]);
    let queue = queue(RedisSettings { lease: Duration::from_millis(50), ..settings(&redis) });
    push(&queue, job("a", 1)).await;
    let old = pop(&queue, "w1").await.remove(0);
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(queue.sweep().await.unwrap().put_back, 1);
    assert_eq!(queue.beat(std::slice::from_ref(&old)).await.unwrap(), std::slice::from_ref(&old));
    let new = pop(&queue, "w2").await.remove(0);
    assert_eq!(new.deliveries, 2);
    for way in [Way::Done, Way::Front, Way::Back, Way::Refused] {
        assert_eq!(queue.end(&old, way).await.unwrap(), Fate::Lost);
    }
    assert_eq!(queue.end(&new, Way::Done).await.unwrap(), Fate::Done);
    assert_eq!(redis.cli(&["ZCARD", "rq:wip:q"]), "0");
    assert_eq!(redis.cli(&["EXISTS", "rq:job:a"]), "0");
}

/// 4: a job that takes its worker down each time is given up in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_job_is_given_up() {
    let redis = Redis::start(&[]);
    let queue = queue(RedisSettings { lease: Duration::from_millis(10), ..settings(&redis) });
    push(&queue, job("a", 1)).await;
    for round in 0.. {
        assert!(round < 50, "never given up");
        let _lease = pop(&queue, "w1").await;
        tokio::time::sleep(Duration::from_millis(15)).await;
        if queue.sweep().await.unwrap().given_up == 1 {
            break;
        }
    }
    assert!(pop(&queue, "w1").await.is_empty());
    assert_eq!(redis.cli(&["ZRANGE", "rq:failed:q", "0", "-1"]), "a");
    // The database gives each further attempt a generation of its own.
    assert_eq!(push(&queue, job("a", 2)).await, Enqueued::Queued);
    assert_eq!(redis.cli(&["ZCARD", "rq:failed:q"]), "0");
}

/// 6, 24: everything is lost while a job runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_noticed_and_what_runs_leaves_no_trace() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    assert!(queue.sweep().await.unwrap().lost_everything, "a new Redis holds nothing of what may be pending");
    assert!(!queue.sweep().await.unwrap().lost_everything);
    push(&queue, job("a", 1)).await;
    let held = pop(&queue, "w1").await.remove(0);
    redis.cli(&["FLUSHALL"]);
    assert_eq!(queue.beat(std::slice::from_ref(&held)).await.unwrap(), std::slice::from_ref(&held));
    assert_eq!(queue.end(&held, Way::Done).await.unwrap(), Fate::Lost);
    assert_eq!(queue.end(&held, Way::Front).await.unwrap(), Fate::Lost);
    assert_eq!(redis.cli(&["KEYS", "*"]), "", "whoever has lost creates nothing");
    let another = RedisQueue::new(settings(&redis)).unwrap();
    assert!(another.sweep().await.unwrap().lost_everything);
    assert!(queue.sweep().await.unwrap().lost_everything, "who was there before sees it too");
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Queued, "the same generation is accepted again");
}

/// 7, 13, 40: entries whose job runs already, was cancelled, or is gone.
#[tokio::test(flavor = "multi_thread")]
async fn stray_entries_are_dropped() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    push(&queue, job("a", 1)).await;
    redis.cli(&["RPUSH", "rq:queue:q", "a", "ghost"]);
    assert_eq!(pop(&queue, "w1").await.len(), 1);
    push(&queue, job("b", 1)).await;
    redis.cli(&["HSET", "rq:job:b", "status", "canceled"]);
    assert!(pop(&queue, "w1").await.is_empty());
    assert_eq!(redis.cli(&["ZCARD", "rq:wip:q"]), "1");
}

/// 17, 20: pushing again repairs whatever Redis has lost, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn pushing_again_repairs_what_was_lost() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    for id in ["a", "b"] {
        push(&queue, job(id, 1)).await;
    }
    assert_eq!(push(&queue, job("b", 1)).await, Enqueued::Duplicate, "older jobs are before it");
    redis.cli(&["LREM", "rq:queue:q", "0", "b"]);
    let a = pop(&queue, "w1").await.remove(0);
    assert_eq!(push(&queue, job("b", 1)).await, Enqueued::Queued, "its hash was left, its entry lost");
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Duplicate, "somebody holds it");
    redis.cli(&["DEL", "rq:wip:q"]);
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Queued, "its lease was lost");
    assert_eq!(queue.end(&a, Way::Done).await.unwrap(), Fate::Lost);
    // Somebody pressed "empty queue", then "delete" in a dashboard.
    redis.cli(&["DEL", "rq:queue:q"]);
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Queued);
    redis.cli(&["DEL", "rq:job:a"]);
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Queued);
    assert_eq!(pop(&queue, "w1").await.len(), 1, "its second entry is dropped");
}

/// 8: repeated after a timeout; an old generation after a newer one.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_generation_is_refused() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    assert_eq!(push(&queue, job("a", 2)).await, Enqueued::Queued);
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Duplicate);
    assert_eq!(push(&queue, job("a", 2)).await, Enqueued::Duplicate);
    assert_eq!(pop(&queue, "w1").await[0].job.generation, 2);
}

/// 9: no room, and no trace of what was refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_keeps_nothing_of_what_it_refuses() {
    let redis = Redis::start(&[]);
    let queue = queue(RedisSettings { capacity: 1, ..settings(&redis) });
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Queued);
    assert_eq!(push(&queue, job("b", 1)).await, Enqueued::Full);
    assert_eq!(redis.cli(&["EXISTS", "rq:job:b"]), "0");
}

/// 10: eight sweepers at once put each job back once.
#[tokio::test(flavor = "multi_thread")]
async fn many_sweepers_put_each_job_back_once() {
    let redis = Redis::start(&[]);
    let short = RedisSettings { lease: Duration::from_millis(20), ..settings(&redis) };
    let queue = queue(short.clone());
    queue.enqueue((0..100).map(|n| job(&format!("j{n}"), 1)).collect()).await.unwrap();
    let held = queue.pop(&["q".into()], "w1", 100, Duration::ZERO).await.unwrap();
    assert_eq!(held.len(), 100);
    tokio::time::sleep(Duration::from_millis(40)).await;
    let sweepers: Vec<_> = (0..8)
        .map(|_| {
            let queue = RedisQueue::new(short.clone()).unwrap();
            tokio::spawn(async move { queue.sweep().await.unwrap().put_back })
        })
        .collect();
    let mut all = 0;
    for sweeper in sweepers {
        all += sweeper.await.unwrap();
    }
    assert_eq!(all, 100);
    assert_eq!(queue.depth("q").await.unwrap(), 100);
}

/// 2: a stock worker died between taking a job off the list and beginning it.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_job_of_a_dead_stock_worker_is_taken_back() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    push(&queue, job("a", 1)).await;
    redis.cli(&["LMOVE", "rq:queue:q", "rq:queue:q:intermediate", "LEFT", "RIGHT"]);
    assert_eq!(queue.sweep().await.unwrap().put_back, 0, "it may be about to begin");
    // As if a minute had passed since it was first seen.
    redis.cli(&["ZINCRBY", "rq:dw:seen:q", "-61", "a"]);
    assert_eq!(queue.sweep().await.unwrap().put_back, 1);
    assert_eq!(pop(&queue, "w1").await.len(), 1);
}

/// 31: the server forgets its scripts.
#[tokio::test(flavor = "multi_thread")]
async fn forgotten_scripts_are_loaded_again() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    push(&queue, job("a", 1)).await;
    redis.cli(&["SCRIPT", "FLUSH"]);
    let held = pop(&queue, "w1").await.remove(0);
    redis.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(queue.end(&held, Way::Done).await.unwrap(), Fate::Done);
}

/// 23, 33: the server goes away and comes back, while somebody waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_pop_survives_a_restart() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    assert!(queue.pop(&["q".into()], "w1", 1, Duration::from_millis(300)).await.unwrap().is_empty());
    redis.kill();
    let refused = queue.depth("q").await.unwrap_err();
    assert!(refused.to_string().contains(&format!("redis://127.0.0.1:{}", redis.port())), "{refused}");
    redis.restart().unwrap();
    let names = ["q".to_owned()];
    let (taken, pushed) = tokio::join!(queue.pop(&names, "w1", 1, Duration::from_secs(20)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        push(&queue, job("a", 1)).await
    });
    assert_eq!(pushed, Enqueued::Queued);
    assert_eq!(taken.unwrap().len(), 1);
}

/// 34: `rq suspend`.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_while_suspended() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    push(&queue, job("a", 1)).await;
    redis.cli(&["SET", "rq:suspended", "1"]);
    let before: u64 = redis.cli(&["INFO", "commandstats"]).matches("evalsha").count() as u64;
    assert!(before <= 1);
    assert!(queue.pop(&["q".into()], "w1", 1, Duration::from_millis(1500)).await.unwrap().is_empty());
    let calls = redis.cli(&["INFO", "commandstats"]);
    let line = calls.lines().find(|line| line.starts_with("cmdstat_exists")).unwrap();
    let count: u32 = line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert!(count <= 4, "no spinning: {line}");
    redis.cli(&["DEL", "rq:suspended"]);
    assert_eq!(queue.pop(&["q".into()], "w1", 1, Duration::from_secs(5)).await.unwrap().len(), 1);
}

/// 19: a user that may do what is needed and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_user_suffices() {
    let redis = Redis::start(&[]);
    let acl = "ACL SETUSER app on >pw ~rq:* &rq:* -@all +@read +@write +@connection +@scripting +@pubsub -@dangerous \
               +time +info";
    redis.cli(&acl.split_whitespace().collect::<Vec<_>>());
    let as_app = |password: &str| RedisSettings::new(format!("redis://app:{password}@127.0.0.1:{}", redis.port()));
    let queue = queue(as_app("pw"));
    queue.check().await.unwrap();
    push(&queue, job("a", 1)).await;
    let held = queue.pop(&["q".into()], "w", 1, Duration::from_secs(1)).await.unwrap().remove(0);
    assert_eq!(queue.end(&held, Way::Done).await.unwrap(), Fate::Done);
    let presence = presence("w");
    queue.show(&presence).await.unwrap();
    queue.leave(&presence).await.unwrap();
    queue.ring(durable_queue::Bell::Sooner).await.unwrap();
    let wrong = RedisQueue::new(as_app("nonsense")).unwrap().check().await.unwrap_err().to_string();
    assert!(wrong.contains("app:***@") && wrong.contains("hint: put the password"), "{wrong}");
    assert!(!wrong.contains("nonsense"), "{wrong}");
    let elsewhere = RedisSettings { prefix: "other".into(), ..as_app("pw") };
    let denied = RedisQueue::new(elsewhere).unwrap().check().await.unwrap_err().to_string();
    assert!(denied.contains("lacks a permission"), "{denied}");
}

fn presence(name: &str) -> Presence {
    Presence { name: name.into(), queues: vec!["q".into(), "r".into()], host: "h".into(), pid: 7, busy: false }
}

/// 37: no memory left. What ends a job still works.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_memory_refuses_pushes_and_lets_jobs_end() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    push(&queue, job("a", 1)).await;
    let held = pop(&queue, "w1").await.remove(0);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = queue.enqueue(vec![job("b", 1)]).await.unwrap_err().to_string();
    assert!(refused.contains("maxmemory"), "{refused}");
    assert_eq!(queue.end(&held, Way::Done).await.unwrap(), Fate::Done);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(push(&queue, job("b", 1)).await, Enqueued::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_at_the_start() {
    let (primary, replica) = (Redis::start(&[]), Redis::start(&[]));
    let port = primary.port().to_string();
    replica.cli(&["REPLICAOF", "127.0.0.1", &port]);
    let refused = queue(settings(&replica)).check().await.unwrap_err().to_string();
    assert!(refused.contains("read-only replica"), "{refused}");
    let nobody = RedisSettings::new(format!("redis://:hidden@127.0.0.1:{}", durable_testing::free_port()));
    let QueueError::Unavailable(refused) = RedisQueue::new(nobody).unwrap().check().await.unwrap_err();
    assert!(refused.contains("refused") && refused.contains(":***@") && !refused.contains("hidden"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_shown_and_leave() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    let worker = presence("host~7~x");
    queue.show(&worker).await.unwrap();
    assert_eq!(redis.cli(&["SMEMBERS", "rq:workers"]), "rq:worker:host~7~x");
    assert_eq!(redis.cli(&["SMEMBERS", "rq:workers:r"]), "rq:worker:host~7~x");
    assert_eq!(redis.cli(&["HGET", "rq:worker:host~7~x", "state"]), "idle");
    push(&queue, job("a", 1)).await;
    let held = pop(&queue, "host~7~x").await.remove(0);
    assert_eq!(queue.end(&held, Way::Done).await.unwrap(), Fate::Done);
    assert_eq!(redis.cli(&["HGET", "rq:worker:host~7~x", "successful_job_count"]), "1");
    queue.leave(&worker).await.unwrap();
    assert_eq!(redis.cli(&["KEYS", "rq:worker*"]), "");
}

/// 30: a stock worker ended the job and its continuation was never fired, as when it was stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_foreign_job_is_told_of_when_it_is_pushed_again() {
    let redis = Redis::start(&[]);
    let foreign = ForeignQueue::read_all("q=json:tasks.*").unwrap();
    let queue = queue(RedisSettings { foreign, ..settings(&redis) });
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Queued);
    assert_eq!(redis.cli(&["HGET", "rq:job:resume-a", "status"]), "deferred");
    redis.cli(&["LPOP", "rq:queue:q"]);
    redis.cli(&["HSET", "rq:job:a", "status", "stopped"]);
    assert_eq!(push(&queue, job("a", 1)).await, Enqueued::Duplicate);
    let told = queue.pop(&[queue.results_queue().into()], "o", 1, Duration::from_secs(5)).await.unwrap().remove(0);
    let result = queue.foreign_result(&told).await.unwrap().unwrap();
    assert_eq!((result.id.0.as_str(), result.generation), ("a", 1));
    assert_eq!(result.result.unwrap_err().kind, "durable.Stopped");
}

/// 41: names that nobody needs any more do not stay, however many there were.
#[tokio::test(flavor = "multi_thread")]
async fn queues_without_jobs_or_workers_leave_nothing_behind() {
    let redis = Redis::start(&[]);
    let queue = queue(settings(&redis));
    let jobs = (0..300).map(|n| Job { queue: format!("q{n}"), ..job(&format!("j{n}"), 1) });
    assert!(queue.enqueue(jobs.collect()).await.unwrap().iter().all(|answer| *answer == Enqueued::Queued));
    queue.sweep().await.unwrap();
    assert_eq!(redis.cli(&["SCARD", "rq:queues"]), "300");
    let held = queue.pop(&["q0".into()], "w", 1, Duration::ZERO).await.unwrap().remove(0);
    for n in 2..300 {
        assert!(queue.cancel(&format!("q{n}"), &JobId(format!("j{n}"))).await.unwrap());
    }
    queue.sweep().await.unwrap();
    assert_eq!(redis.cli(&["SCARD", "rq:queues"]), "2", "one with a job under lease, one with a job that waits");
    assert_eq!(queue.end(&held, Way::Done).await.unwrap(), Fate::Done);
    let left = queue.pop(&["q1".into()], "w", 1, Duration::ZERO).await.unwrap().remove(0);
    assert_eq!(queue.end(&left, Way::Done).await.unwrap(), Fate::Done);
    queue.sweep().await.unwrap();
    assert_eq!(redis.cli(&["KEYS", "rq:*"]), "rq:dw:epoch");
    push(&queue, job("again", 1)).await;
    assert_eq!(redis.cli(&["SMEMBERS", "rq:queues"]), "rq:queue:q");
}
