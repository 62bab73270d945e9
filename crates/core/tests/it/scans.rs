//! Every query that a loop runs finds its rows by an index, also among 100,000 executions.

use diesel::{QueryableByName, RunQueryDsl, connection::SimpleConnection, sql_types::Text};
use durable_core::store::{Db, DbConnection};
use durable_testing::databases;

#[derive(QueryableByName)]
struct Plan {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// The statements of the loops, as the store makes them, with values that select little.
const LOOPS: &[&str] = &[
    "SELECT id FROM executions WHERE due_at <= 5 AND runner IS NULL ORDER BY due_at LIMIT 100",
    "SELECT due_at FROM executions WHERE due_at IS NOT NULL AND runner IS NULL ORDER BY due_at LIMIT 1",
    "SELECT call_id FROM calls WHERE due_at <= 5 ORDER BY due_at LIMIT 500",
    "SELECT calls.call_id FROM calls INNER JOIN executions ON calls.execution_id = executions.id
     WHERE calls.due_at <= 5 AND executions.runner IS NULL ORDER BY calls.due_at LIMIT 500",
    "SELECT due_at FROM calls WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1",
    "UPDATE executions SET epoch = epoch + 1 WHERE id = 'e7' AND status IN ('scheduled', 'waiting')",
    "UPDATE executions SET epoch = epoch WHERE id = 'e7' AND epoch = 1 AND status = 'running'",
    "SELECT call_id FROM calls WHERE execution_id = 'e7' AND wake_group = 3
     AND status IN ('pending', 'running') LIMIT 1",
    "SELECT call_id, result, error FROM calls WHERE execution_id = 'e7' AND delivered_in IS NULL
     AND status IN ('completed', 'failed') ORDER BY call_id",
    "UPDATE calls SET status = 'completed', result = '1', completed_at = 1, due_at = NULL
     WHERE execution_id = 'e7' AND call_id = 1 AND status IN ('pending', 'running')",
    "SELECT lost FROM attempts WHERE execution_id = 'e7' AND call_id = 1",
    "UPDATE executions SET due_at = 1 WHERE claimed_by = 'w' AND status = 'running'",
    "UPDATE calls SET due_at = 1 WHERE worker = 'w' AND status = 'running'",
    "SELECT text FROM logs WHERE execution_id = 'e7' ORDER BY id",
    "SELECT id FROM executions ORDER BY created_at DESC, id DESC LIMIT 50",
];

fn fill(conn: &mut DbConnection) {
    let numbers = match conn {
        DbConnection::Sqlite(_) => {
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i FROM n"
        }
        DbConnection::Postgres(_) => "SELECT i FROM generate_series(1, 100000) AS n(i)",
    };
    conn.batch_execute(&format!(
        "INSERT INTO sources (hash, code) VALUES ('h', 'c');
         INSERT INTO executions (id, workflow, source_hash, queue, status, due_at, snapshot, snapshot_format, created_at, updated_at)
             SELECT 'e' || i, 'w', 'h', 'default', 'waiting', 1000 + i, '', 'f', i, i FROM ({numbers}) AS s;
         INSERT INTO calls (execution_id, call_id, resume_group, kind, function, args, kwargs, queue, status, due_at, created_at)
             SELECT 'e' || i, 1, 1, 'timer', 'sleep', '[]', '{{}}', 'default', 'pending', 1000 + i, i FROM ({numbers}) AS s;
         ANALYZE;"
    ))
    .unwrap();
}

fn plan(conn: &mut DbConnection, statement: &str) -> String {
    match conn {
        DbConnection::Sqlite(conn) => {
            let rows: Vec<Plan> = diesel::sql_query(format!("EXPLAIN QUERY PLAN {statement}")).load(conn).unwrap();
            rows.into_iter().map(|row| row.detail).collect::<Vec<_>>().join("\n")
        }
        DbConnection::Postgres(conn) => {
            #[derive(QueryableByName)]
            struct Line {
                #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
                line: String,
            }
            let rows: Vec<Line> = diesel::sql_query(format!("EXPLAIN {statement}")).load(conn).unwrap();
            rows.into_iter().map(|row| row.line).collect::<Vec<_>>().join("\n")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_loop_scans_a_table() {
    for (kind, url, _folder) in databases() {
        let db = Db::open(&url).unwrap();
        let plans = db
            .write(|conn| {
                fill(conn);
                Ok(LOOPS.iter().map(|statement| (*statement, plan(conn, statement))).collect::<Vec<_>>())
            })
            .await
            .unwrap();
        for (statement, plan) in plans {
            // SQLite says SCAN also for walking an index in order, which LIMIT cuts short.
            let scans = plan
                .lines()
                .any(|line| line.contains("Seq Scan") || line.trim().starts_with("SCAN") && !line.contains("USING"));
            let small = plan.contains("Seq Scan on attempts") || plan.contains("Seq Scan on logs");
            assert!(!scans || small, "{kind}: {statement}\n{plan}");
        }
    }
}
