//! Who waits no longer does not receive, and what came first comes first.

use std::{sync::Arc, time::Duration};

use durable_core::{
    id::ExecutionId,
    model::{CallKind, CallStatus, ExecutionStatus, Json, Outcome},
    orchestrator::{
        drive::drive,
        settle::{Attempted, Retry, Settled, settle},
        signal::{Sent, Signalling, signal},
    },
    store::{
        calls::{self, AttemptOf},
        executions::Whose,
        logs,
    },
};
use durable_testing::{Rig, databases};
use serde_json::{Value, json};

/// Sends a signal; whoever runs the execution goes on with it, if anybody does.
async fn send(rig: &Rig, id: &ExecutionId, name: &str, value: Value) -> bool {
    let request = Signalling { execution: id.clone(), name: name.into(), payload: Json::from(&value), key: None };
    match signal(&rig.engine, request).await.unwrap() {
        Sent::Taken(claimed) => {
            if let Some(claimed) = claimed {
                drive(&rig.engine, claimed).await.unwrap();
            }
            true
        }
        Sent::Kept | Sent::Repeated => false,
    }
}

/// Lets time pass, with a clock that acts on all that is due on the way.
async fn pass(rig: &Rig, seconds: f64) {
    let end = rig.engine.now().after(Duration::from_secs_f64(seconds));
    let mut rounds = 0;
    let next = || rig.engine.db.read(|conn| calls::next_due(conn, &Whose::Served, &[]));
    while let Some(next) = next().await.unwrap().filter(|next| *next <= end) {
        rounds += 1;
        assert!(rounds < 1000, "something that is due at {next} is never acted on");
        rig.clock.advance(next.since(rig.engine.now()));
        rig.tick().await;
    }
    rig.clock.advance(end.since(rig.engine.now()));
    rig.tick().await;
}

/// A process that sends and settles while nobody advances anything.
fn bystander(rig: &Rig) -> Rig {
    let mut other = rig.another("bystander");
    Arc::get_mut(&mut other.engine).unwrap().advances = false;
    other
}

async fn output(rig: &Rig, id: &ExecutionId) -> Value {
    let execution = rig.execution(id).await;
    assert_eq!(execution.status, ExecutionStatus::Completed, "{execution:?}");
    execution.output.unwrap().parse().unwrap()
}

/// Ways in which a workflow stops waiting for the signal `s`: each is followed by a second of sleep, in which it is sent, and
/// by a wait that has to get it.
const GIVEN_UP: [(&str, &str); 13] = [
    ("a race", "await durable.race(durable.wait_signal('s'), asyncio.sleep(0.5))"),
    ("a race of coroutines that wait", "await durable.race(wait(), asyncio.sleep(0.5))"),
    ("a race of races", "await durable.race(durable.race(durable.wait_signal('s'), wait()), asyncio.sleep(0.5))"),
    (
        "a failed gather",
        "
    try:
        await asyncio.gather(durable.wait_signal('s'), fail())
    except ValueError:
        pass",
    ),
    (
        "a failed gather of coroutines",
        "
    try:
        await asyncio.gather(wait(), asyncio.gather(wait(), fail()))
    except ValueError:
        pass",
    ),
    ("a wait that is made and not awaited", "durable.wait_signal('s')\n    await asyncio.sleep(0.5)"),
    ("a wait in a name that is used again", "w = durable.wait_signal('s')\n    w = None\n    await asyncio.sleep(0.5)"),
    ("a gather that is never awaited", "asyncio.gather(durable.wait_signal('s'))\n    await asyncio.sleep(0.5)"),
    (
        "a settle that lost a race",
        "await durable.race(durable.settle(durable.wait_signal('s'), asyncio.sleep(9)), asyncio.sleep(0.5))",
    ),
    (
        "a map that lost a race",
        "await durable.race(durable.map(durable.wait_signal, ['s', 's'], limit=1), asyncio.sleep(0.5))",
    ),
    (
        "a timeout",
        "
    try:
        await durable.timeout(durable.race(durable.wait_signal('s'), wait()), 0.5)
    except durable.TaskTimeout:
        pass",
    ),
    (
        "a timeout of a settle",
        "
    try:
        await durable.timeout(durable.settle(durable.wait_signal('s'), wait()), 0.5)
    except durable.TaskTimeout:
        pass",
    ),
    (
        "a function that has returned",
        "
    async def inner():
        kept = durable.wait_signal('s')
        await asyncio.sleep(0.5)
    await inner()",
    ),
];

