//! Workflows whose own code is mended while they run, on both databases.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use durable_core::{
    id::{CallId, ExecutionId},
    interpreter::Program,
    model::{CallStatus, Execution, ExecutionStatus, Failure, Files, Json, Mended, Mending},
    orchestrator::{
        History, OrchestrationError,
        claim::claim,
        drive::drive,
        hold,
        mend::{self, NewCode},
        revive::{self, Forking},
        signal::{Sent, Signalling, signal},
        start::{Start, start},
    },
    store::{control, logs, versions},
};
use durable_testing::{Rig, databases};
use serde_json::{Map, Value, json};

fn first(_: &str, args: &[Value]) -> Result<Value, Failure> {
    Ok(args.first().cloned().unwrap_or(Value::Null))
}

fn code(source: &str) -> NewCode {
    NewCode { program: Arc::new(Program::compile("workflow.py", source).unwrap()), files: Files::new(), launch: None }
}

async fn mended(rig: &Rig, id: &ExecutionId, source: &str) -> Mended {
    mend::mend(&rig.engine, id, code(source), false).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn refused(rig: &Rig, id: &ExecutionId, source: &str) -> String {
    let before = (rig.execution(id).await.epoch, rig.calls(id).await.len());
    let refused = mend::mend(&rig.engine, id, code(source), false).await.unwrap_err().to_string();
    assert_eq!((rig.execution(id).await.epoch, rig.calls(id).await.len()), before, "nothing was changed");
    refused
}

/// Runs an execution to its end; what its functions were called with.
async fn ran(rig: &Rig, id: &ExecutionId) -> (Execution, Vec<Value>) {
    let seen = Mutex::new(Vec::new());
    let ended = rig.run(id, |name, args| {
        seen.lock().unwrap().push(args.first().cloned().unwrap_or(Value::Null));
        first(name, args)
    });
    let ended = ended.await;
    (ended, seen.into_inner().unwrap())
}

fn output(ended: &Execution) -> Value {
    assert_eq!(ended.status, ExecutionStatus::Completed, "{:?}", ended.error);
    ended.output.as_ref().unwrap().parse().unwrap()
}

const MONTH: &str = "
import asyncio
from tasks import charge, load

async def main():
    row = await load({'price': 5})
    await asyncio.sleep(30 * 86400)
    return await charge(row['prize'])
";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_error_after_a_months_wait_is_mended_and_nothing_is_repeated() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(MONTH).await;
        let (ended, calls) = ran(&rig, &id).await;
        assert_eq!((ended.status, calls.len()), (ExecutionStatus::Failed, 1), "{kind}");
        assert!(ended.error.unwrap().traceback.unwrap().contains("line 8"), "{kind}");
        let began = rig.engine.now();
        let fixed = MONTH.replace("prize", "price");
        let would = mend::mend(&rig.engine, &id, code(&fixed), true).await.unwrap();
        assert_eq!((would.status, would.outcomes, would.pause), (Mending::Retrying, 1, 2), "{kind}");
        assert_eq!((would.waits[0].function.as_str(), would.waits[0].line), ("sleep 30d", Some(7)), "{kind}");
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Failed, "{kind}: a dry run changes nothing");
        let done = mended(&rig, &id, &fixed).await;
        assert_eq!(Mended { dry_run: true, ..done }, would, "{kind}: the dry run had it right");
        let (ended, calls) = ran(&rig, &id).await;
        assert_eq!((output(&ended), calls), (json!(5), vec![json!(5)]), "{kind}");
        assert!(rig.engine.now().since(began) < Duration::from_secs(60), "{kind}: the month was not waited for again");
        let (key, seen) = (id.clone(), ended.clone());
        let (versions, log) =
            rig.engine.db.read(move |conn| Ok((versions::list(conn, &seen)?, logs::list(conn, &key)?))).await.unwrap();
        assert_eq!(versions.len(), 2, "{kind}");
        assert_eq!(versions[0].until, Some(versions[1].since), "{kind}");
        assert_eq!((versions[1].source_hash.as_str(), versions[1].until), (ended.source_hash.as_str(), None), "{kind}");
        assert!(log.iter().any(|line| line.text.contains("its code is version 2 now")), "{kind}: {log:?}");
        let (seen, old) = (ended, rig.engine.db.clone());
        let old = old.read(move |conn| versions::code(conn, &seen, Some(1))).await.unwrap().unwrap();
        assert_eq!(old.source, MONTH, "{kind}: the old code stays on record");
        assert!(refused(&rig, &id, MONTH).await.contains("is completed and cannot be mended"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_asks_the_host_for_more_or_less_keeps_its_calls() {
    let buggy = "
import durable
from tasks import f, g
from helpers import unused

async def main():
    token = str(durable.uuid4())
    one = await f([token, 1])
    handle, answer = durable.callback()
    two = await g([handle])
    try:
        await durable.timeout(durable.wait_signal('go'), 60)
    except durable.TaskTimeout:
        pass
    return {}['missing']
";
    let more = buggy
        .replace("import durable\n", "import durable\nfrom other import another\nfrom third import one_more\n")
        .replace(
            "    handle, answer",
            "    durable.log('between')\n    durable.set_status(durable.execution_id())\n    handle, answer",
        )
        .replace(
            "return {}['missing']",
            "return [token == one[0], handle == two[0], await f('after'), str(durable.uuid4()) != token]",
        );
    let less = buggy.replace("from helpers import unused\n", "").replace(
        "return {}['missing']",
        "return [token == one[0], handle == two[0], await f('after'), str(durable.uuid4()) != token]",
    );
    for (kind, url, _folder) in databases() {
        for (how, fixed) in [("more", &more), ("less", &less)] {
            let rig = Rig::new(&url, "w");
            let id = rig.start(buggy).await;
            let (ended, _) = ran(&rig, &id).await;
            assert_eq!(ended.status, ExecutionStatus::Failed, "{kind} {how}");
            let before: Vec<CallId> = rig.calls(&id).await.iter().map(|call| call.id).collect();
            mended(&rig, &id, fixed).await;
            let (ended, calls) = ran(&rig, &id).await;
            assert_eq!(output(&ended), json!([true, true, "after", true]), "{kind} {how}");
            assert_eq!(calls, [json!("after")], "{kind} {how}");
            let after: Vec<CallId> = rig.calls(&id).await.iter().map(|call| call.id).collect();
            assert_eq!(after[..before.len()], before, "{kind} {how}: the calls are those on record");
            assert!(after.iter().max() == after.last() && after.len() == before.len() + 1, "{kind} {how}: {after:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_parts_from_the_record_is_refused_with_the_place_and_changes_nothing() {
    let source = "
from tasks import f, g, h

async def main():
    one = await f(1)
    two = await g([one, 'x' * 1000])
    return {}[await h(two)]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        assert_eq!(ran(&rig, &id).await.0.status, ExecutionStatus::Failed, "{kind}");
        for (old, new, parts) in [
            ("g([one", "g([2", "after the first outcome on record, call "),
            ("f(1)", "f(7)", "before it has been told any outcome, call "),
            ("g([one, 'x' * 1000])", "f(1)", "is function tasks.g [[1,\"xxx"),
            ("'x' * 1000", "'x' * 1000 + 'end'", "xxxend\"]] {} now (line 6)"),
            ("    two", "    await g(9)\n    two", "and function tasks.g [9] {} now (line 6)"),
            (
                "    two = await g([one, 'x' * 1000])",
                "    return one",
                "after the first outcome on record, where the record has it wait, it returns",
            ),
            ("    two", "    assert one == 2\n    two", "it fails: AssertionError"),
            ("    return {}[await h(two)]", "    return two", "where the record has it wait, it returns"),
        ] {
            let why = refused(&rig, &id, &source.replace(old, new)).await;
            assert!(why.contains(parts) && why.contains("cannot go on with this code"), "{kind}: {new}: {why}");
            assert!(why.contains("Nothing was changed") && why.len() < 1500, "{kind}: {why}");
        }
        let more =
            source.replace("    one = await f(1)", "    import asyncio\n    one, _ = await asyncio.gather(f(1), h(3))");
        let why = refused(&rig, &id, &more).await;
        assert!(why.contains("it calls function tasks.h [3] {} (line 6), which is not on record"), "{kind}: {why}");
        let inputs = source.replace("main()", "main(needed)");
        assert!(refused(&rig, &id, &inputs).await.contains("needed"), "{kind}");
        let seen = rig.execution(&id).await;
        let versions = rig.engine.db.read(move |conn| versions::list(conn, &seen)).await.unwrap();
        assert_eq!(versions.len(), 1, "{kind}");
    }
}

const WAITS: &str = "
from durable import wait_signal
from tasks import f

async def main():
    one = await f('one')
    went = await wait_signal('go')
    return [one, went, {}['missing']]
";

async fn send(rig: &Rig, id: &ExecutionId, payload: i64) {
    let (name, payload) = ("go".into(), Json(payload.to_string()));
    let signalling = Signalling { execution: id.clone(), name, payload, key: None };
    if let Sent::Taken(Some(claimed)) = signal(&rig.engine, signalling).await.unwrap() {
        drive(&rig.engine, claimed).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_or_is_paused_or_has_not_begun_is_mended_before_it_fails() {
    let fixed = WAITS.replace("{}['missing']", "await f('fixed')");
    for (kind, url, _folder) in databases() {
        for state in ["waiting", "paused", "scheduled", "told meanwhile"] {
            let rig = Rig::new(&url, "w");
            let id = if state == "scheduled" { rig.insert(WAITS).await } else { rig.start(WAITS).await };
            if state != "scheduled" {
                let work = rig.jobs().await.remove(0).1;
                rig.complete(&work, json!("one")).await;
            }
            if state == "paused" || state == "told meanwhile" {
                hold::hold(&rig.engine, &id).await.unwrap();
            }
            if state == "told meanwhile" {
                send(&rig, &id, 7).await;
            }
            let before = rig.execution(&id).await.status;
            let done = mended(&rig, &id, &fixed).await;
            assert_eq!((done.status, done.calls), (Mending::Mended, 0), "{kind} {state}");
            assert_eq!(rig.execution(&id).await.status, before, "{kind} {state}: it waits as before");
            assert_eq!(mended(&rig, &id, &fixed).await.status, Mending::Unchanged, "{kind} {state}: asked again");
            if before == ExecutionStatus::Paused {
                assert!(done.held, "{kind}");
                rig.tick().await;
                assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Paused, "{kind}");
                hold::release(&rig.engine, &id).await.unwrap();
            }
            if state != "told meanwhile" {
                send(&rig, &id, 7).await;
            }
            let (ended, _) = ran(&rig, &id).await;
            assert_eq!(output(&ended), json!(["one", 7, "fixed"]), "{kind} {state}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_function_goes_on_and_its_outcome_reaches_the_new_code() {
    let buggy = "
import asyncio
from tasks import fast, slow

async def main():
    a, b = await asyncio.gather(fast('a'), slow('b'))
    return {}[a + b]
";
    let fixed = buggy
        .replace("{}[a + b]", "a + b")
        .replace("await asyncio.gather(fast('a'), slow('b'))", "[await x for x in [fast('a'), slow('b')]]");
    for (kind, url, _folder) in databases() {
        // What a process knows ahead of its claim, and computes with the former code, is dropped.
        let rig = Rig::new(&url, "w");
        let id = rig.start(buggy).await;
        let jobs = rig.jobs().await;
        rig.complete(&jobs[0].1, json!("a")).await;
        mended(&rig, &id, &fixed).await;
        rig.tick().await;
        rig.complete(&jobs[1].1, json!("b")).await;
        rig.tick().await;
        assert_eq!(output(&rig.execution(&id).await), json!("ab"), "{kind}");
        let rig = Rig::new(&url, "w");
        let one = "from tasks import f\n\nasync def main():\n    return {}[await f('x')]\n";
        let id = rig.start(one).await;
        let work = rig.jobs().await.remove(0).1;
        let other = rig.another("other");
        mended(&other, &id, &one.replace("{}[await f('x')]", "await f('x')")).await;
        rig.complete(&work, json!("kept")).await;
        rig.tick().await;
        assert_eq!(output(&rig.execution(&id).await), json!("kept"), "{kind}: foreseen with the former code");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_advancing_it_is_waited_for_and_whoever_was_has_lost() {
    let fixed = WAITS.replace("{}['missing']", "1");
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.insert(WAITS).await;
        let claimed = claim(&rig.engine, &id).await.unwrap().unwrap();
        let engine = rig.engine.clone();
        let (key, new) = (id.clone(), code(&fixed));
        let mending = tokio::spawn(async move { mend::mend(&engine, &key, new, false).await });
        drive(&rig.engine, claimed).await.unwrap();
        assert_eq!(mending.await.unwrap().unwrap().status, Mending::Mended, "{kind}: after the turn");
        let work = rig.jobs().await.remove(0).1;
        rig.complete(&work, json!("one")).await;
        send(&rig, &id, 3).await;
        assert_eq!(output(&ran(&rig, &id).await.0), json!(["one", 3, 1]), "{kind}");
        // Two at once: one after the other, whichever comes first.
        let rig = Rig::new(&url, "w");
        let id = rig.start(MONTH).await;
        ran(&rig, &id).await;
        let other = rig.another("other");
        let (a, b) = (MONTH.replace("prize", "price"), MONTH.replace("['prize']", "['price'] + 0"));
        let (one, two) = tokio::join!(
            mend::mend(&rig.engine, &id, code(&a), false),
            mend::mend(&other.engine, &id, code(&b), false)
        );
        let versions = [one.unwrap().version, two.unwrap().version];
        assert!(versions == [2, 3] || versions == [3, 2], "{kind}: {versions:?}");
        assert_eq!(output(&ran(&rig, &id).await.0), json!(5), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_failed_in_its_first_turn_begins_again_with_the_new_code() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("from tasks import f\n\nasync def main():\n    f({}['a'])\n").await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Failed, "{kind}");
        mended(&rig, &id, "from tasks import f\n\nasync def main():\n    return await f('a')\n").await;
        assert_eq!(output(&ran(&rig, &id).await.0), json!("a"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_not_kept_is_made_from_the_record() {
    for (kind, url, _folder) in databases() {
        let mut rig = Rig::new(&url, "w");
        Arc::get_mut(&mut rig.engine).unwrap().settings.history = History::None;
        let id = rig.start(MONTH).await;
        ran(&rig, &id).await;
        assert!(matches!(revive::retry(&rig.engine, &id).await, Err(OrchestrationError::NoState { .. })), "{kind}");
        mended(&rig, &id, &MONTH.replace("prize", "price")).await;
        assert_eq!(output(&ran(&rig, &id).await.0), json!(5), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_is_mended_as_often_as_needed_and_rebuilt_afterwards() {
    let source = |end: &str| {
        format!(
            "import durable\nfrom tasks import f\n\nasync def main():\n    one = await f('one')\n    durable.log(one)\n    {end}\n"
        )
    };
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(&source("return {}['a']")).await;
        ran(&rig, &id).await;
        mended(&rig, &id, &source("durable.log(2)\n    two = await f('two')\n    return {}['b']")).await;
        let (ended, calls) = ran(&rig, &id).await;
        assert_eq!((ended.status, calls), (ExecutionStatus::Failed, vec![json!("two")]), "{kind}");
        let third = source(
            "two = await f('two')\n    durable.log(3)\n    return [one, two, await f('three'), await f('four')]",
        );
        assert_eq!(mended(&rig, &id, &third).await.version, 3, "{kind}");
        rig.tick().await;
        let (_, work) = rig.jobs().await.remove(0);
        // As an upgrade of the interpreter would leave it.
        let sql = format!("UPDATE executions SET snapshot_format = 'older/1' WHERE id = '{id}'");
        let write = move |conn: &mut _| Ok(diesel::connection::SimpleConnection::batch_execute(conn, &sql)?);
        rig.engine.db.write(write).await.unwrap();
        let other = rig.another("other");
        other.complete(&work, json!("three")).await;
        let (ended, _) = ran(&other, &id).await;
        assert_eq!(output(&ended), json!(["one", "two", "three", "four"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_former_code_gave_up_cannot_be_waited_for_and_what_the_new_gives_up_is_cancelled() {
    let source = |patience: &str, end: &str| {
        format!(
            "import asyncio\nimport durable\nfrom tasks import f, slow\n\nasync def main():\n    work = slow('s')\n    try:\n        {patience}\n    except durable.TaskTimeout:\n        pass\n    await f('then')\n    {end}\n"
        )
    };
    let gives_up = "await durable.timeout(work, 5)";
    let keeps = "await durable.race(work, asyncio.sleep(5))";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let settle = async |id: &ExecutionId| {
            let jobs = rig.jobs().await;
            rig.clock.advance(Duration::from_secs(6));
            rig.tick().await;
            let then = rig.jobs().await.remove(0).1;
            rig.clock.advance(Duration::from_secs(1));
            rig.complete(&then, json!(1)).await;
            (jobs, rig.execution(id).await.status)
        };
        let id = rig.start(&source(gives_up, "return {}['a']")).await;
        assert_eq!(settle(&id).await.1, ExecutionStatus::Failed, "{kind}");
        let why = refused(&rig, &id, &source("await durable.race(work, asyncio.sleep(5))", "return await work")).await;
        assert!(why.contains("slow") && why.contains("given up"), "{kind}: {why}");
        let id = rig.start(&source(keeps, "await durable.wait_signal('go')")).await;
        let (jobs, status) = settle(&id).await;
        assert_eq!(status, ExecutionStatus::Waiting, "{kind}");
        mended(&rig, &id, &source(gives_up, "await durable.wait_signal('go')")).await;
        let slow = jobs[0].1.attempt.call;
        assert_eq!(rig.status(&id, slow).await, CallStatus::Cancelled, "{kind}: nobody waits for it any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_begins_with_other_code_and_leaves_the_first_alone() {
    let source = "
from tasks import f

async def main():
    one = await f('one')
    two = await f('two')
    return [one, two, {}['three']]
";
    let fixed = source.replace("{}['three']", "await f('three')");
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        ran(&rig, &id).await;
        let forking = |at, with: &str| Forking {
            from: id.clone(),
            id: None,
            at,
            set: Vec::new(),
            runner: None,
            with: Some(code(with)),
        };
        let would = mend::rehearse_fork(&rig.engine, &forking(Some(1), &fixed)).await.unwrap();
        assert_eq!((would.pause, would.outcomes, would.waits[0].line), (1, 0, Some(5)), "{kind}");
        // No state but the last was kept: others are made from the record.
        let early = revive::fork(&rig.engine, forking(Some(1), &fixed.replace("'two'", "'TWO'"))).await.unwrap();
        let (ended, calls) = ran(&rig, &early).await;
        assert_eq!((output(&ended), calls), (json!(["one", "TWO", "three"]), vec![json!("TWO"), json!("three")]));
        let late = revive::fork(&rig.engine, forking(None, &fixed)).await.unwrap();
        let (ended, calls) = ran(&rig, &late).await;
        assert_eq!((output(&ended), calls), (json!(["one", "two", "three"]), vec![json!("three")]), "{kind}");
        let first = rig.execution(&id).await;
        assert_eq!(first.status, ExecutionStatus::Failed, "{kind}");
        assert_ne!(first.source_hash, ended.source_hash, "{kind}");
        let why = revive::fork(&rig.engine, forking(None, &fixed.replace("'two'", "'TWO'"))).await.unwrap_err();
        assert!(why.to_string().contains("[\"two\"] {} on record"), "{kind}: {why}");
        for at in [0, 3] {
            let why = revive::fork(&rig.engine, forking(Some(at), &fixed)).await.unwrap_err().to_string();
            assert!(why.contains("there is no pause"), "{kind}: {why}");
        }
        // A fork of a fork, mended: its first turns were the first one's.
        let again = mended(&rig, &id, &fixed.replace("'three')", "'mended')")).await;
        assert_eq!(again.status, Mending::Retrying, "{kind}");
        assert_eq!(output(&ran(&rig, &id).await.0), json!(["one", "two", "mended"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_mended_though_its_first_turns_were_anothers() {
    let source = "
import durable
from tasks import f

async def main():
    me = await f([durable.execution_id(), str(durable.now()), str(durable.uuid4())])
    two = await f('two')
    return {}[me[0]]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        ran(&rig, &id).await;
        rig.clock.advance(Duration::from_secs(1000));
        let forking = Forking { from: id.clone(), id: None, at: None, set: Vec::new(), runner: None, with: None };
        let fork = revive::fork(&rig.engine, forking).await.unwrap();
        assert_eq!(ran(&rig, &fork).await.0.status, ExecutionStatus::Failed, "{kind}");
        mended(&rig, &fork, &source.replace("return {}[me[0]]", "return [me[0], durable.execution_id()]")).await;
        assert_eq!(output(&ran(&rig, &fork).await.0), json!([id.as_str(), fork.as_str()]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_are_kept_are_forked_with_the_code_that_they_are_of() {
    for (kind, url, _folder) in databases() {
        let mut rig = Rig::new(&url, "w");
        Arc::get_mut(&mut rig.engine).unwrap().settings.history = History::All;
        let id = rig.start(WAITS).await;
        let work = rig.jobs().await.remove(0).1;
        rig.complete(&work, json!("one")).await;
        mended(&rig, &id, &WAITS.replace("{}['missing']", "await f('fixed')")).await;
        let fork = async |at| {
            let forking = Forking { from: id.clone(), id: None, at, set: Vec::new(), runner: None, with: None };
            let fork = revive::fork(&rig.engine, forking).await.unwrap();
            send(&rig, &fork, 1).await;
            ran(&rig, &fork).await.0
        };
        assert_eq!(fork(Some(1)).await.status, ExecutionStatus::Failed, "{kind}: the former code's state");
        assert_eq!(output(&fork(Some(2)).await), json!(["one", 1, "fixed"]), "{kind}");
        assert_eq!(output(&fork(None).await), json!(["one", 1, "fixed"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_runs_also_what_the_end_of_the_first_cut_off() {
    let source = "
import asyncio
from tasks import broken, slow

async def main():
    return await asyncio.gather(slow('s'), broken('b'))
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let jobs = rig.jobs().await;
        rig.fail(&jobs[1].1, "ValueError", "no").await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Failed, "{kind}");
        let forking = Forking { from: id.clone(), id: None, at: None, set: Vec::new(), runner: None, with: None };
        let fork = revive::fork(&rig.engine, forking).await.unwrap();
        let (ended, mut calls) = ran(&rig, &fork).await;
        calls.sort_by_key(Value::to_string);
        assert_eq!((output(&ended), calls), (json!(["s", "b"]), vec![json!("b"), json!("s")]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_mended_by_itself_and_its_parent_takes_what_it_came_to() {
    let parent = "from durable import run_child\nfrom tasks import f\n\nasync def main():\n    return [await f(1), await run_child('c.py', source='from tasks import f\\nasync def main():\\n    return {}[await f(2)]', id='CHILD')]\n";
    for (kind, url, _folder) in databases() {
        for before in [true, false] {
            let rig = Rig::new(&url, "w");
            let name = format!("child-{kind}-{before}");
            let id = rig.start(&parent.replace("CHILD", &name)).await;
            let child: ExecutionId = name.parse().unwrap();
            assert_eq!(ran(&rig, &id).await.0.status, ExecutionStatus::Failed, "{kind}");
            let program =
                Program::compile("c.py", "from tasks import f\nasync def main():\n    return await f(2)").unwrap();
            let new = NewCode { program: Arc::new(program), files: Files::new(), launch: None };
            mend::mend(&rig.engine, &child, new, false).await.unwrap();
            if before {
                assert_eq!(output(&ran(&rig, &child).await.0), json!(2), "{kind}");
            }
            assert_eq!(revive::retry(&rig.engine, &id).await.unwrap(), usize::from(!before), "{kind}");
            assert_eq!(output(&ran(&rig, &id).await.0), json!([1, 2]), "{kind}: completed before: {before}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_life_is_mended_from_its_own_beginning() {
    let source = "
from durable import continue_as_new
from tasks import f

async def main(round: int = 1):
    got = await f(round)
    if round < 3:
        continue_as_new(round=round + 1)
    return {}[got]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let program = Arc::new(Program::compile("workflow.py", source).unwrap());
        let id = start(&rig.engine, Start::new(program, Map::new())).await.unwrap().execution.id;
        assert_eq!(ran(&rig, &id).await.0.status, ExecutionStatus::Failed, "{kind}");
        mended(&rig, &id, &source.replace("{}[got]", "got")).await;
        assert_eq!(output(&ran(&rig, &id).await.0), json!(3), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_finds_the_execution_otherwise_writes_nothing() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(WAITS).await;
        let mut seen = rig.execution(&id).await;
        seen.epoch.0 -= 1;
        let new = code(&WAITS.replace("{}", "[]"));
        let now = rig.engine.now();
        let done = rig.engine.db.write(move |conn| {
            control::lock(conn, &seen.id)?;
            let new = versions::Replacement { program: &new.program, files: &new.files, state: None, launch: None };
            versions::replace(conn, &seen, new, now)
        });
        assert!(!done.await.unwrap(), "{kind}");
        let seen = rig.execution(&id).await;
        assert_eq!(rig.engine.db.read(move |conn| versions::list(conn, &seen)).await.unwrap().len(), 1, "{kind}");
    }
}
