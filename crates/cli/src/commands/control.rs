//! What people ask of executions: `signal`, `cancel`, `pause`, `resume`; and `deploy`, `workflows`. Of a
//! server, or by leaving word in the database: then a clock, in whatever process runs the execution, finds it within a
//! second.

use std::{process::ExitCode, sync::Arc, time::Duration};

use durable_core::{
    id::ExecutionId,
    interpreter::value,
    model::{Deployed, Failure, Json, Outcome},
    offers::Offers,
    orchestrator::{
        Engine,
        cancel::{Cancelled, cancel as cancel_execution},
        hold,
        settle::{Attempted, Retry, Settled, settle},
        signal::{Sent, Signalling, signal as send_signal},
        start,
    },
    store::{Db, callbacks, workflows as deployed},
    time::{Clock, SystemClock},
};
use durable_process::{Owner, look_up, this_process};
use durable_queue::MemoryQueue;
use serde_json::{Value, json};

use crate::{
    args::{self, Asked, Server, Target},
    client::Client,
    commands::view::{open, open_existing, second},
    failure::{not_there, wrong},
    output::{line, note},
    sources,
};

/// An engine that leaves word and advances nothing: it has no queue that anybody serves.
fn engine(db: Db) -> Engine {
    let queue = Arc::new(MemoryQueue::new(Duration::from_secs(60), 1));
    let mut engine = Engine::new(db, queue, this_process(), Offers::anything());
    engine.advances = false;
    engine
}

pub(super) async fn engine_of(target: &Target) -> anyhow::Result<Engine> {
    Ok(engine(open_existing(&target.store).await?))
}

/// Tells whoever leaves word that nobody will find it, where that is so: the process that ran the execution is dead.
async fn warn_if_nobody_runs(engine: &Engine, id: &ExecutionId) -> anyhow::Result<()> {
    let execution = start::find(engine, id).await?;
    let dead = execution.runner.as_ref().is_some_and(|runner| matches!(look_up(runner), Owner::Dead));
    if dead && !execution.status.is_final() {
        note(format_args!("hint: nobody runs execution {id} now; durable resume {id} goes on with it"));
    }
    Ok(())
}

/// Says what was done: as JSON on stdout, or to people.
pub(super) fn say(as_json: bool, answer: &Value, text: &str) -> ExitCode {
    if as_json {
        line(answer);
    } else {
        note(text);
    }
    ExitCode::SUCCESS
}

fn status(answer: &Value) -> &str {
    answer["status"].as_str().unwrap_or_default()
}

/// `durable signal`.
pub(crate) async fn signal(args: args::Signal) -> anyhow::Result<ExitCode> {
    let payload = json_value(&args.payload)?;
    let (id, name) = (&args.id, &args.name);
    let answer = match args.target.server() {
        Some(server) => {
            let key = args.key.as_ref().map_or_else(String::new, |key| format!("?key={}", escaped(key)));
            let path = format!("/executions/{id}/signals/{}{key}", escaped(name));
            Client::new(&server)?.post(&path, &payload).await?
        }
        None => {
            let engine = engine_of(&args.target).await?;
            let payload = Json::from(&payload);
            let signalling = Signalling { execution: id.clone(), name: name.clone(), payload, key: args.key };
            let sent = send_signal(&engine, signalling).await?;
            warn_if_nobody_runs(&engine, id).await?;
            json!({"status": match sent {
                Sent::Taken(_) => "delivered",
                Sent::Kept => "kept",
                Sent::Repeated => "repeated",
            }})
        }
    };
    let text = match status(&answer) {
        "delivered" => format!("signal {name} is delivered to {id}"),
        "kept" => format!("signal {name} is kept until {id} waits for it"),
        _ => format!("signal {name} had been sent to {id} before, with this key"),
    };
    Ok(say(args.json, &answer, &text))
}

