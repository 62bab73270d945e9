//! A commit in doubt: the connection broke while the answer to COMMIT was on its way, so nobody here knows whether it was done.
//!
//! So every transaction on Postgres leaves its number in this writer's row of the table `writers`, with all else that it
//! writes. Whoever asks for the row waits for the transaction that is still under way, and then sees its number or not.
//! (The transaction's own id would not do: after a crash of the server it may be another's.) SQLite has nothing in between.

use std::time::{Duration, Instant};

use diesel::{
    OptionalExtension, QueryableByName, RunQueryDsl,
    connection::SimpleConnection,
    sql_query,
    sql_types::{BigInt, Integer, Text},
};
use uuid::Uuid;

use super::{DbConnection, StoreError};

/// How long a commit in doubt is asked for, until its writers are told that nobody knows.
pub(super) const ASK: Duration = Duration::from_secs(15);

/// One row, whoever comes first: a transaction that is under way is waited for.
const ASKED: &str = "INSERT INTO writers (id, number, at) VALUES ($1, 0, now()) \
                     ON CONFLICT (id) DO UPDATE SET at = excluded.at RETURNING number";

/// Nothing, if the transaction has written nothing.
const MARK: &str = "INSERT INTO writers (id, number, at) \
                    SELECT $1, $2, now() WHERE txid_current_if_assigned() IS NOT NULL \
                    ON CONFLICT (id) DO UPDATE SET number = excluded.number, at = excluded.at";

/// Rows of writers that have long ended.
const SWEEP: &str = "DELETE FROM writers WHERE at < now() - interval '1 day'";

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Backend {
    #[diesel(sql_type = Integer)]
    backend: i32,
}

/// The marks of one writer.
pub(super) struct Marks {
    id: String,
    /// That of the last transaction.
    number: i64,
    /// The server's process behind the connection.
    backend: Option<i32>,
    /// The one behind the connection that broke during a commit.
    doubted: Option<i32>,
}

impl Marks {
    pub(super) fn new() -> Self {
        Self { id: Uuid::new_v4().to_string(), number: 0, backend: None, doubted: None }
    }

    /// Begins with a connection.
    pub(super) fn connected(&mut self, conn: &mut DbConnection) {
        self.backend = None;
        if let DbConnection::Postgres(conn) = conn {
            let found = sql_query("SELECT pg_backend_pid() AS backend").get_result::<Backend>(conn);
            self.backend = found.ok().map(|found| found.backend);
            if let Err(error) = sql_query(SWEEP).execute(conn) {
                tracing::debug!(%error, "rows of ended writers stay for now");
            }
        }
    }

    /// The connection broke during a commit.
    pub(super) fn doubt(&mut self) {
        self.doubted = self.backend.take();
    }

    /// Marks the transaction that is open.
    pub(super) fn mark(&mut self, conn: &mut DbConnection) -> Result<(), StoreError> {
        if let DbConnection::Postgres(conn) = conn {
            self.number += 1;
            sql_query(MARK).bind::<Text, _>(&self.id).bind::<BigInt, _>(self.number).execute(conn)?;
        }
        Ok(())
    }

    /// Whether the last transaction was committed, asked on another connection than its own.
    pub(super) fn was_committed(&self, conn: &mut DbConnection) -> Result<bool, StoreError> {
        let DbConnection::Postgres(conn) = conn else { return Ok(false) };
        let until = Instant::now() + ASK;
        loop {
            conn.batch_execute("SET lock_timeout = '1s'")?;
            let found = sql_query(ASKED).bind::<Text, _>(&self.id).get_result::<Number>(conn).optional();
            conn.batch_execute("RESET lock_timeout")?;
            match found.map_err(StoreError::from) {
                Ok(found) => return Ok(found.is_some_and(|found| found.number >= self.number)),
                // The server has not noticed that we left: its process still holds the row.
                Err(StoreError::Unavailable(_)) if Instant::now() < until => {
                    if let Some(backend) = self.doubted {
                        sql_query("SELECT pg_terminate_backend($1)").bind::<Integer, _>(backend).execute(conn)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
