//! What the store promises, on both databases.

use std::sync::Arc;

use durable_core::{
    id::{CallId, ExecutionId, WorkerId},
    model::{ExecutionStatus, Json, Outcome},
    orchestrator::settle::{Retry, Settled},
    store::{DatabaseUrl, Db, StoreError, calls, executions, logs, pushes},
};
use durable_testing::{Rig, databases, sqlite};
use serde_json::json;

const ONE: &str = "async def main():\n    return await f(1)\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_is_inserted_once_per_id() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.insert(ONE).await;
        let program = durable_core::interpreter::Program::compile("workflow.py", ONE).unwrap();
        let request = durable_core::orchestrator::start::Start {
            id: Some(id.clone()),
            ..durable_core::orchestrator::start::Start::new(Arc::new(program), serde_json::Map::new())
        };
        let again = durable_core::orchestrator::start::start(&rig.engine, request.clone()).await.unwrap();
        assert!(!again.created, "{kind}");
        let other = durable_core::interpreter::Program::compile("workflow.py", "1\n").unwrap();
        let request = durable_core::orchestrator::start::Start { program: Arc::new(other), ..request };
        let refused = durable_core::orchestrator::start::start(&rig.engine, request).await.unwrap_err();
        assert!(refused.to_string().contains("of another workflow"), "{kind}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_may_start_the_same_id_at_once() {
    for (kind, url, _folder) in databases() {
        let rigs: Vec<Rig> = (0..4).map(|n| Rig::new(&url, &format!("w{n}"))).collect();
        let id: ExecutionId = "same".parse().unwrap();
        let program = Arc::new(durable_core::interpreter::Program::compile("workflow.py", ONE).unwrap());
        let starts = rigs.iter().map(|rig| {
            let request = durable_core::orchestrator::start::Start {
                id: Some(id.clone()),
                ..durable_core::orchestrator::start::Start::new(program.clone(), serde_json::Map::new())
            };
            let engine = rig.engine.clone();
            tokio::spawn(
                async move { durable_core::orchestrator::start::start(&engine, request).await.unwrap().created },
            )
        });
        let mut created = 0;
        for start in starts.collect::<Vec<_>>() {
            created += usize::from(start.await.unwrap());
        }
        assert_eq!(created, 1, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_recorded_once_and_the_first_success_wins() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("import asyncio\nasync def main():\n    return await asyncio.gather(f(1), f(2))\n").await;
        let jobs = rig.jobs().await;
        let (_, work) = &jobs[0];
        assert!(matches!(rig.complete(work, json!("first")).await, Settled::Recorded(_)), "{kind}");
        assert!(matches!(rig.complete(work, json!("second")).await, Settled::Ignored), "{kind}");
        assert!(matches!(rig.fail(work, "ValueError", "late").await, Settled::Ignored), "{kind}");
        let call = &rig.calls(&id).await[0];
        assert_eq!(call.result, Some(Json("\"first\"".into())), "{kind}");
        assert!(call.error.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_an_old_attempt_changes_nothing_but_its_success_counts() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        let (_, first) = rig.jobs().await.remove(0);
        let lost = Outcome::Failed(durable_core::model::Failure::new("durable.WorkerLost", "gone"));
        assert!(matches!(rig.settle(&first, lost.clone(), Retry::Lost).await, Settled::Retrying), "{kind}");
        assert_eq!(rig.calls(&id).await[0].attempt, 2);
        assert!(matches!(rig.settle(&first, lost, Retry::Lost).await, Settled::Ignored), "{kind}");
        assert!(matches!(rig.fail(&first, "ValueError", "late").await, Settled::Ignored), "{kind}");
        assert!(matches!(rig.complete(&first, json!(7)).await, Settled::Recorded(_)), "{kind}");
        assert_eq!(rig.execution(&id).await.output, Some(Json("7".into())), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_an_execution_leaves_nothing_of_it() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("async def main():\n    print('x')\n    return await f(1)\n").await;
        let (_, work) = rig.jobs().await.remove(0);
        let lost = Outcome::Failed(durable_core::model::Failure::new("durable.WorkerLost", "gone"));
        rig.settle(&work, lost, Retry::Lost).await;
        let gone = id.clone();
        assert!(rig.engine.db.write(move |conn| executions::delete(conn, &gone)).await.unwrap(), "{kind}");
        let key = id.clone();
        let left = rig
            .engine
            .db
            .read(move |conn| {
                let calls = calls::list(conn, &key)?.len() + calls::attempts(conn, &key)?.len();
                Ok((executions::get(conn, &key)?.is_some(), calls, logs::list(conn, &key)?.len()))
            })
            .await
            .unwrap();
        assert_eq!(left, (false, 0, 0), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_writes_fails_one_by_one() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.insert(ONE).await;
        let db = rig.engine.db.clone();
        let _together = db.busy();
        let _with = db.busy();
        let key = id.clone();
        let good = db.write(move |conn| executions::get(conn, &key));
        let bad = db.write(move |_| -> Result<(), StoreError> { Err(StoreError::Refused("no".into())) });
        let (good, bad) = tokio::join!(good, bad);
        assert!(good.unwrap().is_some(), "{kind}: one bad write does not spoil the others");
        assert!(matches!(bad.unwrap_err(), StoreError::Refused(_)), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_come_together_are_committed_together() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.insert(ONE).await;
        let db = rig.engine.db.clone();
        let before = db.commits();
        let busy: Vec<_> = (0..50).map(|_| db.busy()).collect();
        let writes = (0..50).map(|_| {
            let (db, id, now) = (db.clone(), id.clone(), rig.engine.now());
            tokio::spawn(async move {
                db.write(move |conn| pushes::push_all_now(conn, &id, now)).await.unwrap();
            })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap();
        }
        drop(busy);
        let commits = db.commits() - before;
        assert!(commits <= 25, "{kind}: {commits} commits for 50 writes");
    }
}

#[test]
fn a_database_that_cannot_be_reached_is_told_with_its_true_cause() {
    let refused = Db::open(&"postgres://me:secret@127.0.0.1:1/none".parse().unwrap()).err().unwrap().to_string();
    assert!(refused.contains("Connection refused") && !refused.contains("secret"), "{refused}");
    let nowhere = Db::open(&DatabaseUrl::Sqlite("/nowhere/at/all.db".into())).err().unwrap().to_string();
    assert!(nowhere.contains("/nowhere/at/all.db") && nowhere.contains("unable to open"), "{nowhere}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.db");
    std::fs::write(&file, "this is no database, it is a text of some length that says so".repeat(20)).unwrap();
    let text = Db::open(&DatabaseUrl::Sqlite(file.display().to_string())).err().unwrap().to_string();
    assert!(text.contains("not a database"), "{text}");
}

#[test]
fn a_database_of_a_newer_version_is_refused_by_name() {
    for (kind, url, _folder) in databases() {
        drop(Db::open(&url).unwrap());
        let newer = "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')";
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let db = Db::open(&url).unwrap();
            db.write(move |conn| {
                use diesel::connection::SimpleConnection;
                Ok(conn.batch_execute(newer)?)
            })
            .await
            .unwrap();
        });
        let refused = Db::open(&url).err().unwrap();
        assert!(matches!(refused, StoreError::TooNew { .. }), "{kind}: {refused}");
        assert!(refused.to_string().contains("29990101000000"), "{kind}: {refused}");
    }
}

#[test]
fn sqlite_survives_a_power_cut_and_keeps_its_references() {
    use diesel::{QueryableByName, RunQueryDsl, sql_types::BigInt};
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = BigInt)]
        value: i64,
    }
    let (url, _folder) = sqlite();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let settings = runtime.block_on(async {
        let db = Db::open(&url).unwrap();
        db.write(|conn| {
            let ask = |conn: &mut _, pragma: &str| {
                diesel::sql_query(format!("SELECT {pragma} AS value FROM pragma_{pragma}"))
                    .get_result::<Setting>(conn)
                    .map(|setting| setting.value)
            };
            Ok([ask(conn, "synchronous")?, ask(conn, "foreign_keys")?])
        })
        .await
        .unwrap()
    });
    assert_eq!(settings, [2, 1], "synchronous is FULL, foreign keys are on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_a_dead_process_ran_is_adopted_by_one() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        let dead = WorkerId("dead".into());
        let key = id.clone();
        assert!(rig.engine.db.write(move |conn| executions::adopt(conn, &key, None, &dead)).await.unwrap());
        let others = [rig.another("a"), rig.another("b")];
        let mut won = 0;
        for other in &others {
            let dead = WorkerId("dead".into());
            let taken = durable_core::orchestrator::rescue::take_over(&other.engine, &id, Some(&dead)).await.unwrap();
            won += usize::from(taken);
        }
        assert_eq!(won, 1, "{kind}");
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting);
        assert_eq!(rig.status(&id, CallId(0)).await, durable_core::model::CallStatus::Pending);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_columns_are_left_out_for_whoever_does_not_show_them() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let (small, large) = (
            rig.start("async def main():\n    return 'x'\n").await,
            rig.start("async def main():\n    return 'x' * 5000\n").await,
        );
        let ids = (small.clone(), large.clone());
        let seen = rig.engine.db.read(move |conn| {
            let listed = executions::list(conn, None, 10)?;
            let page = executions::page(conn, None, None, 10)?.map(|page| page.items).unwrap_or_default();
            let output = |all: &[durable_core::model::Execution], id: &ExecutionId| {
                all.iter().find(|one| one.id == *id).unwrap().output.clone()
            };
            let short = (output(&listed, &ids.0), output(&page, &ids.0));
            let left_out = (output(&listed, &ids.1), output(&page, &ids.1));
            let brief = executions::brief(conn, &ids.0)?.unwrap();
            let whole = executions::get(conn, &ids.1)?.unwrap();
            Ok((short, left_out, (brief.status, brief.output), whole.output.map(|output| output.0.len())))
        });
        let x = Some(Json("\"x\"".into()));
        let wanted = ((x.clone(), x), (None, None), (ExecutionStatus::Completed, None), Some(5002));
        assert_eq!(seen.await.unwrap(), wanted, "{kind}");
    }
}
