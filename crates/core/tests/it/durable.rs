//! The module `durable` inside a workflow: what each of its names does, from a first turn to the end, with a save and a load
//! at every pause.

use std::time::Duration;

use durable_core::{
    model::{CallKind, CallStatus, Execution, ExecutionStatus, Failure},
    orchestrator::{
        drive::drive,
        signal::{Sent, Signalling, signal},
    },
};
use durable_testing::{Rig, sqlite};
use serde_json::{Value, json};

/// Runs a workflow whose functions answer their first argument; `fail` raises it.
async fn run(source: &str) -> Execution {
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let id = rig.start(source).await;
    rig.run(&id, answer).await
}

fn answer(name: &str, args: &[Value]) -> Result<Value, Failure> {
    let first = args.first().cloned().unwrap_or(Value::Null);
    if name.ends_with("fail") { Err(Failure::new("ValueError", first.as_str().unwrap_or("no"))) } else { Ok(first) }
}

async fn output(source: &str) -> Value {
    let execution = run(source).await;
    assert_eq!(execution.status, ExecutionStatus::Completed, "{:?}", execution.error);
    execution.output.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn race_answers_the_first_that_ends_and_the_others_go_on() {
    let source = "
import asyncio
from durable import race
from tasks import echo

async def slow(x):
    await asyncio.sleep(5)
    return await echo(x)

async def main():
    index, value = await race(slow('slow'), echo('fast'), asyncio.sleep(60))
    try:
        await race(slow('later'), refused())
    except ValueError as error:
        return [index, value, str(error)]

async def refused():
    raise ValueError('refused')
";
    assert_eq!(output(source).await, json!([1, "fast", "refused"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_cancels_what_it_gives_up_and_lets_it_clean_up() {
    let source = "
import asyncio
from durable import TaskTimeout, timeout
from tasks import echo, release

async def work(seen):
    try:
        await asyncio.gather(asyncio.sleep(1000), asyncio.sleep(2000))
    finally:
        seen.append(await release('lock'))

async def main():
    seen = []
    assert await timeout(echo(1), 10) == 1
    try:
        await timeout(work(seen), 3)
    except TaskTimeout as error:
        seen.append(str(error))
    await asyncio.sleep(1)
    return seen
";
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let id = rig.start(source).await;
    let execution = rig.run(&id, answer).await;
    let output = execution.output.map(|output| output.parse().unwrap());
    assert_eq!(output, Some(json!(["not done within 3 s", "lock"])), "{:?}", execution.error);
    let calls = rig.calls(&id).await;
    let timers: Vec<_> = calls.iter().filter(|call| call.kind == CallKind::Timer).collect();
    let ended = timers.iter().map(|call| (call.function.as_str(), call.status)).collect::<Vec<_>>();
    assert_eq!(
        ended,
        [
            ("sleep 10s", CallStatus::Cancelled),
            ("sleep 16m 40s", CallStatus::Cancelled),
            ("sleep 33m 20s", CallStatus::Cancelled),
            ("sleep 3s", CallStatus::Completed),
            ("sleep 1s", CallStatus::Completed),
        ]
    );
    assert!(execution.finished_at.unwrap().since(execution.created_at) < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn settle_gathers_exceptions_as_values() {
    let source = "
from durable import settle
from tasks import echo, fail

async def main():
    one, two = await settle(echo(1), fail('boom'))
    return [one, type(two).__name__, str(two)]
";
    assert_eq!(output(source).await, json!([1, "ValueError", "boom"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn map_keeps_its_order_and_its_limit() {
    let source = "
from durable import map
from tasks import echo

async def main():
    everything = await map(echo, range(5))
    limited = await map(echo, [3, 1, 2, 5, 4], limit=2)
    none = await map(echo, [], limit=2)
    return [everything, limited, none]
";
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let id = rig.start(source).await;
    let mut most = 0;
    for _ in 0..100 {
        let jobs = rig.jobs().await;
        if jobs.iter().any(|(_, work)| work.args.0 != "[0]") && jobs.len() < 5 {
            most = most.max(jobs.len());
        }
        for (_, work) in jobs {
            let value = work.args.parse().unwrap()[0].clone();
            rig.complete(&work, value).await;
        }
        if rig.execution(&id).await.status.is_final() {
            break;
        }
    }
    let output = rig.execution(&id).await.output.unwrap().parse().unwrap();
    assert_eq!(output, json!([[0, 1, 2, 3, 4], [3, 1, 2, 5, 4], []]));
    assert_eq!(most, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn spawned_coroutines_run_beside_and_are_awaited_any_number_of_times() {
    let source = "
import asyncio
from dataclasses import dataclass
import durable
from tasks import echo, fail

@dataclass
class Point:
    x: int

async def work(x):
    await asyncio.sleep(x)
    return Point(await echo(x))

async def bad():
    await fail('boom')

async def outer():
    inner = durable.spawn(work(2))
    return (await inner).x

async def main():
    first, second, third = durable.spawn(work(3)), durable.spawn(bad()), durable.spawn(outer())
    here = await echo('here')
    point = await first
    assert point is await first
    try:
        await second
    except ValueError as error:
        caught = str(error)
    return [here, point.x, caught, await third]
";
    assert_eq!(output(source).await, json!(["here", 3, "boom", 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_waits_for_itself_is_told_so() {
    let source = "
import durable

async def main():
    box = []
    async def never():
        return await box[0]
    box.append(durable.spawn(never()))
    await box[0]
";
    let failure = run(source).await.error.unwrap();
    assert!(failure.message.contains("waits for itself") || failure.message.contains("already awaited"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn call_carries_options_and_arguments() {
    let source = "
import durable
from tasks import echo

async def main():
    return await durable.call(echo, 1, b=2, retries=5, backoff='1s..2s', timeout='3s', queue='gpu', idempotency_key='k')
";
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let id = rig.start(source).await;
    let call = rig.calls(&id).await.remove(0);
    assert_eq!((call.function.as_str(), call.queue.as_str(), call.line), ("tasks.echo", "gpu", Some(6)));
    let options = call.options.unwrap().parse().unwrap();
    assert_eq!(options, json!({"retries": 5, "backoff": "1s..2s", "timeout": "3s", "idempotency_key": "k"}));
    let failure =
        run("import durable\nasync def main():\n    await durable.call('f', retries=-1)\n").await.error.unwrap();
    assert!(failure.message.contains("call(): f: option retries=-1: a whole number from 0"), "{failure}");
    let failure = run("import durable\nasync def g(): pass\nasync def main():\n    await durable.call(g)\n").await;
    assert!(failure.error.unwrap().message.contains("await a coroutine of your own itself"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_ids_and_randomness_are_those_of_the_execution() {
    let source = "
import asyncio
import random
import time
import uuid
import durable
from datetime import datetime, timedelta, timezone

async def main():
    before = durable.now()
    await durable.sleep_until(before + timedelta(seconds=90))
    slept = (durable.now() - before).total_seconds()
    await durable.sleep_until(before)
    one, two = uuid.uuid4(), uuid.uuid4()
    assert one != two and len(str(one)) == 36 and uuid.UUID(str(one)) == one and len(durable.uuid4()) == 36
    assert abs(time.time() - durable.now().timestamp()) < 1
    durable.log('hello', answer=42)
    durable.set_status({'step': 2})
    return [slept, durable.execution_id(), random.random() < 1]
";
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let id = rig.start(source).await;
    let execution = rig.run(&id, answer).await;
    let output = execution.output.map(|output| output.parse().unwrap());
    assert_eq!(output, Some(json!([90.0, id.as_str(), true])), "{:?}", execution.error);
    assert_eq!(execution.progress.unwrap().0, r#"{"step":2}"#);
}

async fn send(rig: &Rig, id: &durable_core::id::ExecutionId, name: &str, payload: i64) -> bool {
    let signalling =
        Signalling { execution: id.clone(), name: name.into(), payload: json_text(&json!(payload)), key: None };
    match signal(&rig.engine, signalling).await.unwrap() {
        Sent::Taken(claimed) => {
            if let Some(claimed) = claimed {
                drive(&rig.engine, claimed).await.unwrap();
            }
            true
        }
        Sent::Kept => false,
        Sent::Repeated => panic!("no key was given"),
    }
}

fn json_text(value: &Value) -> durable_core::model::Json {
    value.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_delivered_once_in_order_and_kept_until_somebody_waits() {
    let source = "
import asyncio
from durable import SignalTimeout, wait_signal
from tasks import echo

async def main():
    await echo(0)
    got = [await wait_signal('go') for _ in range(3)]
    other = await wait_signal('other')
    try:
        await wait_signal('go', timeout=5)
    except SignalTimeout as error:
        return [got, other, str(error)]
";
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let id = rig.start(source).await;
    for (name, n) in [("go", 1), ("other", 9), ("go", 2)] {
        assert!(!send(&rig, &id, name, n).await, "nobody waits yet");
    }
    for (_, work) in rig.jobs().await {
        rig.complete(&work, json!(0)).await;
    }
    assert!(send(&rig, &id, "go", 3).await);
    let execution = rig.run(&id, answer).await;
    let output = execution.output.map(|output| output.parse().unwrap());
    assert_eq!(output, Some(json!([[1, 2, 3], 9, "no signal go within 5s"])), "{:?}", execution.error);
    let again = Signalling { execution: id, name: "go".into(), payload: json_text(&json!(1)), key: None };
    let refused = signal(&rig.engine, again).await.unwrap_err().to_string();
    assert!(refused.contains("is completed and cannot take a signal"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_module_lacks_is_refused_with_its_line_and_a_near_one() {
    let compile = |source: &str| durable_core::interpreter::Program::compile("w.py", source).unwrap_err().to_string();
    let said = compile("import durable\n\nasync def main():\n    await durable.slep_until(1)\n");
    assert!(said.contains("w.py:4:11") && said.contains("did you mean sleep_until?"), "{said}");
    let said = compile("import durable\n\nasync def main():\n    await durable.sleep(1)\n");
    assert!(said.contains("await asyncio.sleep(seconds)"), "{said}");
    let said = compile("from durable import raze\n");
    assert!(said.contains("w.py:1:21") && said.contains("did you mean race?"), "{said}");
    let said = compile("from uuid import uuid1\n");
    assert!(said.contains("uuid has no \"uuid1\""), "{said}");
    let said = compile("import durable\nh = durable.spawn(1)\nawait h\n");
    assert!(said.contains("spawn() needs an async def main()"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_statement_may_be_of_any_kind() {
    for first in [
        "async def helper():\n    return 1\n\nimport durable",
        "try:\n    import durable\nfinally:\n    pass",
        "class Kept:\n    pass\n\nimport durable",
        "\"\"\"Says what it does.\"\"\"\nimport durable",
        "\n\nimport durable",
    ] {
        let source = format!(
            "{first}\n\nasync def one():\n    return 1\n\nasync def main():\n    return await durable.spawn(one())\n"
        );
        assert_eq!(output(&source).await, json!(1), "{source}");
    }
    let source =
        "async def main(n: int = 3):\n    import durable as d\n    await d.sleep_until(d.now())\n    return n\n";
    assert_eq!(output(source).await, json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_and_tracebacks_are_those_of_the_file() {
    let source = "import durable; from tasks import fail

async def main():
    await durable.race(fail('boom'))
";
    let failure = run(source).await.error.unwrap();
    let traceback = failure.traceback.unwrap();
    assert!(traceback.contains("workflow.py\", line 4, in main"), "{traceback}");
    assert!(!traceback.contains("<string>") && !traceback.contains("exec("), "{traceback}");
    let failure = run("import durable; 1 / 0\nasync def main():\n    pass\n").await.error.unwrap();
    let traceback = failure.traceback.unwrap();
    assert!(traceback.contains("line 1") && traceback.contains("    import durable; 1 / 0\n"), "{traceback}");
    let caret = traceback.lines().find(|line| line.contains('~') || line.contains('^')).unwrap();
    assert_eq!(caret.find(['~', '^']), Some(20), "{traceback}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_the_module_is_there() {
    let source = "
from durable import (
    Cancelled, SignalTimeout, TaskError, TaskTimeout, call, callback, continue_as_new, execution_id, log, map, now, race,
    run_child, set_status, settle, sleep_until, spawn, start_child, timeout, uuid4, wait_signal,
)

async def main():
    def late():
        import durable
        return durable.race is race
    import durable as everything
    names = [name for name in ('map', 'uuid4', 'spawn', 'timeout') if hasattr(everything, name)]
    return [late(), names]
";
    assert_eq!(output(source).await, json!([true, ["map", "uuid4", "spawn", "timeout"]]));
}

#[test]
fn a_state_carries_only_what_its_workflow_uses() {
    let base = |source: &str| {
        let hand = durable_core::interpreter::Program::compile("w.py", source).unwrap();
        let turn = durable_core::interpreter::Turn {
            program: &hand,
            execution: &"e".parse().unwrap(),
            now: durable_core::time::Timestamp(0),
            secret: "",
            offers: &durable_core::offers::Offers::anything(),
            limits: durable_core::interpreter::Limits::default(),
            rights: durable_core::allow::Rights::all(),
        };
        let inputs = durable_core::model::Json("{}".into());
        match durable_core::interpreter::advance(
            &turn,
            durable_core::interpreter::Origin::Start { inputs: &inputs, first_call: 0 },
        ) {
            Ok(durable_core::interpreter::Step { end: durable_core::interpreter::End::Pause(pause), .. }) => {
                pause.base.unwrap().bytes.len()
            }
            other => panic!("{other:?}"),
        }
    };
    let wait = "async def main():\n    await wait_signal('x')\n";
    let (little, everything) = (
        base(&format!("from durable import wait_signal\n{wait}")),
        base(&format!("import durable\nfrom durable import wait_signal\nd = durable\n{wait}")),
    );
    assert!(little * 3 < everything, "{little} B and {everything} B");
}

#[test]
fn mistakes_that_compile_are_seen_before_anything_runs() {
    let mistakes = |source: &str| -> Vec<String> {
        let program = durable_core::interpreter::Program::compile("w.py", source).unwrap();
        program.mistakes().iter().map(ToString::to_string).collect()
    };
    let one = |source: &str, parts: &[&str]| {
        let found = mistakes(source);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(parts.iter().all(|part| found[0].contains(part)), "{}", found[0]);
    };
    one("raise ValueError(3)\n", &["w.py:1:7", "ValueError takes one text", "^^^^^^^^^^^^^", "hint: put everything"]);
    one("def f(e):\n    raise RuntimeError('a', e)\n", &["w.py:2:11"]);
    one(
        "from tasks import f\nasync def main():\n    f(1)\n",
        &["w.py:3:5", "tasks.f() is not awaited", "    f(1)\n        ^^^^"],
    );
    one("import tasks as t\nasync def main():\n    t.f(1)\n", &["tasks.f() is not awaited"]);
    for used in ["return f(1) + 1", "return f'{f(1)}'", "return f(1) == 2", "if f(1): pass", "for x in f(1): pass"] {
        let source = format!("from tasks import f\nasync def main():\n    {used}\n");
        one(&source, &["w.py:3:", "tasks.f() is not awaited"]);
    }
    one("from tasks import f\ndef g():\n    return await f(1)\n", &["w.py:3:12", "await is outside an async function"]);
    one(
        "from datetime import timedelta\nlong = timedelta(hours=1.5)\n",
        &["w.py:2:24", "whole numbers", "milliseconds"],
    );
    one("async def g(): pass\nasync def main():\n    g()\n", &["g() is not awaited", "durable.spawn"]);
    one("import asyncio\nasync def main():\n    asyncio.sleep(1)\n", &["asyncio.sleep() is not awaited"]);
    one("from durable import race\nasync def main():\n    race()\n", &["durable.race() is not awaited"]);
    one(
        "import asyncio\nasync def main():\n    t = asyncio.create_task(main())\n",
        &["has no create_task", "durable.spawn"],
    );
    one("from asyncio import wait_for\n", &["has no wait_for", "durable.timeout"]);
    one("import asyncio\nasync def main():\n    await asyncio.gather(return_exceptions=True)\n", &["durable.settle"]);
    one("import subprocess\n", &["w.py:1:8", "a workflow has no module subprocess"]);
    one("from urllib.request import urlopen\n", &["no module urllib"]);
    let fine = "
import asyncio
import json
import durable
from tasks import f
async def g(): pass
async def main():
    durable.log('x')
    durable.spawn(g())
    durable.start_child('c', detached=True)
    h = f(1)
    await h
    raise ValueError(f'{h}')
";
    assert_eq!(mistakes(fine), [] as [String; 0]);
}
