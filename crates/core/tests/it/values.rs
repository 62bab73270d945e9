//! Values and exceptions as they travel: what comes in can be taken, or its call fails; what travels arrives whole.

use durable_core::{
    interpreter::value::{check, from_json},
    model::{CallStatus, Execution, ExecutionStatus, Failure, Json, MAX_MESSAGE, MAX_TRACEBACK, Outcome},
    orchestrator::{revive, settle::Retry},
};
use durable_testing::{Rig, databases, sqlite};
use serde_json::{Value, json};

const ID: &str = "12345678-1234-5678-1234-567812345678";

fn point(x: i64) -> Value {
    json!({"$py": "namedtuple", "type": "Point", "fields": {"x": x}})
}

fn uuid() -> Value {
    json!({"$py": "uuid", "value": ID})
}

fn refused(value: &Value) -> String {
    from_json(value).unwrap_err().of("result")
}

/// Runs a workflow whose functions answer `given`, then their first argument.
async fn run(source: &str, given: &Value) -> Execution {
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let id = rig.start(source).await;
    rig.run(&id, |name, args| match name {
        "tasks.give" => Ok(given.clone()),
        _ => Ok(args[0].clone()),
    })
    .await
}

async fn output(source: &str, given: &Value) -> Value {
    let ended = run(source, given).await;
    assert_eq!(ended.status, ExecutionStatus::Completed, "{:?}", ended.error);
    ended.output.unwrap().parse().unwrap()
}

