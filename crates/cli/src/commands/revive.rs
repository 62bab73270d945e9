//! `durable retry` and `durable fork`: what failed goes on, or another begins from one of its pauses; either with other code.

use std::{path::Path, process::ExitCode};

use durable_core::{
    id::{CallId, ExecutionId},
    interpreter::{Program, value},
    model::{Awaited, Json, Mended, Mending},
    orchestrator::{Engine, mend, revive, start},
    store::executions,
};
use durable_process::{Owner, look_up};
use serde_json::{Map, Value, json};

use crate::{
    args::{self, Asked, With},
    client::Client,
    commands::{
        control::{engine_of, say},
        run,
    },
    failure::wrong,
    output::{line, note},
    sources::{self, Launch, Workflow},
};

/// How many of the calls that new code waits for are listed.
const LISTED: usize = 20;

/// `durable retry`: where this machine ran the execution, it goes on here.
pub(crate) async fn retry(args: args::Retry) -> anyhow::Result<ExitCode> {
    let (args, with) = (args.asked, args.with);
    let id = args.id.clone();
    let workflow = read(&with)?;
    if let Some(server) = args.target.server() {
        let client = Client::new(&server)?;
        let path = format!("/executions/{id}/retry");
        let Some((workflow, _)) = &workflow else {
            let answer = client.post(&path, &Value::Null).await?;
            let text = format!("execution {id} goes on; {} calls are run again", answer["calls"]);
            return Ok(say(args.json, &answer, &text));
        };
        let request = json!({"workflow": workflow.request(), "dry_run": with.dry_run});
        return Ok(tell(&client.read(client.post(&path, &request).await?)?, &workflow.program, args.json));
    }
    let engine = engine_of(&args.target).await?;
    let Some((workflow, file)) = workflow else {
        let calls = revive::retry(&engine, &id).await?;
        note(format_args!("{calls} calls of execution {id} are run again"));
        return go_on(&engine, id, args).await;
    };
    let code = new_code(&engine, &id, (&workflow, file)).await?;
    let mended = mend::mend(&engine, &id, code, with.dry_run).await?;
    if with.dry_run || mended.held {
        return Ok(tell(&mended, &workflow.program, args.json));
    }
    note(words(&mended, &workflow.program.name));
    go_on(&engine, id, args).await
}

