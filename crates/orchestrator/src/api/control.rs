//! What people ask of executions that run, or have failed: signals, cancellation, pauses, another try, a fork; and the
//! named workflows that they start.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use durable_core::{
    allow::Allow,
    id::{CallId, ExecutionId},
    model::{Files, Json as JsonText},
    orchestrator::{
        cancel::{Cancelled, cancel as cancel_execution},
        claim::Claimed,
        drive, hold, mend, revive,
        signal::{Sent, Signalling, signal as send_signal},
        start,
    },
    store::{signals, snapshots, workflows},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Api,
    answer::ApiError,
    body::{Body, Wish, checked},
    executions::{self, Code, Workflow},
    guard::check_name,
    views::{PartQuery, exists},
};

/// Whoever has won a claim advances; the client does not wait for it.
pub(super) fn go_on(api: &Api, claimed: Option<Claimed>) {
    if let Some(claimed) = claimed {
        drive::begin(&api.engine, claimed);
    }
}

fn id(text: &str) -> Result<ExecutionId, ApiError> {
    text.parse().map_err(ApiError::bad)
}

#[derive(Deserialize)]
pub(crate) struct CancelQuery {
    #[serde(default)]
    force: bool,
}

/// `POST /executions/{id}/cancel`: its workflow sees it at its awaits and may clean up; with `?force=true` it ends now.
pub(crate) async fn cancel(
    State(api): State<Api>,
    Path(execution): Path<String>,
    query: Result<Query<CancelQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let answer = match cancel_execution(&api.engine, &id(&execution)?, query?.0.force).await? {
        Cancelled::Told(claimed) => {
            go_on(&api, claimed);
            "cancelling"
        }
        Cancelled::Asked => "cancelling",
        Cancelled::Ended(parent) => {
            go_on(&api, parent);
            "cancelled"
        }
        Cancelled::TooLate(status) => {
            return Err(ApiError::conflict(format!("execution {execution} is {status} already")));
        }
    };
    Ok(Json(json!({"status": answer})))
}

/// `POST /executions/{id}/pause`: it does not go on until it is resumed.
pub(crate) async fn pause(State(api): State<Api>, Path(execution): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!(hold::hold(&api.engine, &id(&execution)?).await?)))
}

/// `POST /executions/{id}/resume`.
pub(crate) async fn resume(State(api): State<Api>, Path(execution): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!(hold::release(&api.engine, &id(&execution)?).await?)))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryRequest {
    /// Other code: a text with its file name, or the name of a deployed workflow.
    workflow: Option<Workflow>,
    /// Nothing is changed; the answer says what would be.
    #[serde(default)]
    dry_run: bool,
}

/// `POST /executions/{id}/retry`: a failed or cancelled one goes on; what failed is run again. With other code, one that has
/// not ended goes on with that.
pub(crate) async fn retry(
    State(api): State<Api>,
    Path(execution): Path<String>,
    Wish(request): Wish<RetryRequest>,
) -> Result<Json<Value>, ApiError> {
    let id = id(&execution)?;
    match request.workflow {
        Some(workflow) => {
            let code = new_code(&api, workflow).await?;
            Ok(Json(json!(mend::mend(&api.engine, &id, code, request.dry_run).await?)))
        }
        None if request.dry_run => Err(ApiError::bad("dry_run: without a workflow there is nothing to be tried out")),
        None => {
            let again = revive::retry(&api.engine, &id).await?;
            Ok(Json(json!({"status": "retrying", "calls": again})))
        }
    }
}