/// A workflow that takes a value, hands it to a function, and returns what comes back.
const THERE_AND_BACK: &str = "from tasks import give, echo\nasync def main():\n    return await echo(await give())\n";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_let_in_is_taken_and_comes_out_as_it_was() {
    let object = json!({"$py": "object", "type": "Row", "fields": {"n": 1}});
    for value in [
        json!({"$py": "dict", "items": [[uuid(), 1], [point(2), [object]], [null, 2], [1.5, 3], [true, 4]]}),
        json!({"$py": "set", "items": [uuid(), point(1), {"$py": "tuple", "items": [point(2), uuid()]}]}),
        json!({"$py": "frozenset", "items": [{"$py": "frozenset", "items": [point(1)]}, {"$py": "bytes", "base64": "AA=="}]}),
        json!({"$py": "dict", "items": [[{"$py": "decimal", "value": "1.10"}, 1], [{"$py": "decimal", "value": "NaN123"}, 2]]}),
        json!({"$py": "dict", "items": [[{"$py": "date", "value": "2024-02-29"}, 1], [{"$py": "path", "value": "/a"}, 2]]}),
        json!({"$py": "dict", "items": [[{"$py": "ellipsis"}, 1], [{"$py": "complex", "real": 1.0, "imag": -0.0}, 2]]}),
        json!({"$py": "datetime", "value": "2026-10-25T02:30:00", "fold": 1}),
        json!([{"$py": "datetime", "value": "2026-10-25T02:30:00+01:00", "zone": "CET", "fold": 1}]),
        json!({"$py": "time", "value": "02:30:00", "fold": 1}),
        json!({"$py": "decimal", "value": "-1E+999999999999999990"}),
        json!([-0.0, 1e308, {"$py": "float", "value": "nan"}]),
    ] {
        assert_eq!(output(THERE_AND_BACK, &value).await.to_string(), value.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uuid_equals_the_workflows_own_and_finds_it_as_a_key() {
    let source = format!(
        "
import uuid
from tasks import give, echo

async def main():
    rows = await give()
    own = uuid.UUID('{ID}')
    came = [key for key in rows][0]
    again = await echo(own)
    return [rows[own], came == own, own == came, own in rows, came in {{own: 1}}, again == own, came.hex == own.hex, came.int == own.int, own]
"
    );
    let given = json!({"$py": "dict", "items": [[uuid(), "row"]]});
    let expected = json!(["row", true, true, true, true, true, true, true, uuid()]);
    assert_eq!(output(&source, &given).await, expected);
}

#[test]
fn a_refusal_says_where_in_the_value_it_was_seen() {
    let list = json!({"$py": "dict", "items": [[[1], 2]]});
    let seen = refused(&json!({"rows": [1, 2, 3, {"n": list}]}));
    assert!(seen.starts_with("result[\"rows\"][3][\"n\"][[1]]: a list cannot be hashed"), "{seen}");
    let object = json!({"$py": "object", "type": "Row", "fields": {"n": 1}});
    let seen = refused(&json!([{"$py": "set", "items": [1, {"$py": "tuple", "items": [object]}]}]));
    assert!(seen.starts_with("result[0][1][0]: a Row cannot be hashed"), "{seen}");
    let seen = refused(&json!({"$py": "object", "type": "Row", "fields": {"when": {"$py": "date", "value": "x"}}}));
    assert!(seen.starts_with("result.when: "), "{seen}");
    let seen =
        refused(&json!({"$py": "dict", "items": [[{"$py": "exception", "type": "ValueError", "message": "x"}, 1]]}));
    assert!(seen.contains("an exception cannot be hashed"), "{seen}");
}

#[test]
fn keys_that_the_interpreter_would_take_for_one_are_refused() {
    let metre = json!({"$py": "namedtuple", "type": "Metre", "fields": {"x": 1}});
    let foot = json!({"$py": "namedtuple", "type": "Foot", "fields": {"x": 1.0}});
    let seen = refused(&json!({"$py": "dict", "items": [[metre, "a"], [foot, "b"]]}));
    assert!(seen.contains("are one key to the interpreter"), "{seen}");
    assert!(refused(&json!({"$py": "set", "items": [metre, foot]})).contains("are one key"));
    from_json(&json!({"$py": "set", "items": [point(1), point(2)]})).unwrap();
}

#[test]
fn nesting_that_is_too_deep_is_called_so() {
    let deep = Json(format!("{}{}", "[".repeat(500), "]".repeat(500)));
    assert_eq!(check(&deep).unwrap_err().to_string(), "the value is nested deeper than 100 levels");
    assert!(check(&Json("[1".into())).unwrap_err().to_string().contains("is not JSON"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_taken_fails_its_call_which_is_caught_and_run_again() {
    let source = "
from tasks import give

async def main():
    try:
        return await give()
    except TypeError as error:
        caught = str(error)
    await give(caught)
";
    for (_, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(source).await;
        let bad = json!({"rows": [{"$py": "set", "items": [[1]]}]});
        let work = rig.jobs().await.remove(0).1;
        rig.settle(&work, Outcome::of("tasks.give", Json::from(&bad)), Retry::No).await;
        assert_eq!(rig.status(&id, work.attempt.call).await, CallStatus::Failed);
        let work = rig.jobs().await.remove(0).1;
        let told = rig.arguments(&id, work.attempt.call).await;
        assert!(
            told[0].as_str().unwrap().starts_with("the result of tasks.give: result[\"rows\"][0][0]: a list"),
            "{told}"
        );
        rig.settle(&work, Outcome::of("tasks.give", Json::from(&bad)), Retry::No).await;
        assert_eq!(rig.execution(&id).await.status, ExecutionStatus::Failed);
        assert_eq!(revive::retry(&rig.engine, &id).await.unwrap(), 1);
        let ended = rig.run(&id, |_, _| Ok(json!(1))).await;
        assert_eq!(ended.status, ExecutionStatus::Completed, "{:?}", ended.error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_arrive_as_values_of_their_nearest_type() {
    let exception =
        |kind: &str, bases: &[&str]| json!({"$py": "exception", "type": kind, "message": "boom", "bases": bases});
    let source = "
from tasks import give

async def main():
    told = []
    for error in await give():
        told.append([isinstance(error, OSError), isinstance(error, ValueError), str(error)])
    return told
";
    let given = json!([
        exception("ConnectionResetError", &["ConnectionError", "OSError", "Exception"]),
        exception("tasks.Refused", &["ValueError", "Exception"]),
        exception("ValueError", &[]),
        exception("tasks.Own", &["Exception"]),
    ]);
    let expected = json!([
        [true, false, "ConnectionResetError: boom"],
        [false, true, "tasks.Refused: boom"],
        [false, true, "boom"],
        [false, false, "tasks.Own: boom"],
    ]);
    assert_eq!(output(source, &given).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_of_an_exception_has_a_bound_wherever_it_comes_from() {
    let huge = format!("begin{}end", "x".repeat(5 << 20));
    let traceback = format!("Traceback{}last line", "y".repeat(5 << 20));
    for (_, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start("from tasks import f\nasync def main():\n    await f()\n").await;
        let work = rig.jobs().await.remove(0).1;
        let failure = Failure { traceback: Some(traceback.clone()), ..Failure::new("ValueError", huge.clone()) };
        rig.settle(&work, Outcome::Failed(failure), Retry::No).await;
        let call = rig.calls(&id).await.remove(0).error.unwrap();
        let ended = rig.execution(&id).await.error.unwrap();
        for failure in [call, ended] {
            assert!(failure.message.len() <= MAX_MESSAGE, "{}", failure.message.len());
            assert!(failure.message.starts_with("begin") && failure.message.ends_with("end"));
            assert!(failure.message.contains("bytes were cut here"));
            assert!(failure.traceback.unwrap().len() <= MAX_TRACEBACK);
        }
    }
    let own = "async def main():\n    raise ValueError('begin' + 'x' * 5000000 + 'end')\n";
    let failure = run(own, &Value::Null).await.error.unwrap();
    assert!(failure.message.len() <= MAX_MESSAGE && failure.traceback.unwrap().len() <= MAX_TRACEBACK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_shows_the_fields_of_what_it_is() {
    let source = "
import dataclasses
from datetime import date
import durable

@dataclasses.dataclass
class Step:
    name: str
    done: tuple
    due: date

async def main():
    durable.set_status(Step('thinking', (1, {2}), date(2024, 2, 29)))
";
    let status = run(source, &Value::Null).await.progress.unwrap();
    assert_eq!(status.parse().unwrap(), json!({"name": "thinking", "done": [1, [2]], "due": "2024-02-29"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_workflows_own_classes_come_back_as_keys() {
    let source = "
import dataclasses
from tasks import echo

@dataclasses.dataclass(frozen=True)
class Point:
    x: int

async def main():
    came = await echo({Point(1): 'a', (Point(2), 3): 'b'})
    return [[key for key in came][0].x, len(came), (await echo({Point(4)}))]
";
    assert_eq!(
        output(source, &Value::Null).await,
        json!([1, 2, {"$py": "set", "items": [{"$py": "namedtuple", "type": "Point", "fields": {"x": 4}}]}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_cannot_be_sent_says_where() {
    let ended = run("async def main():\n    return {'rows': [1, {'f': len}]}\n", &Value::Null).await;
    let failure = ended.error.unwrap();
    assert!(failure.message.starts_with("the workflow's output[\"rows\"][1][\"f\"]: "), "{failure}");
}
