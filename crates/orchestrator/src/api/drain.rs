//! A request that is answered before its body was read: the rest of the body is read and dropped, up to a bound. A client
//! that is still sending when the connection is closed would see the break and not the answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream},
    extract::Request,
    middleware::Next,
    response::Response,
};
use futures::{StreamExt, stream};

/// What is read of a body that nobody wants, in bytes.
const MOST: usize = 256 << 20;

/// How long that may take.
const LONGEST: Duration = Duration::from_secs(10);

/// A body that can be read on by whoever gets to it last.
type Shared = Arc<Mutex<BodyDataStream>>;

/// Answers a request, and reads what is left of it.
pub(super) async fn drain(request: Request, next: Next) -> Response {
    // Who asks first whether to send has not begun.
    let asks_first = request.headers().contains_key("expect");
    let (parts, body) = request.into_parts();
    let shared: Shared = Arc::new(Mutex::new(body.into_data_stream()));
    let response = next.run(Request::from_parts(parts, Body::from_stream(parts_of(shared.clone())))).await;
    if !asks_first {
        let _ = tokio::time::timeout(LONGEST, read_on(shared)).await;
    }
    response
}

fn parts_of(shared: Shared) -> impl futures::Stream<Item = Result<axum::body::Bytes, axum::Error>> + Send {
    stream::poll_fn(move |context| shared.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context))
}

async fn read_on(shared: Shared) {
    let (mut left, mut parts) = (MOST, std::pin::pin!(parts_of(shared)));
    while let Some(Ok(part)) = parts.next().await {
        match left.checked_sub(part.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
