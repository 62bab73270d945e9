//! What stands first in each of many lines: found from one line to the next by an index, in one statement, so that a long
//! line is not walked through and an empty one costs nothing.

use diesel::{
    QueryableByName, RunQueryDsl, sql_query,
    sql_types::{Array, BigInt, Nullable, Text},
};

use super::{DbConnection, StoreError, executions::Whose};
use crate::{id::ExecutionId, time::Timestamp};

/// Most trees that are looked at in one go.
const TREES: usize = 1000;

/// A line: a queue, or the tree of an execution.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub(super) struct Head {
    #[diesel(sql_type = Text)]
    pub(super) name: String,
    /// When its first is due; none where that is nobody's whose we are.
    #[diesel(sql_type = Nullable<BigInt>)]
    due: Option<i64>,
}

impl Head {
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.due.map(Timestamp)
    }
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// A call that is to be pushed.
#[derive(QueryableByName)]
pub(super) struct ToPush {
    #[diesel(sql_type = Text)]
    pub(super) execution_id: String,
    #[diesel(sql_type = BigInt)]
    pub(super) call_id: i64,
    #[diesel(sql_type = BigInt)]
    pub(super) attempt: i64,
    #[diesel(sql_type = Text)]
    pub(super) queue: String,
    #[diesel(sql_type = Text)]
    pub(super) function: String,
    #[diesel(sql_type = Text)]
    pub(super) args: String,
    #[diesel(sql_type = Text)]
    pub(super) kwargs: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(super) options: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(super) deadline_at: Option<i64>,
}

/// The statement that finds the names of all lines; `rows` stands for a table and a condition as in its partial index.
fn names(column: &str, rows: &str) -> String {
    format!(
        "WITH RECURSIVE lines (name) AS (
            SELECT * FROM (SELECT r.{column} FROM {rows} ORDER BY r.{column} LIMIT 1) AS first
            UNION ALL
            SELECT (SELECT r.{column} FROM {rows} AND r.{column} > lines.name ORDER BY r.{column} LIMIT 1)
                FROM lines WHERE lines.name IS NOT NULL
        ) "
    )
}

/// Function calls that wait for a worker.
const WAITING: &str = "calls AS r WHERE r.status = 'pending' AND r.kind = 'function'";

/// Whose one of them is. Not by a join, which SQLite would not walk in the order of the index; and nearly all are served,
/// which Postgres knows of a NOT EXISTS.
const SERVED: &str = "NOT EXISTS (SELECT 1 FROM executions AS e WHERE e.id = r.execution_id AND e.runner IS NOT NULL)";
const RUN_BY: &str = "EXISTS (SELECT 1 FROM executions AS e WHERE e.id = r.execution_id AND e.runner =";

/// Children that wait for their first turn.
const TO_BEGIN: &str = "executions AS r WHERE r.status = 'scheduled' AND r.root IS NOT NULL AND r.runner IS NULL";

/// The same statement for SQLite, which weighs how many rows a value of an index has, and not that the first of them are
/// enough: it is told by which index to go.
fn by_index(text: &str) -> String {
    let (calls, executions) = ("calls AS r", "executions AS r");
    text.replace(calls, &format!("{calls} INDEXED BY calls_to_push"))
        .replace(executions, &format!("{executions} INDEXED BY executions_to_begin"))
}

/// The queues in which calls wait to be pushed, or to be begun once they were.
pub(super) fn queues(conn: &mut DbConnection, whose: &Whose) -> Result<Vec<Head>, StoreError> {
    let mine = match whose {
        Whose::Served => SERVED.to_owned(),
        Whose::Run(_) => format!("{RUN_BY} $1)"),
    };
    let text = format!(
        "{} SELECT name, (SELECT r.due_at FROM {WAITING} AND r.queue = lines.name AND {mine}
            ORDER BY r.due_at, r.created_at LIMIT 1) AS due
        FROM lines WHERE name IS NOT NULL",
        names("queue", WAITING)
    );
    Ok(match (conn, whose) {
        (DbConnection::Postgres(conn), Whose::Served) => sql_query(text).load(conn)?,
        (DbConnection::Sqlite(conn), Whose::Served) => sql_query(by_index(&text)).load(conn)?,
        (DbConnection::Postgres(conn), Whose::Run(runner)) => sql_query(text).bind::<Text, _>(&runner.0).load(conn)?,
        (DbConnection::Sqlite(conn), Whose::Run(runner)) => {
            sql_query(by_index(&text)).bind::<Text, _>(&runner.0).load(conn)?
        }
    })
}

