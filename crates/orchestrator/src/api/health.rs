//! Whether this process lives, whether it can serve, and who runs functions.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use durable_core::{
    orchestrator::{CLOCK_IDLE, Engine},
    store::{meter, workers},
};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::timeout};

use super::{Api, answer::ApiError};

/// How long what was seen is told again: a look costs the same, however often it is asked for.
const FRESH: Duration = Duration::from_secs(1);

/// How long the database and the queue may take.
const LOOK: Duration = Duration::from_secs(3);

/// A clock loop that has not come round for so long stands still.
const STANDS_STILL: Duration = Duration::from_secs(10 * CLOCK_IDLE.as_secs());

/// What was seen last.
#[derive(Clone)]
pub(crate) struct Readiness {
    seen: Arc<Mutex<Option<Seen>>>,
    since: Instant,
}

struct Seen {
    at: Instant,
    lacks: Vec<&'static str>,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        Self { seen: Arc::default(), since: Instant::now() }
    }

    /// What does not answer.
    async fn lacks(&self, engine: &Engine) -> Vec<&'static str> {
        // Whoever asks meanwhile waits for this look, and is told the same.
        let mut seen = self.seen.lock().await;
        match &*seen {
            Some(seen) if seen.at.elapsed() < FRESH => seen.lacks.clone(),
            _ => {
                let lacks = look(engine).await;
                *seen = Some(Seen { at: Instant::now(), lacks: lacks.clone() });
                lacks
            }
        }
    }
}

async fn look(engine: &Engine) -> Vec<&'static str> {
    let (database, queue) =
        tokio::join!(timeout(LOOK, engine.db.read(meter::answers)), timeout(LOOK, engine.queue.depth("default")),);
    let mut lacks = Vec::new();
    let mut tell = |sentence: &'static str, cause: String| {
        tracing::warn!(cause, "{sentence}");
        lacks.push(sentence);
    };
    match database {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tell("the database does not answer", error.to_string()),
        Err(_) => tell("the database does not answer", format!("nothing within {LOOK:?}")),
    }
    match queue {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tell("the queue does not answer", error.to_string()),
        Err(_) => tell("the queue does not answer", format!("nothing within {LOOK:?}")),
    }
    lacks
}

/// The process answers: that is all.
pub(crate) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// Database and queue answer too, and the clock ticks.
pub(crate) async fn ready(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let mut lacks: Vec<String> = api.readiness.lacks(&api.engine).await.into_iter().map(str::to_owned).collect();
    let still = api.engine.since_tick().unwrap_or_else(|| api.readiness.since.elapsed());
    if still > STANDS_STILL {
        let still = still.as_secs();
        lacks.push(format!("the clock has not ticked for {still} s, so that timers and retries are late"));
    }
    match lacks.is_empty() {
        true => Ok(Json(json!({"status": "ready"}))),
        false => Err(ApiError::unavailable(lacks.join("; "))),
    }
}

/// Workers that live.
pub(crate) async fn workers(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let now = api.engine.now();
    let workers = api.engine.db.read(move |conn| workers::live(conn, now)).await?;
    Ok(Json(json!(workers)))
}
