//! Requests that come while another is under way travel together: under load many share one round
//! trip, alone none waits.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::QueueError;

/// Most items of one round trip.
const MOST: usize = 512;

type Answer<R> = oneshot::Sender<Result<Vec<R>, QueueError>>;

/// Sends many items at once and answers one result for each.
pub(super) type Send<T, R> = Arc<
    dyn Fn(Vec<T>) -> Pin<Box<dyn Future<Output = Result<Vec<R>, QueueError>> + std::marker::Send>>
        + std::marker::Send
        + Sync,
>;

pub(super) struct Batch<T, R> {
    requests: mpsc::UnboundedSender<(Vec<T>, Answer<R>)>,
    _task: AbortOnDropHandle<()>,
}

impl<T: std::marker::Send + 'static, R: std::marker::Send + 'static> Batch<T, R> {
    /// Starts the task that sends. Has to be called on a runtime.
    pub(super) fn start(send: Send<T, R>) -> Self {
        let (requests, arrivals) = mpsc::unbounded_channel();
        Self { requests, _task: AbortOnDropHandle::new(tokio::spawn(run(arrivals, send))) }
    }

    /// Sends items, with those of others, and answers their results.
    pub(super) async fn send(&self, items: Vec<T>) -> Result<Vec<R>, QueueError> {
        let gone = || QueueError::Unavailable("the process is ending".into());
        let (answer, result) = oneshot::channel();
        self.requests.send((items, answer)).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

async fn run<T, R>(mut arrivals: mpsc::UnboundedReceiver<(Vec<T>, Answer<R>)>, send: Send<T, R>) {
    while let Some((mut items, answer)) = arrivals.recv().await {
        let mut waiting = vec![(items.len(), answer)];
        while items.len() < MOST {
            let Ok((more, answer)) = arrivals.try_recv() else { break };
            waiting.push((more.len(), answer));
            items.extend(more);
        }
        match send(items).await {
            Ok(results) => {
                let mut results = results.into_iter();
                for (count, answer) in waiting {
                    // Nobody listens any more: what was sent stands.
                    let _ = answer.send(Ok(results.by_ref().take(count).collect()));
                }
            }
            Err(error) => {
                for (_, answer) in waiting {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}
