//! What became of executions: `list`, `show`, `calls`, `result`, `logs`.

use std::{path::Path, process::ExitCode};

use durable_core::{
    allow::Allow,
    model::{Call, CallKind, CallStatus, ExecutionStatus, Json, Stream, Version},
    shown::{Shown, ShownCall},
    store::{DatabaseUrl, Db},
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::{
    args,
    door::Door,
    failure::{EXECUTION_FAILED, not_there},
    output::{line, note},
    progress::seconds,
};

/// Opens a database that is there: looking must not create one.
pub(crate) async fn open_existing(store: &args::Store) -> anyhow::Result<Db> {
    let url = store.url()?;
    if let DatabaseUrl::Sqlite(path) = &url
        && !Path::new(path).exists()
    {
        return Err(not_there(format!("there is no database {url}: nothing has been run with it")));
    }
    Ok(tokio::task::spawn_blocking(move || Db::open(&url)).await??)
}

/// Opens a database, or creates it.
pub(crate) async fn open(store: &args::Store) -> anyhow::Result<Db> {
    let url = store.url()?;
    Ok(tokio::task::spawn_blocking(move || Db::open(&url)).await??)
}

fn print_json(value: &Value) {
    line(format_args!("{value}"));
}

/// `durable migrate`.
pub(crate) async fn migrate(args: &args::Migrate) -> anyhow::Result<ExitCode> {
    let url = args.store.url()?;
    let db = tokio::task::spawn_blocking(move || Db::open(&url)).await??;
    note(format_args!("{} is up to date", db.url()));
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn list(args: args::List) -> anyhow::Result<ExitCode> {
    let door = Door::open(&args.target).await?;
    let executions = door.list(args.status, args.limit).await?;
    if args.json {
        print_json(&serde_json::to_value(&executions)?);
    } else if executions.is_empty() {
        note(format_args!("no executions in {}", door.name()));
    } else {
        line(format_args!("{:36}  {:10}  {:24}  {:20}  {:>8}", "ID", "STATUS", "WORKFLOW", "CREATED", "TOOK"));
        for execution in &executions {
            line(format_args!(
                "{:36}  {:10}  {:24}  {:20}  {:>8}",
                execution.id.as_str(),
                execution.status,
                execution.workflow,
                second(execution.created_at),
                execution.finished_at.map_or_else(String::new, |end| seconds(end.since(execution.created_at))),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An instant to the second, in UTC.
pub(crate) fn second(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{}Z", text.split('.').next().unwrap_or_default())
}

pub(crate) async fn show(args: args::Show) -> anyhow::Result<ExitCode> {
    let args::Show { one: args, code } = args;
    let door = Door::open(&args.target).await?;
    if let Some(number) = code {
        let code = door.code(&args.id, Some(number).filter(|number| *number != 0)).await?;
        if args.json {
            print_json(&serde_json::to_value(&code)?);
        } else {
            line(code.source.trim_end_matches('\n'));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let shown = door.shown(&args.id).await?;
    let calls: Vec<Call> = door.calls(&args.id).await?.into_iter().map(|shown| shown.call).collect();
    if args.json {
        let mut shown = serde_json::to_value(&shown)?;
        shown["calls"] = serde_json::to_value(&calls)?;
        print_json(&shown);
        return Ok(ExitCode::SUCCESS);
    }
    print_shown(&shown);
    if !calls.is_empty() {
        line("calls");
        calls.iter().for_each(|call| line(call_line(call)));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_allowed(Allow { functions, queues, children }: &Allow) {
    for (what, list) in [("functions", functions), ("queues", queues), ("children", children)] {
        if let Some(list) = list {
            let listed = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
            line(format_args!("may use    {what}: {listed}"));
        }
    }
}

fn print_shown(Shown { execution, versions, waiting, untaken_signals, allow }: &Shown) {
    line(format_args!("execution  {}", execution.id));
    line(format_args!("workflow   {}", execution.workflow));
    for version in versions.iter().filter(|_| versions.len() > 1) {
        let until = version.until.map_or_else(String::new, |until| format!(", until {}", second(until)));
        let Version { number, workflow, source_hash, since, .. } = version;
        let hash: String = source_hash.chars().take(12).collect();
        line(format_args!("code       version {number}: {workflow} {hash}, since {}{until}", second(*since)));
    }
    line(format_args!("status     {}", execution.status));
    line(format_args!("created    {}", second(execution.created_at)));
    if let Some(end) = execution.finished_at {
        line(format_args!("finished   {} (after {})", second(end), seconds(end.since(execution.created_at))));
    }
    line(format_args!("pauses     {}", execution.suspension));
    allow.iter().for_each(print_allowed);
    for (name, count) in untaken_signals {
        let times = if *count == 1 { String::new() } else { format!(", {count} times") };
        let waits = if execution.status.is_final() { "never taken" } else { "not taken yet" };
        line(format_args!("signal     {name}: {waits}{times}"));
    }
    if let Some(parent) = &execution.parent {
        line(format_args!("parent     {} (call {})", parent.execution_id, parent.call_id));
    }
    if let Some(deadline) = execution.deadline_at {
        line(format_args!("deadline   {}", second(deadline)));
    }
    if let Some(asked) = execution.cancel_requested_at {
        line(format_args!("cancelled  asked for at {}", second(asked)));
    }
    if let Some(progress) = &execution.progress {
        line(format_args!("says       {progress}"));
    }
    if let Some(output) = &execution.output {
        line(format_args!("output     {output}"));
    }
    if let Some(failure) = &execution.error {
        line(format_args!("error      {failure}"));
        if let Some(traceback) = &failure.traceback {
            line(indent(traceback));
        }
    }
    for reason in waiting {
        line(format_args!("waiting    {reason}"));
    }
}

fn indent(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

fn call_line(call: &Call) -> String {
    let mark = match call.status {
        CallStatus::Pending => "·",
        CallStatus::Running => "▸",
        CallStatus::Completed => "✓",
        CallStatus::Failed => "✗",
        CallStatus::Cancelled => "∅",
    };
    let place = call.line.map_or_else(String::new, |line| format!("line {line}"));
    let took = call
        .completed_at
        .map_or_else(String::new, |end| seconds(end.since(call.started_at.unwrap_or(call.created_at))));
    let again = if call.attempt > 1 { format!("  attempt {}", call.attempt) } else { String::new() };
    let due = match (call.status, call.kind, call.due_at) {
        (CallStatus::Pending, CallKind::Timer | CallKind::Signal | CallKind::Callback, Some(at)) => {
            format!("  until {}", second(at))
        }
        (CallStatus::Pending, CallKind::Function, Some(at)) if call.attempt > 1 => format!("  by {}", second(at)),
        _ => String::new(),
    };
    let name = match call.kind {
        CallKind::Signal => format!("signal {}", call.function),
        CallKind::Child => format!("child {}", call.function),
        CallKind::Send => format!("send signal {}", call.function),
        CallKind::Function | CallKind::Timer | CallKind::Callback | CallKind::Drain => call.function.clone(),
    };
    let says = call.progress.as_ref().filter(|_| !call.status.is_settled()).and_then(progress_text).unwrap_or_default();
    format!("  {mark} #{:<5} {:9}  {name:32} {place:9} {took:>8}{again}{due}{says}", call.id, call.status)
}

/// How far a function says it has come: `  40 %: third file`.
fn progress_text(progress: &Json) -> Option<String> {
    let said = progress.parse().ok()?;
    let percent = said["fraction"].as_f64().map(|fraction| format!("  {:.0} %", fraction * 100.0));
    let message = said["message"].as_str().map(|message| format!(": {message}"));
    Some(format!("{}{}", percent.unwrap_or_default(), message.unwrap_or_default()))
}

pub(crate) async fn calls(args: args::One) -> anyhow::Result<ExitCode> {
    let calls = Door::open(&args.target).await?.calls(&args.id).await?;
    if args.json {
        print_json(&serde_json::to_value(&calls)?);
        return Ok(ExitCode::SUCCESS);
    }
    for ShownCall { call, args, kwargs, failed_attempts, waiting } in &calls {
        line(call_line(call));
        if call.function.contains('.') || call.started_at.is_some() {
            line(format_args!("      args    {} {}", short(&args.0), short(&kwargs.0)));
        }
        if let Some(reason) = waiting {
            line(format_args!("      waiting {reason}"));
        }
        if let Some(result) = &call.result {
            line(format_args!("      result  {}", short(&result.0)));
        }
        for attempt in failed_attempts {
            line(format_args!(
                "      attempt {} failed at {}: {}",
                attempt.number,
                second(attempt.finished_at),
                attempt.error
            ));
        }
        if let Some(traceback) = call.error.as_ref().and_then(|failure| failure.traceback.as_ref()) {
            line(indent(traceback));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A value in one line of at most a hundred characters.
fn short(text: &str) -> String {
    if text.chars().count() <= 100 {
        return text.to_owned();
    }
    let start: String = text.chars().take(99).collect();
    format!("{start}…")
}

pub(crate) async fn result(args: args::One) -> anyhow::Result<ExitCode> {
    let Shown { execution, .. } = Door::open(&args.target).await?.shown(&args.id).await?;
    if args.json {
        let shown = json!({"id": execution.id, "status": execution.status, "output": execution.output,
                           "error": execution.error});
        print_json(&shown);
    }
    match (execution.status, execution.output, execution.error) {
        (ExecutionStatus::Completed, Some(output), _) => {
            if !args.json {
                line(format_args!("{output}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        (ExecutionStatus::Failed | ExecutionStatus::Cancelled, _, Some(failure)) => {
            if !args.json {
                note(failure.traceback.as_deref().unwrap_or(&failure.to_string()).trim_end());
            }
            Ok(ExitCode::from(EXECUTION_FAILED))
        }
        (status, ..) => {
            // One that workers serve goes on by itself.
            let mine = execution.runner.is_some();
            let hint = if mine { format!("\nhint: go on with durable resume {}", args.id) } else { String::new() };
            Err(not_there(format!("execution {} has not ended: it is {status}{hint}", args.id)))
        }
    }
}

pub(crate) async fn logs(args: args::One) -> anyhow::Result<ExitCode> {
    let lines = Door::open(&args.target).await?.logs(&args.id).await?;
    if args.json {
        print_json(&serde_json::to_value(&lines)?);
        return Ok(ExitCode::SUCCESS);
    }
    for entry in &lines {
        let who = entry.call_id.map_or_else(|| "workflow".to_owned(), |id| format!("#{id}"));
        let stream = if entry.stream == Stream::Stderr { " (stderr)" } else { "" };
        for text in entry.text.lines() {
            line(format_args!("{}  {who}{stream}  {text}", second(entry.at)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
