//! Which database, and how a connection to it is opened.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use diesel::{Connection, PgConnection, RunQueryDsl, SqliteConnection, connection::SimpleConnection};

use super::StoreError;

/// A connection to either database; queries are written once for both.
#[derive(diesel::MultiConnection)]
pub enum DbConnection {
    /// PostgreSQL.
    Postgres(PgConnection),
    /// SQLite.
    Sqlite(SqliteConnection),
}

impl DbConnection {
    /// Whether transactions that write run strictly one after the other, whoever makes them.
    pub fn is_serial(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }
}

/// Where the database is. Its `Display` form never shows a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file; created when it does not exist.
    Sqlite(String),
    /// A `postgres://` URL.
    Postgres(String),
}

/// A text that names no database.
#[derive(Debug, thiserror::Error)]
#[error("{seen:?} names no database: use sqlite://PATH, a path that ends in .db, or postgres://USER@HOST/NAME")]
pub struct InvalidDatabaseUrl {
    seen: String,
}

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    /// Diesel would take any bare word for a SQLite file, so the scheme decides here.
    fn from_str(text: &str) -> Result<Self, InvalidDatabaseUrl> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        let path = match text.split_once(':') {
            Some(("sqlite", rest)) => rest.strip_prefix("//").unwrap_or(rest),
            _ if text.contains("://") => "",
            _ if [".db", ".sqlite", ".sqlite3"].iter().any(|end| text.ends_with(end)) => text,
            _ => "",
        };
        // A database in memory could not be shared between the connections of a process.
        if path.is_empty() || path == ":memory:" {
            return Err(InvalidDatabaseUrl { seen: without_password(text) });
        }
        Ok(Self::Sqlite(path.to_owned()))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{path}"),
            Self::Postgres(url) => f.write_str(&without_password(url)),
        }
    }
}

/// What stands where parameters may stand, in a URL or in the form `host=… password=…`.
fn named_passwords(text: &str) -> impl Iterator<Item = &str> {
    let parameters = text.split(['?', '&', ' ']);
    let values = parameters.filter_map(|part| part.split_once('=').filter(|(name, _)| name.ends_with("password")));
    values.map(|(_, password)| password).filter(|password| !password.is_empty())
}

/// The passwords in a URL: before the host, or as a parameter.
fn passwords(url: &str) -> Vec<&str> {
    let login = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(login, _)| login);
    let before = login.and_then(|login| login.split_once(':')).map(|(_, password)| password);
    before.into_iter().filter(|password| !password.is_empty()).chain(named_passwords(url)).collect()
}

/// A text, such as what a server says, without the passwords of a URL.
fn hide(text: &str, url: &str) -> String {
    passwords(url).into_iter().fold(text.to_owned(), |text, password| text.replace(password, "***"))
}

/// A URL without its passwords; one that is malformed is not believed to have them in their place.
fn without_password(url: &str) -> String {
    // Where it stands, so that one which is also the user's name hides only itself.
    let hidden = match url.split_once("://") {
        Some((scheme, rest)) => rest.rsplit_once('@').and_then(|(login, host)| {
            let (user, _) = login.split_once(':')?;
            Some(format!("{scheme}://{user}:***@{host}"))
        }),
        None => url.rsplit_once('@').map(|(_, host)| format!("***@{host}")),
    };
    let shown = hidden.unwrap_or_else(|| url.to_owned());
    let named: Vec<String> = named_passwords(&shown).map(|password| format!("password={password}")).collect();
    named.into_iter().fold(shown, |shown, named| shown.replace(&named, "password=***"))
}

impl DatabaseUrl {
    fn raw(&self) -> &str {
        match self {
            Self::Sqlite(text) | Self::Postgres(text) => text,
        }
    }

