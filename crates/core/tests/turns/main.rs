//! A turn has one limit, whatever it asks of the host; and no execution is another's fate.

// A binary of its own: turns share the processors and the memory of their process, and their tests measure both.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use diesel::RunQueryDsl;
use durable_core::{
    id::ExecutionId,
    interpreter::End,
    model::{Execution, ExecutionStatus, Json, Outcome},
    orchestrator::{
        advance::advance,
        cancel::cancel,
        claim::{Claimed, claim},
        drive::{begin, drive},
        hold::{hold, release},
        pause::{TurnOutput, pause},
        rescue,
        revive::retry,
        settle::{Retry, Settled},
        signal::{Signalling, signal},
        timers,
    },
};
use durable_testing::{Rig, databases, sqlite};
use serde_json::json;

/// It keeps the memory limit of turns.
#[global_allocator]
static ALLOCATOR: durable_memory::TurnAllocator = durable_memory::TurnAllocator;

/// One test at a time.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Turns without an end, each asking the host for something else.
const ENDLESS: &[(&str, &str)] = &[
    ("nothing", "while True: pass"),
    ("the clock", "import time\n    end = time.time() + 1\n    while time.time() < end: pass"),
    ("the date", "import datetime\n    while datetime.datetime.now(): pass"),
    ("no sleep", "import asyncio\n    while True: await asyncio.sleep(0)"),
    ("ids", "import durable\n    while True: durable.uuid4()"),
    ("random bytes", "import os\n    while True: os.urandom(8)"),
    ("its status", "import durable\n    while True: durable.set_status('busy')"),
    ("modules", "while True:\n        import tasks"),
    ("spawned tasks", "import durable\n    async def f(): return 1\n    while True: await durable.spawn(f())"),
    ("its log", "while True: print('.')"),
    ("a caught timeout", "while True:\n        try:\n            while True: pass\n        except BaseException: pass"),
];

/// A rig whose turns may compute for so long.
fn limited(name: &str, turn: Duration) -> (Rig, tempfile::TempDir) {
    let (url, folder) = sqlite();
    let mut rig = Rig::new(&url, name);
    Arc::get_mut(&mut rig.engine).unwrap().settings.limits.turn = turn;
    (rig, folder)
}

async fn claimed(rig: &Rig, id: &ExecutionId) -> Claimed {
    claim(&rig.engine, id).await.unwrap().expect("it is free")
}

