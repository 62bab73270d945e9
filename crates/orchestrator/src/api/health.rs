//! Whether this process lives, whether it can serve, and who runs functions.

use axum::{Json, extract::State};
use durable_core::store::{executions, workers};
use serde_json::{Value, json};

use super::{Api, answer::ApiError};

/// The process answers: that is all.
pub(crate) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// Database and queue answer too.
pub(crate) async fn ready(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let engine = &api.engine;
    let database = engine.db.read(|conn| executions::list(conn, None, 1).map(drop)).await;
    let queue = engine.queue.depth("default").await;
    let failures: Vec<String> =
        [database.err().map(|error| error.to_string()), queue.err().map(|error| error.to_string())]
            .into_iter()
            .flatten()
            .collect();
    if failures.is_empty() {
        Ok(Json(json!({"status": "ready"})))
    } else {
        Err(ApiError::unavailable(failures.join("; ")))
    }
}

/// Workers that live.
pub(crate) async fn workers(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let now = api.engine.now();
    let workers = api.engine.db.read(move |conn| workers::live(conn, now)).await?;
    Ok(Json(json!(workers)))
}