/// A text as part of a URL's path or query.
fn escaped(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `durable complete`.
pub(crate) async fn complete(args: args::Complete) -> anyhow::Result<ExitCode> {
    let result = json_value(&args.result)?;
    let answer = match args.target.server() {
        Some(server) => {
            let (way, body) = match &args.error {
                None => ("complete", json!({"result": result})),
                Some(error) => ("fail", json!({"message": error})),
            };
            Client::new(&server)?.post(&format!("/callbacks/{}/{way}", escaped(&args.token)), &body).await?
        }
        None => {
            let (engine, token) = (engine_of(&args.target).await?, args.token.clone());
            let of = engine.db.read(move |conn| callbacks::find(conn, &token)).await?;
            let of = of.ok_or_else(|| not_there("there is no such callback"))?;
            let outcome = match args.error {
                None => Outcome::Completed(Json::from(&result)),
                Some(error) => Outcome::Failed(Failure::new("RuntimeError", error)),
            };
            let attempted =
                Attempted { of, outcome, retry: Retry::No, started_at: None, worker: None, log: Vec::new() };
            match settle(&engine, attempted).await? {
                Settled::Ignored => return Err(wrong("the callback has its outcome already; the first one stands")),
                Settled::Recorded(_) | Settled::Retrying => json!({"status": "recorded"}),
            }
        }
    };
    Ok(say(args.json, &answer, "the callback is completed"))
}

/// A value that a workflow can be given.
fn json_value(text: &str) -> anyhow::Result<Value> {
    let payload = sources::json(text, "", "")?;
    value::from_json(&payload).map_err(|refusal| wrong(refusal.to_string()))?;
    Ok(payload)
}

/// `durable cancel`.
pub(crate) async fn cancel(args: args::Cancel) -> anyhow::Result<ExitCode> {
    let Asked { id, target, json: as_json } = args.asked;
    let answer = match target.server() {
        Some(server) => {
            let force = if args.force { "?force=true" } else { "" };
            Client::new(&server)?.post(&format!("/executions/{id}/cancel{force}"), &Value::Null).await?
        }
        None => {
            let engine = engine_of(&target).await?;
            let cancelled = cancel_execution(&engine, &id, args.force).await?;
            warn_if_nobody_runs(&engine, &id).await?;
            match cancelled {
                Cancelled::Told(_) | Cancelled::Asked => json!({"status": "cancelling"}),
                Cancelled::Ended(_) => json!({"status": "cancelled"}),
                Cancelled::TooLate(status) => return Err(wrong(format!("execution {id} is {status} already"))),
            }
        }
    };
    let text = match status(&answer) {
        "cancelled" => format!("execution {id} is cancelled"),
        _ => format!("execution {id} is asked to end; durable cancel --force ends it whatever it does"),
    };
    Ok(say(as_json, &answer, &text))
}

/// `durable pause`.
pub(crate) async fn pause(args: Asked) -> anyhow::Result<ExitCode> {
    let id = &args.id;
    let answer = match args.target.server() {
        Some(server) => Client::new(&server)?.post(&format!("/executions/{id}/pause"), &Value::Null).await?,
        None => json!(hold::hold(&engine_of(&args.target).await?, id).await?),
    };
    let text = match status(&answer) {
        "paused" => format!("execution {id} is paused; durable resume {id} lets it go on"),
        _ => format!("execution {id} is paused as soon as it waits"),
    };
    Ok(say(args.json, &answer, &text))
}

/// `durable resume --server`.
pub(crate) async fn resume(server: &Server, id: &ExecutionId, as_json: bool) -> anyhow::Result<ExitCode> {
    let answer = Client::new(server)?.post(&format!("/executions/{id}/resume"), &Value::Null).await?;
    Ok(say(as_json, &answer, &format!("execution {id} goes on")))
}

/// Lets a paused execution go on. True when somebody else runs it, so that there is nothing left to do here.
pub(crate) async fn release(db: &Db, id: &ExecutionId) -> anyhow::Result<bool> {
    let engine = engine(db.clone());
    let execution = start::find(&engine, id).await?;
    if !execution.held || execution.status.is_final() {
        return Ok(false);
    }
    hold::release(&engine, id).await?;
    Ok(match &execution.runner {
        None => true,
        Some(runner) => look_up(runner) != Owner::Dead,
    })
}

fn print_deployed(answer: &Value, as_json: bool) -> ExitCode {
    let text = format!("{} is version {} of {}", answer["file"], answer["version"], answer["name"]).replace('"', "");
    say(as_json, answer, &text)
}

/// `durable deploy`.
pub(crate) async fn deploy(args: args::Deploy) -> anyhow::Result<ExitCode> {
    let (workflow, allow) = (sources::program(&args.file)?, args.allow.lists()?);
    if args.name.is_empty() || args.name.contains('/') || args.name.ends_with(".py") {
        return Err(wrong(format!("{:?}: a workflow's name has no slash and does not end in .py", args.name)));
    }
    let answer = match args.target.server() {
        Some(server) => {
            let mut request = workflow.request();
            request["file"] = request["name"].take();
            request["name"] = json!(args.name);
            if let Some(allow) = allow {
                request["allow"] = json!(allow);
            }
            Client::new(&server)?.post("/workflows", &request).await?
        }
        None => {
            let (db, name, now) = (open(&args.target.store).await?, args.name.clone(), SystemClock.now());
            let code = move |conn: &mut _| {
                let code = (&*workflow.program, &workflow.files);
                deployed::deploy_allowing(conn, &name, code, allow.as_ref(), now)
            };
            json!(db.write(code).await?)
        }
    };
    Ok(print_deployed(&answer, args.json))
}

/// `durable workflows`.
pub(crate) async fn workflows(args: args::Workflows) -> anyhow::Result<ExitCode> {
    if let Some(server) = args.target.server() {
        let answer = Client::new(&server)?.get("/workflows").await?;
        for one in answer.as_array().into_iter().flatten().filter(|_| !args.json) {
            line(format_args!("{:24}  {:>7}  {}", text(&one["name"]), one["version"], text(&one["file"])));
        }
        if args.json {
            line(&answer);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let all: Vec<Deployed> =
        open_existing(&args.target.store).await?.read(|conn| deployed::list(conn, 0, i64::MAX)).await?;
    if args.json {
        line(json!(all));
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        note("no workflows are deployed: durable deploy NAME FILE");
        return Ok(ExitCode::SUCCESS);
    }
    line(format_args!("{:24}  {:>7}  {:24}  {:20}", "NAME", "VERSION", "FILE", "DEPLOYED"));
    for one in all {
        line(format_args!("{:24}  {:>7}  {:24}  {:20}", one.name, one.version, one.file, second(one.created_at)));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
