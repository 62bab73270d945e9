//! Who may advance an execution.

use std::{sync::Arc, time::Duration};

use durable_core::{
    id::WorkerId,
    model::ExecutionStatus,
    orchestrator::{claim::claim, drive::drive},
    store::{Db, executions},
    time::Timestamp,
};
use durable_testing::{Rig, databases};
use serde_json::json;

const ONE: &str = "async def main():\n    return await f(1)\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_eight_threads_one_wins_two_hundred_times() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.insert(ONE).await;
        // Eight databases, as eight processes would have: eight writers that do not wait for each other.
        let dbs: Vec<Db> = (0..8).map(|_| Db::open(&url).unwrap()).collect();
        for round in 0..200i64 {
            let gate = Arc::new(tokio::sync::Barrier::new(8));
            let racers: Vec<_> = dbs
                .iter()
                .enumerate()
                .map(|(n, db)| {
                    let (db, id, gate) = (db.clone(), id.clone(), gate.clone());
                    let worker = WorkerId(format!("w{n}"));
                    tokio::spawn(async move {
                        gate.wait().await;
                        // Every claim has expired at the next round's time, though each lasts longer than the one before.
                        let (now, until) = (Timestamp(round * 10_000), Timestamp(round * 10_000 + 5));
                        let claim = move |conn: &mut _| {
                            let won = executions::claim(conn, &id, &worker, now, until)?;
                            if won { executions::won(conn, &id).map(Some) } else { Ok(None) }
                        };
                        db.write(claim).await.unwrap().map(|won| won.execution.epoch.0)
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for racer in racers {
                winners.extend(racer.await.unwrap());
            }
            assert_eq!(winners, [round + 1], "{kind}, round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_expired_is_fenced_in_every_later_write() {
    for (kind, url, _folder) in databases() {
        let slow = Rig::new(&url, "slow");
        let id = slow.insert(ONE).await;
        let stale = claim(&slow.engine, &id).await.unwrap().unwrap();
        let other = slow.another("other");
        assert!(claim(&other.engine, &id).await.unwrap().is_none(), "{kind}: it is held");
        slow.clock.advance(Duration::from_secs(61));
        let fresh = claim(&other.engine, &id).await.unwrap().expect("it has expired");
        assert_eq!(fresh.epoch().0, stale.epoch().0 + 1);
        drive(&slow.engine, stale).await.unwrap();
        let execution = slow.execution(&id).await;
        assert_eq!(execution.status, ExecutionStatus::Running, "{kind}: the stale pause wrote nothing");
        assert!(slow.calls(&id).await.is_empty(), "{kind}: nor did it make calls");
        drive(&other.engine, fresh).await.unwrap();
        assert_eq!(slow.execution(&id).await.status, ExecutionStatus::Waiting, "{kind}");
        assert_eq!(slow.calls(&id).await.len(), 1, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_execution_cannot_be_claimed() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("def main():\n    return 1\n").await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Completed);
        assert!(claim(&rig.engine, &id).await.unwrap().is_none(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_nobody_claimed_and_a_claim_that_expired_are_taken_up_by_the_clock() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let started = rig.insert(ONE).await;
        let held = rig.insert(ONE).await;
        let _crashed = claim(&rig.engine, &held).await.unwrap().unwrap();
        assert_eq!(rig.tick().await, 0, "{kind}: nothing is due yet");
        rig.clock.advance(Duration::from_secs(11));
        assert_eq!(rig.tick().await, 1, "{kind}");
        assert_eq!(rig.execution(&started).await.status, ExecutionStatus::Waiting, "{kind}");
        rig.clock.advance(Duration::from_secs(60));
        rig.tick().await;
        assert_eq!(rig.execution(&held).await.status, ExecutionStatus::Waiting, "{kind}");
        for (_, work) in rig.jobs().await {
            rig.complete(&work, json!(1)).await;
        }
        assert_eq!(rig.execution(&held).await.status, ExecutionStatus::Completed, "{kind}");
    }
}
