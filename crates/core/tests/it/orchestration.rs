//! Time, retries, and what is lost and found again.

use std::time::Duration;

use durable_core::{
    id::{CallId, WorkerId},
    model::{CallStatus, ExecutionStatus, Failure, Json, Outcome},
    orchestrator::settle::{Retry, Settled},
    retry::RetryPolicy,
    store::{DbConnection, calls, executions},
};
use durable_testing::{Rig, databases};
use serde_json::json;

const ONE: &str = "async def main():\n    return await f(1)\n";

fn failed(message: &str) -> Outcome {
    Outcome::Failed(Failure::new("ValueError", message))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_when_it_is_due_and_not_before_also_in_another_process() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("import asyncio\nasync def main():\n    return await asyncio.sleep(3600, 'woke')\n").await;
        rig.clock.advance(Duration::from_secs(3599));
        assert_eq!(rig.tick().await, 0, "{kind}");
        let next = rig.another("next");
        rig.clock.advance(Duration::from_secs(1));
        assert_eq!(next.tick().await, 1, "{kind}");
        assert_eq!(next.execution(&id).await.output, Some(Json("\"woke\"".into())), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_recorded_and_made_again_after_its_wait() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        let policy = RetryPolicy { max_attempts: 2, jitter: 0.0, ..RetryPolicy::default() };
        let (lease, work) = rig.jobs().await.remove(0);
        let settled = rig.settle(&work, failed("first"), Retry::By(policy.clone())).await;
        assert!(matches!(settled, Settled::Retrying), "{kind}");
        rig.engine.queue.end(&lease, durable_queue::Way::Done).await.unwrap();
        assert_eq!(rig.tick().await, 0, "{kind}: not before its second is over");
        rig.clock.advance(Duration::from_secs(1));
        assert_eq!(rig.tick().await, 1, "{kind}");
        let (_, again) = rig.jobs().await.remove(0);
        assert_eq!(again.attempt.number, 2, "{kind}");
        rig.settle(&again, failed("second"), Retry::By(policy)).await;
        let execution = rig.execution(&id).await;
        assert_eq!(execution.status, ExecutionStatus::Failed, "{kind}");
        let key = id.clone();
        let attempts = rig.engine.db.read(move |conn| calls::attempts(conn, &key)).await.unwrap();
        let messages: Vec<&str> = attempts.iter().map(|attempt| attempt.error.message.as_str()).collect();
        assert_eq!(messages, ["first", "second"], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_began_is_pushed_again() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        rig.start(ONE).await;
        assert_eq!(rig.engine.queue.depth("default").await.unwrap(), 1, "{kind}");
        // Its process dies, and with it its queue.
        let next = rig.another("next");
        assert_eq!(next.tick().await, 0, "{kind}");
        rig.clock.advance(Duration::from_secs(61));
        next.tick().await;
        let jobs = next.jobs().await;
        assert_eq!(jobs.len(), 1, "{kind}");
        assert_eq!(jobs[0].1.attempt.number, 1, "{kind}: the same attempt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_worker_fell_silent_is_given_up_and_made_again_until_that_is_too_often() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        for attempt in 1..=5 {
            let (lease, work) = rig.jobs().await.remove(0);
            assert_eq!(work.attempt.number, attempt, "{kind}");
            let (of, worker, now) = (work.attempt.clone(), WorkerId("silent".into()), rig.engine.now());
            let until = now.after(Duration::from_secs(30));
            let began = rig.engine.db.write(move |conn| calls::begin(conn, &of, &worker, now, until)).await.unwrap();
            assert!(began, "{kind}");
            rig.engine.queue.end(&lease, durable_queue::Way::Done).await.unwrap();
            rig.clock.advance(Duration::from_secs(31));
            rig.tick().await;
            rig.tick().await;
        }
        let execution = rig.execution(&id).await;
        assert_eq!(execution.status, ExecutionStatus::Failed, "{kind}");
        let error = execution.error.unwrap();
        assert!(error.message.contains("durable.WorkerLost") && error.message.contains("was lost"), "{kind}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beating_worker_keeps_its_call() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        let (_, work) = rig.jobs().await.remove(0);
        let (of, worker, now) = (work.attempt.clone(), rig.engine.worker.clone(), rig.engine.now());
        rig.engine
            .db
            .write(move |conn| calls::begin(conn, &of, &worker, now, now.after(Duration::from_secs(30))))
            .await
            .unwrap();
        for _ in 0..6 {
            rig.clock.advance(Duration::from_secs(20));
            let (of, worker) = (work.attempt.clone(), rig.engine.worker.clone());
            let until = rig.engine.now().after(Duration::from_secs(30));
            assert!(rig.engine.db.write(move |conn| calls::beat(conn, &of, &worker, until)).await.unwrap(), "{kind}");
            assert_eq!(rig.tick().await, 0, "{kind}");
        }
        assert_eq!(rig.status(&id, CallId(0)).await, CallStatus::Running);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_snapshot_fails_the_execution_and_is_kept() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        rig.engine
            .db
            .write(|conn| {
                use diesel::RunQueryDsl;
                let flip = match conn {
                    DbConnection::Sqlite(_) => {
                        "UPDATE executions SET snapshot = substr(snapshot, 1, 20) || x'00' || substr(snapshot, 22)"
                    }
                    DbConnection::Postgres(_) => {
                        "UPDATE executions SET snapshot = set_byte(snapshot, 20, get_byte(snapshot, 20) # 1)"
                    }
                };
                diesel::sql_query(flip).execute(conn)?;
                Ok(())
            })
            .await
            .unwrap();
        let (_, work) = rig.jobs().await.remove(0);
        rig.complete(&work, json!(1)).await;
        let execution = rig.execution(&id).await;
        assert_eq!(execution.status, ExecutionStatus::Failed, "{kind}");
        let error = execution.error.unwrap();
        assert_eq!(error.kind, "durable.StateError", "{kind}");
        assert!(error.message.contains("does not match its checksum"), "{kind}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_recorded_with_the_resume_that_delivered_them() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig
            .start(
                "
import asyncio
async def pipe(x):
    return await f(await f(x))
async def main():
    return await asyncio.gather(pipe(1), pipe(2))
",
            )
            .await;
        rig.run(&id, |_, args| Ok(args[0].clone())).await;
        let delivered: Vec<(u32, i64)> =
            rig.calls(&id).await.iter().map(|call| (call.id.0, call.delivered_in.expect("delivered").0)).collect();
        assert_eq!(delivered, [(0, 2), (1, 3), (2, 4), (3, 5)], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workflow_prints_is_in_its_log_once() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("async def main():\n    print('before')\n    await f(1)\n    print('after')\n").await;
        rig.run(&id, |_, _| Ok(json!(null))).await;
        let key = id.clone();
        let log = rig.engine.db.read(move |conn| durable_core::store::logs::list(conn, &key)).await.unwrap();
        let text: String = log.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(text, "before\nafter\n", "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_does_not_act_on_executions_that_another_runs_by_itself() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("import asyncio\nasync def main():\n    await asyncio.sleep(1)\n").await;
        let (key, me) = (id.clone(), rig.engine.worker.clone());
        rig.engine.db.write(move |conn| executions::adopt(conn, &key, None, &me)).await.unwrap();
        rig.clock.advance(Duration::from_secs(100));
        assert_eq!(rig.another("other").tick().await, 0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_whose_foreseen_claim_fails_still_wakes_its_execution() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        let (_, work) = rig.jobs().await.remove(0);
        let attempted = durable_core::orchestrator::settle::Attempted {
            of: work.attempt.clone(),
            outcome: Outcome::Completed(Json("7".into())),
            retry: Retry::No,
            started_at: None,
            worker: None,
            log: Vec::new(),
        };
        let foreseen = durable_core::orchestrator::foresee::foresee(&rig.engine, &attempted).expect("a foreseen claim");
        // Before it is made real, another process claims the execution and pauses it again, in vain.
        let other = rig.another("other");
        let claimed = durable_core::orchestrator::claim::claim(&other.engine, &id).await.unwrap().unwrap();
        durable_core::orchestrator::drive::drive(&other.engine, claimed).await.unwrap();
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting, "{kind}");
        durable_core::orchestrator::drive::drive(&rig.engine, foreseen).await.unwrap();
        assert_eq!(rig.execution(&id).await.output, Some(Json("7".into())), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreseen_step_that_turns_out_otherwise_is_thrown_away() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        let (_, work) = rig.jobs().await.remove(0);
        let attempted = durable_core::orchestrator::settle::Attempted {
            of: work.attempt.clone(),
            outcome: Outcome::Completed(Json("\"mine\"".into())),
            retry: Retry::No,
            started_at: None,
            worker: None,
            log: Vec::new(),
        };
        let foreseen = durable_core::orchestrator::foresee::foresee(&rig.engine, &attempted).expect("a foreseen claim");
        // Before it is made real, another process records another outcome and finishes.
        let other = rig.another("other");
        other.complete(&work, json!("theirs")).await;
        durable_core::orchestrator::drive::drive(&rig.engine, foreseen).await.unwrap();
        let execution = rig.execution(&id).await;
        assert_eq!(execution.output, Some(Json("\"theirs\"".into())), "{kind}");
        assert_eq!(execution.epoch.0, 2, "{kind}");
    }
}
