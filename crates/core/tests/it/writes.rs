//! What the writer promises: a refused write stops nobody else, and a commit in doubt is looked up, not repeated.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use durable_core::{
    id::ExecutionId,
    interpreter::Program,
    model::{ExecutionStatus, Failure, Json, Outcome},
    orchestrator::{
        OrchestrationError,
        cancel::{Cancelled, cancel},
        claim::claim,
        dispatch::load_work,
        revive::{self, Forking},
        settle::{Retry, Settled},
        signal::{Sent, Signalling, signal},
        start::{Conflict, Start, start},
    },
    store::{DatabaseUrl, StoreError, calls, executions, logs, signals, workflows},
};
use durable_queue::{Job, JobId, Lease};
use durable_testing::{Postgres, Proxy, Rig, databases};
use serde_json::{Map, Value};

const PAYS: &str = "
import durable

async def main():
    first = await durable.wait_signal('pay')
    return [first, await durable.wait_signal('done')]
";

const ONE: &str = "from tasks import f\n\nasync def main():\n    return await f(1)\n";

fn start_of(id: &str, source: &str) -> Start {
    let program = Arc::new(Program::compile("workflow.py", source).unwrap());
    Start { id: Some(id.parse().unwrap()), conflict: Conflict::Fail, ..Start::new(program, Map::new()) }
}

fn pay(id: &ExecutionId, name: &str) -> Signalling {
    Signalling { execution: id.clone(), name: name.into(), payload: Json("{\"amount\":5}".into()), key: None }
}

fn first(_: &str, args: &[Value]) -> Result<Value, Failure> {
    Ok(args[0].clone())
}

/// A rig whose way to Postgres loses answers.
fn lossy() -> (Rig, Proxy) {
    let server = Postgres::shared();
    let DatabaseUrl::Postgres(url) = server.database() else { unreachable!("a Postgres") };
    let proxy = Proxy::to(server.port()).unwrap();
    let url = url.replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.port()));
    (Rig::new(&DatabaseUrl::Postgres(url), "w"), proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_whose_commit_lost_its_answer_is_delivered_once() {
    let (rig, proxy) = lossy();
    let id = rig.start(PAYS).await;
    proxy.lose_commits(1);
    let Sent::Taken(Some(claimed)) = signal(&rig.engine, pay(&id, "pay")).await.unwrap() else { panic!("not taken") };
    assert_eq!(proxy.commits_lost(), 1);
    durable_core::orchestrator::drive::drive(&rig.engine, claimed).await.unwrap();
    let key = id.clone();
    let kept = rig.engine.db.read(move |conn| signals::list(conn, &key, 0, 1000)).await.unwrap();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_without_an_answer_is_answered_as_done() {
    let (rig, proxy) = lossy();
    let lose = || proxy.lose_commits(1);
    // A start, which must be new.
    lose();
    let started = start(&rig.engine, start_of("once", ONE)).await.unwrap();
    assert!(started.created);
    let id = started.execution.id;
    // A claim, and the pause after it.
    lose();
    let claimed = claim(&rig.engine, &id).await.unwrap().expect("the claim is its own");
    lose();
    durable_core::orchestrator::drive::drive(&rig.engine, claimed).await.unwrap();
    assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting);
    // An outcome, which fails the execution, with one attempt on record.
    let work = rig.jobs().await.remove(0).1;
    lose();
    let failed = rig.settle(&work, Outcome::Failed(Failure::new("ValueError", "no")), Retry::No).await;
    assert!(matches!(failed, Settled::Recorded(_)), "{failed:?}");
    assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Failed);
    let key = id.clone();
    assert_eq!(rig.engine.db.read(move |conn| calls::attempts(conn, &key)).await.unwrap().len(), 1);
    // A fork, a retry, a cancellation, a deployment.
    let forking = Forking {
        from: id.clone(),
        id: Some("forked".parse().unwrap()),
        at: None,
        set: Vec::new(),
        runner: None,
        with: None,
    };
    lose();
    assert_eq!(revive::fork(&rig.engine, forking).await.unwrap().as_str(), "forked");
    lose();
    assert_eq!(revive::retry(&rig.engine, &id).await.unwrap(), 1);
    lose();
    assert!(matches!(cancel(&rig.engine, &id, true).await.unwrap(), Cancelled::Ended(_)));
    let program = Program::compile("workflow.py", ONE).unwrap();
    lose();
    let now = rig.engine.now();
    let deployed = rig
        .engine
        .db
        .write(move |conn| workflows::deploy(conn, "w", (&program, &Default::default()), now))
        .await
        .unwrap();
    assert_eq!(deployed.version, 1);
    assert_eq!(rig.engine.db.read(|conn| workflows::list(conn, 0, 1000)).await.unwrap().len(), 1);
    assert_eq!(proxy.commits_lost(), 8, "each of these was in doubt");
}

