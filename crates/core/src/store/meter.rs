//! What the database itself counts, for measuring processes from the outside.

use diesel::{QueryableByName, RunQueryDsl, sql_types::BigInt};

use super::{DbConnection, StoreError};
use crate::time::Timestamp;

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// How many writing transactions a Postgres has ever begun, this look included. Those that only read take no number.
pub fn transactions(conn: &mut DbConnection) -> Result<i64, StoreError> {
    match conn {
        DbConnection::Postgres(conn) => {
            let row: Count =
                diesel::sql_query("SELECT pg_current_xact_id()::text::bigint AS count").get_result(conn)?;
            Ok(row.count)
        }
        DbConnection::Sqlite(_) => Err(StoreError::Refused("SQLite does not count transactions".into())),
    }
}

/// That the database answers.
pub fn answers(conn: &mut DbConnection) -> Result<(), StoreError> {
    diesel::sql_query("SELECT 1").execute(conn)?;
    Ok(())
}

/// The database's own time; none where it has none of its own, because it runs inside this process.
pub fn now(conn: &mut DbConnection) -> Result<Option<Timestamp>, StoreError> {
    match conn {
        DbConnection::Postgres(conn) => {
            let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS count";
            let row: Count = diesel::sql_query(query).get_result(conn)?;
            Ok(Some(Timestamp(row.count)))
        }
        DbConnection::Sqlite(_) => Ok(None),
    }
}