    /// Opens a connection; the error tells the true cause.
    pub(super) fn connect(&self) -> Result<DbConnection, StoreError> {
        let unreachable = |error: diesel::ConnectionError| StoreError::Unreachable {
            url: self.to_string(),
            cause: hide(error.to_string().trim(), self.raw()),
        };
        match self {
            Self::Sqlite(path) => {
                let mut conn = SqliteConnection::establish(path).map_err(unreachable)?;
                // Full: a commit that returned survives a power cut. The busy timeout covers other processes.
                conn.batch_execute(
                    "PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                     PRAGMA foreign_keys = ON;",
                )
                .map_err(|error| StoreError::Unreachable { url: self.to_string(), cause: error.to_string() })?;
                Ok(DbConnection::Sqlite(conn))
            }
            Self::Postgres(url) => {
                let mut conn = PgConnection::establish(url).map_err(unreachable)?;
                // Errors are told apart by their text. Whoever may not ask for English may still see it.
                if let Err(error) = conn.batch_execute("SET lc_messages TO 'C'") {
                    tracing::debug!(%error, "the server speaks as it is set to");
                }
                Ok(DbConnection::Postgres(conn))
            }
        }
    }
}

/// Opens connections for a pool.
pub(super) struct Manager(pub(super) DatabaseUrl);

impl r2d2::ManageConnection for Manager {
    type Connection = Pooled;
    type Error = StoreError;

    fn connect(&self) -> Result<Pooled, StoreError> {
        Ok(Pooled { conn: self.0.connect()?, used: Instant::now(), broken: false })
    }

    /// A connection that was used a moment ago is not asked whether it lives: that would double each
    /// query's way to the server.
    fn is_valid(&self, pooled: &mut Pooled) -> Result<(), StoreError> {
        if pooled.used.elapsed() > FRESH {
            diesel::sql_query("SELECT 1").execute(&mut pooled.conn)?;
        }
        Ok(())
    }

    fn has_broken(&self, pooled: &mut Pooled) -> bool {
        use diesel::connection::TransactionManager;
        std::thread::panicking()
            || pooled.broken
            || <DbConnection as Connection>::TransactionManager::is_broken_transaction_manager(&mut pooled.conn)
    }
}

/// A connection of a pool.
pub(super) struct Pooled {
    pub(super) conn: DbConnection,
    /// When it last answered.
    pub(super) used: Instant,
    /// Its last query failed as it does on a dead connection.
    pub(super) broken: bool,
}

/// How long a connection is trusted after it has answered.
const FRESH: Duration = Duration::from_millis(500);

/// How long a pool waits for a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_decides_the_backend() {
        assert_eq!("sqlite://a/b.db".parse::<DatabaseUrl>().unwrap(), DatabaseUrl::Sqlite("a/b.db".into()));
        assert_eq!("sqlite:///a.db".parse::<DatabaseUrl>().unwrap(), DatabaseUrl::Sqlite("/a.db".into()));
        assert_eq!("./x.db".parse::<DatabaseUrl>().unwrap(), DatabaseUrl::Sqlite("./x.db".into()));
        assert!(matches!("postgres://u@h/d".parse::<DatabaseUrl>().unwrap(), DatabaseUrl::Postgres(_)));
        for bad in ["mydata", "mysql://x/y", "", "sqlite://", "sqlite::memory:"] {
            assert!(bad.parse::<DatabaseUrl>().unwrap_err().to_string().contains("names no database"));
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let url: DatabaseUrl = "postgres://me:s3cr:et@host/db".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://me:***@host/db");
        let url: DatabaseUrl = "postgres://host/db?password=s3cret&user=x".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://host/db?password=***&user=x");
        assert_eq!(hide("invalid token: \"p%zz\"", "postgres://me:p%zz@h/d"), "invalid token: \"***\"");
        for bad in
            ["mysql://me:secret@h/d", "postgres//me:secret@h/d", "postgres:/me:secret@h/d", "host=h password=secret"]
        {
            assert!(!bad.parse::<DatabaseUrl>().unwrap_err().to_string().contains("secret"), "{bad}");
        }
    }
}