/// The names of at most `limit` of those queues.
pub(super) fn queue_names(conn: &mut DbConnection, limit: u64) -> Result<Vec<String>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let text = format!("{} SELECT name FROM lines WHERE name IS NOT NULL LIMIT {limit}", names("queue", WAITING));
    let rows: Vec<Name> = match conn {
        DbConnection::Postgres(conn) => sql_query(text).load(conn)?,
        DbConnection::Sqlite(conn) => sql_query(by_index(&text)).load(conn)?,
    };
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// The trees in which children wait for their first turn.
pub(super) fn trees(conn: &mut DbConnection) -> Result<Vec<Head>, StoreError> {
    let text = format!(
        "{} SELECT name, (SELECT r.due_at FROM {TO_BEGIN} AND r.root = lines.name ORDER BY r.due_at LIMIT 1) AS due
        FROM lines WHERE name IS NOT NULL LIMIT {TREES}",
        names("root", TO_BEGIN)
    );
    Ok(match conn {
        DbConnection::Postgres(conn) => sql_query(text).load(conn)?,
        DbConnection::Sqlite(conn) => sql_query(by_index(&text)).load(conn)?,
    })
}

/// The first of those children that are due, at most so many of each tree.
pub(super) fn to_begin(
    conn: &mut DbConnection,
    trees: &[String],
    now: Timestamp,
    each: i64,
) -> Result<Vec<String>, StoreError> {
    let of = |tree: &str, p: char| {
        format!(
            "SELECT r.id AS name FROM {TO_BEGIN} AND r.root = {tree} AND r.due_at <= {p}2 ORDER BY r.due_at LIMIT {p}3"
        )
    };
    let found: Vec<Name> = match conn {
        DbConnection::Postgres(conn) => {
            let first = of("line.name", '$');
            let text =
                format!("SELECT first.* FROM unnest($1::text[]) AS line (name) CROSS JOIN LATERAL ({first}) AS first");
            let query = sql_query(text).bind::<Array<Text>, _>(trees).bind::<BigInt, _>(now.0);
            query.bind::<BigInt, _>(each).load(conn)?
        }
        // Statements cost no way there and back.
        DbConnection::Sqlite(conn) => {
            let mut found = Vec::new();
            for tree in trees {
                let query = sql_query(by_index(&of("?1", '?'))).bind::<Text, _>(tree).bind::<BigInt, _>(now.0);
                found.extend(query.bind::<BigInt, _>(each).load::<Name>(conn)?);
            }
            found
        }
    };
    Ok(found.into_iter().map(|row| row.name).collect())
}

/// How many executions of a tree, beside its top, have not ended: `most` at the most, more are not looked at.
pub fn open_in_tree(conn: &mut DbConnection, top: &ExecutionId, most: u64) -> Result<u64, StoreError> {
    let text = |p: char| {
        format!(
            "SELECT count(*) AS count FROM
                (SELECT 1 FROM executions WHERE root = {p}1 AND finished_at IS NULL LIMIT {p}2) AS open"
        )
    };
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let open: Count = match conn {
        DbConnection::Postgres(conn) => {
            sql_query(text('$')).bind::<Text, _>(top.as_str()).bind::<BigInt, _>(most).get_result(conn)?
        }
        DbConnection::Sqlite(conn) => {
            sql_query(text('?')).bind::<Text, _>(top.as_str()).bind::<BigInt, _>(most).get_result(conn)?
        }
    };
    Ok(u64::try_from(open.count).unwrap_or(0))
}

/// The first calls to be pushed that are due, at most so many of each queue.
pub(super) fn to_push(
    conn: &mut DbConnection,
    whose: &Whose,
    queues: &[String],
    now: Timestamp,
    each: i64,
) -> Result<Vec<ToPush>, StoreError> {
    let (mine, name) = match whose {
        Whose::Served => (format!("{SERVED} AND ('' = "), ""),
        Whose::Run(runner) => (RUN_BY.to_owned(), runner.0.as_str()),
    };
    let of = |queue: &str, p: char| {
        format!(
            "SELECT r.execution_id, r.call_id, r.attempt, r.queue, r.function, r.args, r.kwargs, r.options, r.deadline_at
            FROM {WAITING} AND r.queue = {queue} AND r.due_at <= {p}2 AND {mine} {p}4)
            ORDER BY r.due_at, r.created_at LIMIT {p}3"
        )
    };
    Ok(match conn {
        DbConnection::Postgres(conn) => {
            let first = of("line.name", '$');
            let text =
                format!("SELECT first.* FROM unnest($1::text[]) AS line (name) CROSS JOIN LATERAL ({first}) AS first");
            let query = sql_query(text).bind::<Array<Text>, _>(queues).bind::<BigInt, _>(now.0);
            query.bind::<BigInt, _>(each).bind::<Text, _>(name).load(conn)?
        }
        DbConnection::Sqlite(conn) => {
            let mut found = Vec::new();
            for queue in queues {
                let query = sql_query(by_index(&of("?1", '?'))).bind::<Text, _>(queue).bind::<BigInt, _>(now.0);
                found.extend(query.bind::<BigInt, _>(each).bind::<Text, _>(name).load::<ToPush>(conn)?);
            }
            found
        }
    })
}