fn given_up(how: &str) -> String {
    format!(
        "
import asyncio, durable
async def wait():
    return await durable.wait_signal('s')
async def fail():
    await asyncio.sleep(0.5)
    raise ValueError('x')
async def main():
    {how}
    await asyncio.sleep(1)
    return await durable.wait_signal('s', timeout=1)
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_goes_to_who_waits_and_not_to_who_has_given_up() {
    for (kind, url, _folder) in databases() {
        for (what, how) in GIVEN_UP {
            let rig = Rig::new(&url, "w");
            let id = rig.start(&given_up(how)).await;
            pass(&rig, 1.0).await;
            assert!(!send(&rig, &id, "s", json!("here")).await, "{kind}, {what}: nobody waits");
            pass(&rig, 2.0).await;
            assert_eq!(output(&rig, &id).await, json!("here"), "{kind}, {what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_came_when_nobody_ran_goes_to_who_waits_then() {
    for (kind, url, _folder) in databases() {
        for (what, how) in GIVEN_UP {
            let rig = Rig::new(&url, "w");
            let id = rig.start(&given_up(how)).await;
            // Late for the first wait, whose time is over, and nobody has come to it yet.
            rig.clock.advance(Duration::from_secs(1));
            send(&bystander(&rig), &id, "s", json!("here")).await;
            pass(&rig, 3.0).await;
            assert_eq!(output(&rig, &id).await, json!("here"), "{kind}, {what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_program_still_holds_keeps_waiting() {
    let holders = [
        ("a name", "w = durable.wait_signal('s')\n    await durable.race(w, asyncio.sleep(0.5))", "await w"),
        ("a spawned coroutine", "w = durable.spawn(wait())\n    await durable.race(w, asyncio.sleep(0.5))", "await w"),
        ("a list", "w = [durable.wait_signal('s')]\n    await durable.race(*w, asyncio.sleep(0.5))", "await w[0]"),
        (
            "an object",
            "box = Box()\n    box.w = durable.wait_signal('s')\n    await durable.race(box.w, asyncio.sleep(0.5))",
            "await box.w",
        ),
        (
            "a closure",
            "w = durable.wait_signal('s')\n    async def later():\n        return await w\n    await asyncio.sleep(0.5)",
            "await later()",
        ),
        (
            "a coroutine that has not begun",
            "w = durable.wait_signal('s')\n    c = give(w)\n    w = None\n    await asyncio.sleep(0.5)",
            "await c",
        ),
        (
            "a gather that is to be awaited",
            "g = asyncio.gather(durable.wait_signal('s'))\n    await asyncio.sleep(0.5)",
            "(await g)[0]",
        ),
        ("a dict in a global", "HELD['w'] = durable.wait_signal('s')\n    await asyncio.sleep(0.5)", "await HELD['w']"),
        (
            "a default value",
            "def get(w=durable.wait_signal('s')):\n        return w\n    await asyncio.sleep(0.5)",
            "await get()",
        ),
        (
            "two races",
            "w = durable.wait_signal('s')\n    await asyncio.gather(durable.race(w, asyncio.sleep(0.5)), durable.race(w, asyncio.sleep(0.6)))",
            "await w",
        ),
    ];
    for (kind, url, _folder) in databases() {
        for (what, holds, uses) in holders {
            let rig = Rig::new(&url, "w");
            let source = format!(
                "
import asyncio, durable
HELD = {{}}
class Box:
    pass
async def wait():
    return await durable.wait_signal('s')
async def give(w):
    return await w
async def main():
    {holds}
    await asyncio.sleep(1)
    other = durable.wait_signal('s')
    got = {uses}
    return [got, await other]
"
            );
            let id = rig.start(&source).await;
            pass(&rig, 1.0).await;
            assert!(send(&rig, &id, "s", json!(1)).await, "{kind}, {what}: it waits");
            pass(&rig, 1.0).await;
            send(&rig, &id, "s", json!(2)).await;
            pass(&rig, 1.0).await;
            assert_eq!(output(&rig, &id).await, json!([1, 2]), "{kind}, {what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_sees_its_cancellation() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import asyncio, durable
from datetime import timedelta
async def main():
    amount, charged = 10, []
    due = durable.now() + timedelta(days=30)
    while True:
        which, value = await durable.race(
            durable.sleep_until(due), durable.wait_signal('cancel'), durable.wait_signal('amount'))
        if which == 1:
            return charged
        if which == 2:
            amount = value
            continue
        charged.append(amount)
        due = due + timedelta(days=30)
        await asyncio.sleep(1)
";
        let id = rig.start(source).await;
        let day = 86_400.0;
        for round in 0..20 {
            pass(&rig, day).await;
            send(&rig, &id, "amount", json!(round)).await;
        }
        pass(&rig, 10.5 * day).await;
        let open = rig.calls(&id).await.iter().filter(|call| !call.status.is_settled()).count();
        assert_eq!(open, 3, "{kind}: nothing is left of the rounds before");
        send(&rig, &id, "cancel", json!(null)).await;
        pass(&rig, 1.0).await;
        assert_eq!(output(&rig, &id).await, json!([19]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_back_keeps_its_place() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import asyncio, durable
async def main():
    await durable.race(asyncio.sleep(1), durable.wait_signal('s'), durable.wait_signal('s'))
    return [await durable.wait_signal('s') for _ in range(3)]
";
        let id = rig.start(source).await;
        let bystander = bystander(&rig);
        // All of it is there when somebody runs it at last: the timer was first.
        rig.clock.advance(Duration::from_secs(2));
        for n in 1..=3 {
            send(&bystander, &id, "s", json!(n)).await;
        }
        pass(&rig, 1.0).await;
        assert_eq!(output(&rig, &id).await, json!([1, 2, 3]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_while_the_turn_runs_that_gives_it_up_is_not_lost() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import asyncio, durable
async def main():
    await durable.race(durable.wait_signal('s'), f())
    return await durable.wait_signal('s')
";
        let id = rig.start(source).await;
        let jobs = rig.jobs().await;
        let outcome = Outcome::Completed(Json("1".into()));
        let retry = Retry::No;
        let Settled::Recorded(Some(held)) = rig.settle_only(&jobs[0].1, outcome, retry).await else {
            panic!("{kind}: it is claimed")
        };
        // The wait that the turn is about to give up is still open.
        assert!(send(&rig, &id, "s", json!("here")).await, "{kind}");
        drive(&rig.engine, held).await.unwrap();
        assert_eq!(output(&rig, &id).await, json!("here"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_goes_to_another_that_waits_already() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import asyncio, durable
async def first():
    await durable.race(durable.wait_signal('s'), f())
async def main():
    other = durable.spawn(first())
    await asyncio.sleep(0.1)
    return await durable.wait_signal('s')
";
        let id = rig.start(source).await;
        pass(&rig, 0.2).await;
        let jobs = rig.jobs().await;
        let outcome = Outcome::Completed(Json("1".into()));
        let retry = Retry::No;
        let Settled::Recorded(Some(held)) = rig.settle_only(&jobs[0].1, outcome, retry).await else {
            panic!("{kind}: it is claimed")
        };
        assert!(send(&rig, &id, "s", json!("here")).await, "{kind}: to the first, which waited longest");
        drive(&rig.engine, held).await.unwrap();
        assert_eq!(output(&rig, &id).await, json!("here"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_and_children_that_nobody_can_await_are_withdrawn() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import asyncio, durable
CHILD = 'import asyncio\\nasync def main(): await asyncio.sleep(1000)'
async def main():
    token, answer = durable.callback()
    await durable.race(answer, asyncio.sleep(1))
    answer = None
    await durable.race(durable.run_child('c.py', source=CHILD), asyncio.sleep(1))
    held = durable.start_child('c.py', source=CHILD)
    await durable.race(held, asyncio.sleep(1))
    durable.start_child('c.py', source=CHILD)
    await asyncio.sleep(5)
    return [token, len(str(held)) > 0]
";
        let id = rig.start(source).await;
        pass(&rig, 5.0).await;
        let calls = rig.calls(&id).await;
        let status =
            |of: CallKind| calls.iter().filter(|call| call.kind == of).map(|call| call.status).collect::<Vec<_>>();
        assert_eq!(status(CallKind::Callback), [CallStatus::Cancelled], "{kind}");
        assert_eq!(
            status(CallKind::Child),
            [CallStatus::Cancelled, CallStatus::Pending, CallStatus::Pending],
            "{kind}"
        );
        let child: ExecutionId =
            format!("{id}-{}", calls.iter().find(|call| call.kind == CallKind::Child).unwrap().id).parse().unwrap();
        assert_eq!(rig.execution(&child).await.status, ExecutionStatus::Cancelled, "{kind}: the child too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_lost_a_race_go_on_and_so_does_what_awaits_them() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import asyncio, durable
async def work(seen):
    seen.append(await f())
    await asyncio.sleep(1)
    seen.append('slept')
async def main():
    seen = []
    await durable.race(work(seen), asyncio.sleep(1))
    await asyncio.sleep(10)
    return seen
";
        let id = rig.start(source).await;
        pass(&rig, 2.0).await;
        let jobs = rig.jobs().await;
        rig.complete(&jobs[0].1, json!("done")).await;
        pass(&rig, 20.0).await;
        assert_eq!(output(&rig, &id).await, json!(["done", "slept"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_goes_to_what_ended_first_whatever_its_place() {
    let source = "
import durable
async def main():
    return list(await durable.race(durable.wait_signal('cancel'), durable.wait_signal('approve')))
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let bystander = bystander(&rig);
        send(&bystander, &id, "approve", json!("yes")).await;
        rig.clock.advance(Duration::from_secs(1));
        send(&bystander, &id, "cancel", json!("no")).await;
        pass(&rig, 1.0).await;
        assert_eq!(output(&rig, &id).await, json!([1, "yes"]), "{kind}");
        let key = id.clone();
        let log = rig.engine.db.read(move |conn| logs::list(conn, &key)).await.unwrap();
        let text: String = log.iter().map(|line| line.text.as_str()).collect();
        assert!(text.contains("without taking these signals: cancel"), "{kind}: {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_was_due_before_a_reply_wins_though_nobody_ran() {
    let replies = [
        ("a signal", "durable.wait_signal('s')"),
        ("a function", "f()"),
        ("a callback", "durable.callback()[1]"),
        ("a coroutine", "wrapped()"),
    ];
    for (kind, url, _folder) in databases() {
        for (what, reply) in replies {
            let rig = Rig::new(&url, "w");
            let source = format!(
                "
import asyncio, durable
async def wrapped():
    return await f()
async def main():
    index, value = await durable.race({reply}, asyncio.sleep(60, 'late'))
    return [index, value]
"
            );
            let id = rig.start(&source).await;
            let jobs = rig.jobs().await;
            rig.clock.advance(Duration::from_secs(90));
            // The reply wakes it, and its waker claims before the clock has come to the timer.
            match what {
                "a signal" => drop(send(&rig, &id, "s", json!(1)).await),
                "a callback" => {
                    let call = rig.calls(&id).await[0].id;
                    let of = AttemptOf { execution: id.clone(), call, number: 1 };
                    let outcome = Outcome::Completed(Json("1".into()));
                    let attempted =
                        Attempted { of, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() };
                    if let Settled::Recorded(Some(claimed)) = settle(&rig.engine, attempted).await.unwrap() {
                        drive(&rig.engine, claimed).await.unwrap();
                    }
                }
                _ => drop(rig.complete(&jobs[0].1, json!(1)).await),
            }
            pass(&rig, 1.0).await;
            assert_eq!(output(&rig, &id).await, json!([1, "late"]), "{kind}, {what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_time_is_over_takes_nothing_that_comes_later() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import durable
async def main():
    try:
        return await durable.wait_signal('s', timeout=60)
    except durable.SignalTimeout:
        return ['too late', await durable.wait_signal('s')]
";
        let id = rig.start(source).await;
        rig.clock.advance(Duration::from_secs(61));
        assert!(!send(&rig, &id, "s", json!(1)).await, "{kind}: its time was over");
        pass(&rig, 1.0).await;
        assert_eq!(output(&rig, &id).await, json!(["too late", 1]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remaining_time_that_has_run_out_is_no_mistake() {
    let source = "
import asyncio, durable
from datetime import timedelta
async def main():
    seen = []
    for left in (-0.004, 0, -5, timedelta(seconds=-1), float('-inf')):
        try:
            await durable.wait_signal('s', timeout=left)
        except durable.SignalTimeout as error:
            seen.append(str(error))
        token, answer = durable.callback(timeout=left)
        try:
            await answer
        except TimeoutError:
            seen.append('callback')
    try:
        await durable.timeout(durable.wait_signal('s'), -1)
    except durable.TaskTimeout:
        seen.append('timeout')
    await asyncio.sleep(-1)
    forever = [durable.wait_signal('s', timeout=float('inf')), durable.callback(timeout=float('inf'))[1]]
    index, value = await durable.race(asyncio.sleep(86400 * 10000), *forever)
    kept = await durable.wait_signal('kept', timeout=0)
    return [len(seen), seen[0], index, kept]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        send(&rig, &id, "kept", json!("kept")).await;
        pass(&rig, 1.0).await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Waiting, "{kind}");
        pass(&rig, 86_400.0 * 10_000.0).await;
        assert_eq!(output(&rig, &id).await, json!([11, "no signal s within 0s", 0, "kept"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_in_the_turn_that_failed_is_waited_for_again_after_a_retry() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import asyncio, durable
async def main():
    waits = [durable.wait_signal('s'), durable.callback()[1]]
    await durable.race(asyncio.sleep(1), *waits)
    waits = None
    if await durable.wait_signal('again', timeout=0.5) == 'fail':
        await f()
    return await durable.wait_signal('s')
";
        let id = rig.start(source).await;
        let bystander = bystander(&rig);
        rig.clock.advance(Duration::from_secs(2));
        send(&bystander, &id, "s", json!("here")).await;
        send(&bystander, &id, "again", json!("fail")).await;
        pass(&rig, 0.1).await;
        let jobs = rig.jobs().await;
        rig.fail(&jobs[0].1, "ValueError", "x").await;
        let failed = rig.execution(&id).await;
        assert_eq!(failed.status, ExecutionStatus::Failed, "{kind}: {failed:?}");
        let key = id.clone();
        let untaken = rig.engine.db.read(move |conn| durable_core::store::signals::untaken(conn, &key)).await.unwrap();
        assert_eq!(untaken.get("s"), Some(&1), "{kind}");
        durable_core::orchestrator::revive::retry(&rig.engine, &id).await.unwrap();
        pass(&rig, 0.1).await;
        let jobs = rig.jobs().await;
        rig.complete(&jobs[0].1, json!(1)).await;
        assert_eq!(output(&rig, &id).await, json!("here"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_came_with_the_outcome_that_failed_the_workflow_is_there_after_a_retry() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import asyncio, durable
async def main():
    done, got = await asyncio.gather(f(), durable.wait_signal('s'))
    return got
";
        let id = rig.start(source).await;
        let bystander = bystander(&rig);
        let jobs = rig.jobs().await;
        bystander.fail(&jobs[0].1, "ValueError", "x").await;
        rig.clock.advance(Duration::from_secs(1));
        send(&bystander, &id, "s", json!("here")).await;
        pass(&rig, 0.1).await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Failed, "{kind}");
        durable_core::orchestrator::revive::retry(&rig.engine, &id).await.unwrap();
        pass(&rig, 0.1).await;
        let jobs = rig.jobs().await;
        rig.complete(&jobs[0].1, json!(1)).await;
        assert_eq!(output(&rig, &id).await, json!("here"), "{kind}");
    }
}

/// Ways in which the workflow lets go of a wait for `s` that it has held for a second, in which the signal came.
const LET_GO: [(&str, &str); 6] = [
    ("a name", "held = durable.wait_signal('s')\n    await asyncio.sleep(2)\n    held = None"),
    ("a helper's local", "await helper()"),
    ("an attribute", "box = Box()\n    box.w = durable.wait_signal('s')\n    await asyncio.sleep(2)\n    box.w = None"),
    (
        "a lost race",
        "held = durable.wait_signal('s')\n    await durable.race(held, asyncio.sleep(0.5))\n    await asyncio.sleep(1.5)\n    held = None",
    ),
    (
        "a gather that is not awaited",
        "g = asyncio.gather(durable.wait_signal('s'))\n    await asyncio.sleep(2)\n    g = None",
    ),
    ("a list", "held = [durable.wait_signal('s')]\n    await asyncio.sleep(2)\n    held.clear()"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_nobody_has_read_goes_to_who_waits_next() {
    for (kind, url, _folder) in databases() {
        for (what, lets_go) in LET_GO {
            for reads in [false, true] {
                let rig = Rig::new(&url, "w");
                let before = if reads { "        await asyncio.sleep(3)\n" } else { "" };
                let source = format!(
                    "
import asyncio, durable
class Box:
    pass
async def helper():
    held = durable.wait_signal('s')
    await asyncio.sleep(2)
async def main():
    {lets_go}
    try:
{before}        return await durable.wait_signal('s', timeout=1)
    except durable.SignalTimeout:
        return 'lost'
"
                );
                let id = rig.start(&source).await;
                pass(&rig, 1.0).await;
                assert!(send(&rig, &id, "s", json!("here")).await, "{kind}, {what}: it is held");
                pass(&rig, 9.0).await;
                assert_eq!(output(&rig, &id).await, json!("here"), "{kind}, {what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_of_one_execution_arrive_in_the_order_in_which_they_were_sent() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let receiver = "
import durable
async def main():
    return [await durable.wait_signal('in') for _ in range(20)]
";
        let to = rig.start(receiver).await;
        let sender = format!(
            "
import asyncio, durable
async def main():
    await asyncio.gather(*[durable.signal('{to}', 'in', n) for n in range(20)])
    try:
        await durable.signal('nobody', 'in', 1)
    except RuntimeError as error:
        return str(error)
"
        );
        let id = rig.start(&sender).await;
        pass(&rig, 1.0).await;
        assert_eq!(output(&rig, &id).await, json!("there is no execution nobody"), "{kind}");
        assert_eq!(output(&rig, &to).await, json!((0..20).collect::<Vec<_>>()), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_cancelled_function_is_waited_for() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "
import durable
async def main():
    handle = f()
    try:
        await durable.timeout(handle, 1)
    except durable.TaskTimeout:
        try:
            await durable.cancelled_ended(handle, timeout=1)
        except TimeoutError as error:
            first = str(error)
        await durable.cancelled_ended()
        return [first, await g()]
";
        let id = rig.start(source).await;
        let jobs = rig.jobs().await;
        let (of, me) = (jobs[0].1.attempt.clone(), rig.engine.worker.clone());
        let (now, key) = (rig.engine.now(), of.clone());
        let began = rig.engine.db.write(move |conn| calls::begin(conn, &key, &me, now, now)).await.unwrap();
        assert!(began, "{kind}");
        pass(&rig, 30.0).await;
        assert!(rig.jobs().await.is_empty(), "{kind}: its function still runs");
        durable_core::orchestrator::drain::note_end(&rig.engine, &of.execution, of.call);
        pass(&rig, 10.0).await;
        let jobs = rig.jobs().await;
        rig.complete(&jobs[0].1, json!("undone")).await;
        assert_eq!(output(&rig, &id).await, json!(["after 1s still running: f", "undone"]), "{kind}");
    }
}
