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
    Connection, RunQueryDsl,
    connection::{AnsiTransactionManager, TransactionManager},
    sql_query,
};
use tokio::sync::oneshot;

use super::{
    DatabaseUrl, DbConnection, StoreError,
    doubt::{ASK, Marks},
};

/// How long a write may wait for company.
const GATHER: Duration = Duration::from_millis(1);

/// How long a lazy write may wait for a commit to ride along with.
const LAZY: Duration = Duration::from_millis(50);

/// Most writes in one commit.
const MAX_BATCH: usize = 512;

/// The least time between two connections that were not to be had.
const RECONNECT: Duration = Duration::from_millis(200);

/// How often a group is repeated because its connection broke, and because others were in its way.
const LOST: u32 = 1;
const CONFLICTS: u32 = 8;

/// Something to do inside a transaction. Run again when the group that it was in was not committed.
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
        let mut marks = Marks::new();
        let mut conn = conn;
        marks.connected(&mut conn);
        let (committed, awaited) = (commits.clone(), busy.clone());
        let thread = Loop { url, conn: Some(conn), failed: None, marks, arrivals, commits: committed, busy: awaited };
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
    /// When a connection was tried last, if none was to be had.
    failed: Option<Instant>,
    marks: Marks,
    arrivals: Receiver<Message>,
    commits: Arc<AtomicU64>,
    busy: Arc<AtomicUsize>,
}

/// A write of the next commit.
struct Entry {
    write: Box<dyn Write>,
    /// Why it alone is not part of it.
    refused: Option<StoreError>,
}

/// Why a transaction was not committed.
enum Undone {
    /// One of its writes, or the database, said no.
    Failed(StoreError),
    /// The connection broke.
    Lost(StoreError),
    /// The connection broke during the commit.
    InDoubt(StoreError),
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

    fn commit(&mut self, batch: Vec<Box<dyn Write>>) {
        let mut batch: Vec<Entry> = batch.into_iter().map(|write| Entry { write, refused: None }).collect();
        let done = self.until_committed(&mut batch);
        if let Err(error) = &done {
            tracing::debug!(%error, writes = batch.len(), "writes failed");
        }
        for Entry { write, refused } in batch {
            write.answer(refused.map_or_else(|| done.clone(), Err));
        }
    }

    /// Commits a group. When one write is refused, the others are committed without it.
    fn until_committed(&mut self, batch: &mut [Entry]) -> Result<(), StoreError> {
        let (mut apart, mut lost, mut conflicts) = (false, 0, 0);
        loop {
            match self.transaction(batch, apart) {
                Ok(()) => return Ok(()),
                Err(Undone::Failed(StoreError::Conflict(_))) if conflicts < CONFLICTS => conflicts += 1,
                Err(Undone::Failed(error))
                    if !apart && (batch.len() > 1 || matches!(error, StoreError::Duplicate(_))) =>
                {
                    apart = true;
                }
                Err(Undone::Failed(error)) => return Err(error),
                Err(Undone::InDoubt(error)) => {
                    tracing::warn!(%error, "the connection broke during a commit: asking whether it was done");
                    if self.was_committed(&error)? {
                        self.commits.fetch_add(1, Ordering::Relaxed);
                        return Ok(());
                    }
                    lost += 1;
                    if lost > LOST {
                        return Err(StoreError::Unavailable("the connection breaks at every commit".into()));
                    }
                }
                Err(Undone::Lost(_)) if lost < LOST => lost += 1,
                Err(Undone::Lost(error)) => return Err(error),
            }
        }
    }