/// `durable fork`: likewise.
pub(crate) async fn fork(args: args::Fork) -> anyhow::Result<ExitCode> {
    let (from, target) = (args.asked.id.clone(), &args.asked.target);
    let set = outcomes(&args.set, &from)?;
    let workflow = read(&args.with)?;
    if let Some(server) = target.server() {
        let client = Client::new(&server)?;
        let mut request = json!({"id": args.new_id, "at": args.at, "set": set, "dry_run": args.with.dry_run});
        if let Some((workflow, _)) = &workflow {
            request["workflow"] = workflow.request();
        }
        let answer = client.post(&format!("/executions/{from}/fork"), &request).await?;
        if let Some((workflow, _)) = workflow.filter(|_| args.with.dry_run) {
            return Ok(tell(&client.read(answer)?, &workflow.program, args.asked.json));
        }
        if args.asked.json {
            line(&answer);
        } else {
            line(answer["id"].as_str().unwrap_or_default());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let engine = engine_of(target).await?;
    let execution = start::find(&engine, &from).await?;
    let set = set.iter().map(|(call, value)| (CallId(call.parse().unwrap_or(0)), Json::from(value))).collect();
    let with = match &workflow {
        Some((workflow, file)) => Some(new_code(&engine, &from, (workflow, *file)).await?),
        None => None,
    };
    let forking = revive::Forking { from, id: args.new_id, at: args.at, set, runner: execution.runner, with };
    if let Some((workflow, _)) = workflow.filter(|_| args.with.dry_run) {
        return Ok(tell(&mend::rehearse_fork(&engine, &forking).await?, &workflow.program, args.asked.json));
    }
    let id = revive::fork(&engine, forking).await?;
    if !args.no_wait {
        return go_on(&engine, id.clone(), Asked { id, ..args.asked }).await;
    }
    let fork = start::find(&engine, &id).await?;
    if args.asked.json {
        line(json!(fork));
    } else {
        line(&id);
    }
    if fork.runner.as_ref().is_some_and(|runner| look_up(runner) == Owner::Dead) {
        note(format_args!("hint: nobody runs execution {id} yet; durable resume {id} does"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Outcomes that a fork shall find, as CALL=JSON.
fn outcomes(set: &[String], from: &ExecutionId) -> anyhow::Result<Map<String, Value>> {
    let mut outcomes = Map::new();
    for text in set {
        let (call, outcome) =
            text.split_once('=').ok_or_else(|| wrong(format!("--set {text}: write it as CALL=JSON")))?;
        call.parse::<u32>()
            .map_err(|_| wrong(format!("--set {text}: {call:?} is no call's number (durable calls {from})")))?;
        let outcome = sources::json(outcome, &format!("--set {call}: "), &format!("--set {call}="))?;
        value::from_json(&outcome).map_err(|refusal| wrong(format!("--set {call}: {refusal}")))?;
        outcomes.insert(call.to_owned(), outcome);
    }
    Ok(outcomes)
}

/// The file that `--with` names, checked like any submission.
fn read(with: &With) -> anyhow::Result<Option<(Workflow, &Path)>> {
    let Some(file) = with.file.as_deref() else { return Ok(None) };
    Ok(Some((sources::program(file)?, file)))
}

/// New code with the functions that it imports, for an execution that this machine runs.
async fn new_code(
    engine: &Engine,
    id: &ExecutionId,
    (workflow, file): (&Workflow, &Path),
) -> anyhow::Result<mend::NewCode> {
    let key = id.clone();
    start::find(engine, id).await?;
    let launch = match engine.db.read(move |conn| executions::launch(conn, &key)).await? {
        None => None,
        Some(launch) => {
            let mut launch: Launch = serde_json::from_str(&launch.0)?;
            launch.with_code(file, workflow)?;
            Some(Json::from(&serde_json::to_value(&launch)?))
        }
    };
    Ok(mend::NewCode { program: workflow.program.clone(), files: workflow.files.clone(), launch })
}

/// Says what other code has come to, or would.
fn tell(mended: &Mended, program: &Program, as_json: bool) -> ExitCode {
    match (as_json, mended.dry_run) {
        (true, _) => line(json!(mended)),
        (false, true) => line(words(mended, &program.name)),
        (false, false) => note(words(mended, &program.name)),
    }
    ExitCode::SUCCESS
}

fn words(mended: &Mended, file: &str) -> String {
    let Mended { id, calls, outcomes, pause, version, .. } = mended;
    let (does, would) = if mended.dry_run { ("would ", "nothing was changed: ") } else { ("", "") };
    let s = if mended.dry_run { "" } else { "s" };
    let what = match mended.status {
        Mending::Unchanged => return format!("execution {id} has this code already"),
        Mending::Retrying => format!("execution {id} {does}go{}", if mended.dry_run { "" } else { "es" }) + " on",
        Mending::Mended => format!("execution {id} {does}wait{s}"),
        Mending::Forked => format!("a fork of execution {id} {does}begin{s}"),
    };
    let code =
        if mended.status == Mending::Forked { String::new() } else { format!(" as version {version} of its code") };
    let mut text = format!("{would}{what} with {file}{code}");
    text += &match (outcomes, pause) {
        (_, 0) => ", from its first line".to_owned(),
        (1, _) => format!(", led through 1 recorded outcome to pause {pause}"),
        (many, _) => format!(", led through {many} recorded outcomes to pause {pause}"),
    };
    if *calls > 0 {
        text += &format!("; {calls} calls {}run again", if mended.dry_run { "would be " } else { "are " });
    }
    for Awaited { call, kind, function, line } in mended.waits.iter().take(LISTED) {
        let line = line.map_or_else(|| "there".to_owned(), |line| format!("line {line}"));
        text += &format!("\n  at {line}: {kind} {function} (call {call})");
    }
    if mended.waits.len() > LISTED {
        text += &format!("\n  and {} more calls", mended.waits.len() - LISTED);
    }
    if mended.held {
        text += &format!("\nit is paused; durable resume {id} lets it go on");
    }
    text
}

/// Runs an execution that nobody serves, as `durable resume` does.
async fn go_on(engine: &Engine, id: ExecutionId, args: Asked) -> anyhow::Result<ExitCode> {
    let execution = start::find(engine, &id).await?;
    match &execution.runner {
        Some(runner) if look_up(runner) == Owner::Dead => run::go_on(id, args.target, args.json).await,
        _ => {
            line(&id);
            Ok(ExitCode::SUCCESS)
        }
    }
}
