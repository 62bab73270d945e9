//! What executions are and became: a list of them, one with what it waits for in vain, its calls, its log, its code.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use durable_core::{
    id::{CallId, ExecutionId},
    model::{Call, CallKind, CallStatus, Execution, ExecutionStatus, LogLine, Worker},
    offers::Offers,
    orchestrator::{OrchestrationError, start},
    shown::{Code, Page, Shown, ShownCall},
    store::{calls, executions, logs, signals, versions, workers},
    time::parse_duration,
};
use durable_queue::Bell;
use serde::Deserialize;
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use super::{Api, answer::ApiError};

/// The longest that a request waits for an execution's end.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often the end is looked for in the database, should its bell be lost.
const LOOK: Duration = Duration::from_secs(1);

/// How much of a list is answered, unless less is asked for.
const PAGE: i64 = 1000;

fn id(text: &str) -> Result<ExecutionId, ApiError> {
    text.parse().map_err(ApiError::bad)
}

fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked {
        None => Ok(PAGE),
        Some(limit) if limit >= 1 => Ok(limit.min(PAGE)),
        Some(limit) => Err(ApiError::bad(format!("limit={limit}: a number from 1 to {PAGE} is wanted"))),
    }
}

/// Which part of a list is wanted: at most `limit`, and what comes after `after`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartQuery {
    after: Option<i64>,
    limit: Option<i64>,
}

impl PartQuery {
    /// Where the part begins, and how long it is.
    pub(super) fn bounds(&self, first: i64) -> Result<(i64, i64), ApiError> {
        let after = self.after.unwrap_or(first);
        if after < first {
            return Err(ApiError::bad(format!("after={after}: a number from {first} is wanted")));
        }
        Ok((after, limit(self.limit)?))
    }
}

