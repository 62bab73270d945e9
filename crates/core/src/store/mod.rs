//! Where everything is kept. Only this folder speaks Diesel.
//!
//! [`Db`] runs queries; the queries are free functions on a connection, one file per table.

mod attempts;
pub mod callbacks;
pub mod calls;
pub mod children;
pub mod claims;
mod connection;
pub mod control;
mod doubt;
pub mod endings;
mod error;
pub mod executions;
mod fair;
pub mod files;
mod heads;
pub mod logs;
pub mod meter;
mod migrate;
pub mod pushes;
mod record;
pub mod retention;
mod rows;
mod schema;
pub mod signals;
pub mod snapshots;
pub mod versions;
pub mod workers;
pub mod workflows;
mod writer;

pub use connection::{DatabaseUrl, DbConnection, InvalidDatabaseUrl};
pub use error::StoreError;
pub use writer::Busy;

use std::sync::Arc;

use diesel::{ExpressionMethods, QueryDsl, RunQueryDsl};

use connection::{CONNECT_TIMEOUT, Manager};
use schema::secrets;
use writer::Writer;

/// A database: many readers, one writer that commits in groups. Clones share both.
#[derive(Clone)]
pub struct Db {
    readers: r2d2::Pool<Manager>,
    writer: Writer,
    url: Arc<DatabaseUrl>,
    /// What makes jobs unforgeable; the same in every process on this database.
    job_key: [u8; 32],
}

impl Db {
    /// Opens the database and brings its schema up to date. Blocks; call it before serving.
    pub fn open(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let mut conn = url.connect()?;
        migrate::migrate(&mut conn)?;
        Self::on(url, conn)
    }

    /// Opens a database whose schema has to be up to date already. Blocks; call it before serving.
    pub fn open_migrated(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let mut conn = url.connect()?;
        if let Some(missing) = migrate::missing(&mut conn)? {
            return Err(StoreError::NotMigrated { url: url.to_string(), missing });
        }
        Self::on(url, conn)
    }

    fn on(url: &DatabaseUrl, mut conn: DbConnection) -> Result<Self, StoreError> {
        let secret: String = secrets::table.filter(secrets::name.eq("jobs")).select(secrets::value).first(&mut conn)?;
        let job_key = blake3::derive_key("durable-monty jobs", secret.as_bytes());
        let readers = r2d2::Pool::builder()
            .max_size(4)
            .min_idle(Some(0))
            .connection_timeout(CONNECT_TIMEOUT)
            // A connection that was closed behind our back is noticed when it is used next.
            .test_on_check_out(matches!(url, DatabaseUrl::Postgres(_)))
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(Manager(url.clone()));
        Ok(Self { readers, writer: Writer::spawn(url.clone(), conn), url: Arc::new(url.clone()), job_key })
    }

    /// A mark that only who can read the database can put on these parts of a job.
    pub fn seal(&self, parts: &[&[u8]]) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.job_key);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Where it is.
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// Runs a query that changes nothing, off the async threads.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut DbConnection) -> Result<T, StoreError> + Send + 'static,
    {
        let pool = self.readers.clone();
        let span = tracing::Span::current();
        let work = move || {
            let _entered = span.entered();
            let mut pooled = pool.get().map_err(|error| StoreError::Unavailable(error.to_string()))?;
            let answer = query(&mut pooled.conn);
            pooled.used = std::time::Instant::now();
            pooled.broken = answer.as_ref().is_err_and(StoreError::is_passing);
            answer
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::WriterGone)?
    }

    /// Runs `work` in a transaction that is committed before this answers, perhaps together with
    /// others. `work` may be run again when another write of its group failed.
    pub async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut DbConnection) -> Result<T, StoreError> + Send + 'static,
    {
        self.writer.write(work).await
    }

    /// Runs `work` in the next transaction, within some 50 ms. Nobody hears whether it failed.
    pub fn write_lazily<F>(&self, work: F)
    where
        F: FnMut(&mut DbConnection) -> Result<(), StoreError> + Send + 'static,
    {
        self.writer.write_lazily(work);
    }

    /// Promises a write soon, so that the writer waits for it (a millisecond at most).
    pub fn busy(&self) -> Busy {
        self.writer.busy()
    }

    /// Transactions that this process has committed.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }
}
