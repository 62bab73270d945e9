//! The listener: connections in bounded number, each of which may be slow for a bounded time only.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper::{
    Request,
    body::{Body as _, Incoming},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::connections::{Connections, Place};

/// How long a request's head may take, and how long a connection may stay without one.
const HEAD: Duration = Duration::from_secs(20);

/// How long a client may take nothing of an answer.
const STALL: Duration = Duration::from_secs(30);

/// How long requests may take that are under way when the process ends.
const GRACE: Duration = Duration::from_secs(10);

/// The wait when the system has no more connections to give.
const SHORTAGE: Duration = Duration::from_millis(50);

/// Serves until `stop`, and then what is under way, for a while.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    connections: Arc<Connections>,
    stop: CancellationToken,
) -> io::Result<()> {
    let served = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                // Nobody is told here: whoever wants to hold all connections would make us write to each.
                if let Some(place) = connections.admit() {
                    served.spawn(one(stream, app.clone(), place, stop.clone()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                connections.make_room();
                sleep(SHORTAGE).await;
            }
        }
    }
    drop(listener);
    served.close();
    if timeout(GRACE, served.wait()).await.is_err() {
        tracing::warn!(connections = served.len(), "connections are closed before they were answered");
    }
    Ok(())
}

async fn one(stream: TcpStream, app: Router, place: Place, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let connection = place.connection.clone();
    let app = TowerToHyperService::new(app);
    let service = service_fn(|mut request: Request<Incoming>| {
        if request.body().is_end_stream() {
            connection.heard();
        }
        request.extensions_mut().insert(connection.clone());
        let (answer, connection) = (app.call(request), connection.clone());
        async move {
            let answer = answer.await;
            connection.listens();
            answer
        }
    });
    let stream = TokioIo::new(Patient { stream, stalled: None });
    let mut http = http1::Builder::new();
    // Who has sent a whole request may close its side: the request counts.
    http.half_close(true).timer(TokioTimer::new()).header_read_timeout(HEAD);
    let served = http.serve_connection(stream, service);
    tokio::pin!(served);
    tokio::select! {
        // Whatever broke it: there is nobody left to be told.
        _ = served.as_mut() => return,
        () = place.connection.gives_way.cancelled() => return,
        () = stop.cancelled() => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, served).await;
}

/// A stream that breaks when its peer takes nothing for a while.
struct Patient {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn watch<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
