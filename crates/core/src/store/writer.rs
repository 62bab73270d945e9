//! Group commit: one writer per database and process.
//!
//! Writes that arrive close together are committed together, which is where throughput comes from:
//! a commit costs an fsync however much is in it. Nothing is answered before its commit has
//! returned, so durability is never traded for speed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use diesel::{
    Connection,
    connection::{AnsiTransactionManager, TransactionManager},
};
use tokio::sync::oneshot;

use super::{DatabaseUrl, DbConnection, StoreError};

/// How long a write may wait for company.
const GATHER: Duration = Duration::from_millis(1);

/// How long a lazy write may wait for a commit to ride along with.
const LAZY: Duration = Duration::from_millis(50);

/// Most writes in one commit.
const MAX_BATCH: usize = 512;

/// How long a broken connection waits before it is opened anew.
const RECONNECT: Duration = Duration::from_millis(200);

/// Something to do inside a transaction. Run again, alone, when the group that it was in failed.
trait Write: Send {
    fn run(&mut self, conn: &mut DbConnection) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Single<T, F> {
    work: F,
    value: Option<T>,
    answer: Option<oneshot::Sender<Result<T, StoreError>>>,
}

impl<T: Send, F: FnMut(&mut DbConnection) -> Result<T, StoreError> + Send> Write for Single<T, F> {
    fn run(&mut self, conn: &mut DbConnection) -> Result<(), StoreError> {
        self.value = Some((self.work)(conn)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { value, answer, .. } = *self;
        let Some(answer) = answer else { return };
        let value = committed.and_then(|()| value.ok_or(StoreError::WriterGone));
        // Nobody listens any more: the caller was cancelled. The write stands.
        let _ = answer.send(value);
    }
}

enum Message {
    Now(Box<dyn Write>),
    Lazy(Box<dyn Write>),
}

/// Submits writes. Clones share the one writer, which ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Writer {
    queue: Sender<Message>,
    commits: Arc<AtomicU64>,
    busy: Arc<AtomicUsize>,
}

/// Work in progress that will soon submit a write; see [`Writer::busy`].
pub struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Writer {
    pub(super) fn spawn(url: DatabaseUrl, conn: DbConnection) -> Self {
        let (queue, arrivals) = channel();
        let commits = Arc::new(AtomicU64::new(0));
        let busy = Arc::new(AtomicUsize::new(0));
        let thread = Loop { url, conn: Some(conn), arrivals, commits: commits.clone(), busy: busy.clone() };
        thread::Builder::new()
            .name("durable-writer".into())
            .spawn(move || thread.run())
            .unwrap_or_else(|error| panic!("the system has no thread left: {error}"));
        Self { queue, commits, busy }
    }

    /// Commits `work` and answers what it returned.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut DbConnection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let write = Box::new(Single { work, value: None, answer: Some(answer) });
        self.queue.send(Message::Now(write)).map_err(|_| StoreError::WriterGone)?;
        result.await.map_err(|_| StoreError::WriterGone)?
    }

    /// Commits `work` together with the next write, or in [`LAZY`] at the latest. Nobody is told
    /// how it went: only for marks whose loss makes nothing wrong.
    pub(super) fn write_lazily<F>(&self, work: F)
    where
        F: FnMut(&mut DbConnection) -> Result<(), StoreError> + Send + 'static,
    {
        let write = Box::new(Single { work, value: None, answer: None });
        let _ = self.queue.send(Message::Lazy(write));
    }

    /// Says that a write will come soon. While fewer writes are queued than such promises are
    /// open, the writer waits (a millisecond at most); when all have arrived, it commits at once.
    pub(super) fn busy(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.busy.clone())
    }

    /// Transactions committed so far.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

struct Loop {
    url: DatabaseUrl,
    conn: Option<DbConnection>,
    arrivals: Receiver<Message>,
    commits: Arc<AtomicU64>,
    busy: Arc<AtomicUsize>,
}

impl Loop {
    fn run(mut self) {
        while let Some(batch) = self.gather() {
            self.commit(batch);
        }
    }

    /// The writes of the next commit; none when every submitter is gone.
    fn gather(&self) -> Option<Vec<Box<dyn Write>>> {
        let mut batch = Vec::new();
        let mut urgent = 0;
        let mut deadline = None;
        while batch.len() < MAX_BATCH {
            if urgent > 0 && urgent >= self.busy.load(Ordering::Relaxed) {
                deadline = Some(Instant::now());
            }
            let message = match deadline {
                None => self.arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => self.arrivals.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(Message::Now(write)) => {
                    batch.push(write);
                    urgent += 1;
                    let soon = Instant::now() + GATHER;
                    deadline = Some(deadline.map_or(soon, |deadline: Instant| deadline.min(soon)));
                }
                Ok(Message::Lazy(write)) => {
                    batch.push(write);
                    deadline.get_or_insert_with(|| Instant::now() + LAZY);
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) if batch.is_empty() => return None,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Some(batch)
    }

    fn commit(&mut self, mut batch: Vec<Box<dyn Write>>) {
        if self.transaction(&mut batch).is_ok() {
            batch.into_iter().for_each(|write| write.answer(Ok(())));
            return;
        }
        // One of them failed, and with it the transaction. Alone, each gets its own answer.
        for write in batch {
            let mut alone = [write];
            let outcome = self.transaction(&mut alone);
            if let Err(error) = &outcome {
                tracing::debug!(%error, "a write failed");
            }
            let [write] = alone;
            write.answer(outcome);
        }
    }

    fn transaction(&mut self, batch: &mut [Box<dyn Write>]) -> Result<(), StoreError> {
        let conn = self.connection()?;
        let work = |conn: &mut DbConnection| batch.iter_mut().try_for_each(|write| write.run(conn));
        let outcome = match conn {
            // Immediate: a transaction that reads first and is then refused the lock would have to start over.
            DbConnection::Sqlite(_) => immediate(conn, work),
            DbConnection::Postgres(_) => conn.transaction(work),
        };
        match &outcome {
            Ok(()) => {
                self.commits.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.is_passing() => self.conn = None,
            Err(_) => {}
        }
        outcome
    }

    fn connection(&mut self) -> Result<&mut DbConnection, StoreError> {
        if self.conn.is_none() {
            thread::sleep(RECONNECT);
            self.conn = Some(self.url.connect()?);
        }
        self.conn.as_mut().ok_or(StoreError::WriterGone)
    }
}

/// A transaction that takes SQLite's write lock at its start.
fn immediate(
    conn: &mut DbConnection,
    work: impl FnOnce(&mut DbConnection) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if let DbConnection::Sqlite(sqlite) = conn {
        AnsiTransactionManager::begin_transaction_sql(sqlite, "BEGIN IMMEDIATE")?;
    }
    match work(conn) {
        Ok(()) => Ok(TransactionManagerOf::commit_transaction(conn)?),
        Err(error) => {
            // A connection on which even this fails is replaced.
            TransactionManagerOf::rollback_transaction(conn)?;
            Err(error)
        }
    }
}

type TransactionManagerOf = <DbConnection as Connection>::TransactionManager;
