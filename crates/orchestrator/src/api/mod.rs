//! The HTTP API: JSON in, JSON out, errors as sentences.

mod answer;
mod body;
mod callbacks;
mod connections;
mod control;
mod drain;
mod executions;
mod guard;
mod health;
mod listen;
mod views;

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post},
};
use durable_core::orchestrator::Engine;
use tokio::{net::TcpListener, sync::broadcast};
use tokio_util::sync::CancellationToken;

use answer::ApiError;
use body::Room;
use connections::Connections;
use health::Readiness;

pub(crate) use body::MAX_BODY;
pub(crate) use guard::Access;

/// What every request can reach.
#[derive(Clone)]
pub(crate) struct Api {
    engine: Arc<Engine>,
    access: Access,
    room: Room,
    readiness: Readiness,
    /// Kept so that somebody listens from the start.
    _bells: Arc<broadcast::Receiver<durable_queue::Bell>>,
    stop: CancellationToken,
}

/// How it serves.
pub(crate) struct Serving {
    /// Who may ask.
    pub(crate) access: Access,
    /// The largest body of a callback, in bytes.
    pub(crate) callback_limit: usize,
    /// How many connections there may be.
    pub(crate) connections: usize,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    listener: TcpListener,
    serving: Serving,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let connections = Connections::new(serving.connections);
    let api = Api {
        _bells: Arc::new(engine.queue.bells()),
        engine,
        access: serving.access,
        room: Room::new(serving.callback_limit),
        readiness: Readiness::new(),
        stop: stop.clone(),
    };
    listen::serve(listener, app(api), connections, stop).await
}

fn app(api: Api) -> Router {
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
        .route("/callbacks/{token}/complete", post(callbacks::complete))
        .route("/callbacks/{token}/fail", post(callbacks::fail))
        .layer(middleware::from_fn(body::to_its_end))
        .layer(middleware::from_fn_with_state(api.clone(), guard::guard));
    guarded
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(|| async { ApiError::not_found("there is no such address") })
        .method_not_allowed_fallback(|| async { ApiError::not_allowed("this address does not take that method") })
        .layer(middleware::from_fn(drain::drain))
        .with_state(api)
}
