//! The same workflow files under CPython, with the package `python/durable`, and in the engine, with a save and a load at
//! every pause: the same outputs, the same exceptions, the same calls in the same order.

use std::{path::PathBuf, process::Command, sync::Arc};

use durable_core::{
    interpreter::{Program, children::bundle},
    model::{ExecutionStatus, Failure},
    orchestrator::{
        claim::claim,
        drive::drive,
        start::{Start, start},
    },
};
use durable_testing::{Rig, sqlite};
use serde_json::{Map, Value, json};

fn python() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../python").canonicalize().unwrap()
}

/// What `tasks.py` of the suite does.
fn answer(name: &str, args: &[Value], kwargs: &Value) -> Result<Value, Failure> {
    let text = || args[0].as_str().unwrap().to_owned();
    let named = |name: &str, place: usize| args.get(place).cloned().unwrap_or_else(|| kwargs[name].clone());
    match name.rsplit('.').next().unwrap() {
        "echo" => Ok(args[0].clone()),
        "add" => Ok(json!(args[0].as_i64().unwrap() + args[1].as_i64().unwrap())),
        "double" => Ok(json!(2 * args[0].as_i64().unwrap())),
        "fail" => Err(Failure::new("ValueError", text())),
        "missing" => Err(Failure::new("KeyError", text())),
        "words" => Ok(json!(text().split_whitespace().collect::<Vec<_>>())),
        "options" => {
            let b = if kwargs["b"].is_null() { json!(2) } else { kwargs["b"].clone() };
            Ok(json!([named("a", 0), b]))
        }
        "by_id" => {
            let id = |n: u128| json!({"$py": "uuid", "value": format!("{}", uuid::Uuid::from_u128(n))});
            Ok(json!({"$py": "dict", "items": [[id(1), 1], [id(2), 2]]}))
        }
        "total" => total(&args[0], &kwargs["first"]),
        other => panic!("tasks.py has no {other}"),
    }
}

/// What the Python host makes of `rows: list[Row], first: Row | None`.
fn total(rows: &Value, first: &Value) -> Result<Value, Failure> {
    let mut total = first["n"].as_i64().unwrap_or(0);
    for (at, row) in rows.as_array().unwrap().iter().enumerate() {
        total += row["n"].as_i64().ok_or_else(|| {
            let why = "Row.__init__() got an unexpected keyword argument 'm'";
            Failure::new("TypeError", format!("tasks.total() argument rows[{at}] cannot be made a Row: {why}"))
        })?;
    }
    Ok(json!(total))
}

#[tokio::test(flavor = "multi_thread")]
async fn workflow_files_do_the_same_under_cpython_and_here() {
    let output = Command::new("python3")
        .arg("tests/differential.py")
        .current_dir(python())
        .env("PYTHONPATH", python())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(told.len() >= 50, "{} workflows", told.len());
    let mut differences = Vec::new();
    for theirs in told {
        let name = theirs["name"].as_str().unwrap().to_owned();
        let ours = run(&name).await;
        if ours != theirs {
            differences.push(format!("{name}:\n  CPython {theirs}\n  here    {ours}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

async fn run(name: &str) -> Value {
    let source = std::fs::read_to_string(python().join(format!("tests/workflows/{name}.py"))).unwrap();
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let file = format!("{name}.py");
    let files =
        bundle(&file, &source, |path| std::fs::read_to_string(python().join("tests/workflows").join(path)).ok());
    let program = Arc::new(Program::compile(&file, &source).unwrap());
    let request = Start { files, ..Start::new(program, Map::new()) };
    let id = start(&rig.engine, request).await.unwrap().execution.id;
    drive(&rig.engine, claim(&rig.engine, &id).await.unwrap().unwrap()).await.unwrap();
    let ended = rig.run_with(&id, |work| {
        let (args, kwargs) = (work.args.parse().unwrap(), work.kwargs.parse().unwrap());
        answer(&work.function, args.as_array().unwrap(), &kwargs)
    });
    let ended = ended.await;
    let output = match ended.status {
        ExecutionStatus::Completed => ended.output.clone().map(|output| output.parse().unwrap()),
        _ => None,
    };
    // A hint is for people.
    let plain = |message: &str| message.split("\nhint: ").next().unwrap().to_owned();
    let error = ended.error.map(|failure| json!([failure.kind, plain(&failure.message)]));
    let mut calls = Vec::new();
    for call in rig.calls(&id).await {
        let kind = call.kind.as_str();
        if kind != "timer" {
            let function = if kind == "callback" { "callback".into() } else { call.function.clone() };
            calls.push(json!([kind, function, rig.arguments(&id, call.id).await]));
        }
    }
    json!({"name": name, "output": output, "error": error, "calls": calls})
}
