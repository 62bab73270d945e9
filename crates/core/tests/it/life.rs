//! What people ask of executions, and executions of each other, on both databases.

use std::{sync::Arc, time::Duration};

use durable_core::{
    id::{CallId, ExecutionId},
    interpreter::Program,
    model::{CallKind, CallStatus, ExecutionStatus, Failure, Files, Json, Outcome},
    orchestrator::{
        OrchestrationError,
        cancel::{Cancelled, cancel},
        claim::claim,
        drive::drive,
        finish::again,
        hold,
        pause::TurnOutput,
        revive,
        settle::{Attempted, Retry, Settled, settle},
        start::{Conflict, Start, start},
    },
    retry::RetryPolicy,
    store::{callbacks, calls::AttemptOf, workflows},
};
use durable_queue::Bell;
use durable_testing::{Rig, databases};
use serde_json::{Map, Value, json};

fn first(_: &str, args: &[Value]) -> Result<Value, Failure> {
    Ok(args.first().cloned().unwrap_or(Value::Null))
}

async fn ask_to_cancel(rig: &Rig, id: &ExecutionId, force: bool) -> Cancelled {
    match cancel(&rig.engine, id, force).await.unwrap() {
        Cancelled::Told(Some(claimed)) => {
            drive(&rig.engine, claimed).await.unwrap();
            Cancelled::Told(None)
        }
        Cancelled::Ended(Some(parent)) => {
            drive(&rig.engine, parent).await.unwrap();
            Cancelled::Ended(None)
        }
        other => other,
    }
}

async fn output(rig: &Rig, id: &ExecutionId) -> Value {
    let execution = rig.execution(id).await;
    assert_eq!(execution.status, ExecutionStatus::Completed, "{:?}", execution.error);
    execution.output.unwrap().parse().unwrap()
}

const CLEANS_UP: &str = "
import asyncio
from durable import Cancelled
from tasks import charge, refund, slow

async def main():
    paid = await charge(5)
    try:
        await asyncio.gather(slow(1), asyncio.sleep(1000))
    except Cancelled:
        back = await refund(paid)
        raise
