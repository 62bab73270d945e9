//! Waiting for jobs: a connection per queue blocks until its list is not empty, and takes nothing.
//!
//! `BLMOVE q q LEFT LEFT` leaves the list as it was. So nothing is lost when this process dies while it
//! waits, several queues can be waited for, and a waiter without a free slot has taken nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{Cmd, RedisError, aio::MultiplexedConnection};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::server::Server;

/// How long the server blocks at a time.
const BLOCK: Duration = Duration::from_secs(5);

/// How much later its answer has to be here; else the connection is dead.
const LATE: Duration = Duration::from_secs(3);

/// The wait after a connection that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// One waiter per queue, started when somebody first wants it.
#[derive(Default)]
pub(super) struct Knocks {
    waiters: Mutex<HashMap<String, Waiter>>,
    arrived: Arc<Notify>,
}

struct Waiter {
    wanted: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Knocks {
    /// Rung when a job may have arrived in some queue that is waited for.
    pub(super) fn arrived(&self) -> &Notify {
        &self.arrived
    }

    /// Lets the queue's waiter look once; it rings when the list is not empty.
    pub(super) fn want(&self, server: &Arc<Server>, queue: &str, list: &str) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let waiter = waiters.entry(queue.to_owned()).or_insert_with(|| {
            let wanted = Arc::new(Notify::new());
            let waits = wait(server.clone(), list.to_owned(), wanted.clone(), self.arrived.clone());
            Waiter { wanted, _task: AbortOnDropHandle::new(tokio::spawn(waits)) }
        });
        waiter.wanted.notify_one();
    }
}

async fn wait(server: Arc<Server>, list: String, wanted: Arc<Notify>, arrived: Arc<Notify>) {
    let mut connection = None;
    loop {
        wanted.notified().await;
        loop {
            match peek(&server, &mut connection, &list).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, list, "cannot wait for jobs");
                    connection = None;
                    tokio::time::sleep(AGAIN.mul_f64(0.5 + fraction())).await;
                }
            }
        }
        arrived.notify_waiters();
    }
}

/// Whether the list came to hold something in a while.
async fn peek(server: &Server, kept: &mut Option<MultiplexedConnection>, list: &str) -> Result<bool, RedisError> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(server.blocking().await?),
    };
    let mut command = Cmd::new();
    command.arg("BLMOVE").arg(list).arg(list).arg("LEFT").arg("LEFT").arg(BLOCK.as_secs());
    let answer = tokio::time::timeout(BLOCK + LATE, command.query_async::<Option<String>>(connection)).await;
    let late = |_| RedisError::from((redis::ErrorKind::Io, "no answer in time"));
    Ok(answer.map_err(late)??.is_some())
}

/// Between 0 and 1, so that many processes do not come back at the same moment.
fn fraction() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256.0
}
