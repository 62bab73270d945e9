//! Why the store could not do something, sorted by what the caller does next.

use diesel::result::{DatabaseErrorInformation, DatabaseErrorKind, Error as DieselError};

/// Why the store could not do something.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// Two transactions were in each other's way; the same succeeds at once, or soon.
    #[error("the database could not serve two transactions at once: {0}")]
    Conflict(String),
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
    /// The query itself is wrong, or a value or a constraint refused it: the same never succeeds.
    #[error("the database refused the query: {0}")]
    Refused(String),
    /// The process is ending.
    #[error("the database writer has ended")]
    WriterGone,
}

impl StoreError {
    /// Whether the same request may succeed later, without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unreachable { .. } | Self::Conflict(_))
    }

    /// Whether the database is well and will never take this.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Duplicate(_))
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        let text = error.to_string();
        match error {
            DieselError::DatabaseError(kind, info) => Self::of(kind, info.as_ref()),
            DieselError::BrokenTransactionManager | DieselError::RollbackErrorOnCommit { .. } => {
                Self::Unavailable(text)
            }
            _ => Self::Refused(text),
        }
    }
}

impl StoreError {
    fn of(kind: DatabaseErrorKind, info: &(dyn DatabaseErrorInformation + Send + Sync)) -> Self {
        let text = info.message().to_owned();
        match kind {
            DatabaseErrorKind::UniqueViolation => Self::Duplicate(text),
            DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::NotNullViolation
            | DatabaseErrorKind::CheckViolation
            | DatabaseErrorKind::ExclusionViolation
            | DatabaseErrorKind::RestrictViolation => Self::Refused(text),
            DatabaseErrorKind::SerializationFailure => Self::Conflict(text),
            // A server that has become another's standby is read-only: the next connection goes elsewhere.
            DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::ReadOnlyTransaction => Self::Unavailable(text),
            // Diesel tells more of them by their text alone; connections ask for English.
            _ if is(&text, CONFLICTS) => Self::Conflict(text),
            _ if is(&text, PASSING) => Self::Unavailable(text),
            // The server points at a place in the statement: it did not begin to run it.
            _ if info.statement_position().is_some() || is(&text, REFUSED) => Self::Refused(text),
            // What is not known may pass. Whoever repeats it counts how often.
            _ => Self::Unavailable(text),
        }
    }
}

fn is(text: &str, those: &[&str]) -> bool {
    those.iter().any(|part| text.contains(part))
}

/// SQLSTATE class 40, beside serialization failures.
const CONFLICTS: &[&str] = &["deadlock detected"];

/// Classes 53 (resources), 57 (an operator steps in), 58 (the system), and locks that were not to be had. They come before
/// the refusals, whose words they may hold.
const PASSING: &[&str] = &[
    "No space left on device",
    "could not extend",
    "could not open file",
    "could not read",
    "could not write",
    "could not fsync",
    "could not access",
    "temporary file size exceeds",
    "out of shared memory",
    "canceling statement",
    "terminating connection",
    "lock timeout",
    "could not obtain lock",
    "database is locked",
    "database table is locked",
    "database or disk is full",
    "disk I/O error",
    "unable to open database",
    "server closed the connection",
    "connection to server",
];

/// Classes 22 (values that cannot be kept), 42 (statements that make no sense) and 54 (limits of the program), and what
/// SQLite says then.
const REFUSED: &[&str] = &[
    "invalid byte sequence",
    "character with byte sequence",
    "0x00",
    "invalid input syntax",
    "invalid input value",
    "unsupported Unicode escape",
    "malformed",
    "incorrect binary data format",
    "insufficient data left in message",
    "out of range",
    "overflow",
    "division by zero",
    "value too long",
    "invalid value",
    "invalid regular expression",
    "cannot be cast",
    "index row",
    "row is too big",
    "invalid memory alloc request size",
    "string buffer exceeds maximum",
    "Cannot enlarge string buffer",
    "string is too long",
    "too many",
    "exceeds the maximum",
    "exceeds maximum",
    "does not exist",
    "already exists",
    "permission denied",
    "string or blob too big",
    "datatype mismatch",
    "no such table",
    "no such column",
    "has no column named",
    "bind message",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> StoreError {
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned())).into()
    }

    #[test]
    fn what_passes_is_repeated_and_what_is_refused_is_not() {
        for text in [
            "invalid byte sequence for encoding \"UTF8\": 0x00",
            "value out of range: overflow",
            "index row size 5984 exceeds btree version 4 maximum 2704 for index \"calls_to_push\"",
        ] {
            assert!(seen(text).is_refusal(), "{text}");
        }
        for text in [
            "could not extend file \"base/1/2\": No space left on device",
            "disk I/O error",
            "canceling statement due to statement timeout",
            "something that nobody has heard of",
        ] {
            assert!(seen(text).is_passing() && !matches!(seen(text), StoreError::Conflict(_)), "{text}");
        }
        assert!(matches!(seen("deadlock detected"), StoreError::Conflict(_)));
    }
}