/// A connection that was cut while it lay idle is noticed when it is used next.
async fn eventually_listed(rig: &Rig, id: &ExecutionId) -> usize {
    loop {
        let key = id.clone();
        match rig.engine.db.read(move |conn| signals::list(conn, &key, 0, 1000)).await {
            Ok(kept) => return kept.len(),
            Err(error) => assert!(error.is_passing(), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrived_is_made_again() {
    let (rig, proxy) = lossy();
    let id = rig.insert(ONE).await;
    for n in 0..5 {
        // Whatever is on its way is lost at once.
        let (db, key) = (rig.engine.db.clone(), id.clone());
        let kept = tokio::spawn(async move {
            let payload = Json("1".into());
            db.write(move |conn| {
                signals::insert(conn, &key, ("fine", &payload), None, durable_core::time::Timestamp(n))
            })
            .await
        });
        proxy.cut();
        assert!(kept.await.unwrap().unwrap(), "{n}");
    }
    let kept = eventually_listed(&rig, &id).await;
    assert_eq!(kept, 5, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_database_keeps_are_refused_at_the_line() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let long = "x".repeat(201);
        for (code, part) in [
            ("durable.wait_signal('a\\0b')".to_owned(), "control character"),
            ("durable.wait_signal('a\\nb')".to_owned(), "control character"),
            (format!("durable.wait_signal('{long}')"), "201 bytes"),
            (format!("durable.signal('x', '{long}')"), "201 bytes"),
            ("durable.call(f, queue='a\\0b')".to_owned(), "cannot name a queue"),
            (format!("durable.call(f, queue='{long}')"), "cannot name a queue"),
            ("durable.call('a\\0b')".to_owned(), "control character"),
            (format!("durable.call('{long}')"), "201 bytes"),
            ("durable.run_child('a\\0b')".to_owned(), "control character"),
            ("durable.run_child('a.py', source='\\0')".to_owned(), "null bytes"),
            ("durable.call(f, idempotency_key='a\\0b')".to_owned(), "control characters"),
        ] {
            let source = format!("import durable\nfrom tasks import f\n\nasync def main():\n    await {code}\n");
            let id = rig.start(&source).await;
            let ended = rig.execution(&id).await;
            let failure = ended.error.unwrap_or_else(|| panic!("{kind}: {code} is {}", ended.status));
            assert!(failure.kind == "ValueError" && failure.message.contains(part), "{kind} {code}: {failure:?}");
            let traceback = failure.traceback.unwrap_or_default();
            assert!(traceback.contains("line 5"), "{kind} {code}: {traceback}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_from_outside_are_refused_alike_on_both_databases() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(PAYS).await;
        let long = "x".repeat(201);
        for bad in ["", "a\0b", "a\x1bb", &long] {
            let refused = signal(&rig.engine, pay(&id, bad)).await.unwrap_err();
            assert!(matches!(refused, OrchestrationError::Name(_)), "{kind}: {refused}");
            let keyed = Signalling { key: Some(bad.into()), ..pay(&id, "pay") };
            let refused = signal(&rig.engine, keyed).await.unwrap_err();
            assert!(matches!(refused, OrchestrationError::Name(_)), "{kind}: {refused}");
            let queue = Start { queue: bad.into(), ..start_of("q", ONE) };
            let refused = start(&rig.engine, queue).await.unwrap_err();
            assert!(matches!(refused, OrchestrationError::Name(_)), "{kind}: {refused}");
            let (program, now, name) = (Program::compile("w.py", ONE).unwrap(), rig.engine.now(), bad.to_owned());
            let deploys =
                rig.engine.db.write(move |conn| workflows::deploy(conn, &name, (&program, &Default::default()), now));
            assert!(matches!(deploys.await, Err(StoreError::Refused(_))), "{kind}");
        }
        let error = Program::compile("w.py", "a = '\0'\n").unwrap_err();
        assert!(error.to_string().contains("w.py:1:6: SyntaxError: source code cannot contain null bytes"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_values_logs_and_failures_travels_or_is_replaced() {
    let source = "
import durable
from tasks import f

async def main():
    print('a\\0b')
    durable.set_status('a\\0b')
    value = await f('a\\0b')
    raise ValueError('no: ' + value)
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let ended = rig.run(&id, first).await;
        let failure = ended.error.expect("it raised");
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("ValueError", "no: a\0b"), "{kind}");
        assert_eq!(ended.progress, Some(Json("\"a\\u0000b\"".into())), "{kind}");
        let log = rig.engine.db.read(move |conn| logs::list(conn, &id)).await.unwrap();
        assert!(log.iter().any(|line| line.text.contains("a\u{fffd}b")), "{kind}: {log:?}");
    }
}

/// What Postgres refuses; SQLite takes it.
fn refused(conn: &mut durable_core::store::DbConnection, id: &ExecutionId) -> Result<bool, StoreError> {
    signals::insert(conn, id, ("a\0b", &Json("1".into())), None, durable_core::time::Timestamp(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_neither_stalls_the_writer_nor_drops_its_connection() {
    let rig = Rig::new(&Postgres::shared().database(), "w");
    let id = rig.insert(ONE).await;
    let backend = || rig.engine.db.write(durable_core::store::meter::now);
    backend().await.unwrap();
    let begun = Instant::now();
    let mut writes = Vec::new();
    for n in 0..300_i64 {
        let (db, id) = (rig.engine.db.clone(), id.clone());
        writes.push(tokio::spawn(async move {
            if n % 2 == 0 {
                let error = db.write(move |conn| refused(conn, &id)).await.unwrap_err();
                assert!(matches!(error, StoreError::Refused(_)), "{error}");
            } else {
                let kept = db.write(move |conn| {
                    signals::insert(conn, &id, ("fine", &Json("1".into())), None, durable_core::time::Timestamp(n))
                });
                assert!(kept.await.unwrap());
            }
        }));
    }
    for write in writes {
        write.await.unwrap();
    }
    // It was 200 ms and a connection for each.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let kept = rig.engine.db.read(move |conn| signals::list(conn, &id, 0, 1000)).await.unwrap();
    assert_eq!(kept.len(), 150, "each of the others, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_at_a_pause_ends_that_execution_with_a_sentence() {
    let rig = Rig::new(&Postgres::shared().database(), "w");
    let source = "from tasks import f\n\nasync def main():\n    return await f(1)\n";
    let id = rig.insert(source).await;
    // A trigger stands for whatever a database may say no to.
    let forbid = "ALTER TABLE calls ADD CONSTRAINT never CHECK (function <> 'tasks.f')";
    let DatabaseUrl::Postgres(url) = rig.engine.db.url().clone() else { unreachable!("a Postgres") };
    let database = url.rsplit('/').next().unwrap().to_owned();
    Postgres::shared().query(&database, forbid).unwrap();
    let claimed = claim(&rig.engine, &id).await.unwrap().unwrap();
    durable_core::orchestrator::drive::drive(&rig.engine, claimed).await.unwrap();
    let ended = rig.execution(&id).await;
    assert_eq!(ended.status, ExecutionStatus::Failed);
    let failure = ended.error.unwrap();
    assert!(failure.message.contains("cannot be recorded: the database refused"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pauses_may_keep_the_same_new_source_at_once() {
    for (kind, url, _folder) in databases() {
        let rigs: Vec<Rig> = (0..4).map(|n| Rig::new(&url, &format!("w{n}"))).collect();
        for round in 0..10 {
            let code = format!("async def main():\n    return {round}\n");
            let source = format!(
                "import durable\n\nasync def main():\n    return await durable.run_child('c.py', source={code:?})\n"
            );
            let mut ids = Vec::new();
            for rig in &rigs {
                ids.push(rig.insert(&source).await);
            }
            let drives = rigs.iter().zip(&ids).map(|(rig, id)| {
                let (engine, id) = (rig.engine.clone(), id.clone());
                tokio::spawn(async move {
                    let claimed = claim(&engine, &id).await.unwrap().unwrap();
                    durable_core::orchestrator::drive::drive(&engine, claimed).await.unwrap();
                })
            });
            for drive in drives.collect::<Vec<_>>() {
                drive.await.unwrap();
            }
            for (rig, id) in rigs.iter().zip(&ids) {
                assert_eq!(rig.execution(id).await.status, ExecutionStatus::Waiting, "{kind}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_repeated_at_once() {
    let url = Postgres::shared().database();
    let (one, two) = (Rig::new(&url, "one"), Rig::new(&url, "two"));
    let (a, b) = (one.insert(ONE).await, one.insert(ONE).await);
    let both = |rig: &Rig, ids: [ExecutionId; 2]| {
        let (db, now) = (rig.engine.db.clone(), rig.engine.now());
        tokio::spawn(async move {
            db.write(move |conn| {
                executions::due_now(conn, &ids[0], now)?;
                std::thread::sleep(Duration::from_millis(100));
                executions::due_now(conn, &ids[1], now)
            })
            .await
        })
    };
    let (there, back) = (both(&one, [a.clone(), b.clone()]), both(&two, [b, a]));
    there.await.unwrap().unwrap();
    back.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_and_a_fork_keep_the_timeouts_of_signals() {
    let source = "
import asyncio, durable
from tasks import f

async def waits():
    return await durable.wait_signal('never', timeout=6)

async def main():
    return await asyncio.gather(waits(), f(1))
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let work = rig.jobs().await.remove(0).1;
        rig.settle(&work, Outcome::Failed(Failure::new("ValueError", "no")), Retry::No).await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Failed, "{kind}");
        for _ in 0..2 {
            rig.clock.advance(Duration::from_secs(100));
            let forking = Forking { from: id.clone(), id: None, at: None, set: Vec::new(), runner: None, with: None };
            let forked = revive::fork(&rig.engine, forking).await.unwrap();
            revive::retry(&rig.engine, &id).await.unwrap();
            for id in [&id, &forked] {
                rig.clock.advance(Duration::from_secs(1));
                rig.tick().await;
                assert_ne!(rig.execution(id).await.status, ExecutionStatus::Failed, "{kind}: it waits");
            }
            rig.clock.advance(Duration::from_secs(6));
            rig.tick().await;
            for id in [&id, &forked] {
                let ended = rig.execution(id).await;
                let failure = ended.error.unwrap_or_else(|| panic!("{kind}: still {}", ended.status));
                assert!(failure.kind.contains("Timeout"), "{kind}: {failure:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_drawn_at_random_cannot_be_computed_from_the_id() {
    let source = "
import os, random, uuid, durable

async def main():
    return [os.urandom(16).hex(), str(durable.uuid4()), random.random()]
";
    let mut seen = Vec::new();
    // Two systems that know nothing of each other, one id.
    for (_, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let started = start(&rig.engine, start_of("same", source)).await.unwrap();
        rig.run(&started.execution.id, first).await;
        let output = rig.execution(&started.execution.id).await.output.expect("an output").parse().unwrap();
        let Value::Array(values) = output else { panic!("{output}") };
        seen.extend(values);
    }
    let distinct: std::collections::BTreeSet<String> = seen.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), 6, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_job_is_not_believed() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        rig.start(ONE).await;
        let queues = ["default".to_owned()];
        let mut leases = rig.engine.queue.pop(&queues, "w", 1, Duration::ZERO).await.unwrap();
        let lease = leases.remove(0);
        let honest = load_work(&rig.engine, &lease).await.unwrap().expect("its work");
        assert_eq!((honest.function.as_str(), honest.args.0.as_str()), ("tasks.f", "[1]"), "{kind}");
        let seal = lease.job.body.split('"').nth(3).unwrap().to_owned();
        assert_eq!(seal.len(), 32, "{kind}: {}", lease.job.body);
        for body in [
            format!(r#"["tasks.f","{seal}",["FORGED"],{{}}]"#),
            format!(r#"["tasks.echo","{seal}",[1],{{}}]"#),
            format!(r#"["tasks.f","{seal}",[1],{{"more":1}}]"#),
            r#"["tasks.echo",null,["FORGED"],{}]"#.to_owned(),
            r#"["tasks.echo"]"#.to_owned(),
        ] {
            let forged = Lease { job: Job { body, ..lease.job.clone() }, ..lease.clone() };
            let work = load_work(&rig.engine, &forged).await.unwrap().expect("what is on record");
            assert_eq!(
                (work.function, work.args, work.kwargs),
                ("tasks.f".into(), honest.args.clone(), honest.kwargs.clone())
            );
        }
        for (id, generation) in [("no-such-execution-0", 1), (lease.job.id.0.as_str(), 7)] {
            let forged = Lease { job: Job { id: JobId(id.into()), generation, ..lease.job.clone() }, ..lease.clone() };
            assert_eq!(load_work(&rig.engine, &forged).await.unwrap(), None, "{kind}: there is no such attempt");
        }
    }
}
