//! Bodies of requests: read only for whoever may send them, within a time and a size, measured before anything is built of
//! them, and never too many at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use durable_core::{
    interpreter::value::{self, MAX_PARTS},
    model::Json as JsonText,
};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{Api, answer::ApiError, connections::Connection};

/// Largest request.
pub(crate) const MAX_BODY: usize = 32 << 20;

/// What the bodies under way may take together, in KiB.
const BODIES: u32 = 128 << 10;

/// The same for those of callbacks, so that whoever holds one keeps nobody else out.
const CALLBACKS: u32 = 32 << 10;

/// How many values may be in the making at once, in 1024.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const PARTS: u32 = (2 * MAX_PARTS / 1024) as u32;

/// How long a body waits for its room.
const QUEUED: Duration = Duration::from_secs(10);

/// How long the next part of a body may take.
const PART: Duration = Duration::from_secs(10);

/// How long a whole body may take.
const WHOLE: Duration = Duration::from_secs(120);

/// What is large enough to be kept away from the threads that serve everybody.
const LARGE: usize = 64 << 10;

/// Room for the bodies under way, of clients and of callbacks, and for the values that are made of them.
#[derive(Clone)]
pub(crate) struct Room {
    bodies: Arc<Semaphore>,
    callbacks: Arc<Semaphore>,
    parts: Arc<Semaphore>,
    /// Whoever guesses tokens waits for others who do, and for nobody else.
    guesses: Arc<Semaphore>,
    callback_limit: usize,
}

/// How many tokens are looked up at once.
const GUESSES: u32 = 2;

impl Room {
    pub(crate) fn new(callback_limit: usize) -> Self {
        let room = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self {
            bodies: room(BODIES),
            callbacks: room(CALLBACKS),
            parts: room(PARTS),
            guesses: room(GUESSES),
            callback_limit,
        }
    }
}

impl Room {
    /// Its turn to look up a token.
    pub(super) async fn guess(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let turn = timeout(QUEUED, self.guesses.clone().acquire_owned()).await;
        turn.ok()
            .and_then(Result::ok)
            .ok_or_else(|| ApiError::unavailable("too many callbacks are looked up: try again later"))
    }
}

/// Whose body it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender {
    Client,
    Callback,
}

/// The room that a request has, until it is answered.
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Mutex<Vec<OwnedSemaphorePermit>>>);

impl Held {
    fn keep(&self, permit: OwnedSemaphorePermit) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
    }
}

/// Carries a request that changes something to its end, though its client may hang up; and keeps its room until then.
pub(super) async fn to_its_end(mut request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let held = Held::default();
    request.extensions_mut().insert(held.clone());
    let done = tokio::spawn(async move {
        let answer = next.run(request).await;
        drop(held);
        answer
    });
    done.await.unwrap_or_else(|error| axum::response::IntoResponse::into_response(ApiError::broken(&error)))
}

async fn take(room: &Arc<Semaphore>, permits: usize, held: &Held) -> Result<(), ApiError> {
    let permits = u32::try_from(permits).unwrap_or(u32::MAX);
    match timeout(QUEUED, room.clone().acquire_many_owned(permits)).await {
        Ok(Ok(permit)) => {
            held.keep(permit);
            Ok(())
        }
        Ok(Err(_)) | Err(_) => Err(ApiError::unavailable("too many large requests are under way: try again later")),
    }
}

/// Reads a body.
async fn read(api: &Api, request: Request, sender: Sender) -> Result<(Bytes, Held), ApiError> {
    let (room, most) = match sender {
        Sender::Client => (&api.room.bodies, MAX_BODY),
        Sender::Callback => (&api.room.callbacks, api.room.callback_limit),
    };
    let held = request.extensions().get::<Held>().cloned().unwrap_or_default();
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(ApiError::too_large(most, sender));
    }
    take(room, announced.unwrap_or(most) / 1024 + 1, &held).await?;
    let mut bytes = Vec::with_capacity(announced.unwrap_or_default());
    let mut parts = request.into_body().into_data_stream();
    let until = Instant::now() + WHOLE;
    loop {
        let next = timeout_at(until.min(Instant::now() + PART), parts.next()).await;
        match next.map_err(|_| ApiError::slow())? {
            None => break,
            Some(Err(error)) => return Err(ApiError::bad(format!("the request's body broke off: {error}"))),
            Some(Ok(part)) if bytes.len() + part.len() > most => return Err(ApiError::too_large(most, sender)),
            Some(Ok(part)) => bytes.extend_from_slice(&part),
        }
    }
    if let Some(connection) = connection {
        connection.heard();
    }
    Ok((bytes.into(), held))
}

/// Runs what is large away from the threads that serve everybody.
async fn aside<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    if !large {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::broken(&error))
}

async fn parse<T: DeserializeOwned + Send + 'static>(api: &Api, bytes: Bytes, held: &Held) -> Result<T, ApiError> {
    let (large, text) = (bytes.len() > LARGE, bytes.clone());
    let parts = aside(large, move || value::count(&text)).await?;
    let parts = parts.map_err(|refusal| ApiError::unprocessable(refusal.of("the request")))?;
    if large {
        take(&api.room.parts, parts / 1024 + 1, held).await?;
    }
    Ok(aside(large, move || Json::<T>::from_bytes(&bytes)).await??.0)
}

/// A request's JSON.
pub(crate) async fn json<T: DeserializeOwned + Send + 'static>(
    api: &Api,
    request: Request,
    sender: Sender,
) -> Result<T, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::no_json());
    }
    let (bytes, held) = read(api, request, sender).await?;
    parse(api, bytes, &held).await
}

/// Whether a body is said to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// A value as it is kept, unless no workflow could be given it: told before anything is recorded.
pub(crate) async fn checked(value: Value) -> Result<JsonText, ApiError> {
    // Whoever holds many values holds them in a list or a dict.
    let large = value.is_array() || value.is_object();
    aside(large, move || value::from_json(&value).map(|_| JsonText::from(&value)))
        .await?
        .map_err(ApiError::unprocessable)
}

/// A request's JSON; what is wrong with it is told in our form.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Api> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        json(api, request, Sender::Client).await.map(Self)
    }
}

/// What a request asks for beside its address; a request without a body asks for nothing.
pub(crate) struct Wish<T>(pub(crate) T);

impl<T: DeserializeOwned + Default + Send + 'static> FromRequest<Api> for Wish<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let (bytes, held) = read(api, request, Sender::Client).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        let wish: Option<T> = parse(api, bytes, &held).await?;
        Ok(Self(wish.unwrap_or_default()))
    }
}
