//! The schema: embedded, applied forwards, refused when it is newer than the program.

use std::collections::BTreeSet;

use diesel::{
    connection::SimpleConnection,
    migration::{Migration, MigrationSource},
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{DbConnection, StoreError};

const SQLITE: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// Brings the schema up to this program's. Safe to call from many processes at once.
pub(super) fn migrate(conn: &mut DbConnection) -> Result<(), StoreError> {
    match conn {
        // Exclusive from the start, so that two processes do not both create the tables.
        DbConnection::Sqlite(conn) => conn.immediate_transaction(|conn| apply(conn, SQLITE)),
        DbConnection::Postgres(conn) => {
            const LOCK: &str = "pg_advisory_lock(4919131714520831)";
            const UNLOCK: &str = "pg_advisory_unlock(4919131714520831)";
            conn.batch_execute(&format!("SELECT {LOCK}"))?;
            let outcome = apply(conn, POSTGRES);
            conn.batch_execute(&format!("SELECT {UNLOCK}"))?;
            outcome
        }
    }
}

/// The first of this program's migrations that the database lacks.
pub(super) fn missing(conn: &mut DbConnection) -> Result<Option<String>, StoreError> {
    match conn {
        DbConnection::Sqlite(conn) => compare(conn, &SQLITE),
        DbConnection::Postgres(conn) => compare(conn, &POSTGRES),
    }
}

fn failed(error: &(dyn std::error::Error + Send + Sync)) -> StoreError {
    StoreError::Migration(error.to_string())
}

fn compare<DB, C>(conn: &mut C, migrations: &EmbeddedMigrations) -> Result<Option<String>, StoreError>
where
    DB: diesel::backend::Backend,
    C: MigrationHarness<DB>,
    EmbeddedMigrations: MigrationSource<DB>,
{
    let own: Vec<Box<dyn Migration<DB>>> = migrations.migrations().map_err(|error| failed(&*error))?;
    let own: BTreeSet<String> = own.iter().map(|migration| migration.name().version().to_string()).collect();
    let applied: BTreeSet<String> =
        conn.applied_migrations().map_err(|error| failed(&*error))?.iter().map(ToString::to_string).collect();
    if let Some(newer) = applied.difference(&own).next() {
        return Err(StoreError::TooNew { newer: newer.clone() });
    }
    Ok(own.difference(&applied).next().cloned())
}

fn apply<DB, C>(conn: &mut C, migrations: EmbeddedMigrations) -> Result<(), StoreError>
where
    DB: diesel::backend::Backend,
    C: MigrationHarness<DB>,
    EmbeddedMigrations: MigrationSource<DB>,
{
    compare(conn, &migrations)?;
    conn.run_pending_migrations(migrations).map_err(|error| failed(&*error))?;
    Ok(())
}
