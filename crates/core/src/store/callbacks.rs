//! Callbacks: tokens by which an outside service completes a call later.

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl};

use super::{DbConnection, StoreError, calls::AttemptOf, rows, schema::callbacks};
use crate::time::Timestamp;

/// Remembers which attempt a token completes.
pub fn insert(conn: &mut DbConnection, token: &str, of: &AttemptOf, now: Timestamp) -> Result<(), StoreError> {
    diesel::insert_into(callbacks::table)
        .values((
            callbacks::token.eq(token),
            callbacks::execution_id.eq(of.execution.as_str()),
            callbacks::call_id.eq(i64::from(of.call.0)),
            callbacks::attempt.eq(of.number),
            callbacks::created_at.eq(now.0),
        ))
        .execute(conn)?;
    Ok(())
}

/// The attempt that a token completes, if there is such a token.
pub fn find(conn: &mut DbConnection, token: &str) -> Result<Option<AttemptOf>, StoreError> {
    let row: Option<(String, i64, i64)> = callbacks::table
        .find(token)
        .select((callbacks::execution_id, callbacks::call_id, callbacks::attempt))
        .first(conn)
        .optional()?;
    row.map(|(execution, call, number)| {
        let execution = execution.parse().map_err(|error| StoreError::Inconsistent(format!("{error}")))?;
        Ok(AttemptOf { execution, call: rows::call_id(call)?, number })
    })
    .transpose()
}
