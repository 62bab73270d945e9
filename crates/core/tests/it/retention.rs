//! What nobody needs any more goes, what somebody needs stays, on both databases.

use std::{sync::Arc, time::Duration};

use diesel::{QueryableByName, RunQueryDsl, sql_types::BigInt};
use durable_core::{
    id::ExecutionId,
    interpreter::Program,
    model::{ExecutionStatus, Failure, Files, Json},
    orchestrator::{
        claim::claim,
        drive::drive,
        forget::{Rounds, tick},
        signal::{Signalling, signal},
        start::{Start, start},
    },
    store::{DatabaseUrl, DbConnection, workflows},
};
use durable_testing::{Rig, databases};
use serde_json::{Map, Value};

const DAY: Duration = Duration::from_secs(86_400);

fn rig(url: &DatabaseUrl, keep_ended: Option<Duration>) -> Rig {
    let mut rig = Rig::new(url, "w");
    Arc::get_mut(&mut rig.engine).unwrap().settings.keep_ended = keep_ended;
    rig
}

fn first(_: &str, args: &[Value]) -> Result<Value, Failure> {
    Ok(args.first().cloned().unwrap_or(Value::Null))
}

/// Forgets until nothing more goes: two rounds through all tables.
async fn forget(rig: &Rig) -> usize {
    let (mut rounds, mut gone, mut quiet) = (Rounds::default(), 0, 0);
    while quiet < 4 {
        let rows = tick(&rig.engine, &mut rounds, rig.engine.now()).await.unwrap();
        quiet = if rows == 0 { quiet + 1 } else { 0 };
        gone += rows;
    }
    gone
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

async fn rows(rig: &Rig, table: &'static str) -> i64 {
    let query = move |conn: &mut DbConnection| {
        let query = diesel::sql_query(format!("SELECT count(*) AS count FROM {table}"));
        let count: Count = match conn {
            DbConnection::Postgres(conn) => query.get_result(conn).unwrap(),
            DbConnection::Sqlite(conn) => query.get_result(conn).unwrap(),
        };
        Ok(count.count)
    };
    rig.engine.db.read(query).await.unwrap()
}

async fn started(rig: &Rig, name: &str, source: &str, files: &[(&str, &str)]) -> ExecutionId {
    let program = Arc::new(Program::compile(name, source).unwrap());
    let files: Files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    let id = start(&rig.engine, Start { files, ..Start::new(program, Map::new()) }).await.unwrap().execution.id;
    let claimed = claim(&rig.engine, &id).await.unwrap().unwrap();
    drive(&rig.engine, claimed).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_go_with_all_that_is_theirs_when_their_time_is_over() {
    let wide = "
import asyncio
async def main():
    print('begins')
    return len(await asyncio.gather(*[f(n) for n in range(1200)]))
";
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, Some(DAY));
        let old = rig.start(wide).await;
        rig.run(&old, first).await;
        let failed = rig.start("async def main():\n    return await f(1)\n").await;
        let (_, work) = rig.jobs().await.remove(0);
        rig.fail(&work, "ValueError", "no").await;
        let waiting = rig.start("async def main():\n    return await f(2)\n").await;
        rig.clock.advance(DAY / 2);
        let young = rig.start("async def main():\n    return 1\n").await;
        assert_eq!(forget(&rig).await, 0, "{kind}: nothing is old");
        rig.clock.advance(DAY / 2 + Duration::from_secs(1));
        forget(&rig).await;
        for gone in [&old, &failed] {
            let key = gone.clone();
            let found =
                rig.engine.db.read(move |conn| durable_core::store::executions::brief(conn, &key)).await.unwrap();
            assert!(found.is_none(), "{kind}: {gone}");
        }
        assert_eq!(rig.execution(&waiting).await.status, ExecutionStatus::Waiting, "{kind}");
        assert_eq!(rig.execution(&young).await.status, ExecutionStatus::Completed, "{kind}");
        for (table, left) in [("executions", 2), ("origins", 2), ("calls", 1), ("attempts", 0), ("logs", 0)] {
            assert_eq!(rows(&rig, table).await, left, "{kind}: {table}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_executions_stay_unless_somebody_says_for_how_long() {
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, None);
        rig.start("async def main():\n    return 1\n").await;
        rig.clock.advance(1000 * DAY);
        assert_eq!(forget(&rig).await, 0, "{kind}");
        assert_eq!((rows(&rig, "executions").await, rows(&rig, "sources").await), (1, 1), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_nobody_refers_to_go_and_all_others_stay() {
    let parent = "
import durable
async def main():
    await durable.wait_signal('go')
    return await durable.run_child('child.py')
";
    let child = "import durable\nasync def main():\n    return await durable.run_child('grandchild.py')\n";
    let grandchild = "async def main():\n    return 7\n";
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, Some(DAY));
        let files = [("child.py", child), ("grandchild.py", grandchild)];
        let id = started(&rig, "parent.py", parent, &files).await;
        // Other executions with the same files, one of them with another text.
        let others = [
            started(&rig, "other.py", "async def main():\n    return 1\n", &files).await,
            started(&rig, "alone.py", "async def main():\n    return 2\n", &[]).await,
        ];
        let (program, now) =
            (Program::compile("deployed.py", "async def main():\n    return 3\n").unwrap(), rig.engine.now());
        let files: Files = [("beside.py".to_owned(), "async def main():\n    return 4\n".to_owned())].into();
        rig.engine.db.write(move |conn| workflows::deploy(conn, "deployed", (&program, &files), now)).await.unwrap();
        assert_eq!(rows(&rig, "sources").await, 7, "{kind}");
        rig.clock.advance(2 * DAY);
        forget(&rig).await;
        for other in &others {
            let key = other.clone();
            let found =
                rig.engine.db.read(move |conn| durable_core::store::executions::brief(conn, &key)).await.unwrap();
            assert!(found.is_none(), "{kind}");
        }
        assert_eq!(rows(&rig, "sources").await, 7, "{kind}: whoever starts the same again soon finds it");
        rig.clock.advance(8 * DAY);
        forget(&rig).await;
        assert_eq!(rows(&rig, "sources").await, 5, "{kind}: those of the two that are gone went");
        let go = Signalling { execution: id.clone(), name: "go".into(), payload: Json("1".into()), key: None };
        if let durable_core::orchestrator::signal::Sent::Taken(Some(claimed)) = signal(&rig.engine, go).await.unwrap() {
            drive(&rig.engine, claimed).await.unwrap();
        }
        let ended = rig.run(&id, first).await;
        assert_eq!(ended.output.unwrap().0, "7", "{kind}: its children find their texts");
        rig.clock.advance(2 * DAY);
        forget(&rig).await;
        assert_eq!(
            (rows(&rig, "sources").await, rows(&rig, "executions").await),
            (2, 0),
            "{kind}: what is deployed stays"
        );
        assert_eq!(rows(&rig, "bundles").await, 2, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_ended_executions_took_go() {
    let source = "import durable\nasync def main():\n    return await durable.wait_signal('go')\n";
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, None);
        let ids = [rig.start(source).await, rig.start(source).await];
        for (id, name) in [(&ids[0], "go"), (&ids[1], "other")] {
            let (execution, payload) = (id.clone(), Json("1".into()));
            let sent =
                signal(&rig.engine, Signalling { execution, name: name.into(), payload, key: None }).await.unwrap();
            if let durable_core::orchestrator::signal::Sent::Taken(Some(claimed)) = sent {
                drive(&rig.engine, claimed).await.unwrap();
            }
        }
        rig.clock.advance(6 * DAY);
        forget(&rig).await;
        assert_eq!(rows(&rig, "signals").await, 2, "{kind}: people may still look");
        rig.clock.advance(2 * DAY);
        forget(&rig).await;
        assert_eq!(rows(&rig, "signals").await, 1, "{kind}: what is not taken stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_deployed_workflow_the_last_versions_are_kept() {
    for (kind, url, _folder) in databases() {
        let rig = rig(&url, None);
        let now = rig.engine.now();
        let deployed = rig.engine.db.write(move |conn| {
            for n in 0..105 {
                let program = Program::compile("w.py", &format!("async def main():\n    return {n}\n")).unwrap();
                workflows::deploy(conn, "w", (&program, &Files::new()), now)?;
            }
            workflows::list(conn, 0, 1000)
        });
        let deployed = deployed.await.unwrap();
        assert_eq!((deployed.len(), deployed[0].version, deployed[99].version), (100, 105, 6), "{kind}");
        rig.clock.advance(8 * DAY);
        forget(&rig).await;
        assert_eq!(rows(&rig, "sources").await, 100, "{kind}");
    }
}
