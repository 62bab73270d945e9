//! `durable start`, and the program `durable-start`: hands a workflow to a server.

use std::{collections::HashMap, path::Path, process::ExitCode, sync::Arc, time::Duration};

use durable_core::{
    id::{CallId, ExecutionId},
    model::{CallStatus, Failure},
};
use serde_json::{Map, Value, json};
use tokio::time::MissedTickBehavior;

use crate::{
    args,
    client::{Client, start_request},
    commands::run::print_failure,
    failure::{EXECUTION_FAILED, INTERRUPTED, wrong},
    output::{line, note},
    progress::{Progress, seconds},
    sources,
};

/// How often the calls are looked at while an execution is followed.
const LOOK: Duration = Duration::from_millis(500);

/// Starts a workflow on a server; with `--wait`, follows it to its end.
pub(crate) async fn start(args: args::Start) -> anyhow::Result<ExitCode> {
    let inputs = sources::inputs(&args.inputs, args.inputs_file.as_deref())?;
    let workflow = workflow(&args.file, &inputs)?;
    let client = Client::new(&args.server)?;
    let id = match (args.id, args.idempotency_key) {
        (Some(_), Some(_)) => return Err(wrong("give --id or --idempotency-key, not both")),
        (Some(id), None) => id,
        (None, Some(key)) if key.is_empty() => return Err(wrong("--idempotency-key is empty")),
        (None, Some(key)) => ExecutionId::from_key(&key),
        (None, None) => ExecutionId::generate(),
    };
    let mut request = start_request(&workflow, &inputs, &id, &args.queue);
    request["on_conflict"] = json!(args.on_conflict.replace('-', "_"));
    request["deadline"] = json!(args.deadline);
    if let Some(allow) = args.allow.lists()? {
        request["allow"] = json!(allow);
    }
    let (execution, created) = client.start(&request).await?;
    if !args.wait {
        if args.json {
            line(&execution);
        } else {
            line(&id);
            if !created {
                note(format_args!("execution {id} existed already; it is {}", text(&execution["status"])));
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    // To be found again by whoever loses sight of it.
    if !args.json {
        note(format_args!("{} · execution {id}", text(&workflow["name"])));
    }
    let progress = Arc::new(Progress::new(args.json));
    let ended = tokio::select! {
        ended = follow(&client, &id, &progress) => ended,
        () = durable_process::asked_to_stop() => {
            progress.close();
            note(format_args!("no longer followed; the execution {id} goes on"));
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    progress.close();
    print(&ended?, args.json)
}

/// A file's name and text, with the files that its children run; or, where there is no such file, the name of a workflow
/// that the server knows.
fn workflow(file: &Path, inputs: &Map<String, Value>) -> anyhow::Result<Value> {
    let named = file.to_str().filter(|name| !name.contains('/') && !name.ends_with(".py") && !file.exists());
    if let Some(name) = named {
        return Ok(json!({"name": name}));
    }
    let workflow = sources::program(file)?;
    workflow.program.check_inputs(inputs)?;
    Ok(workflow.request())
}

/// Shows the calls while the execution lives; answers it at its end.
async fn follow(client: &Client, id: &ExecutionId, progress: &Progress) -> anyhow::Result<Value> {
    let end = until_ended(client, id);
    tokio::pin!(end);
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            biased;
            ended = &mut end => {
                seen.show(id, &client.calls(id).await?, progress);
                return ended;
            }
            _ = ticks.tick() => seen.show(id, &client.calls(id).await?, progress),
        }
    }
}

async fn until_ended(client: &Client, id: &ExecutionId) -> anyhow::Result<Value> {
    loop {
        let execution = client.wait(id.as_str()).await?;
        if matches!(text(&execution["status"]), "completed" | "failed" | "cancelled") {
            return Ok(execution);
        }
    }
}

/// What was shown of each call already.
#[derive(Default)]
struct Seen(HashMap<u32, (Option<CallStatus>, usize, Option<String>)>);

impl Seen {
    fn show(&mut self, id: &ExecutionId, calls: &[Value], progress: &Progress) {
        for call in calls {
            let (Some(number), Ok(status)) = (call["id"].as_u64(), text(&call["status"]).parse::<CallStatus>()) else {
                continue;
            };
            let number = u32::try_from(number).unwrap_or(0);
            let (before, failures, told) = self.0.entry(number).or_insert_with(|| {
                let line = call["line"].as_u64().and_then(|line| u32::try_from(line).ok());
                let waits = matches!(text(&call["kind"]), "timer" | "signal" | "callback");
                progress.call_made(id, CallId(number), text(&call["function"]), line, waits);
                (None, 0, None)
            });
            let failed = call["failed_attempts"].as_array().map_or(&[] as &[Value], Vec::as_slice);
            if status != CallStatus::Failed {
                for attempt in failed.iter().skip(*failures) {
                    let why = format!("{}: {}", text(&attempt["error"]["type"]), text(&attempt["error"]["message"]));
                    progress.say(&format!("  retrying  {} #{number}: {why}", text(&call["function"])));
                }
            }
            *failures = failed.len();
            let reason = call["waiting"].as_str().map(String::from);
            if reason != *told {
                if let Some(reason) = &reason {
                    progress.say(&format!("  waiting   #{number}: {reason}"));
                }
                *told = reason;
            }
            if *before != Some(status) {
                match status {
                    CallStatus::Running => progress.call_began(id, CallId(number)),
                    CallStatus::Completed => progress.call_ended(id, CallId(number), None, took(call)),
                    CallStatus::Failed => {
                        let failure: Option<Failure> = serde_json::from_value(call["error"].clone()).ok();
                        let unknown = || Failure::new("RuntimeError", "unknown");
                        progress.call_ended(id, CallId(number), Some(&failure.unwrap_or_else(unknown)), took(call));
                    }
                    CallStatus::Pending | CallStatus::Cancelled => {}
                }
                *before = Some(status);
            }
        }
    }
}

/// How long a call ran, by the record.
fn took(call: &Value) -> Option<Duration> {
    let at = |name: &str| durable_core::time::parse_timestamp(text(&call[name]));
    Some(at("completed_at")?.since(at("started_at").or_else(|| at("created_at"))?))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The output alone on stdout, as one line of JSON.
fn print(execution: &Value, as_json: bool) -> anyhow::Result<ExitCode> {
    let completed = text(&execution["status"]) == "completed";
    if as_json {
        line(json!({"id": execution["id"], "status": execution["status"], "output": execution["output"],
                    "error": execution["error"]}));
    } else if completed {
        line(&execution["output"]);
        let at = |name: &str| durable_core::time::parse_timestamp(text(&execution[name]));
        if let (Some(end), Some(begin)) = (at("finished_at"), at("created_at")) {
            note(format_args!("completed in {}", seconds(end.since(begin))));
        }
    } else {
        let failure: Failure = serde_json::from_value(execution["error"].clone())?;
        print_failure(text(&execution["id"]), text(&execution["status"]), &failure);
    }
    Ok(if completed { ExitCode::SUCCESS } else { ExitCode::from(EXECUTION_FAILED) })
}
