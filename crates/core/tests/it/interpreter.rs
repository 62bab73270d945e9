//! One workflow file, turn by turn, with nothing around it.

use std::time::Duration;

use durable_core::{
    id::{CallId, ExecutionId},
    interpreter::{
        AdvanceError, End, Limits, NewCall, Origin, Pause, Program, Snapshot, SnapshotError, Step, Turn, advance,
    },
    model::{CallKind, Failure, Json, Outcome, Stream, Wake},
    offers::Offers,
    time::Timestamp,
};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp(1_800_000_000_123_456);

/// A workflow being run by hand.
struct Hand {
    program: Program,
    id: ExecutionId,
    offers: Offers,
    limits: Limits,
    base: Option<Snapshot>,
}

impl Hand {
    fn new(source: &str) -> Self {
        let program = Program::compile("workflow.py", source).unwrap_or_else(|error| panic!("{error}"));
        let limits = Limits { turn: Duration::from_millis(1500), ..Limits::default() };
        Self { program, id: "test-1".parse().unwrap(), offers: Offers::anything(), limits, base: None }
    }

    fn turn(&self) -> Turn<'_> {
        Turn {
            program: &self.program,
            execution: &self.id,
            now: NOW,
            secret: "",
            offers: &self.offers,
            limits: self.limits,
            rights: durable_core::allow::Rights::all(),
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]
    fn start(&mut self, inputs: Value) -> Step {
        let inputs = Json::from(&inputs);
        let step = advance(&self.turn(), Origin::Start { inputs: &inputs, first_call: 0 }).unwrap();
        self.keep_base(&step);
        step
    }

    fn keep_base(&mut self, step: &Step) {
        if let End::Pause(Pause { base: Some(base), .. }) = &step.end {
            self.base = Some(base.clone());
        }
    }

    fn resume(&self, pause: &Pause, outcomes: &[(u32, Result<Value, Failure>)]) -> Step {
        let outcomes: Vec<(CallId, Outcome)> = outcomes
            .iter()
            .map(|(id, outcome)| {
                let outcome = match outcome {
                    Ok(value) => Outcome::Completed(Json::from(value)),
                    Err(failure) => Outcome::Failed(failure.clone()),
                };
                (CallId(*id), outcome)
            })
            .collect();
        let base = self.base.as_ref().unwrap();
        advance(&self.turn(), Origin::Paused { snapshot: &pause.snapshot, base, outcomes: &outcomes }).unwrap()
    }

    /// Runs to the end, answering each call with its first argument.
    fn run(&mut self, inputs: Value) -> End {
        let mut step = self.start(inputs);
        loop {
            let pause = match step.end {
                End::Pause(pause) => pause,
                end => return end,
            };
            let answers: Vec<_> = pause.new_calls.iter().map(|call| (call.id.0, Ok(first_arg(call)))).collect();
            step = self.resume(&pause, &answers);
        }
    }
}

fn first_arg(call: &NewCall) -> Value {
    call.args.parse().unwrap().get(0).cloned().unwrap_or(Value::Null)
}

fn paused(step: Step) -> Pause {
    match step.end {
        End::Pause(pause) => pause,
        other => panic!("expected a pause, got {other:?}"),
    }
}

fn output(end: End) -> Value {
    match end {
        End::Finish { output, .. } => output.parse().unwrap(),
        other => panic!("expected an output, got {other:?}"),
    }
}