/// That there is such an execution, without reading what it holds.
pub(super) async fn exists(api: &Api, id: &ExecutionId) -> Result<Execution, ApiError> {
    let key = id.clone();
    let found = api.engine.db.read(move |conn| executions::brief(conn, &key)).await?;
    found.ok_or_else(|| OrchestrationError::NotFound(id.clone()).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    status: Option<String>,
    after: Option<String>,
    limit: Option<i64>,
}

/// `GET /executions?status=&limit=&after=`: the newest; `next` is the `after` of the rest.
pub(crate) async fn list(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<Execution>>, ApiError> {
    let ListQuery { status, after, limit: asked } = query?.0;
    let status = status.map(|status| {
        let known = ExecutionStatus::ALL.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(", ");
        status
            .parse::<ExecutionStatus>()
            .map_err(|_| ApiError::bad(format!("status={status}: one of {known} is wanted")))
    });
    let (status, limit) = (status.transpose()?, limit(asked)?);
    let key = after.clone();
    let page = api.engine.db.read(move |conn| executions::page(conn, status, key.as_deref(), limit)).await?;
    let wrong = || ApiError::bad(format!("after={}: the next of a former answer is wanted", after.unwrap_or_default()));
    Ok(Json(page.ok_or_else(wrong)?))
}

#[derive(Deserialize)]
pub(crate) struct ShowQuery {
    wait: Option<String>,
}

/// `GET /executions/{id}`: the execution, the code that it has had, and what it waits for in vain. With `?wait=30s` the answer
/// comes at its end, or after that time.
pub(crate) async fn show(
    State(api): State<Api>,
    Path(execution): Path<String>,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Json<Shown>, ApiError> {
    let id = id(&execution)?;
    let wait = match query?.0.wait {
        None => Duration::ZERO,
        Some(text) => parse_duration(&text)
            .ok_or_else(|| ApiError::bad(format!("wait={text}: a time such as 30s is wanted")))?
            .min(LONGEST_WAIT),
    };
    let execution = until_ended(&api, &id, wait).await?;
    let mut reasons = Vec::new();
    if !execution.status.is_final() {
        let key = id.clone();
        // Among many thousands, the first tell enough.
        let pending = calls::first_with_status;
        let pending = api.engine.db.read(move |conn| pending(conn, &key, CallStatus::Pending, PAGE)).await?;
        reasons = waiting(&api, &pending).await?.into_iter().flatten().collect();
        reasons.sort();
        reasons.dedup();
    }
    let seen = execution.clone();
    let read = move |conn: &mut _| {
        let allowed = executions::allowed(conn, &seen.id)?;
        Ok((versions::list(conn, &seen)?, signals::untaken(conn, &seen.id)?, allowed.lists().to_vec()))
    };
    let (versions, untaken_signals, allow) = api.engine.db.read(read).await?;
    Ok(Json(Shown { execution, versions, waiting: reasons, untaken_signals, allow }))
}

async fn until_ended(api: &Api, id: &ExecutionId, wait: Duration) -> Result<Execution, ApiError> {
    // Before the first look, so that no end is missed between the two.
    let mut bells = api.engine.queue.bells();
    let deadline = Instant::now() + wait;
    loop {
        let seen = exists(api, id).await?;
        if seen.status.is_final() || Instant::now() >= deadline || api.stop.is_cancelled() {
            return Ok(start::find(&api.engine, id).await?);
        }
        let rung = async {
            loop {
                match bells.recv().await {
                    Ok(Bell::Ended(ended)) if ended == id.as_str() => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = rung => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)) => {}
            () = api.stop.cancelled() => {}
        }
    }
}

/// For each call, what it waits for in vain, if it does.
async fn waiting(api: &Api, calls: &[Call]) -> Result<Vec<Option<String>>, ApiError> {
    let engine = &api.engine;
    if !calls.iter().any(|call| call.status == CallStatus::Pending && call.kind == CallKind::Function) {
        return Ok(vec![None; calls.len()]);
    }
    let now = engine.now();
    let workers: Vec<Worker> = engine.db.read(move |conn| workers::live(conn, now)).await?;
    let offered = |queue: &str| {
        let serving = workers.iter().filter(|worker| worker.queues.iter().any(|served| served == queue));
        Offers::only(serving.flat_map(|worker| worker.functions.iter().cloned()))
    };
    let mut by_queue: Vec<(&str, Offers)> = Vec::new();
    let mut reasons = Vec::new();
    for call in calls {
        // What stock RQ workers offer is not known.
        let known = call.kind == CallKind::Function && !engine.queue.foreign().contains(&call.queue);
        if call.status != CallStatus::Pending || !known {
            reasons.push(None);
            continue;
        }
        if !by_queue.iter().any(|(queue, _)| *queue == call.queue) {
            by_queue.push((&call.queue, offered(&call.queue)));
        }
        let offers = by_queue.iter().find(|(queue, _)| *queue == call.queue).map(|(_, offers)| offers);
        let reason = offers.filter(|offers| !offers.offers(&call.function)).map(|offers| {
            let near = offers.near(&call.function);
            let hint = if near.is_empty() { String::new() } else { format!(" (there is {})", near.join(", ")) };
            format!("no worker offers {} on the queue {}{hint}", call.function, call.queue)
        });
        reasons.push(reason);
    }
    Ok(reasons)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallsQuery {
    after: Option<u32>,
    limit: Option<i64>,
}

/// `GET /executions/{id}/calls?after=&limit=`: its calls in order, with their failed attempts and what they wait for in vain.
pub(crate) async fn calls(
    State(api): State<Api>,
    Path(execution): Path<String>,
    query: Result<Query<CallsQuery>, QueryRejection>,
) -> Result<Json<Vec<ShownCall>>, ApiError> {
    let id = id(&execution)?;
    let CallsQuery { after, limit: asked } = query?.0;
    let limit = limit(asked)?;
    exists(&api, &id).await?;
    let mut shown = api.engine.db.read(move |conn| calls::shown(conn, &id, after.map(CallId), Some(limit))).await?;
    let all: Vec<Call> = shown.iter().map(|shown| shown.call.clone()).collect();
    for (shown, reason) in shown.iter_mut().zip(waiting(&api, &all).await?) {
        shown.waiting = reason;
    }
    Ok(Json(shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsQuery {
    after: Option<i64>,
    limit: Option<i64>,
}

/// `GET /executions/{id}/logs?after=&limit=`: what its workflow and functions wrote; `next` is the `after` of the rest.
pub(crate) async fn logs(
    State(api): State<Api>,
    Path(execution): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Json<Page<LogLine>>, ApiError> {
    let id = id(&execution)?;
    let LogsQuery { after, limit: asked } = query?.0;
    let limit = limit(asked)?;
    exists(&api, &id).await?;
    Ok(Json(api.engine.db.read(move |conn| logs::page(conn, &id, after.unwrap_or(0), limit)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CodeQuery {
    version: Option<i64>,
}

/// `GET /executions/{id}/code?version=`: the text that it runs, or ran before it was mended.
pub(crate) async fn code(
    State(api): State<Api>,
    Path(execution): Path<String>,
    query: Result<Query<CodeQuery>, QueryRejection>,
) -> Result<Json<Code>, ApiError> {
    let id = id(&execution)?;
    let number = query?.0.version;
    let seen = exists(&api, &id).await?;
    let code = api.engine.db.read(move |conn| versions::code(conn, &seen, number)).await?;
    let none = || ApiError::not_found(format!("the code of execution {id} has no version {}", number.unwrap_or(0)));
    Ok(Json(code.ok_or_else(none)?))
}