";

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_execution_cleans_up_and_ends_as_cancelled() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(CLEANS_UP).await;
        let work = rig.jobs().await.remove(0).1;
        rig.complete(&work, json!(5)).await;
        let slow = rig.jobs().await.remove(0).1;
        assert!(matches!(ask_to_cancel(&rig, &id, false).await, Cancelled::Told(None)), "{kind}");
        assert!(matches!(ask_to_cancel(&rig, &id, false).await, Cancelled::Asked), "{kind}: asked twice");
        assert_eq!(rig.status(&id, slow.attempt.call).await, CallStatus::Cancelled, "{kind}");
        assert!(matches!(rig.complete(&slow, json!(1)).await, Settled::Ignored), "{kind}: nobody waits for it");
        let ended = rig.run(&id, first).await;
        assert_eq!(ended.status, ExecutionStatus::Cancelled, "{kind}: {:?}", ended.error);
        let refund = rig.calls(&id).await.pop().unwrap();
        assert_eq!((refund.function.as_str(), refund.status), ("tasks.refund", CallStatus::Completed), "{kind}");
        assert!(matches!(ask_to_cancel(&rig, &id, false).await, Cancelled::TooLate(ExecutionStatus::Cancelled)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_force_an_execution_ends_whatever_it_does() {
    let stubborn = "
from durable import Cancelled
from tasks import slow

async def main():
    while True:
        try:
            await slow(1)
        except Cancelled:
            pass
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(stubborn).await;
        ask_to_cancel(&rig, &id, false).await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting, "{kind}: it caught the cancellation");
        assert!(matches!(ask_to_cancel(&rig, &id, true).await, Cancelled::Ended(None)), "{kind}");
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Cancelled, "{kind}");
        // Also while somebody advances it: that turn is lost.
        let id = rig.insert(stubborn).await;
        let claimed = claim(&rig.engine, &id).await.unwrap().unwrap();
        ask_to_cancel(&rig, &id, true).await;
        drive(&rig.engine, claimed).await.unwrap();
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Cancelled, "{kind}");
        assert!(rig.calls(&id).await.is_empty(), "{kind}");
        // And before it has begun.
        let id = rig.insert(stubborn).await;
        assert!(matches!(ask_to_cancel(&rig, &id, false).await, Cancelled::Ended(None)), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_comes_during_a_turn_is_told_at_its_pause() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.insert(CLEANS_UP).await;
        let claimed = claim(&rig.engine, &id).await.unwrap().unwrap();
        assert!(matches!(cancel(&rig.engine, &id, false).await.unwrap(), Cancelled::Asked), "{kind}");
        drive(&rig.engine, claimed).await.unwrap();
        let ended = rig.execution(&id).await;
        assert_eq!(ended.status, ExecutionStatus::Cancelled, "{kind}: its first call was cancelled: {:?}", ended.error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_cancels_and_the_execution_fails_by_it() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let program = Program::compile("workflow.py", CLEANS_UP).unwrap();
        let request = Start { deadline: Some(Duration::from_secs(60)), ..Start::new(program.into(), Map::new()) };
        let id = start(&rig.engine, request).await.unwrap().execution.id;
        drive(&rig.engine, claim(&rig.engine, &id).await.unwrap().unwrap()).await.unwrap();
        let work = rig.jobs().await.remove(0).1;
        rig.complete(&work, json!(5)).await;
        rig.jobs().await;
        rig.clock.advance(Duration::from_secs(61));
        rig.tick().await;
        let refund = rig.jobs().await.into_iter().map(|(_, work)| work).find(|work| work.function == "tasks.refund");
        rig.complete(&refund.expect("clean-up"), json!(5)).await;
        let ended = rig.execution(&id).await;
        assert_eq!(ended.status, ExecutionStatus::Failed, "{kind}");
        let failure = ended.error.unwrap();
        assert!(failure.kind == "TimeoutError" && failure.message.contains("deadline"), "{kind}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_of_which_word_was_left_is_told_by_whoever_runs_the_execution() {
    let source = "from tasks import f\n\nasync def main():\n    return await f(1)\n";
    for (kind, url, _folder) in databases() {
        for held in [false, true] {
            let (rig, mut other) = (Rig::new(&url, "w"), Rig::new(&url, "someone"));
            Arc::get_mut(&mut other.engine).unwrap().advances = false;
            let id = rig.start(source).await;
            let work = rig.jobs().await.remove(0).1;
            assert!(matches!(cancel(&other.engine, &id, false).await.unwrap(), Cancelled::Told(None)), "{kind}");
            assert_eq!(rig.status(&id, work.attempt.call).await, CallStatus::Pending, "{kind}: not by another process");
            if held {
                hold::hold(&other.engine, &id).await.unwrap();
            }
            let mut bells = rig.engine.queue.bells();
            rig.tick().await;
            assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Cancelled, "{kind}, held: {held}");
            let told = async { while !matches!(bells.recv().await, Ok(Bell::Cancelled(_))) {} };
            tokio::time::timeout(Duration::from_secs(10), told).await.expect("its workers are told");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_execution_does_not_go_on_until_it_is_released() {
    let source = "from tasks import f\n\nasync def main():\n    return [await f(1), await f(2)]\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        assert_eq!(hold::hold(&rig.engine, &id).await.unwrap().status, ExecutionStatus::Paused, "{kind}");
        let work = rig.jobs().await.remove(0).1;
        rig.complete(&work, json!(1)).await;
        rig.tick().await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Paused, "{kind}: its outcome is kept");
        assert!(rig.jobs().await.is_empty(), "{kind}");
        hold::release(&rig.engine, &id).await.unwrap();
        rig.tick().await;
        assert_eq!(rig.run(&id, first).await.status, ExecutionStatus::Completed, "{kind}");
        assert_eq!(output(&rig, &id).await, json!([1, 2]), "{kind}");
        // One that is being advanced stops at its pause; one that has not begun does not begin.
        let id = rig.insert(source).await;
        let claimed = claim(&rig.engine, &id).await.unwrap().unwrap();
        hold::hold(&rig.engine, &id).await.unwrap();
        drive(&rig.engine, claimed).await.unwrap();
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Paused, "{kind}");
        let id = rig.insert(source).await;
        hold::hold(&rig.engine, &id).await.unwrap();
        rig.clock.advance(Duration::from_secs(100));
        rig.tick().await;
        assert!(claim(&rig.engine, &id).await.unwrap().is_none(), "{kind}");
        hold::release(&rig.engine, &id).await.unwrap();
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Scheduled, "{kind}");
        hold::hold(&rig.engine, &id).await.unwrap();
        assert!(matches!(ask_to_cancel(&rig, &id, false).await, Cancelled::Ended(None)), "{kind}");
        let refused = hold::hold(&rig.engine, &id).await.unwrap_err();
        assert!(matches!(refused, OrchestrationError::Ended { .. }), "{kind}: {refused}");
        // A paused one can be cancelled, asked or not.
        for force in [false, true] {
            let id = rig.start(source).await;
            hold::hold(&rig.engine, &id).await.unwrap();
            ask_to_cancel(&rig, &id, force).await;
            assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Cancelled, "{kind} {force}");
        }
    }
}