fn message(execution: &Execution) -> &str {
    execution.error.as_ref().map_or("", |error| error.message.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_has_one_limit_whatever_it_asks_of_the_host() {
    let _one = ONE.lock().await;
    let limit = Duration::from_millis(300);
    let (rig, _folder) = limited("w", limit);
    for (what, body) in ENDLESS {
        let began = Instant::now();
        let id = rig.start(&format!("async def main():\n    {body}\n")).await;
        let execution = rig.execution(&id).await;
        assert_eq!(execution.status, ExecutionStatus::Failed, "{what}");
        let error = execution.error.as_ref().unwrap();
        assert_eq!(error.kind, "TimeoutError", "{what}: {error}");
        assert!(error.message.contains("time limit exceeded") && error.message.contains("hint:"), "{what}: {error}");
        assert!(began.elapsed() < limit + Duration::from_secs(2), "{what}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arithmetic_that_cannot_be_interrupted_is_left_behind_at_the_limit() {
    let _one = ONE.lock().await;
    let (rig, _folder) = limited("w", Duration::from_millis(200));
    let began = Instant::now();
    let id = rig.start("async def main():\n    x = 7 ** 3_000_000\n    return len(str(x * x % 10 ** 900_000))\n").await;
    let execution = rig.execution(&id).await;
    assert_eq!(execution.status, ExecutionStatus::Failed, "{execution:?}");
    assert!(message(&execution).contains("time limit exceeded"), "{execution:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn force_a_lost_claim_and_the_end_of_the_process_end_a_turn_within_a_second() {
    let _one = ONE.lock().await;
    for (what, body) in &ENDLESS[..4] {
        let (rig, _folder) = limited("w", Duration::from_secs(60));
        let source = format!("async def main():\n    {body}\n");
        let id = rig.insert(&source).await;
        let ended = tokio::spawn({
            let (engine, turn) = (rig.engine.clone(), claimed(&rig, &id).await);
            async move { drive(&engine, turn).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel(&rig.engine, &id, true).await.unwrap();
        let began = Instant::now();
        ended.await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{what}, cancelled: {:?}", began.elapsed());
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Cancelled);

        let id = rig.insert(&source).await;
        begin(&rig.engine, claimed(&rig, &id).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        rig.engine.stop().await;
        assert!(began.elapsed() < Duration::from_secs(1), "{what}, stopped: {:?}", began.elapsed());
        // It is nobody's fault, and somebody else's at once.
        let other = rig.another("other");
        let execution = rig.execution(&id).await;
        assert_eq!((execution.status, execution.due_at), (ExecutionStatus::Running, Some(rig.engine.now())));
        assert!(claim(&other.engine, &id).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tick_waits_for_a_turn() {
    let _one = ONE.lock().await;
    for (name, url, _folder) in databases() {
        let mut rig = Rig::new(&url, "w");
        // They end for nobody else's sake.
        Arc::get_mut(&mut rig.engine).unwrap().settings.limits.turn = Duration::from_secs(600);
        let mut hostile = Vec::new();
        for (_, body) in ENDLESS {
            hostile.push(rig.insert(&format!("async def main():\n    {body}\n")).await);
        }
        let patient =
            rig.start("import asyncio\nasync def main():\n    await asyncio.sleep(15)\n    return 'in time'\n").await;
        rig.clock.advance(Duration::from_secs(20));
        let (began, now) = (Instant::now(), rig.engine.now());
        rescue::tick(&rig.engine, now).await.unwrap();
        timers::tick(&rig.engine, now).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{name}: {:?}", began.elapsed());
        while rig.execution(&patient).await.status != ExecutionStatus::Completed {
            assert!(began.elapsed() < Duration::from_secs(60), "{name}: {:?}", rig.execution(&patient).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for id in &hostile {
            cancel(&rig.engine, id, true).await.unwrap();
        }
        let began = Instant::now();
        rig.engine.idle().await;
        assert!(began.elapsed() < Duration::from_secs(2), "{name}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_wait_for_a_processor_and_load_fails_nobody() {
    let _one = ONE.lock().await;
    // Each computes for half of what it may; side by side all of them would take far longer.
    let (rig, _folder) = limited("w", Duration::from_millis(600));
    let source = "async def main():\n    n = 0\n    for i in range(1_500_000): n += i\n    return n\n";
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(rig.insert(source).await);
    }
    for id in &ids {
        begin(&rig.engine, claimed(&rig, id).await);
    }
    rig.engine.idle().await;
    for id in &ids {
        let execution = rig.execution(id).await;
        assert_eq!(execution.status, ExecutionStatus::Completed, "{execution:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gigabyte_of_another_is_not_a_turns() {
    let _one = ONE.lock().await;
    let (mut rig, _folder) = limited("w", Duration::from_secs(30));
    Arc::get_mut(&mut rig.engine).unwrap().settings.limits.memory = 256 << 20;
    // Holds nearly all that it may, and comes back for more; others allocate beside it.
    let hog = "async def main():\n    kept = [bytes(200 << 20)]\n    n = 0\n    for i in range(3_000_000): n += 1\n    return len(kept[0])\n";
    let greedy = "async def main():\n    kept = []\n    while True: kept.append(bytes(8 << 20))\n";
    let healthy = "async def main():\n    n = 0\n    for i in range(400): n += len([i] * 100_000)\n    return n\n";
    let mut ids = Vec::new();
    for source in [hog, greedy, healthy, hog, healthy, greedy, healthy, healthy] {
        ids.push((source, rig.insert(source).await));
    }
    for (_, id) in &ids {
        begin(&rig.engine, claimed(&rig, id).await);
    }
    rig.engine.idle().await;
    for (source, id) in &ids {
        let execution = rig.execution(id).await;
        if *source == greedy {
            let error = execution.error.as_ref().expect("a failure");
            assert_eq!(error.kind, "MemoryError", "{error}");
        } else {
            assert_eq!(execution.status, ExecutionStatus::Completed, "{execution:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_workflow_is_measured_before_it_is_built() {
    let _one = ONE.lock().await;
    let (rig, _folder) = limited("w", Duration::from_secs(20));
    for (body, part) in [
        ("await ok([0] * 5_000_000)", "ok: argument 1: the value holds more than 1048576 values"),
        ("await ok(x={'a': [[0] * 900_000, [1] * 900_000]})", "more than 1048576 values"),
        ("durable.set_status([0] * 5_000_000)", "more than 1048576 values"),
        ("await ok(1 << 4_000_000)", "an integer of some 1204120 digits"),
        ("await durable.start_child('other.py', {'x': [0] * 5_000_000})", "more than 1048576 values"),
    ] {
        let source = format!(
            "import durable\nfrom tasks import ok\nasync def main():\n    try:\n        {body}\n    except TypeError as e:\n        return str(e)\n"
        );
        let id = rig.start(&source).await;
        let execution = rig.execution(&id).await;
        assert_eq!(execution.status, ExecutionStatus::Completed, "{body}: {execution:?}");
        let said = execution.output.unwrap().0;
        assert!(said.contains(part), "{body}: {said}");
    }
    for body in ["return [0] * 5_000_000", "return 1 << 4_000_000"] {
        let id = rig.start(&format!("async def main():\n    {body}\n")).await;
        let execution = rig.execution(&id).await;
        assert_eq!(execution.error.as_ref().unwrap().kind, "TypeError", "{body}: {execution:?}");
    }
    let id = rig.start("from tasks import ok\nasync def main():\n    kept = bytes(300 << 20)\n    await ok()\n    return len(kept)\n").await;
    let execution = rig.execution(&id).await;
    let error = execution.error.as_ref().unwrap();
    assert!(error.kind == "MemoryError" && error.message.contains("MiB while it waits"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_breaks_its_processes_fails_after_five_and_can_be_retried() {
    let _one = ONE.lock().await;
    for (name, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id =
            rig.start("from tasks import f\nasync def main():\n    a = await f(1)\n    return a + await f(2)\n").await;
        let answer = |_: &str, args: &[serde_json::Value]| Ok(args[0].clone());
        let (_, work) = rig.jobs().await.remove(0);
        // As if each process died in the middle of the turn.
        let _dead = rig.settle_only(&work, Outcome::Completed(Json("1".into())), Retry::No).await;
        let mut waits = Vec::new();
        for _ in 0..4 {
            let due = rig.execution(&id).await.due_at.unwrap();
            waits.push(due.since(rig.engine.now()).as_secs());
            rig.clock.advance(due.since(rig.engine.now()));
            let _dead = claimed(&rig, &id).await;
        }
        assert_eq!(waits, [60, 120, 180, 240], "{name}: each is waited for longer");
        let due = rig.execution(&id).await.due_at.unwrap();
        rig.clock.advance(due.since(rig.engine.now()));
        rig.tick().await;
        let execution = rig.execution(&id).await;
        let error = execution.error.as_ref().unwrap_or_else(|| panic!("{name}: {execution:?}"));
        assert_eq!((execution.status, error.kind.as_str()), (ExecutionStatus::Failed, timers::WORKER_LOST), "{name}");
        assert!(error.message.contains("5 times in a row") && error.message.contains("durable retry"), "{error}");
        retry(&rig.engine, &id).await.unwrap();
        let execution = rig.run(&id, answer).await;
        assert_eq!(execution.output.unwrap().parse().unwrap(), json!(3), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_makes_claims_count_from_the_start() {
    let _one = ONE.lock().await;
    let (rig, _folder) = limited("w", Duration::from_secs(5));
    let id = rig
        .insert("from tasks import f\nasync def main():\n    for i in range(4): await f(i)\n    return 'done'\n")
        .await;
    for _ in 0..4 {
        let _dead = claimed(&rig, &id).await;
        rig.clock.advance(Duration::from_secs(3600));
    }
    drive(&rig.engine, claimed(&rig, &id).await).await.unwrap();
    for _ in 0..4 {
        let (_, work) = rig.jobs().await.remove(0);
        let _dead = rig.settle_only(&work, Outcome::Completed(Json("1".into())), Retry::No).await;
        for _ in 0..3 {
            rig.clock.advance(Duration::from_secs(3600));
            let _dead = claimed(&rig, &id).await;
        }
        rig.clock.advance(Duration::from_secs(3600));
        drive(&rig.engine, claimed(&rig, &id).await).await.unwrap();
    }
    assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_paused_in_the_middle_of_a_turn_is_nobodys_business_until_its_deadline() {
    let _one = ONE.lock().await;
    for (name, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        for source in [
            "import asyncio\nasync def main():\n    await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(3601))\n",
            "import durable\nasync def main(n=0):\n    if n: return n\n    durable.continue_as_new(n=1)\n",
        ] {
            let id = rig.insert(source).await;
            let turn = claimed(&rig, &id).await;
            hold(&rig.engine, &id).await.unwrap();
            drive(&rig.engine, turn).await.unwrap();
            let execution = rig.execution(&id).await;
            assert_eq!((execution.status, execution.due_at), (ExecutionStatus::Paused, None), "{name}");
            rig.clock.advance(Duration::from_secs(60));
            assert_eq!(rescue::tick(&rig.engine, rig.engine.now()).await.unwrap(), 0, "{name}");
            release(&rig.engine, &id).await.unwrap();
            assert_eq!(rig.run(&id, |_, _| Ok(json!(null))).await.status, ExecutionStatus::Completed, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_stops_nothing_else() {
    let _one = ONE.lock().await;
    for (name, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let sleeps = "import asyncio\nasync def main():\n    await asyncio.sleep(1)\n    return 'woken'\n";
        let (strange, broken, healthy) = (rig.start(sleeps).await, rig.insert(sleeps).await, rig.start(sleeps).await);
        rig.engine
            .db
            .write(move |conn| {
                let columns = "workflow, source_hash, queue, status, suspension, epoch, created_at, updated_at";
                let execution = format!(
                    "INSERT INTO executions (id, due_at, {columns}) SELECT 'no id!', 1, {columns} FROM executions WHERE id = '{broken}'"
                );
                let columns = "call_id, resume_group, kind, function, args, kwargs, queue, status, attempt, created_at";
                let call = format!(
                    "INSERT INTO calls (execution_id, due_at, {columns}) SELECT 'no id!', 1, {columns} FROM calls WHERE execution_id = '{strange}'"
                );
                let pushed = "INSERT INTO calls (execution_id, due_at, call_id, resume_group, kind, function, args, kwargs, queue, status, \
                              attempt, created_at) VALUES ('no id!', 1, 9, 1, 'function', 'f', '[]', '{}', 'default', 'pending', 1, 1)";
                for statement in [execution, call, pushed.to_owned()] {
                    diesel::sql_query(statement).execute(conn)?;
                }
                Ok(())
            })
            .await
            .unwrap();
        rig.clock.advance(Duration::from_secs(11));
        rig.tick().await;
        assert_eq!(rig.execution(&healthy).await.status, ExecutionStatus::Completed, "{name}");
        // And they do not keep the clock busy.
        assert_eq!(rig.tick().await, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_whose_signal_is_there_already_is_looked_at_by_a_clock_if_its_process_dies() {
    let _one = ONE.lock().await;
    for (name, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "import durable\nfrom tasks import f\nasync def main():\n    await f(1)\n    return await durable.wait_signal('go')\n";
        let id = rig.start(source).await;
        let go = Signalling { execution: id.clone(), name: "go".into(), payload: Json("7".into()), key: None };
        signal(&rig.engine, go).await.unwrap();
        let (_, work) = rig.jobs().await.remove(0);
        let Settled::Recorded(Some(mut turn)) =
            rig.settle_only(&work, Outcome::Completed(Json("1".into())), Retry::No).await
        else {
            panic!("{name}: a claim");
        };
        let step = advance(&rig.engine, &mut turn).await.unwrap();
        let End::Pause(waits) = step.end else { panic!("{name}: {step:?}") };
        pause(&rig.engine, turn, waits, TurnOutput::default()).await.unwrap().expect("it is written");
        // Here its process dies.
        rig.clock.advance(rig.engine.settings.look);
        rig.tick().await;
        let execution = rig.execution(&id).await;
        assert_eq!(execution.output, Some(Json("7".into())), "{name}: {execution:?}");
    }
}
