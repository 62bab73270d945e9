//! Where everything is kept. Only this folder speaks Diesel.
//!
//! [`Db`] runs queries; the queries are free functions on a connection, one file per table.

mod attempts;
pub mod callbacks;
pub mod calls;
pub mod children;
mod connection;
pub mod control;
pub mod endings;
pub mod executions;
pub mod files;
pub mod logs;
pub mod meter;
mod migrate;
pub mod pushes;
mod record;
mod rows;
mod schema;
pub mod signals;
pub mod snapshots;
pub mod versions;
pub mod workers;
pub mod workflows;
mod writer;

pub use connection::{DatabaseUrl, DbConnection, InvalidDatabaseUrl};
pub use writer::Busy;

use std::sync::Arc;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use connection::{CONNECT_TIMEOUT, Manager};
use writer::Writer;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers there, or not as a database would.
    #[error("cannot open the database {url}: {cause}")]
    Unreachable {
        /// Where, without the password.
        url: String,
        /// What the system or the server said.
        cause: String,
    },
    /// The connection broke, or the database is busy or full; the same may succeed later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The schema was made by a later version of this program.
    #[error(
        "the database was migrated by a newer version (it has migration {newer}, which this program does not know): \
         use that version or a later one"
    )]
    TooNew {
        /// The migration that is not known here.
        newer: String,
    },
    /// The schema was made by an earlier version of this program, or there is none.
    #[error("the database {url} lacks the migration {missing}: run durable migrate")]
    NotMigrated {
        /// Where, without the password.
        url: String,
        /// The first that is missing.
        missing: String,
    },
    /// A migration failed; the schema is as it was.
    #[error("the database cannot be migrated: {0}")]
    Migration(String),
    /// A row contradicts itself.
    #[error("the database holds an inconsistent row: {0}")]
    Inconsistent(String),
    /// There is already such a row.
    #[error("there is already such a row: {0}")]
    Duplicate(String),
    /// The query itself is wrong, or a constraint refused it.
    #[error("the database refused the query: {0}")]
    Refused(String),
    /// The process is ending.
    #[error("the database writer has ended")]
    WriterGone,
}

impl StoreError {
    /// Whether the same request may succeed later, without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unreachable { .. })
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        match &error {
            DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, info) => {
                Self::Duplicate(info.message().to_owned())
            }
            DieselError::DatabaseError(
                DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::NotNullViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::ExclusionViolation
                | DatabaseErrorKind::RestrictViolation,
                info,
            ) => Self::Refused(info.message().to_owned()),
            DieselError::DatabaseError(_, info) => Self::Unavailable(info.message().to_owned()),
            DieselError::BrokenTransactionManager => Self::Unavailable(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// A database: many readers, one writer that commits in groups. Clones share both.
#[derive(Clone)]
pub struct Db {
    readers: r2d2::Pool<Manager>,
    writer: Writer,
    url: Arc<DatabaseUrl>,
}

impl Db {
    /// Opens the database and brings its schema up to date. Blocks; call it before serving.
    pub fn open(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let mut conn = url.connect()?;
        migrate::migrate(&mut conn)?;
        Ok(Self::on(url, conn))
    }

    /// Opens a database whose schema has to be up to date already. Blocks; call it before serving.
    pub fn open_migrated(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let mut conn = url.connect()?;
        if let Some(missing) = migrate::missing(&mut conn)? {
            return Err(StoreError::NotMigrated { url: url.to_string(), missing });
        }
        Ok(Self::on(url, conn))
    }

    fn on(url: &DatabaseUrl, conn: DbConnection) -> Self {
        let readers = r2d2::Pool::builder()
            .max_size(4)
            .min_idle(Some(0))
            .connection_timeout(CONNECT_TIMEOUT)
            // A connection that was closed behind our back is noticed when it is used next.
            .test_on_check_out(matches!(url, DatabaseUrl::Postgres(_)))
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(Manager(url.clone()));
        Self { readers, writer: Writer::spawn(url.clone(), conn), url: Arc::new(url.clone()) }
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
