//! Waiting for jobs, on connections of their own.
//!
//! Every push leaves one entry in the queue's `knock` list unless there is one; `BLPOP` on it wakes one worker, which
//! takes what it has room for, and the take leaves the next entry if something is left. So a push wakes one worker
//! and not all of them. The entry carries nothing: whoever dies with it in hand makes the next look, a few seconds later,
//! find the job. Queues that stock programs push to have no such list; there the wait is a `BLMOVE q q LEFT LEFT`, which
//! leaves the list as it was.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::server::Server;

/// How long the server blocks at a time, and so how late a lost knock is noticed.
const BLOCK: Duration = Duration::from_secs(5);

/// How much later its answer has to be here; else the connection is dead.
const LATE: Duration = Duration::from_secs(3);

/// The wait after a connection that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// One waiter per set of queues, started when somebody first waits for them.
#[derive(Default)]
pub(super) struct Knocks(Mutex<HashMap<String, Arc<Waiter>>>);

/// Waits for one set of queues.
pub(super) struct Waiter {
    /// A knock is waited for. Only then: one that is taken while all slots are busy would wake nobody.
    waiting: AtomicBool,
    wanted: Notify,
    arrived: Notify,
    /// Somebody should look: there was a knock, or the last look did not empty the queues.
    look: AtomicBool,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Knocks {
    /// The waiter of these queues; `command` is what it blocks in.
    pub(super) fn waiter(&self, server: &Arc<Server>, queues: &[String], command: impl FnOnce() -> Cmd) -> Arc<Waiter> {
        let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let waiter = Arc::new(Waiter {
                waiting: AtomicBool::new(false),
                wanted: Notify::new(),
                arrived: Notify::new(),
                look: AtomicBool::new(true),
                task: Mutex::default(),
            });
            // Weak: the task must not keep its own handle alive.
            let task = tokio::spawn(wait(server.clone(), command(), Arc::downgrade(&waiter)));
            *waiter.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(task));
            waiter
        };
        waiters.entry(queues.join(",")).or_insert_with(start).clone()
    }
}

impl Waiter {
    /// Notified at a knock.
    pub(super) fn arrived(&self) -> &Notify {
        &self.arrived
    }

    /// Whether to look now; asked once per knock.
    pub(super) fn should_look(&self) -> bool {
        self.look.swap(false, Ordering::AcqRel)
    }

    /// There may be more, knock or not.
    pub(super) fn look_again(&self) {
        self.look.store(true, Ordering::Release);
    }

    /// Starts to wait for a knock, unless that is under way.
    pub(super) fn want(&self) {
        if !self.waiting.swap(true, Ordering::AcqRel) {
            self.wanted.notify_one();
        }
    }
}

async fn wait(server: Arc<Server>, command: Cmd, waiter: std::sync::Weak<Waiter>) {
    let mut connection = None;
    while let Some(this) = waiter.upgrade() {
        this.wanted.notified().await;
        while let Err(error) = block(&server, &mut connection, &command).await {
            tracing::debug!(%error, "cannot wait for jobs");
            connection = None;
            tokio::time::sleep(AGAIN.mul_f64(0.5 + fraction())).await;
        }
        this.waiting.store(false, Ordering::Release);
        // Also after a wait without a knock: some knock may have been lost.
        this.look_again();
        this.arrived.notify_waiters();
    }
}

async fn block(server: &Server, kept: &mut Option<MultiplexedConnection>, command: &Cmd) -> Result<(), RedisError> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(server.blocking().await?),
    };
    let answer = tokio::time::timeout(BLOCK + LATE, command.query_async::<Value>(connection)).await;
    answer.map_err(|_| RedisError::from((redis::ErrorKind::Io, "no answer in time")))?.map(drop)
}

/// Takes a knock from any of these lists, the first first.
pub(super) fn take_knock(lists: &[String]) -> Cmd {
    let mut command = Cmd::new();
    command.arg("BLPOP").arg(lists).arg(BLOCK.as_secs());
    command
}

/// Waits until a list is not empty, and leaves it as it is.
pub(super) fn peek(list: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg("BLMOVE").arg(list).arg(list).arg("LEFT").arg("LEFT").arg(BLOCK.as_secs());
    command
}

/// Between 0 and 1, so that many processes do not come back at the same moment.
fn fraction() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256.0
}
