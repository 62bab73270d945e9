//! Executions: start one.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use durable_core::{
    allow::{Allow, Allowed},
    id::ExecutionId,
    interpreter::{CompileError, Known, Program, children::is_beside},
    model::Files,
    orchestrator::{claim::claim, drive, start},
    store::{executions, files, workflows},
    time::parse_duration,
};
use durable_queue::check_queue;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::{Api, answer::ApiError, body::Body, guard::check_name};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartRequest {
    workflow: Workflow,
    #[serde(default)]
    inputs: Map<String, Value>,
    id: Option<ExecutionId>,
    idempotency_key: Option<String>,
    queue: Option<String>,
    /// How long it may take: a time such as 90s or 2h.
    deadline: Option<String>,
    #[serde(default)]
    on_conflict: OnConflict,
    /// What it may do: lists of functions, queues and children.
    allow: Option<Allow>,
}

/// What to do when an execution of that id or key is there.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum OnConflict {
    #[default]
    UseExisting,
    Fail,
    RestartIfFailed,
}

/// A text with its file name and the files beside it that its children run, or the name of a deployed workflow.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workflow {
    name: String,
    source: Option<String>,
    #[serde(default)]
    files: Files,
}

/// The longest source of a workflow, in bytes: compiling takes some hundred times as much memory.
const MAX_SOURCE: usize = 1 << 20;

/// A source that is worth waiting for others, in bytes.
const LONG_SOURCE: usize = 64 << 10;

/// Long sources are compiled one after the other.
static COMPILER: Semaphore = Semaphore::const_new(1);

/// A source that is worth compiling.
fn check_source(name: &str, source: &str) -> Result<(), ApiError> {
    if source.contains('\0') {
        let line = source.lines().position(|line| line.contains('\0')).unwrap_or_default() + 1;
        return Err(ApiError::unprocessable(format!("{name}:{line}: the source holds a NUL character")));
    }
    if source.len() > MAX_SOURCE {
        let (seen, most) = (source.len() >> 10, MAX_SOURCE >> 10);
        let message =
            format!("{name}: the source has {seen} KiB, and at most {most} KiB are taken: data belongs into inputs");
        return Err(ApiError::unprocessable(message));
    }
    Ok(())
}

/// Compiles what a client submits; mistakes that can be seen are refused.
pub(super) async fn compile(Code { name, source, files, .. }: Code) -> Result<(Arc<Program>, Files), ApiError> {
    if let Some(wrong) = files.keys().find(|file| !is_beside(file)) {
        let message =
            format!("files: {wrong:?} is no path of a file beside the workflow, such as child.py or jobs/child.py");
        return Err(ApiError::bad(message));
    }
    check_name("a workflow's file name", &name)?;
    for (name, source) in std::iter::once((&name, &source)).chain(&files) {
        check_source(name, source)?;
    }
    let size: usize = source.len() + files.values().map(String::len).sum::<usize>();
    let _turn = if size > LONG_SOURCE { COMPILER.acquire().await.ok() } else { None };
    let compile = move || {
        let known = Known { file: &|file| files.get(file).cloned(), ..Known::NOTHING };
        let program = Program::accept(&name, &source, &known)?;
        // What no literal names may be named when it runs.
        for (file, text) in &files {
            Program::accept(file, text, &known)?;
        }
        Ok::<_, CompileError>((program, files))
    };
    let compiled = tokio::task::spawn_blocking(compile).await;
    let (program, files) =
        compiled.map_err(|error| ApiError::bad(format!("the workflow cannot be compiled: {error}")))??;
    Ok((Arc::new(program), files))
}

/// A workflow's file name and text, and the files that its children run.
pub(super) struct Code {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) files: Files,
    /// What its deployment allows.
    pub(super) allow: Option<Allow>,
}

/// What a request names.
pub(super) async fn find_workflow(api: &Api, Workflow { name, source, files }: Workflow) -> Result<Code, ApiError> {
    if let Some(source) = source {
        return Ok(Code { name, source, files, allow: None });
    }
    if !files.is_empty() {
        return Err(ApiError::bad("workflow: files go with a source; a deployed workflow has its own"));
    }
    check_name("a workflow's name", &name)?;
    let key = name.clone();
    let found = api.engine.db.read(move |conn| {
        let Some(deployed) = workflows::newest(conn, &key)? else { return Ok(None) };
        let files = files::texts(conn, deployed.files.as_ref())?;
        let source = executions::source(conn, &deployed.source_hash)?;
        Ok(source.map(|source| Code { name: deployed.file, source, files, allow: deployed.allow }))
    });
    let unknown =
        || ApiError::not_found(format!("no workflow is deployed under the name {name}: durable deploy {name} FILE"));
    found.await?.ok_or_else(unknown)
}

/// `POST /executions`: 201 with the execution, or 200 with the one of that id or key.
pub(crate) async fn start(
    State(api): State<Api>,
    headers: HeaderMap,
    Body(request): Body<StartRequest>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(String::from);
    let id = match (request.id, request.idempotency_key.or(key)) {
        (Some(_), Some(_)) => return Err(ApiError::bad("give an id or an idempotency key, not both")),
        (Some(id), None) => Some(id),
        (None, key) => key.as_deref().map(ExecutionId::from_key),
    };
    let queue = request.queue.unwrap_or_else(|| "default".into());
    check_queue(&queue).map_err(ApiError::bad)?;
    let deadline = request.deadline.as_deref().map(|text| {
        parse_duration(text)
            .filter(|time| !time.is_zero())
            .ok_or_else(|| ApiError::bad(format!("deadline={text}: a time such as 90s or 2h is wanted")))
    });
    let deadline = deadline.transpose()?;
    let conflict = match request.on_conflict {
        OnConflict::UseExisting => start::Conflict::UseExisting,
        OnConflict::Fail => start::Conflict::Fail,
        OnConflict::RestartIfFailed => start::Conflict::RestartIfFailed,
    };
    let mut code = find_workflow(&api, request.workflow).await?;
    let allowed = Allowed::of(request.allow, code.allow.take()).map_err(ApiError::unprocessable)?;
    let (program, files) = compile(code).await?;
    let start = start::Start::new(program, request.inputs);
    let request = start::Start { id, files, queue, deadline, conflict, allowed, ..start };
    let started = start::start(&api.engine, request).await?;
    if started.created {
        // Should this process die before the first turn, a clock takes the execution up.
        let (engine, id) = (api.engine.clone(), started.execution.id.clone());
        tokio::spawn(async move {
            match claim(&engine, &id).await {
                Ok(Some(claimed)) => drive::begin(&engine, claimed),
                Ok(None) => {}
                Err(error) => tracing::warn!(execution.id = %id, %error, "a new execution waits for a clock"),
            }
        });
    }
    let status = if started.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!(started.execution))))
}
