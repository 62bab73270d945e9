//! When an execution is resumed, and how often.

use std::time::Duration;

use durable_core::{
    model::{CallStatus, ExecutionStatus, Failure, Json, Outcome},
    orchestrator::{
        claim::claim,
        drive::drive,
        settle::{Retry, Settled},
    },
};
use durable_testing::{Rig, databases};
use serde_json::json;

fn gather(n: usize) -> String {
    format!("import asyncio\nasync def main():\n    return len(await asyncio.gather(*[f(i) for i in range({n})]))\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gather_of_plain_calls_is_resumed_once() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(&gather(50)).await;
        for (_, work) in rig.jobs().await {
            rig.complete(&work, json!(1)).await;
        }
        let execution = rig.execution(&id).await;
        assert_eq!(execution.output, Some(Json("50".into())), "{kind}");
        assert_eq!(execution.epoch.0, 2, "{kind}: one claim to start, one to resume");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_member_wakes_its_gather_at_once() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig
            .start(
                "
import asyncio
async def main():
    try:
        await asyncio.gather(*[f(i) for i in range(5)])
    except ValueError as error:
        return f'saw {error}'
",
            )
            .await;
        let jobs = rig.jobs().await;
        rig.complete(&jobs[0].1, json!(0)).await;
        rig.fail(&jobs[3].1, "ValueError", "three").await;
        let execution = rig.execution(&id).await;
        assert_eq!(execution.output, Some(Json("\"saw three\"".into())), "{kind}");
        let cancelled = rig.calls(&id).await.iter().filter(|call| call.status == CallStatus::Cancelled).count();
        assert_eq!(cancelled, 3, "{kind}: nobody waits for the others any more");
        assert!(matches!(rig.complete(&jobs[1].1, json!(1)).await, Settled::Ignored), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_arrives_while_the_execution_is_held_is_found_after_the_pause() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig
            .start(
                "
import asyncio
async def pipe(x):
    a = await f(x)
    return await f(a)
async def main():
    return await asyncio.gather(pipe('a'), pipe('b'))
",
            )
            .await;
        let jobs = rig.jobs().await;
        // One settler wins the claim and is slow; the other's outcome comes in meanwhile.
        let outcome = |text: &str| Outcome::Completed(Json::from(&json!(text)));
        let Settled::Recorded(Some(held)) = rig.settle_only(&jobs[0].1, outcome("a1"), Retry::No).await else {
            panic!("{kind}: the first settler claims")
        };
        let Settled::Recorded(None) = rig.settle_only(&jobs[1].1, outcome("b1"), Retry::No).await else {
            panic!("{kind}: the second finds it held")
        };
        drive(&rig.engine, held).await.unwrap();
        let made: Vec<String> = rig.jobs().await.into_iter().map(|(_, work)| work.args.0).collect();
        assert_eq!(made, ["[\"a1\"]", "[\"b1\"]"], "{kind}: neither pipeline waits");
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gather_whose_last_settler_died_is_looked_at_again() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(&gather(3)).await;
        let jobs = rig.jobs().await;
        // The settles are committed, and their process dies before it can claim.
        for (_, work) in &jobs {
            let (of, now) = (work.attempt.clone(), rig.engine.now());
            let outcome = Outcome::Completed(Json("1".into()));
            let settled = rig
                .engine
                .db
                .write(move |conn| durable_core::store::calls::settle(conn, &of, &outcome, now))
                .await
                .unwrap();
            assert!(settled.is_some());
        }
        assert_eq!(rig.tick().await, 0);
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting, "{kind}");
        rig.clock.advance(Duration::from_secs(11));
        rig.tick().await;
        assert_eq!(rig.execution(&id).await.output, Some(Json("3".into())), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_at_a_long_gather_grow_rare() {
    let (url, _folder) = durable_testing::sqlite();
    let rig = Rig::new(&url, "w");
    rig.start(&gather(3)).await;
    rig.jobs().await;
    let mut looks = 0;
    for _ in 0..3600 {
        rig.clock.advance(Duration::from_secs(1));
        looks += durable_core::orchestrator::rescue::tick(&rig.engine, rig.engine.now()).await.unwrap();
    }
    assert!((5..=25).contains(&looks), "{looks} looks in an hour");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_in_different_tasks_do_not_wait_for_each_other() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig
            .start(
                "
import asyncio
async def stage(name):
    await asyncio.gather(f(name), f(name))
    return await done(name)
async def main():
    return await asyncio.gather(stage('a'), stage('b'))
",
            )
            .await;
        let jobs = rig.jobs().await;
        rig.complete(&jobs[0].1, json!(1)).await;
        assert!(rig.jobs().await.is_empty(), "{kind}: half a group wakes nobody");
        assert_eq!(rig.execution(&id).await.epoch.0, 1, "{kind}");
        rig.complete(&jobs[1].1, json!(1)).await;
        let next = rig.jobs().await;
        assert_eq!(next.len(), 1, "{kind}");
        assert_eq!((next[0].1.function.as_str(), next[0].1.args.0.as_str()), ("done", "[\"a\"]"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_timers_and_calls_each_wake_their_own_task() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig
            .start(
                "
import asyncio
async def later(s, name):
    await asyncio.sleep(s)
    return await f(name)
async def main():
    return await asyncio.gather(later(5, 'five'), later(1, 'one'), f('now'))
",
            )
            .await;
        let execution = rig.run(&id, |_, args| Ok(args[0].clone())).await;
        assert_eq!(execution.output, Some(Json(r#"["five","one","now"]"#.into())), "{kind}");
        let order: Vec<(u32, i64)> = rig.calls(&id).await.iter().map(|c| (c.id.0, c.resume_group)).collect();
        assert_eq!(order.len(), 5, "{kind}: {order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_plain_calls_are_resumed_a_handful_of_times() {
    let (url, _folder) = durable_testing::sqlite();
    let rig = Rig::new(&url, "w");
    let id = rig.start(&gather(10_000)).await;
    let jobs = rig.jobs().await;
    assert_eq!(jobs.len(), 10_000);
    let (engine, mut settles) = (rig.engine.clone(), tokio::task::JoinSet::new());
    for (_, work) in jobs {
        let engine = engine.clone();
        settles.spawn(async move {
            let attempted = durable_core::orchestrator::settle::Attempted {
                of: work.attempt,
                outcome: Outcome::Completed(Json("1".into())),
                retry: Retry::No,
                started_at: None,
                worker: None,
                log: Vec::new(),
            };
            match durable_core::orchestrator::settle::settle(&engine, attempted).await.unwrap() {
                Settled::Recorded(Some(claimed)) => drive(&engine, claimed).await.unwrap(),
                Settled::Recorded(None) => {}
                other => panic!("{other:?}"),
            }
        });
    }
    while let Some(settled) = settles.join_next().await {
        settled.unwrap();
    }
    let execution = rig.execution(&id).await;
    assert_eq!(execution.output, Some(Json("10000".into())));
    assert!(execution.epoch.0 <= 5, "{} claims", execution.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uncaught_failure_ends_the_execution_with_both_tracebacks() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("async def main():\n    return await pay(1)\n").await;
        let (_, work) = rig.jobs().await.remove(0);
        let failure = Failure {
            traceback: Some("Traceback (most recent call last):\n  File \"tasks.py\", line 9, in pay".into()),
            ..Failure::new("ValueError", "no funds")
        };
        rig.settle(&work, Outcome::Failed(failure), Retry::No).await;
        let execution = rig.execution(&id).await;
        assert_eq!(execution.status, ExecutionStatus::Failed, "{kind}");
        let error = execution.error.unwrap();
        let traceback = error.traceback.unwrap();
        let workflow = traceback.find("workflow.py\", line 2, in main").expect("the workflow's line");
        let function = traceback.find("tasks.py\", line 9, in pay").expect("the function's line");
        assert!(workflow < function, "{traceback}");
        assert!(claim(&rig.engine, &id).await.unwrap().is_none());
    }
}

const TWO_PIPES: &str = "
import asyncio
async def pipe(x):
    a = await f(x)
    return await f(a)
async def main():
    return await asyncio.gather(pipe('a'), pipe('b'))
";

/// Two settlers on Postgres: one holds the execution, pauses it and looks for outcomes, all while the other's outcome is
/// recorded in a transaction that has not been committed yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_is_committed_after_the_holders_last_look_still_wakes() {
    let url = durable_testing::Postgres::shared().database();
    let (rig, other) = (Rig::new(&url, "w"), Rig::new(&url, "other"));
    let id = rig.start(TWO_PIPES).await;
    let jobs = rig.jobs().await;
    let outcome = |text: &str| Outcome::Completed(Json::from(&json!(text)));
    let Settled::Recorded(Some(held)) = rig.settle_only(&jobs[0].1, outcome("a1"), Retry::No).await else {
        panic!("the first settler claims")
    };
    let (entered, is_entered) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let engine = other.engine.clone();
    // In one transaction with the settle, which therefore stays open.
    let busy = [engine.db.busy(), engine.db.busy()];
    let blocker = async {
        engine
            .db
            .write(move |_| {
                let _ = (entered.send(()), released.recv());
                Ok(())
            })
            .await
            .unwrap();
    };
    let holder = async {
        tokio::task::spawn_blocking(move || is_entered.recv()).await.unwrap().unwrap();
        drive(&rig.engine, held).await.unwrap();
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting);
        drop(busy);
        release.send(()).unwrap();
    };
    let (settled, (), ()) = tokio::join!(other.settle_only(&jobs[1].1, outcome("b1"), Retry::No), blocker, holder);
    let Settled::Recorded(Some(claimed)) = settled else { panic!("nobody wakes the execution: {settled:?}") };
    drive(&other.engine, claimed).await.unwrap();
    assert_eq!(rig.calls(&id).await.len(), 4);
}

/// The settler died between its commit and its claim.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_whose_settler_died_before_it_could_claim_is_found_by_the_clock() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(TWO_PIPES).await;
        let jobs = rig.jobs().await;
        rig.complete(&jobs[0].1, json!("a1")).await;
        let (of, now) = (jobs[1].1.attempt.clone(), rig.engine.now());
        let outcome = Outcome::Completed(Json("\"b1\"".into()));
        let settle = move |conn: &mut durable_core::store::DbConnection| {
            durable_core::store::calls::settle(conn, &of, &outcome, now)
        };
        rig.engine.db.write(settle).await.unwrap();
        assert_eq!(rig.calls(&id).await.len(), 3, "{kind}: nobody has looked");
        rig.clock.advance(Duration::from_secs(11));
        rig.tick().await;
        assert_eq!(rig.calls(&id).await.len(), 4, "{kind}");
    }
}
