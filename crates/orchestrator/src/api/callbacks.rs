//! Callbacks: a call is completed, or failed, by whoever holds its token. Nothing of a request is read before that is known.

use axum::{
    Json,
    extract::{Path, Request, State},
};
use durable_core::{
    model::{Failure, Outcome},
    orchestrator::settle::{Attempted, Retry, Settled, settle},
    retry::RetryPolicy,
    store::{callbacks, calls::AttemptOf},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Api,
    answer::ApiError,
    body::{Sender, checked, json as read_json},
    control::go_on,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Completion {
    #[serde(default)]
    result: Value,
}

/// `POST /callbacks/{token}/complete`: `{"result": …}` is the call's result.
pub(crate) async fn complete(
    State(api): State<Api>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let of = find(&api, token).await?;
    let completion: Completion = read_json(&api, request, Sender::Callback).await?;
    record(&api, of, Outcome::Completed(checked(completion.result).await?), Retry::No).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailRequest {
    #[serde(rename = "type", default = "runtime_error")]
    kind: String,
    message: String,
    #[serde(default)]
    retryable: bool,
}

fn runtime_error() -> String {
    "RuntimeError".into()
}

/// `POST /callbacks/{token}/fail`: `{"type", "message", "retryable"}` is why this attempt failed.
pub(crate) async fn fail(
    State(api): State<Api>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let of = find(&api, token).await?;
    let failed: FailRequest = read_json(&api, request, Sender::Callback).await?;
    let retry = if failed.retryable { Retry::By(RetryPolicy::default()) } else { Retry::No };
    record(&api, of, Outcome::Failed(Failure::new(failed.kind, failed.message)), retry).await
}

async fn find(api: &Api, token: String) -> Result<AttemptOf, ApiError> {
    let unknown = || ApiError::not_found("there is no such callback");
    // What no token looks like is not looked up.
    if token.len() > 200 || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) {
        return Err(unknown());
    }
    let _turn = api.room.guess().await?;
    api.engine.db.read(move |conn| callbacks::find(conn, &token)).await?.ok_or_else(unknown)
}

/// The first outcome stands; whoever comes later is told so. It is answered as soon as it is recorded.
async fn record(api: &Api, of: AttemptOf, outcome: Outcome, retry: Retry) -> Result<Json<Value>, ApiError> {
    let attempted = Attempted { of, outcome, retry, started_at: None, worker: None, log: Vec::new() };
    match settle(&api.engine, attempted).await? {
        Settled::Ignored => Err(ApiError::conflict("the call has its outcome already, or this attempt is over")),
        Settled::Retrying => Ok(Json(json!({"status": "retrying"}))),
        Settled::Recorded(claimed) => {
            go_on(api, claimed);
            Ok(Json(json!({"status": "recorded"})))
        }
    }
}
