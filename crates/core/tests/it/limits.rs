//! What one execution may use of what all share, on both databases.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use durable_core::{
    id::{CallId, ExecutionId},
    model::{CallStatus, ExecutionStatus, Failure, Json, LogLine, Outcome, Stream},
    orchestrator::settle::{Retry, Settled},
    quota::Quota,
    retry::RetryPolicy,
    store::{calls, logs, signals},
};
use durable_testing::{Rig, databases};
use serde_json::{Value, json};

fn rig(url: &durable_core::store::DatabaseUrl, limits: &[&str]) -> Rig {
    let mut rig = Rig::new(url, "w");
    let quota = limits.iter().fold(Quota::default(), |quota, limit| quota.with(limit).unwrap());
    Arc::get_mut(&mut rig.engine).unwrap().settings.quota = quota;
    rig
}

fn first(_: &str, args: &[Value]) -> Result<Value, Failure> {
    Ok(args.first().cloned().unwrap_or(Value::Null))
}

async fn output(rig: &Rig, id: &ExecutionId) -> Value {
    let ended = rig.run_queues(id, &["default", "q0", "q1", "q2"], |work| {
        let args: Value = work.args.parse().unwrap();
        Ok(args[0].clone())
    });
    let ended = ended.await;
    assert_eq!(ended.status, ExecutionStatus::Completed, "{:?}", ended.error);
    ended.output.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_too_many_raises_at_its_line_and_a_new_life_may_make_as_many_again() {
    let caught = "
from durable import continue_as_new

async def main(life=1):
    n = 0
    try:
        while True:
            n = await f(n) + 1
    except RuntimeError as error:
        if life < 3:
            continue_as_new(life=life + 1)
        return [life, n, str(error)]
";
    let uncaught = "import asyncio\nasync def main():\n    return await asyncio.gather(*[f(n) for n in range(9)])\n";
    for (kind, url, _folder) in databases() {
        let limited = rig(&url, &["calls=5"]);
        let id = limited.start(caught).await;
        let text = "the execution has made 5 calls, and may make no more (--limit calls=5): durable.continue_as_new() begins anew";
        assert_eq!(output(&limited, &id).await, json!([3, 5, text]), "{kind}");
        let limited = rig(&url, &["open=4"]);
        let id = limited.start(uncaught).await;
        let failure = limited.run(&id, first).await.error.unwrap();
        assert!(
            failure.message.contains("4 calls are open") && failure.message.contains("(--limit open=4)"),
            "{failure}"
        );
        assert!(failure.traceback.unwrap().contains("line 3, in main"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_call_counts() {
    for call in [
        "f(1)",
        "asyncio.sleep(1)",
        "durable.call('f')",
        "durable.wait_signal('go')",
        "durable.signal('other', 'go')",
        "durable.start_child('w.py')",
        "durable.cancelled_ended()",
    ] {
        let source = format!("import asyncio\nimport durable\nasync def main():\n    await {call}\n");
        let (url, _folder) = durable_testing::sqlite();
        let limited = rig(&url, &["calls=0"]);
        let id = limited.start(&source).await;
        let failure = limited.execution(&id).await.error.unwrap_or_else(|| panic!("{call} is not counted"));
        assert!(failure.kind == "RuntimeError" && failure.message.contains("--limit calls=0"), "{call}: {failure}");
    }
}

const BOMB: &str = "
import durable

async def main(depth=0):
    for n in range(3):
        await durable.start_child(main, {'depth': depth + 1}, detached=True)
    return depth
";

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stops_growing() {
    for (kind, url, _folder) in databases() {
        for (limits, part) in [
            (
                ["depth=2", "children=9"],
                "2 parents are above this execution, and it may have no children (--limit depth=2)",
            ),
            (["depth=3", "children=2"], "has started 2 children, and may start no more (--limit children=2)"),
            (["depth=3", "tree=5"], "have not ended, and no more may be begun (--limit tree=5)"),
        ] {
            let limited = rig(&url, &limits);
            let root = limited.start(BOMB).await;
            for _ in 0..12 {
                limited.clock.advance(Duration::from_secs(1));
                limited.tick().await;
            }
            let all =
                limited.engine.db.read(|conn| durable_core::store::executions::list(conn, None, 1000)).await.unwrap();
            let tree: Vec<_> = all.iter().filter(|execution| *execution.top() == root).collect();
            assert!(tree.len() <= 40, "{kind}: {limits:?}: {} executions", tree.len());
            let refused = tree.iter().filter_map(|execution| execution.error.as_ref());
            assert!(
                refused.clone().any(|error| error.message.contains(part)),
                "{kind}: {:?}",
                refused.collect::<Vec<_>>()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_many_children_of_one_do_not_hide_the_only_child_of_another() {
    let many = "
import asyncio, durable
async def child(n):
    return n
async def main():
    await asyncio.gather(*[durable.start_child(child, {'n': n}, detached=True) for n in range(400)])
";
    let one = "import durable\nasync def child():\n    return 1\nasync def main():\n    return await durable.run_child(child)\n";
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, &[]);
        rig.start(many).await;
        rig.clock.advance(Duration::from_millis(10));
        let healthy = rig.start(one).await;
        rig.tick().await;
        assert_eq!(rig.execution(&healthy).await.status, ExecutionStatus::Completed, "{kind}");
        let left = rig
            .engine
            .db
            .read(|conn| {
                durable_core::store::executions::next_due(conn, &durable_core::store::executions::Whose::Served)
            })
            .await
            .unwrap();
        assert!(left.is_some(), "{kind}: the others are still to come");
        for _ in 0..8 {
            rig.tick().await;
        }
        assert_eq!(rig.next_due().await, None, "{kind}: all have had their turn");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_that_follow_each_other_too_fast_are_put_off() {
    let source =
        "import durable\nasync def main(n=1):\n    durable.set_status(n)\n    durable.continue_as_new(n=n + 1)\n";
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, &["lives=1"]);
        let id = rig.start(source).await;
        let lives = async || rig.execution(&id).await.progress.unwrap().parse().unwrap().as_i64().unwrap();
        let at_once = lives().await;
        assert!((29..=32).contains(&at_once), "{kind}: {at_once}");
        for _ in 0..100 {
            rig.clock.advance(Duration::from_millis(100));
            rig.tick().await;
        }
        let later = lives().await - at_once;
        assert!((9..=11).contains(&later), "{kind}: {later} lives in 10 s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_tiny_sleeps_is_put_off_to_the_pace_that_is_allowed() {
    let source = "import asyncio\nasync def main():\n    while True:\n        await asyncio.sleep(0.000001)\n";
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, &["timers=2"]);
        let id = rig.start(source).await;
        let began = rig.engine.now();
        for _ in 0..100 {
            let next = rig.next_due().await.unwrap();
            rig.clock.advance(next.since(rig.engine.now()));
            rig.tick().await;
        }
        let (turns, time) = (rig.execution(&id).await.suspension, rig.engine.now().since(began));
        // Sixty are saved up, and each further one costs half a second.
        assert!(
            turns > 95 && time > Duration::from_secs(15) && time < Duration::from_secs(25),
            "{kind}: {turns} in {time:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_in_a_long_loop_are_kept_to_the_instant() {
    let source = "
import durable
async def main():
    for n in range(100):
        await durable.timeout(f(n), 5)
    try:
        await durable.timeout(durable.wait_signal('never'), 5)
    except TimeoutError:
        return durable.now().timestamp()
";
    let (url, _folder) = durable_testing::sqlite();
    let rig = rig(&url, &["timers=1"]);
    let id = rig.start(source).await;
    let began = rig.engine.now();
    assert!(output(&rig, &id).await.as_f64().is_some());
    assert_eq!(rig.engine.now().since(began), Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_becomes_no_longer_than_its_limit_and_says_so_once() {
    let source = "async def main():\n    for n in range(9):\n        print('x' * 8000)\n        await f(n)\n";
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, &["log=20KiB"]);
        let id = rig.start(source).await;
        rig.run(&id, first).await;
        let (key, at) = (id.clone(), rig.engine.now());
        let line =
            move |text: &str| LogLine { call_id: None, attempt: None, stream: Stream::Stdout, text: text.into(), at };
        let log = rig.engine.db.write(move |conn| {
            logs::append(conn, &key, &[line("one more\n")], 20 << 10)?;
            logs::list(conn, &key)
        });
        let log: String = log.await.unwrap().into_iter().map(|line| line.text).collect();
        assert_eq!(log.matches("[the log is full (--limit log=20480): nothing more is kept]").count(), 1, "{kind}");
        assert!(
            log.len() <= (20 << 10) + 100 && log.len() > 19 << 10 && !log.contains("one more"),
            "{kind}: {}",
            log.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_lines_are_counted_as_well_as_it_takes() {
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, &[]);
        let id = rig.start("async def main():\n    await f(1)\n").await;
        let (key, now) = (id.clone(), rig.engine.now());
        let log = rig.engine.db.write(move |conn| {
            for n in 0..4000 {
                let at = now.after(Duration::from_micros(977 * n));
                let text = format!("{:99}\n", "x");
                let line = LogLine { call_id: Some(CallId(1)), attempt: None, stream: Stream::Stdout, text, at };
                logs::append(conn, &key, &[line], 200_000)?;
            }
            logs::list(conn, &key)
        });
        let bytes: usize = log.await.unwrap().iter().map(|line| line.text.len()).sum();
        assert!((100_000..300_000).contains(&bytes), "{kind}: {bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_that_nobody_has_heard_of_are_few() {
    let source = "
import asyncio, durable
async def main():
    done = await durable.settle(*[durable.call('f', n, queue=f'q{n}') for n in range(500)])
    return [n for n in done if isinstance(n, int)] + [str(done[-1])]
";
    for (kind, url, _folder) in databases() {
        let limited = rig(&url, &["queues=3"]);
        let id = limited.start(source).await;
        let open = limited.calls(&id).await.into_iter().filter(|call| call.status == CallStatus::Pending);
        let names: BTreeSet<String> = open.map(|call| call.queue).collect();
        assert_eq!(names.len(), 3, "{kind}: {names:?}");
        let ended = output_of(&limited, &id, names).await;
        let last = ended.as_array().unwrap().last().unwrap();
        assert!(
            last.as_str().unwrap().contains("it has named 3 queues, and q499 is one more (--limit queues=3)"),
            "{last}"
        );

        let limited = rig(&url, &["unserved=2"]);
        let id = limited.start("import durable\nasync def main():\n    await durable.call('f', queue='a')\n").await;
        let other = limited.start("import durable\nasync def main():\n    await durable.call('f', queue='b')\n").await;
        let third = limited.start("import durable\nasync def main():\n    await durable.call('f', queue='c')\n").await;
        let error = limited.execution(&third).await.error.unwrap();
        assert!(error.message.contains("no worker serves the queue c, and calls wait in 2 others"), "{kind}: {error}");
        let known = limited.start("import durable\nasync def main():\n    await durable.call('f', queue='b')\n").await;
        for id in [&id, &other, &known] {
            assert_eq!(limited.execution(id).await.status, ExecutionStatus::Waiting, "{kind}");
        }
    }
}

async fn output_of(rig: &Rig, id: &ExecutionId, queues: BTreeSet<String>) -> Value {
    let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
    let ended = rig.run_queues(id, &queues, |_| Ok(json!(1))).await;
    ended.output.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_many_queues_are_pushed_together() {
    let source = "
import asyncio, durable
async def main():
    return await asyncio.gather(*[durable.call('f', n, queue=f'q{n % 30}') for n in range(90)])
";
    for (kind, url, _folder) in databases() {
        let limited = rig(&url, &[]);
        let id = limited.start(source).await;
        let names: Vec<String> = (0..30).map(|n| format!("q{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(limited.jobs_of(&names).await.len(), 90, "{kind}");
        // Nobody has begun them: they are pushed again, those of a full queue excepted.
        limited.clock.advance(Duration::from_secs(61));
        let (now, whose) = (limited.engine.now(), limited.engine.whose.clone());
        let due = limited.engine.db.read(move |conn| {
            let full = ["q7".to_owned()];
            let next = calls::next_due(conn, &whose, &full)?;
            Ok((durable_core::store::pushes::to_push(conn, &whose, now, &full, 2)?.rows, next))
        });
        let (due, next) = due.await.unwrap();
        assert_eq!(due.len(), 58, "{kind}: two of each of 29");
        assert!(
            due.iter().all(|work| work.queue != "q7" && work.attempt.execution == id) && next <= Some(now),
            "{kind}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_without_end_keep_a_bounded_record() {
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, &[]);
        let id = rig.start("async def main():\n    return await f(1)\n").await;
        let mut work = rig.jobs().await.remove(0).1;
        let policy = RetryPolicy { max_attempts: 1_000_000, ..RetryPolicy::default() };
        for _ in 0..150 {
            let failed = Outcome::Failed(Failure::new("ValueError", "no"));
            assert!(matches!(rig.settle_only(&work, failed, Retry::By(policy.clone())).await, Settled::Retrying));
            work.attempt.number += 1;
        }
        let lost =
            rig.settle_only(&work, Outcome::Failed(Failure::new("durable.WorkerLost", "gone")), Retry::Lost).await;
        assert!(matches!(lost, Settled::Retrying), "{kind}");
        work.attempt.number += 1;
        let (of, key) = (work.attempt.clone(), id.clone());
        let (counts, kept) = rig
            .engine
            .db
            .read(move |conn| Ok((calls::failed_attempts(conn, &of)?, calls::attempts(conn, &key)?)))
            .await
            .unwrap();
        assert_eq!(counts, (150, 1), "{kind}");
        let numbers: Vec<i64> = kept.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, (1..=10).chain(62..=151).collect::<Vec<_>>(), "{kind}: the first and the last");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_of_calls_that_never_run_are_not_kept_whole() {
    let source = "async def main():\n    for n in range(3):\n        f('x' * 1_000_000, more='y' * 1_000_000)\n    raise ValueError\n";
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, &[]);
        let id = rig.start(source).await;
        let key = id.clone();
        let calls = rig.engine.db.read(move |conn| calls::shown(conn, &key, None, None)).await.unwrap();
        assert_eq!(calls.len(), 3, "{kind}");
        for call in calls {
            let length = call.args.0.len() + call.kwargs.0.len();
            assert!(length < 9000 && call.args.0.contains("were cut here"), "{kind}: {length} bytes");
            assert!(call.args.parse().is_ok() && call.kwargs.parse().is_ok(), "{kind}: it is JSON");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn former_lives_leave_little_behind() {
    let source = "
import durable
async def main(n=0):
    durable.set_status(n)
    print('x' * 6000)
    said = await durable.wait_signal('go')
    durable.continue_as_new(n=n + 1)
";
    for (kind, url, _folder) in databases() {
        let limited = rig(&url, &["log=40KiB"]);
        let id = limited.start(source).await;
        let send = async |key: Option<String>| {
            let (execution, payload) = (id.clone(), Json(format!("\"{}\"", "y".repeat(2000))));
            let signal = durable_core::orchestrator::signal::Signalling { execution, name: "go".into(), payload, key };
            durable_core::orchestrator::signal::signal(&limited.engine, signal).await.unwrap()
        };
        for n in 0..12 {
            for key in [None, Some(format!("key {n}"))] {
                if let durable_core::orchestrator::signal::Sent::Taken(Some(claimed)) = send(key).await {
                    durable_core::orchestrator::drive::drive(&limited.engine, claimed).await.unwrap();
                }
            }
        }
        let key = id.clone();
        let (sent, log) = limited
            .engine
            .db
            .read(move |conn| Ok((signals::list(conn, &key, 0, 100)?, logs::list(conn, &key)?)))
            .await
            .unwrap();
        assert_eq!(limited.execution(&id).await.progress.unwrap().0, "24", "{kind}: each signal has one life");
        assert_eq!(sent.len(), 12, "{kind}: those with a key are known by it");
        assert!(sent.iter().all(|signal| signal.payload.0 == "null"), "{kind}");
        assert!(
            matches!(send(Some("key 3".into())).await, durable_core::orchestrator::signal::Sent::Repeated),
            "{kind}"
        );
        let bytes: usize = log.iter().map(|line| line.text.len()).sum();
        assert!(bytes < 40 << 10, "{kind}: {bytes}");
        assert!(log.last().unwrap().text.contains('x'), "{kind}: the last is kept");
    }
}