fn failure(end: End) -> Failure {
    match end {
        End::Fail { failure, .. } => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn calls(pause: &Pause) -> Vec<(u32, &str, Value)> {
    pause.new_calls.iter().map(|call| (call.id.0, call.function.as_str(), call.args.parse().unwrap())).collect()
}

fn wakes(pause: &Pause) -> Vec<Wake> {
    pause.new_calls.iter().map(|call| call.wake).collect()
}

#[test]
fn a_workflow_without_calls_ends_in_its_first_turn() {
    let mut hand = Hand::new("def main(a, b=2):\n    return [a, b]\n");
    assert_eq!(output(hand.run(json!({"a": 1}))), json!([1, 2]));
}

#[test]
fn functions_are_imported_in_every_form() {
    let source = "
import asyncio
import tasks
import pkg.jobs as j
from tasks import one
from other.place import two as renamed

async def main():
    return await asyncio.gather(one(1), tasks.three(3), j.four(4, key='x'), renamed(2), bare(5))
";
    let mut hand = Hand::new(source);
    let served: Vec<&str> = hand.program.served.keys().map(String::as_str).collect();
    assert_eq!(served, ["other.place.two", "pkg.jobs.four", "tasks.one", "tasks.three"]);
    let pause = paused(hand.start(json!({})));
    let names: Vec<&str> = calls(&pause).into_iter().map(|(_, name, _)| name).collect();
    assert_eq!(names, ["tasks.one", "tasks.three", "pkg.jobs.four", "other.place.two", "bare"]);
    assert_eq!(pause.new_calls[2].kwargs.0, r#"{"key":"x"}"#);
    assert!(pause.new_calls.iter().all(|call| call.line == Some(9)));
}

#[test]
fn the_main_guard_serves_cpython_and_is_skipped_here() {
    let source = "
import asyncio
async def main(n: int = 1):
    return n + 1
if __name__ == '__main__':
    print(asyncio.run(main(100)))
";
    let mut hand = Hand::new(source);
    let step = hand.start(json!({"n": 4}));
    assert_eq!(step.log, []);
    assert_eq!(output(step.end), json!(5));
}

#[test]
fn a_script_runs_from_top_to_bottom_with_inputs_as_names() {
    assert_eq!(output(Hand::new("x = await double(n)\nx + 1\n").run(json!({"n": 4}))), json!(5));
    let source = "import asyncio\nasync def flow():\n    return await f(7)\nasyncio.run(flow())\n";
    assert_eq!(output(Hand::new(source).run(json!({}))), json!(7));
}

#[test]
fn inputs_are_checked_against_the_parameters() {
    let program = Program::compile("flow.py", "def main(order, *, size=1): pass").unwrap();
    let check = |inputs: Value| program.check_inputs(inputs.as_object().unwrap()).map_err(|error| error.to_string());
    assert!(check(json!({"order": 1})).is_ok());
    assert_eq!(check(json!({})).unwrap_err(), "missing input \"order\": give it with --input order=JSON");
    assert_eq!(
        check(json!({"order": 1, "sise": 2})).unwrap_err(),
        "flow.py has no input \"sise\": it takes order, size"
    );
}

#[test]
fn each_pipeline_goes_on_by_itself() {
    let source = "
import asyncio
async def pipeline(x):
    y = await first(x)
    return await second(y)
async def main():
    return await asyncio.gather(pipeline('a'), pipeline('b'))
";
    let mut hand = Hand::new(source);
    let one = paused(hand.start(json!({})));
    assert_eq!(calls(&one), [(0, "first", json!(["a"])), (1, "first", json!(["b"]))]);
    assert_eq!(wakes(&one), [Wake::Alone, Wake::Alone]);
    let two = paused(hand.resume(&one, &[(1, Ok(json!("B")))]));
    assert_eq!(calls(&two), [(2, "second", json!(["B"]))], "b did not wait for a");
    assert!(two.waits_for_earlier);
    let three = paused(hand.resume(&two, &[(2, Ok(json!("BB")))]));
    assert!(three.new_calls.is_empty());
    let four = paused(hand.resume(&three, &[(0, Ok(json!("A")))]));
    assert_eq!(output(hand.resume(&four, &[(3, Ok(json!("AA")))]).end), json!(["AA", "BB"]));
}

#[test]
fn wake_rules_follow_what_each_task_waits_for() {
    let source = "
import asyncio
async def pipe(x):
    return await step(x)
async def inner():
    return await asyncio.gather(g(1), g(2))
async def main():
    never()
    return await asyncio.gather(pipe(1), inner(), plain(3), asyncio.gather(plain(5), plain(6)))
";
    let mut hand = Hand::new(source);
    let pause = paused(hand.start(json!({})));
    let by_name: Vec<(&str, Wake)> = pause.new_calls.iter().map(|c| (c.function.as_str(), c.wake)).collect();
    assert_eq!(
        by_name,
        [
            ("never", Wake::OnFailure),
            ("plain", Wake::OnFailure),
            ("plain", Wake::OnFailure),
            ("plain", Wake::OnFailure),
            ("step", Wake::Alone),
            ("g", Wake::Group(6)),
            ("g", Wake::Group(6)),
        ]
    );
    // When both coroutines are done, what is left is a gather of plain calls, nested or not.
    let next = paused(hand.resume(&pause, &[(4, Ok(json!(1))), (5, Ok(json!(1))), (6, Ok(json!(1)))]));
    let rewoken: Vec<(u32, Wake)> = next.rewoken.iter().map(|(id, wake)| (id.0, *wake)).collect();
    assert_eq!(rewoken, [(1, Wake::Group(2)), (2, Wake::Group(2)), (3, Wake::Group(2))]);
    assert!(next.has_groups);
    let last = paused(hand.resume(&next, &[(1, Ok(json!(1))), (3, Ok(json!(1)))]));
    assert_eq!(last.rewoken, [(CallId(2), Wake::Alone)], "the last of a gather wakes alone");
}

#[test]
fn sleeping_is_a_call_and_clocks_answer_the_turn() {
    let source = "
import asyncio, time, datetime
async def main():
    await asyncio.sleep(0)
    before = time.time()
    value = await asyncio.sleep(90 * 60, 'slept')
    today = datetime.datetime.now(datetime.timezone.utc)
    return [before, value, today, datetime.date.today().isoformat()]
";
    let mut hand = Hand::new(source);
    let pause = paused(hand.start(json!({})));
    let timer = &pause.new_calls[0];
    assert_eq!((timer.kind, timer.delay), (CallKind::Timer, Some(Duration::from_secs(5400))));
    assert_eq!(timer.function, "sleep 1h 30m");
    let end = hand.resume(&pause, &[(timer.id.0, Ok(Value::Null))]).end;
    assert_eq!(
        output(end),
        json!([
            1_800_000_000.123_456,
            "slept",
            {"$py": "datetime", "value": "2027-01-15T08:00:00.123456+00:00"},
            "2027-01-15"
        ])
    );
}

#[test]
fn random_is_seeded_by_the_execution() {
    let source = "
import random, os
def main():
    return [random.random(), os.urandom(4).hex()]
";
    let one = output(Hand::new(source).run(json!({})));
    assert_eq!(one, output(Hand::new(source).run(json!({}))), "a repeated turn gives the same");
    let mut other = Hand::new(source);
    other.id = "test-2".parse().unwrap();
    assert_ne!(one, output(other.run(json!({}))));
}

#[test]
fn prints_are_captured_and_bounded() {
    let source = "
import sys
def main():
    print('to', 'stdout')
    print('to stderr', file=sys.stderr)
    for i in range(300000):
        print('0123456789')
    print('the end')
";
    let step = Hand::new(source).start(json!({}));
    assert_eq!(step.log[0], (Stream::Stdout, "to stdout\n".into()));
    assert_eq!(step.log[1], (Stream::Stderr, "to stderr\n".into()));
    assert!(step.log[3].1.ends_with("bytes of this turn's output were cut here]\n"), "{}", step.log[3].1);
    let kept: usize = step.log.iter().map(|(_, text)| text.len()).sum();
    assert!(kept <= (1 << 20) + 100, "{kept}");
    assert!(step.log.last().unwrap().1.ends_with("0123456789\nthe end\n"));
}

#[test]
fn a_failed_call_is_raised_where_it_is_awaited_and_can_be_caught() {
    let source = "
async def main():
    try:
        await pay(1)
    except ValueError as error:
        return f'caught {error}'
    finally:
        await clean_up()
";
    let mut hand = Hand::new(source);
    let pause = paused(hand.start(json!({})));
    let cleaning = paused(hand.resume(&pause, &[(0, Err(Failure::new("ValueError", "no funds")))]));
    assert_eq!(cleaning.new_calls[0].function, "clean_up");
    assert_eq!(output(hand.resume(&cleaning, &[(1, Ok(Value::Null))]).end), json!("caught no funds"));
}

#[test]
fn an_exception_of_the_users_own_arrives_as_its_base_with_its_name() {
    let source = "
async def main():
    try:
        await pay()
    except OSError as error:
        return str(error)
";
    let mut hand = Hand::new(source);
    let pause = paused(hand.start(json!({})));
    let refused = Failure {
        bases: vec!["ConnectionError".into(), "OSError".into(), "Exception".into()],
        ..Failure::new("ConnectionRefusedError", "port 1")
    };
    let end = hand.resume(&pause, &[(0, Err(refused))]).end;
    assert_eq!(output(end), json!("ConnectionRefusedError: port 1"));
}

#[test]
fn an_uncaught_exception_carries_the_users_lines_and_no_others() {
    let source = "
async def deeper(x):
    return await fetch(x)

async def main():
    return await deeper(3)
";
    let mut hand = Hand::new(source);
    let pause = paused(hand.start(json!({})));
    let failed = failure(hand.resume(&pause, &[(0, Err(Failure::new("KeyError", "k")))]).end);
    let traceback = failed.traceback.unwrap();
    assert_eq!(failed.kind, "KeyError");
    assert!(traceback.contains("line 3, in deeper") && traceback.contains("line 6, in main"), "{traceback}");
    assert!(!traceback.contains("__durable_inputs__"), "{traceback}");
}

#[test]
fn what_cannot_be_sent_is_refused_before_anything_is_scheduled() {
    for (argument, part) in [
        ("lambda: 1", "argument 1: "),
        ("other()", "write `await` before it"),
        ("loop", "contains itself"),
        ("int", "the class"),
        ("deep", "nested deeper than 100"),
    ] {
        let source = format!(
            "
loop = []
loop.append(loop)
deep = []
for i in range(150):
    deep = [deep]
async def main():
    try:
        await send({argument})
    except TypeError as error:
        return str(error)
"
        );
        let mut hand = Hand::new(&source);
        let said = output(hand.start(json!({})).end);
        let said = said.as_str().unwrap();
        assert!(said.starts_with("send: ") && said.contains(part), "{argument}: {said}");
    }
}

#[test]
fn an_output_that_cannot_be_sent_fails_the_execution() {
    let failed = failure(Hand::new("def main():\n    return len\n").run(json!({})));
    assert_eq!(failed.kind, "TypeError");
    assert!(failed.message.contains("the workflow's output"), "{failed}");
}

#[test]
fn a_call_that_is_never_awaited_is_said_not_run() {
    let mut hand = Hand::new("async def main():\n    notify('x')\n    return 1\n");
    let step = hand.start(json!({}));
    assert_eq!(step.log, [(Stream::Stderr, "notify (line 2) was never awaited and does not run\n".into())]);
    let End::Finish { abandoned, .. } = step.end else { panic!() };
    assert_eq!(abandoned[0].function, "notify");
}

#[test]
fn an_unknown_bare_name_is_a_name_error() {
    let mut hand = Hand::new("async def main():\n    return await nowhere(1)\n");
    hand.offers = Offers::only(["tasks.add".to_owned()]);
    let failed = failure(hand.run(json!({})));
    assert_eq!(failed.kind, "NameError");
    assert!(failed.message.contains("nowhere") && failed.message.contains("hint:"), "{failed}");
    let builtin = failure(Hand::new("async def main():\n    return await input('?')\n").run(json!({})));
    assert_eq!(builtin.kind, "NameError");
}

#[test]
fn the_system_is_out_of_reach() {
    for (code, part) in [
        ("import time\ntime.sleep(1)", "await asyncio.sleep"),
        ("import os\nos.getenv('HOME')", "environment"),
        ("open('/etc/passwd')", "files or the system"),
        ("from pathlib import Path\nPath('/etc').exists()", "files or the system"),
    ] {
        let indented = code.replace('\n', "\n    ");
        let failed = failure(Hand::new(&format!("def main():\n    {indented}\n")).run(json!({})));
        assert!(failed.message.contains(part), "{code}: {failed}");
    }
}

#[test]
fn a_loop_without_end_meets_the_time_limit() {
    let failed = failure(Hand::new("def main():\n    while True:\n        pass\n").run(json!({})));
    assert_eq!(failed.kind, "TimeoutError");
    assert!(failed.message.contains("time limit") && failed.message.contains("hint:"), "{failed}");
}

#[test]
fn endless_recursion_is_an_error_like_others() {
    let failed = failure(Hand::new("def main():\n    return main()\n").run(json!({})));
    assert_eq!(failed.kind, "RecursionError");
    assert!(failed.message.contains("hint:"), "{failed}");
}

#[test]
fn a_result_that_makes_no_sense_is_raised_not_fatal() {
    let source = "
async def main():
    try:
        return await fetch()
    except TypeError as error:
        return str(error)
";
    let mut hand = Hand::new(source);
    let pause = paused(hand.start(json!({})));
    let said = output(hand.resume(&pause, &[(0, Ok(json!({"$py": "nonsense"})))]).end);
    assert!(said.as_str().unwrap().contains("is no kind of value"), "{said}");
}

#[test]
fn an_object_returned_by_a_function_has_its_attributes_and_no_methods() {
    let source = "
async def main():
    video = await probe()
    try:
        video.delete()
    except AttributeError as error:
        return [video.width, repr(video), str(error)]
";
    let mut hand = Hand::new(source);
    let pause = paused(hand.start(json!({})));
    let object = json!({"$py": "object", "type": "Video", "fields": {"width": 640}});
    let said = output(hand.resume(&pause, &[(0, Ok(object))]).end);
    assert_eq!(said[0], 640);
    assert_eq!(said[1], "Video(width=640)");
    assert!(said[2].as_str().unwrap().contains("delete"), "{said}");
}

#[test]
fn a_changed_snapshot_is_refused_and_a_foreign_one_named() {
    let mut hand = Hand::new("async def main():\n    return await f()\n");
    let mut pause = paused(hand.start(json!({})));
    let base = hand.base.clone().unwrap();
    let middle = pause.snapshot.bytes.len() / 2;
    pause.snapshot.bytes[middle] ^= 4;
    let origin = Origin::Paused { snapshot: &pause.snapshot, base: &base, outcomes: &[] };
    let refused = advance(&hand.turn(), origin).unwrap_err();
    assert_eq!(refused, AdvanceError::Snapshot(SnapshotError::Corrupt));
    pause.snapshot.bytes[middle] ^= 4;
    pause.snapshot.format = "elsewhere/9".into();
    let origin = Origin::Paused { snapshot: &pause.snapshot, base: &base, outcomes: &[] };
    assert!(advance(&hand.turn(), origin).unwrap_err().to_string().contains("elsewhere/9"));
}

#[test]
fn a_step_of_a_long_program_stores_less_than_a_kilobyte() {
    let padding: String = (0..200).map(|n| format!("def helper{n}(a, b):\n    return a * {n} + b\n\n")).collect();
    let source = format!("{padding}\nasync def main():\n    for i in range(50):\n        await f(i)\n");
    let mut hand = Hand::new(&source);
    let mut pause = paused(hand.start(json!({})));
    for i in 0..20 {
        let id = pause.new_calls[0].id.0;
        pause = paused(hand.resume(&pause, &[(id, Ok(json!(i)))]));
        assert!(pause.snapshot.bytes.len() < 1000, "{} bytes at step {i}", pause.snapshot.bytes.len());
    }
}

#[test]
fn syntax_that_is_not_there_is_shown_with_its_place_and_a_way_out() {
    for (source, line, part) in [
        ("def main():\n    yield 1\n", 2, "no generators"),
        ("class A(Exception):\n    pass\n", 1, "without bases"),
        ("async def main():\n    async with x() as y:\n        pass\n", 2, "asyncio.gather"),
        ("def main(:\n    pass\n", 1, ""),
        ("x = {}\ndel x['a']\n", 2, "dict.pop"),
        ("from tasks import *\n", 1, "import each name"),
    ] {
        let error = Program::compile("flow.py", source).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.line, Some(line), "{text}");
        assert!(text.starts_with(&format!("flow.py:{line}:")), "{text}");
        assert!(text.contains('^') && text.contains(part), "{source}: {text}");
    }
}
