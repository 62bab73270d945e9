//! The HTTP API: JSON in, JSON out, errors as sentences.

mod answer;
mod control;
mod drain;
mod executions;
mod health;
mod views;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use durable_core::orchestrator::Engine;
use tokio::{net::TcpListener, sync::broadcast};
use tokio_util::sync::CancellationToken;

use answer::ApiError;

/// Largest request.
pub(crate) const MAX_BODY: usize = 32 << 20;

/// What every request can reach.
#[derive(Clone)]
pub(crate) struct Api {
    engine: Arc<Engine>,
    /// What a client has to bring, if anything.
    token: Option<Arc<str>>,
    /// Kept so that somebody listens from the start.
    _bells: Arc<broadcast::Receiver<durable_queue::Bell>>,
    stop: CancellationToken,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    listener: TcpListener,
    token: Option<String>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let bells = Arc::new(engine.queue.bells());
    let api = Api { engine, token: token.map(Arc::from), _bells: bells, stop: stop.clone() };
    let guarded = Router::new()
        .route("/executions", get(views::list).post(executions::start))
        .route("/executions/{id}", get(views::show))
        .route("/executions/{id}/calls", get(views::calls))
        .route("/executions/{id}/logs", get(views::logs))
        .route("/executions/{id}/code", get(views::code))
        .route("/executions/{id}/cancel", post(control::cancel))
        .route("/executions/{id}/pause", post(control::pause))
        .route("/executions/{id}/resume", post(control::resume))
        .route("/executions/{id}/retry", post(control::retry))
        .route("/executions/{id}/fork", post(control::fork))
        .route("/executions/{id}/signals", get(control::list_signals))
        .route("/executions/{id}/signals/{name}", post(control::signal))
        .route("/executions/{id}/snapshots", get(control::list_snapshots))
        .route("/workflows", get(control::list_workflows).post(control::deploy))
        .route("/workers", get(health::workers))
        .route("/callbacks/{token}/complete", post(executions::complete))
        .route("/callbacks/{token}/fail", post(executions::fail))
        .layer(middleware::from_fn_with_state(api.clone(), authorize));
    let app = guarded
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(|| async { ApiError::not_found("there is no such address") })
        .method_not_allowed_fallback(|| async { ApiError::not_allowed("this address does not take that method") })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(drain::drain))
        .with_state(api);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Callbacks carry their right in their address.
async fn authorize(State(api): State<Api>, request: Request, next: Next) -> Response {
    let callback = request.uri().path().starts_with("/callbacks/");
    let brought = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let brought = brought.and_then(|value| value.split_once(' '));
    let brought = brought.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
    match &api.token {
        Some(token) if !callback && !brought.is_some_and(|brought| same(brought, token)) => {
            ApiError::unauthorized().into_response()
        }
        _ => next.run(request).await,
    }
}

/// Takes as long wherever the first difference is.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