    /// Writes are run in one transaction; `apart`, each in a savepoint, so that it takes back nothing but itself.
    fn transaction(&mut self, batch: &mut [Entry], apart: bool) -> Result<(), Undone> {
        self.connect().map_err(Undone::Lost)?;
        let Some(conn) = &mut self.conn else { return Err(Undone::Lost(StoreError::WriterGone)) };
        let marks = &mut self.marks;
        let outcome = begin(conn).and_then(|()| {
            run(conn, batch, apart)?;
            marks.mark(conn)
        });
        let undone = match outcome {
            Ok(()) if is_broken(conn) => Undone::Lost(StoreError::Unavailable("the connection broke".into())),
            Ok(()) => match TransactionManagerOf::commit_transaction(conn) {
                Ok(()) => {
                    self.commits.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => match StoreError::from(error) {
                    error @ StoreError::Unavailable(_) if !conn.is_serial() => {
                        marks.doubt();
                        Undone::InDoubt(error)
                    }
                    // There is nothing between SQLite and us that could lose an answer.
                    error => Undone::Failed(error),
                },
            },
            Err(error) => {
                let rolled_back = TransactionManagerOf::rollback_transaction(conn);
                if rolled_back.is_ok() && lives(conn, &error) { Undone::Failed(error) } else { Undone::Lost(error) }
            }
        };
        if !matches!(undone, Undone::Failed(_)) || TransactionManagerOf::is_broken_transaction_manager(conn) {
            self.conn = None;
        }
        Err(undone)
    }

    fn was_committed(&mut self, doubt: &StoreError) -> Result<bool, StoreError> {
        let until = Instant::now() + ASK;
        loop {
            let asked = self.connect().and_then(|()| match &mut self.conn {
                Some(conn) => self.marks.was_committed(conn),
                None => Err(StoreError::WriterGone),
            });
            match asked {
                Ok(committed) => {
                    tracing::info!(committed, "a commit in doubt was looked up");
                    return Ok(committed);
                }
                Err(error) if error.is_passing() && Instant::now() < until => self.conn = None,
                Err(_) => {
                    self.conn = None;
                    return Err(StoreError::Unavailable(format!("{doubt}; whether it was done is not known")));
                }
            }
        }
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        if self.conn.is_some() {
            return Ok(());
        }
        if let Some(failed) = self.failed {
            thread::sleep(RECONNECT.saturating_sub(failed.elapsed()));
        }
        let connected = self.url.connect();
        self.failed = connected.is_err().then(Instant::now);
        let mut conn = connected?;
        self.marks.connected(&mut conn);
        self.conn = Some(conn);
        Ok(())
    }
}

/// Begins a transaction, in SQLite with the write lock: one that reads first and is then refused the lock would have to
/// start over.
fn begin(conn: &mut DbConnection) -> Result<(), StoreError> {
    match conn {
        DbConnection::Sqlite(sqlite) => AnsiTransactionManager::begin_transaction_sql(sqlite, "BEGIN IMMEDIATE")?,
        DbConnection::Postgres(_) => TransactionManagerOf::begin_transaction(conn)?,
    }
    Ok(())
}

fn run(conn: &mut DbConnection, batch: &mut [Entry], apart: bool) -> Result<(), StoreError> {
    for entry in batch {
        entry.refused = None;
        if !apart {
            entry.write.run(conn)?;
            continue;
        }
        let mut alone = || conn.transaction(|conn| entry.write.run(conn));
        let outcome = match alone() {
            // Somebody else inserted the same at the same moment: now it can be seen.
            Err(StoreError::Duplicate(_)) => alone(),
            outcome => outcome,
        };
        match outcome {
            // What another transaction holds is let go of by beginning anew.
            Err(error @ StoreError::Conflict(_)) => return Err(error),
            outcome => entry.refused = outcome.err(),
        }
    }
    Ok(())
}

/// Whether the open transaction can neither go on nor be committed.
fn is_broken(conn: &mut DbConnection) -> bool {
    TransactionManagerOf::transaction_manager_status_mut(conn).transaction_depth().is_err()
}

/// Whether a connection still answers after this error.
fn lives(conn: &mut DbConnection, error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(_) => sql_query("SELECT 1").execute(conn).is_ok(),
        _ => true,
    }
}

type TransactionManagerOf = <DbConnection as Connection>::TransactionManager;