async fn new_code(api: &Api, workflow: Workflow) -> Result<mend::NewCode, ApiError> {
    let (program, files) = executions::compile(executions::find_workflow(api, workflow).await?).await?;
    Ok(mend::NewCode { program, files, launch: None })
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForkRequest {
    id: Option<ExecutionId>,
    at: Option<i64>,
    #[serde(default)]
    set: Map<String, Value>,
    /// Other code that the fork begins with.
    workflow: Option<Workflow>,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /executions/{id}/fork`: another execution begins from one of its states.
pub(crate) async fn fork(
    State(api): State<Api>,
    Path(execution): Path<String>,
    Wish(request): Wish<ForkRequest>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let set = request.set.iter().map(|(call, value)| {
        let call = call.parse().map_err(|_| ApiError::bad(format!("set: {call:?} is no call's number")))?;
        Ok((CallId(call), JsonText::from(value)))
    });
    let forking = revive::Forking {
        from: id(&execution)?,
        id: request.id,
        at: request.at,
        set: set.collect::<Result<_, ApiError>>()?,
        runner: None,
        with: match request.workflow {
            Some(workflow) => Some(new_code(&api, workflow).await?),
            None => None,
        },
    };
    if request.dry_run {
        return Ok((StatusCode::OK, Json(json!(mend::rehearse_fork(&api.engine, &forking).await?))));
    }
    let new = revive::fork(&api.engine, forking).await?;
    Ok((StatusCode::CREATED, Json(json!(start::find(&api.engine, &new).await?))))
}

#[derive(Deserialize)]
pub(crate) struct SignalQuery {
    key: Option<String>,
}

/// `POST /executions/{id}/signals/{name}`: the body is what is sent. With `?key=…` a repeated request is one signal.
pub(crate) async fn signal(
    State(api): State<Api>,
    Path((execution, name)): Path<(String, String)>,
    query: Result<Query<SignalQuery>, QueryRejection>,
    Body(payload): Body<Value>,
) -> Result<Json<Value>, ApiError> {
    check_name("a signal's name", &name)?;
    let (execution, key) = (id(&execution)?, query?.0.key);
    if let Some(key) = &key {
        check_name("a signal's key", key)?;
    }
    let signalling = Signalling { execution, name, payload: checked(payload).await?, key };
    Ok(Json(json!({"status": match send_signal(&api.engine, signalling).await? {
        Sent::Taken(claimed) => {
            go_on(&api, claimed);
            "delivered"
        }
        Sent::Kept => "kept",
        Sent::Repeated => "repeated",
    }})))
}

/// `GET /executions/{id}/signals?after=&limit=`: what was sent to it, without the first `after`.
pub(crate) async fn list_signals(
    State(api): State<Api>,
    Path(execution): Path<String>,
    query: Result<Query<PartQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let (id, (after, limit)) = (id(&execution)?, query?.0.bounds(0)?);
    exists(&api, &id).await?;
    Ok(Json(json!(api.engine.db.read(move |conn| signals::list(conn, &id, after, limit)).await?)))
}

/// `GET /executions/{id}/snapshots?after=&limit=`: the states that are kept, by pause.
pub(crate) async fn list_snapshots(
    State(api): State<Api>,
    Path(execution): Path<String>,
    query: Result<Query<PartQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let (id, (after, limit)) = (id(&execution)?, query?.0.bounds(-1)?);
    exists(&api, &id).await?;
    let kept = api.engine.db.read(move |conn| snapshots::page(conn, &id, after, limit)).await?;
    let shown = kept.into_iter().map(|(pause, bytes, at)| json!({"pause": pause, "bytes": bytes, "created_at": at}));
    Ok(Json(shown.collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeployRequest {
    name: String,
    file: String,
    source: String,
    /// The files beside it that its children run.
    #[serde(default)]
    files: Files,
    /// What its executions may do.
    allow: Option<Allow>,
}

/// `POST /workflows`: makes a workflow the newest version of that name.
pub(crate) async fn deploy(
    State(api): State<Api>,
    Body(request): Body<DeployRequest>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let DeployRequest { name, file, source, files, allow } = request;
    check_name("a workflow's name", &name)?;
    allow.as_ref().map_or(Ok(()), Allow::check).map_err(ApiError::unprocessable)?;
    let (program, files) = executions::compile(Code { name: file, source, files, allow: None }).await?;
    let now = api.engine.now();
    let deploy = move |conn: &mut _| workflows::deploy_allowing(conn, &name, (&program, &files), allow.as_ref(), now);
    let deployed = api.engine.db.write(deploy).await?;
    let status = if deployed.created_at == now { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!(deployed))))
}

/// `GET /workflows?after=&limit=`: all versions of all names, without the first `after`.
pub(crate) async fn list_workflows(
    State(api): State<Api>,
    query: Result<Query<PartQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let (after, limit) = query?.0.bounds(0)?;
    Ok(Json(json!(api.engine.db.read(move |conn| workflows::list(conn, after, limit)).await?)))
}