async fn deploy(rig: &Rig, name: &str, source: &str) {
    let (name, program) = (name.to_owned(), Program::compile(&format!("{name}.py"), source).unwrap());
    let now = rig.engine.now();
    rig.engine.db.write(move |conn| workflows::deploy(conn, &name, (&program, &Files::new()), now)).await.unwrap();
}

const PARENT: &str = "
import asyncio
from durable import run_child, start_child

async def main():
    handle = start_child('double', {'x': 4})
    total = await asyncio.gather(handle, run_child('double', {'x': 5}), run_child('inline', source='40 + 2'))
    free = await start_child('double', {'x': 1}, id='free-one', detached=True)
    try:
        await run_child('double', {'x': 'bad'})
    except ValueError as error:
        failed = str(error)
    try:
        await run_child('nowhere')
    except NameError as error:
        missing = str(error)
    return [total, free, failed, missing, await handle]
";

const DOUBLE: &str = "
from tasks import f

async def main(x):
    if x == 'bad':
        raise ValueError('bad input')
    return 2 * await f(x)
";

#[tokio::test(flavor = "multi_thread")]
async fn children_answer_their_parents() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        deploy(&rig, "double", DOUBLE).await;
        let id = rig.start(PARENT).await;
        let ended = rig.run(&id, first).await;
        assert_eq!(ended.status, ExecutionStatus::Completed, "{kind}: {:?}", ended.error);
        let output = output(&rig, &id).await;
        assert_eq!(output[0], json!([8, 10, 42]), "{kind}");
        assert_eq!(
            (&output[1], &output[2], &output[4]),
            (&json!("free-one"), &json!("bad input"), &json!(8)),
            "{kind}"
        );
        assert!(output[3].as_str().unwrap().contains("durable deploy nowhere FILE"), "{kind}");
        let calls = rig.calls(&id).await;
        assert!(calls.iter().all(|call| call.kind == CallKind::Child), "{kind}");
        let child = rig.execution(&format!("{id}-{}", calls[0].id).parse().unwrap()).await;
        assert_eq!(child.parent.unwrap().execution_id, id, "{kind}");
        assert!(rig.execution(&"free-one".parse().unwrap()).await.parent.is_none(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellation_reaches_down_to_children_and_a_new_version_does_not_touch_what_runs() {
    let parent = "from durable import run_child\n\nasync def main():\n    return await run_child('double', {'x': 1})\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        deploy(&rig, "double", DOUBLE).await;
        let id = rig.start(parent).await;
        rig.tick().await;
        deploy(&rig, "double", "async def main(x):\n    return 'new'\n").await;
        let child: ExecutionId = format!("{id}-{}", rig.calls(&id).await[0].id).parse().unwrap();
        let other = rig.start(parent).await;
        rig.tick().await;
        assert_eq!(output(&rig, &other).await, json!("new"), "{kind}");
        assert_eq!(rig.execution(&child).await.status, ExecutionStatus::Waiting, "{kind}");
        ask_to_cancel(&rig, &id, false).await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Cancelled, "{kind}");
        rig.tick().await;
        assert_eq!(rig.execution(&child).await.status, ExecutionStatus::Cancelled, "{kind}");
        // A child that is cancelled by itself fails its parent's call.
        deploy(&rig, "double", DOUBLE).await;
        let id = rig.start(parent).await;
        rig.tick().await;
        let child: ExecutionId = format!("{id}-{}", rig.calls(&id).await[0].id).parse().unwrap();
        ask_to_cancel(&rig, &child, false).await;
        let failure = rig.execution(&id).await.error.unwrap();
        assert!(failure.message.contains("was cancelled"), "{kind}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_children_of_one_parent() {
    let source = "
import asyncio
from durable import start_child

async def main():
    outputs = await asyncio.gather(*[start_child('n', {'n': n}, source='async def main(n): return n') for n in range(1000)])
    return sum(outputs)
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let ended = rig.run(&id, first).await;
        assert_eq!(output(&rig, &id).await, json!(499_500), "{kind}");
        assert!(ended.suspension <= 2, "{kind}: woken once, not for each child");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_runs_what_failed_and_nothing_else() {
    let source = "
import asyncio
from tasks import broken, good

async def main():
    before = await good('before')
    one, two = await asyncio.gather(good('one'), broken('two'))
    return [before, one, two, await good('after')]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let ended = rig
            .run(
                &id,
                |name, args| {
                    if name == "tasks.broken" { Err(Failure::new("ValueError", "no")) } else { first("", args) }
                },
            )
            .await;
        assert_eq!(ended.status, ExecutionStatus::Failed, "{kind}");
        assert_eq!(revive::retry(&rig.engine, &id).await.unwrap(), 1, "{kind}: the failed call");
        let ran = std::sync::Mutex::new(Vec::new());
        let ended = rig.run(&id, |name, args| {
            ran.lock().unwrap().push(name.to_owned());
            first(name, args)
        });
        assert_eq!(ended.await.status, ExecutionStatus::Completed, "{kind}");
        assert_eq!(output(&rig, &id).await, json!(["before", "one", "two", "after"]), "{kind}");
        assert_eq!(*ran.lock().unwrap(), ["tasks.broken", "tasks.good"], "{kind}");
        let refused = revive::retry(&rig.engine, &id).await.unwrap_err().to_string();
        assert!(refused.contains("only failed and cancelled ones"), "{kind}: {refused}");
        let mut rig = Rig::new(&url, "w");
        std::sync::Arc::get_mut(&mut rig.engine).unwrap().settings.history = durable_core::orchestrator::History::None;
        let id = rig.start(source).await;
        rig.run(&id, |_, _| Err(Failure::new("ValueError", "no"))).await;
        let refused = revive::retry(&rig.engine, &id).await.unwrap_err().to_string();
        assert!(refused.contains("its last state was not kept"), "{kind}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_gives_the_call_its_attempts_anew_and_revives_a_cancelled_execution() {
    let source = "from tasks import f\n\nasync def main():\n    return await f(1)\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let policy = RetryPolicy { max_attempts: 2, jitter: 0.0, ..RetryPolicy::default() };
        let fail = async || {
            rig.clock.advance(Duration::from_secs(10));
            rig.tick().await;
            let work = rig.jobs().await.pop().unwrap().1;
            rig.settle(&work, Outcome::Failed(Failure::new("ValueError", "no")), Retry::By(policy.clone())).await
        };
        assert!(matches!(fail().await, Settled::Retrying), "{kind}");
        assert!(matches!(fail().await, Settled::Recorded(_)), "{kind}");
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Failed, "{kind}");
        revive::retry(&rig.engine, &id).await.unwrap();
        assert!(matches!(fail().await, Settled::Retrying), "{kind}: it may fail twice again");
        ask_to_cancel(&rig, &id, false).await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Cancelled, "{kind}");
        revive::retry(&rig.engine, &id).await.unwrap();
        assert_eq!(rig.run(&id, first).await.status, ExecutionStatus::Completed, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_has_cleaned_up_is_not_retried() {
    for (kind, url, _folder) in databases() {
        for force in [false, true] {
            let rig = Rig::new(&url, "w");
            let id = rig.start(CLEANS_UP).await;
            let work = rig.jobs().await.remove(0).1;
            rig.complete(&work, json!(5)).await;
            ask_to_cancel(&rig, &id, false).await;
            if force {
                ask_to_cancel(&rig, &id, true).await;
            } else {
                rig.run(&id, first).await;
            }
            let refused = revive::retry(&rig.engine, &id).await.unwrap_err().to_string();
            assert!(refused.contains("cleaning up after its cancellation"), "{kind}: {refused}");
            assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Cancelled, "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_goes_on_from_a_kept_state_with_another_outcome() {
    use durable_core::orchestrator::History;
    let source = "
from tasks import f

async def main():
    one = await f('one')
    two = await f('two')
    return [one, two, await f('three')]
";
    for (kind, url, _folder) in databases() {
        let mut rig = Rig::new(&url, "w");
        std::sync::Arc::get_mut(&mut rig.engine).unwrap().settings.history = History::All;
        let id = rig.start(source).await;
        rig.run(&id, first).await;
        assert_eq!(output(&rig, &id).await, json!(["one", "two", "three"]), "{kind}");
        let calls = rig.calls(&id).await;
        let forking = |at, set: &[(CallId, Json)]| revive::Forking {
            from: id.clone(),
            id: None,
            at: Some(at),
            set: set.to_vec(),
            runner: None,
            with: None,
        };
        let set = [(calls[1].id, Json("\"TWO\"".into()))];
        let new = revive::fork(&rig.engine, forking(2, &set)).await.unwrap();
        let ran = std::sync::Mutex::new(Vec::new());
        rig.run(&new, |_, args| {
            ran.lock().unwrap().push(args[0].clone());
            first("", args)
        })
        .await;
        assert_eq!(output(&rig, &new).await, json!(["one", "TWO", "three"]), "{kind}");
        assert_eq!(*ran.lock().unwrap(), ["three"], "{kind}: what succeeded is not repeated");
        let refused = revive::fork(&rig.engine, forking(7, &[])).await.unwrap_err().to_string();
        assert!(refused.contains("after pause 7 is not kept; kept are 1, 2, 3"), "{kind}: {refused}");
        let refused = revive::fork(&rig.engine, forking(1, &set)).await.unwrap_err().to_string();
        assert!(refused.contains("did not wait for call"), "{kind}: {refused}");
        // Kept for a while, and no longer.
        use durable_core::store::snapshots;
        let (key, now) = (id.clone(), rig.engine.now());
        let forgotten = rig.engine.db.write(move |conn| {
            assert_eq!(snapshots::forget(conn, now)? + snapshots::list(conn, &key)?.len(), 3);
            snapshots::forget(conn, now.after(Duration::from_secs(1)))
        });
        assert_eq!(forgotten.await.unwrap(), 4, "{kind}: three of the first, one of the second");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn continue_as_new_begins_anew_without_a_past() {
    let source = "
from durable import continue_as_new
from tasks import f

async def main(n=0, seen=None):
    await f(n)
    if n < 3:
        continue_as_new(n=n + 1, seen=[*(seen or []), n])
    return seen
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        rig.run(&id, first).await;
        assert_eq!(output(&rig, &id).await, json!([0, 1, 2]), "{kind}");
        assert_eq!(rig.calls(&id).await.len(), 1, "{kind}: only those of its last life");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_claim_begins_nothing_anew_and_touches_no_call_and_no_child() {
    let source = "
import asyncio
import durable
from tasks import f

async def main():
    child = 'from tasks import f\\n\\nasync def main():\\n    return await f(1)\\n'
    await asyncio.gather(durable.run_child('c.py', source=child, id='child'), f(2))
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let lost = claim(&rig.engine, &id).await.unwrap().unwrap();
        rig.clock.advance(rig.engine.settings.claim * 2);
        let _held = claim(&rig.engine, &id).await.unwrap().unwrap();
        let begun = again(&rig.engine, lost, Json("{}".into()), CallId(99), TurnOutput::default()).await.unwrap();
        assert_eq!(begun, None, "{kind}");
        let child = rig.execution(&"child".parse().unwrap()).await;
        assert_eq!(child.cancel_requested_at, None, "{kind}");
        let calls: Vec<_> = rig.calls(&id).await.iter().map(|call| call.status).collect();
        assert_eq!(calls, [CallStatus::Pending, CallStatus::Pending], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_life_gave_up_is_no_call_of_the_next() {
    let source = "
import random, uuid
import durable
from tasks import f

async def main(seen=None):
    if seen is None:
        seen = [random.random(), str(uuid.uuid4())]
        lost, token = f('old'), durable.callback()[0]
        await f('first')
        durable.continue_as_new(seen=seen + [token])
    now = [random.random(), str(uuid.uuid4())]
    answer, token = f('new'), durable.callback()[0]
    return [all(a != b for a, b in zip(seen, now + [token])), await answer]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let jobs = rig.jobs().await;
        let [(_, old), (_, one)] = &jobs[..] else { panic!("{kind}: {jobs:?}") };
        let mut bells = rig.engine.queue.bells();
        rig.complete(one, json!(1)).await;
        let told = async { while !matches!(bells.recv().await, Ok(Bell::Cancelled(_))) {} };
        tokio::time::timeout(Duration::from_secs(10), told).await.expect("whoever runs the old one is told");
        let new = rig.jobs().await.remove(0).1;
        assert!(new.attempt.call > old.attempt.call, "{kind}: {new:?} and {old:?}");
        assert!(matches!(rig.complete(old, json!("of the past")).await, Settled::Ignored), "{kind}");
        rig.complete(&new, json!("of now")).await;
        assert_eq!(output(&rig, &id).await, json!([true, "of now"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_completed_once_by_whoever_has_its_token() {
    let source = "
from durable import callback
from tasks import publish

async def main():
    token, answer = callback(timeout=60)
    await publish(token)
    try:
        late_token, late = callback(timeout=5)
        await late
    except TimeoutError as error:
        return [await answer, str(error)]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let publish = rig.jobs().await.remove(0).1;
        let token = publish.args.parse().unwrap()[0].as_str().unwrap().to_owned();
        let of = rig.engine.db.read(move |conn| callbacks::find(conn, &token)).await.unwrap().unwrap();
        rig.complete(&publish, json!(null)).await;
        let complete = |value: Value| Attempted {
            of: of.clone(),
            outcome: Outcome::Completed(Json::from(&value)),
            retry: Retry::No,
            started_at: None,
            worker: None,
            log: Vec::new(),
        };
        settle(&rig.engine, complete(json!("first"))).await.unwrap();
        assert!(matches!(settle(&rig.engine, complete(json!("second"))).await.unwrap(), Settled::Ignored), "{kind}");
        rig.run(&id, first).await;
        assert_eq!(output(&rig, &id).await, json!(["first", "no callback within 5s"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_one_call_win_and_its_total_time_ends_it() {
    let source = "
import durable

async def main():
    try:
        await durable.call('f', retries=9, backoff='1s', total_timeout=30)
    except ValueError as error:
        one = str(error)
    try:
        await durable.call('f', retries=9, non_retryable=['ValueError'])
    except ValueError as error:
        two = str(error)
    try:
        await durable.call('never_taken', total_timeout=30)
    except durable.TaskTimeout as error:
        return [one, two, str(error)]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let mut attempts = Vec::new();
        for _ in 0..400 {
            for (lease, work) in rig.jobs().await {
                if work.function == "f" {
                    attempts.push(work.attempt.call);
                    let failed = Outcome::Failed(Failure::new("ValueError", "no"));
                    let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::never() };
                    rig.settle(&work, failed, Retry::By(policy)).await;
                    rig.engine.queue.end(&lease, durable_queue::Way::Done).await.unwrap();
                }
            }
            rig.clock.advance(Duration::from_millis(500));
            rig.tick().await;
            if rig.execution(&id).await.status.is_final() {
                break;
            }
        }
        assert_eq!(output(&rig, &id).await, json!(["no", "no", "never_taken was not done within its total_timeout"]));
        let calls = rig.calls(&id).await;
        let of = |index: usize| attempts.iter().filter(|call| **call == calls[index].id).count();
        assert_eq!((of(0), of(1)), (10, 1), "{kind}: ten attempts, and one of what is not to be retried");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_taken_is_used_refused_or_replaced_as_wished() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let begin = async |conflict| {
            let program = Program::compile("workflow.py", "raise ValueError('no')").unwrap();
            let id = Some("order-1".parse().unwrap());
            start(&rig.engine, Start { id, conflict, ..Start::new(program.into(), Map::new()) }).await
        };
        assert!(begin(Conflict::UseExisting).await.unwrap().created, "{kind}");
        assert!(!begin(Conflict::RestartIfFailed).await.unwrap().created, "{kind}: it has not failed");
        let refused = begin(Conflict::Fail).await.unwrap_err().to_string();
        assert!(refused.contains("order-1 exists already: it is scheduled"), "{kind}: {refused}");
        let id: ExecutionId = "order-1".parse().unwrap();
        drive(&rig.engine, claim(&rig.engine, &id).await.unwrap().unwrap()).await.unwrap();
        assert!(!begin(Conflict::UseExisting).await.unwrap().created, "{kind}");
        assert!(begin(Conflict::RestartIfFailed).await.unwrap().created, "{kind}");
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Scheduled, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_parked_executions_are_no_work_for_the_clock() {
    let (kind, url, _folder) = databases().remove(0);
    let rig = Rig::new(&url, "w");
    let source = "import asyncio\n\nasync def main():\n    await asyncio.sleep(365 * 86400)\n";
    let id = rig.start(source).await;
    let of = AttemptOf { execution: id.clone(), call: rig.calls(&id).await[0].id, number: 1 };
    let copies = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO executions (id, workflow, source_hash, queue, status, suspension, snapshot, snapshot_format, created_at, updated_at)
            SELECT 'p' || i, workflow, source_hash, queue, status, suspension, snapshot, snapshot_format, created_at, updated_at
            FROM executions, n;
        INSERT INTO origins (execution_id, inputs, base_snapshot, base_format)
            SELECT e.id, o.inputs, o.base_snapshot, o.base_format FROM executions e, origins o WHERE e.id LIKE 'p%';
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO calls (execution_id, call_id, resume_group, kind, function, args, kwargs, queue, status, due_at, created_at)
            SELECT 'p' || i, call_id, resume_group, kind, function, args, kwargs, queue, status, due_at, created_at
            FROM calls, n;";
    rig.engine
        .db
        .write(move |conn| Ok(diesel::connection::SimpleConnection::batch_execute(conn, copies)?))
        .await
        .unwrap();
    let began = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(rig.tick().await, 0, "{kind}");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?} for a hundred looks", began.elapsed());
    rig.clock.advance(Duration::from_secs(366 * 86_400));
    assert!(rig.tick().await >= 500, "{kind}: they fire");
    assert_eq!(rig.status(&of.execution, of.call).await, CallStatus::Completed, "{kind}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancellation_that_races_the_last_outcome_leaves_one_consistent_end() {
    let source = "from tasks import f\n\nasync def main():\n    return await f(1)\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "a");
        let other = rig.another("b");
        let (mut completed, mut cancelled) = (0, 0);
        for round in 0..20 {
            let id = rig.start(source).await;
            let work = rig.jobs().await.pop().unwrap().1;
            let settles = async {
                // Each may be the first.
                if round % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                rig.complete(&work, json!(1)).await
            };
            tokio::join!(settles, ask_to_cancel(&other, &id, false));
            rig.tick().await;
            let ended = rig.execution(&id).await;
            let call = rig.calls(&id).await.remove(0);
            match ended.status {
                ExecutionStatus::Completed => {
                    completed += 1;
                    assert_eq!(call.status, CallStatus::Completed, "{kind} {round}");
                }
                ExecutionStatus::Cancelled => {
                    cancelled += 1;
                    assert_eq!(call.status, CallStatus::Cancelled, "{kind} {round}");
                }
                other => panic!("{kind} {round}: {other}, its call {}", call.status),
            }
        }
        assert_eq!(completed + cancelled, 20, "{kind}: {completed} completed, {cancelled} cancelled");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_retry_that_races_a_cancellation_leaves_one_consistent_end() {
    let source = "from tasks import f\n\nasync def main():\n    return await f(1)\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "a");
        let other = rig.another("b");
        for round in 0..20 {
            let id = rig.start(source).await;
            let work = rig.jobs().await.pop().unwrap().1;
            rig.fail(&work, "ValueError", "no").await;
            let (retried, asked) = tokio::join!(revive::retry(&rig.engine, &id), ask_to_cancel(&other, &id, false));
            assert_eq!(retried.unwrap(), 1, "{kind} {round}");
            let ended = rig.run(&id, first).await;
            let expected = match asked {
                Cancelled::TooLate(ExecutionStatus::Failed) => ExecutionStatus::Completed,
                _ => ExecutionStatus::Cancelled,
            };
            assert_eq!(ended.status, expected, "{kind} {round}: {asked:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_signal_that_races_the_pause_that_waits_for_it_is_not_lost() {
    use durable_core::orchestrator::signal::{Signalling, signal};
    let source = "from durable import wait_signal\n\nasync def main():\n    return await wait_signal('go')\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "a");
        let other = rig.another("b");
        for round in 0..20 {
            let id = rig.insert(source).await;
            let claimed = claim(&rig.engine, &id).await.unwrap().unwrap();
            let sends = async {
                let (name, payload) = ("go".into(), Json("1".into()));
                let signalling = Signalling { execution: id.clone(), name, payload, key: None };
                if let durable_core::orchestrator::signal::Sent::Taken(Some(claimed)) =
                    signal(&other.engine, signalling).await.unwrap()
                {
                    drive(&other.engine, claimed).await.unwrap();
                }
            };
            let (driven, ()) = tokio::join!(drive(&rig.engine, claimed), sends);
            driven.unwrap();
            assert_eq!(output(&rig, &id).await, json!(1), "{kind} {round}");
        }
    }
}

const LONG: &str = "
import asyncio
import random
import time
import durable
from tasks import f

async def side(n):
    await asyncio.sleep(n)
    return await f(['side', n])

async def main():
    handle = durable.spawn(side(2))
    seen = [await f(['one', random.random(), time.time(), durable.uuid4()])]
    seen.append(await asyncio.gather(f(['a']), f(['b']), side(1)))
    try:
        await durable.timeout(side(100), 3)
    except durable.TaskTimeout:
        seen.append(await f(['late']))
    seen.append(await durable.wait_signal('go'))
    return [seen, await handle]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_read_is_rebuilt_from_the_record() {
    use durable_core::{
        orchestrator::signal::{Signalling, signal},
        store::{calls, executions},
    };
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(LONG).await;
        let (name, payload) = ("go".into(), Json("7".into()));
        signal(&rig.engine, Signalling { execution: id.clone(), name, payload, key: None }).await.unwrap();
        let mut rebuilt = 0;
        let mut spoil = async || {
            // As an upgrade of the interpreter would leave it, at every pause.
            rebuilt += 1;
            let sql =
                format!("UPDATE executions SET snapshot_format = 'older/1' WHERE id = '{id}' AND snapshot IS NOT NULL");
            let write = move |conn: &mut _| Ok(diesel::connection::SimpleConnection::batch_execute(conn, &sql)?);
            rig.engine.db.write(write).await.unwrap();
        };
        for _ in 0..40 {
            spoil().await;
            let jobs = rig.jobs().await;
            if jobs.is_empty() {
                let next = rig.next_due().await.unwrap();
                rig.clock.advance(next.since(rig.engine.now()));
                rig.tick().await;
            }
            for (lease, work) in jobs {
                let value = work.args.parse().unwrap()[0].clone();
                rig.complete(&work, value).await;
                rig.engine.queue.end(&lease, durable_queue::Way::Done).await.unwrap();
                spoil().await;
            }
            if rig.execution(&id).await.status.is_final() {
                break;
            }
        }
        let output = output(&rig, &id).await;
        assert_eq!(output[0][0][0], "one", "{kind}");
        assert_eq!(output[0][1], json!([["a"], ["b"], ["side", 1]]), "{kind}");
        assert_eq!((&output[0][2], &output[0][3], &output[1]), (&json!(["late"]), &json!(7), &json!(["side", 2])));
        assert!(rebuilt >= 8, "{kind}: {rebuilt}");
        let key = id.clone();
        let recorded = rig.engine.db.read(move |conn| calls::recorded(conn, &key)).await.unwrap();
        assert!(recorded.iter().filter(|call| call.delivered.is_some()).count() >= 7, "{kind}");
        let key = id.clone();
        assert!(rig.engine.db.read(move |conn| executions::get(conn, &key)).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_workflow_does_not_follow_stops_it_and_changes_nothing() {
    let source = "from tasks import f\n\nasync def main():\n    return [await f(1), await f(2)]\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let work = rig.jobs().await.pop().unwrap().1;
        rig.complete(&work, json!(1)).await;
        let sql = |sql: String| {
            let db = rig.engine.db.clone();
            async move {
                db.write(move |conn| Ok(diesel::connection::SimpleConnection::batch_execute(conn, &sql)?))
                    .await
                    .unwrap();
            }
        };
        sql(format!("UPDATE executions SET snapshot_format = 'older/1' WHERE id = '{id}'")).await;
        sql(format!("UPDATE calls SET args = '[9]' WHERE execution_id = '{id}' AND resume_group = 1")).await;
        let before = rig.calls(&id).await.len();
        let work = rig.jobs().await.pop().unwrap().1;
        rig.complete(&work, json!(2)).await;
        let stopped = rig.execution(&id).await;
        assert_eq!((stopped.status, stopped.held), (ExecutionStatus::Paused, true), "{kind}");
        assert_eq!(rig.calls(&id).await.len(), before, "{kind}");
        let key = id.clone();
        let log = rig.engine.db.read(move |conn| durable_core::store::logs::list(conn, &key)).await.unwrap();
        assert!(
            log[0].text.contains(
                "call 1 is function tasks.f [9] {} on record (line 4), and function tasks.f [1] {} now (line 4)"
            ),
            "{log:?}"
        );
        sql(format!("UPDATE calls SET args = '[1]' WHERE execution_id = '{id}' AND resume_group = 1")).await;
        hold::release(&rig.engine, &id).await.unwrap();
        rig.tick().await;
        assert_eq!(output(&rig, &id).await, json!([1, 2]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_reaches_down_to_children_and_holds_for_paused_ones() {
    let parent = "from durable import run_child\n\nasync def main():\n    return await run_child('c.py', source='import asyncio\\nasync def main(): await asyncio.sleep(1000)')\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let begin = async || {
            let program = Program::compile("workflow.py", parent).unwrap();
            let request = Start { deadline: Some(Duration::from_secs(60)), ..Start::new(program.into(), Map::new()) };
            let id = start(&rig.engine, request).await.unwrap().execution.id;
            drive(&rig.engine, claim(&rig.engine, &id).await.unwrap().unwrap()).await.unwrap();
            rig.tick().await;
            id
        };
        let (id, held) = (begin().await, begin().await);
        hold::hold(&rig.engine, &held).await.unwrap();
        let child: ExecutionId = format!("{id}-{}", rig.calls(&id).await[0].id).parse().unwrap();
        assert_eq!(rig.execution(&child).await.deadline_at, rig.execution(&id).await.deadline_at, "{kind}");
        rig.clock.advance(Duration::from_secs(61));
        for _ in 0..5 {
            rig.tick().await;
        }
        for id in [&id, &child, &held] {
            let ended = rig.execution(id).await;
            assert_eq!(ended.status, ExecutionStatus::Failed, "{kind} {id}: {:?}", ended.error);
            assert!(ended.error.unwrap().message.contains("deadline"), "{kind} {id}");
        }
    }
}
