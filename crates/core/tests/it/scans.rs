//! Every query that a loop runs finds its rows by an index, also among 100,000 executions.
//!
//! The statements are recorded while the store makes them, so that none can differ from what runs.

use std::sync::{Arc, Mutex};

use diesel::{
    Connection, QueryableByName, RunQueryDsl,
    connection::{InstrumentationEvent, SimpleConnection},
    sql_types::Text,
};
use durable_core::{
    id::{CallId, Epoch, ExecutionId, WorkerId},
    interpreter::Snapshot,
    model::{Failure, Json, LogLine, Outcome, Stream, Wake},
    quota::Used,
    store::{
        Db, DbConnection, StoreError,
        calls::{self, AttemptOf},
        control, endings,
        executions::{self, Ending, Fence, Pausing, Whose},
        logs, pushes, retention, signals, snapshots, workflows,
    },
    time::Timestamp,
};
use durable_testing::databases;

const NOW: Timestamp = Timestamp(5);

fn fill(conn: &mut DbConnection) {
    let numbers = match conn {
        DbConnection::Sqlite(_) => {
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i FROM n"
        }
        DbConnection::Postgres(_) => "SELECT i FROM generate_series(1, 100000) AS n(i)",
    };
    conn.batch_execute(&format!(
        "INSERT INTO sources (hash, code) VALUES ('h', 'c');
         INSERT INTO executions
             (id, workflow, source_hash, queue, status, due_at, snapshot, snapshot_format, created_at, updated_at)
             SELECT 'e' || i, 'w', 'h', 'default', 'waiting', 1000 + i, '', 'f', i, i FROM ({numbers}) AS s;
         INSERT INTO executions
             (id, workflow, source_hash, queue, status, due_at, created_at, updated_at, depth, root)
             SELECT 'c' || i, 'w', 'h', 'default', 'scheduled', 1, i, i, 1, 'e' || (i % 7) FROM ({numbers}) AS s;
         INSERT INTO origins (execution_id, inputs) SELECT 'e' || i, '{{}}' FROM ({numbers}) AS s;
         INSERT INTO calls
             (execution_id, call_id, resume_group, kind, function, args, kwargs, queue, status, wake_group, due_at, created_at)
             SELECT 'e' || i, 1, 1, 'function', 'f', '[]', '{{}}', 'default', 'pending', 3, 1000 + i, i
             FROM ({numbers}) AS s;
         INSERT INTO calls
             (execution_id, call_id, resume_group, kind, function, args, kwargs, queue, status, wake_group, due_at, created_at)
             SELECT 'e7', 1 + i, 1, 'function', 'f', '[]', '{{}}', 'default', 'pending', 3, 1000 + i, i
             FROM ({numbers}) AS s WHERE i <= 20000;
         INSERT INTO attempts (execution_id, call_id, number, error, lost, finished_at)
             SELECT 'e' || i, 1, 1, '{{}}', FALSE, 1 FROM ({numbers}) AS s;
         INSERT INTO signals (execution_id, name, payload, dedupe_key, sent_at)
             SELECT 'e' || i, 'go', '1', 'k' || i, 1 FROM ({numbers}) AS s;
         INSERT INTO workflows (name, version, file, source_hash, created_at)
             SELECT 'w' || i, 1, 'w.py', 'h', 1 FROM ({numbers}) AS s;
         INSERT INTO sources (hash, code) SELECT 'h' || i, 'c' FROM ({numbers}) AS s;
         INSERT INTO bundles (id, hash, uses) SELECT 'b' || i, 'h' || i, TRUE FROM ({numbers}) AS s;
         INSERT INTO versions (execution_id, number, workflow, source_hash, until_pause, until_at)
             SELECT 'e' || i, 1, 'w', 'h', 1, 1 FROM ({numbers}) AS s;
         INSERT INTO snapshots (execution_id, suspension, epoch, snapshot, snapshot_format, created_at)
             SELECT 'e' || i, 1, 1, '', 'f', i FROM ({numbers}) AS s;
         INSERT INTO logs (execution_id, stream, text, at) SELECT 'e' || i, 'stdout', 'x', 1 FROM ({numbers}) AS s;
         ANALYZE;"
    ))
    .unwrap();
}

/// Everything that the loops and steps do, once.
fn steps(conn: &mut DbConnection) -> Result<(), StoreError> {
    let id: ExecutionId = "e7".parse().unwrap();
    let (worker, whose) = (WorkerId("w".into()), Whose::Served);
    let of = AttemptOf { execution: id.clone(), call: CallId(1), number: 1 };
    executions::due(conn, &whose, NOW, 100)?;
    executions::next_due(conn, &whose)?;
    calls::due(conn, &whose, NOW, 500)?;
    calls::next_due(conn, &whose, &[])?;
    pushes::to_push(conn, &whose, NOW, &["full".into()], 1000)?;
    let mine = Whose::Run(WorkerId("w".into()));
    executions::due(conn, &mine, NOW, 100)?;
    executions::next_due(conn, &mine)?;
    executions::claim(conn, &id, &worker, NOW, Timestamp(10))?;
    let fence = Fence { id: id.clone(), epoch: Epoch(1) };
    let snapshot = Snapshot { format: "f".into(), bytes: vec![1] };
    calls::begin(conn, &of, &worker, NOW, Timestamp(10))?;
    calls::beat(conn, &of, &worker, Timestamp(11))?;
    calls::failed_attempts(conn, &of)?;
    calls::work(conn, &of)?;
    calls::retry(conn, &of, NOW)?;
    let again = AttemptOf { number: 2, ..of };
    pushes::pushed(conn, &again, NOW, Timestamp(20))?;
    pushes::not_queued(conn, &again, NOW)?;
    calls::settle(conn, &again, &Outcome::Completed(Json("1".into())), NOW)?;
    let failed = AttemptOf { execution: id.clone(), call: CallId(2), number: 1 };
    calls::settle(conn, &failed, &Outcome::Failed(Failure::new("E", "e")), NOW)?;
    calls::group_is_open(conn, &id, 3)?;
    calls::is_woken(conn, &id)?;
    calls::mark_delivered(conn, &fence, &[CallId(1)])?;
    calls::mark_delivered(conn, &fence, &[CallId(1), CallId(2)])?;
    calls::rewake(conn, &id, &[(CallId(4), Wake::Alone)])?;
    let (progress, used) = (Json("1".into()), Used::default());
    let pausing =
        Pausing { snapshot: &snapshot, base: Some(&snapshot), due_at: None, progress: Some(&progress), used: &used };
    executions::pause(conn, &fence, pausing, NOW)?;
    calls::budget(conn, &again)?;
    calls::progress(conn, &again, &progress)?;
    calls::waits_for_signal(conn, &id, "go", NOW)?;
    signals::insert(conn, &id, ("go", &progress), Some("key"), NOW)?;
    signals::take(conn, &id, "go", CallId(5))?;
    calls::give_up(conn, &id, &[CallId(5)], NOW)?;
    calls::give_up(conn, &id, &[CallId(0)], NOW)?;
    calls::overdue(conn, &id, NOW)?;
    endings::ending(conn, &id)?;
    endings::open_among(conn, &id, &[CallId(3)])?;
    calls::sends_before(conn, &again)?;
    signals::give_back(conn, &id, &[CallId(0)], NOW)?;
    signals::untaken(conn, &id)?;
    calls::cancelled_among(conn, &id, &[CallId(5)])?;
    control::lock(conn, &id)?;
    control::request_cancel_of_children(conn, &id, NOW)?;
    control::request_cancel_of_awaited(conn, &id, &[CallId(5)], NOW)?;
    control::hold(conn, &id)?;
    control::release(conn, &id, NOW)?;
    workflows::newest(conn, "w")?;
    executions::claim_at(conn, &Fence { id: id.clone(), epoch: Epoch(2) }, &worker, NOW, Timestamp(10))?;
    executions::look_again(conn, &id, Epoch(2), NOW)?;
    calls::expire_leases_of(conn, &worker, NOW)?;
    executions::end(conn, &Fence { id: id.clone(), epoch: Epoch(2) }, &Ending::Completed(Json("1".into())), NOW)?;
    calls::cancel_open(conn, &id, calls::Seen::ByNobody, NOW)?;
    logs::list(conn, &id)?;
    executions::list(conn, None, 50)?;
    executions::open_in_tree(conn, &id, 1000)?;
    pushes::too_many(conn, &["new".into()], 100, NOW)?;
    let line = LogLine { call_id: None, attempt: None, stream: Stream::Stdout, text: "x".repeat(9000), at: NOW };
    logs::append(conn, &id, &[line], 1 << 20)?;
    retention::former_life(conn, &id, 100, NOW)?;
    retention::ended(conn, Timestamp(2))?;
    retention::texts(conn, "", NOW)?;
    retention::taken_signals(conn, 0, NOW)?;
    snapshots::forget(conn, NOW)?;
    Ok(())
}

fn record(conn: &mut DbConnection) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            notes.lock().unwrap().push(query.to_string());
        }
    });
    steps(conn).unwrap();
    conn.set_instrumentation(|_: InstrumentationEvent<'_>| {});
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let statements = seen.into_iter().filter_map(|query| query.split(" -- binds").next().map(str::to_owned));
    let looked_at = ["SELECT", "UPDATE", "DELETE", "WITH"];
    statements.filter(|query| looked_at.iter().any(|word| query.starts_with(word))).collect()
}

fn plan(conn: &mut DbConnection, number: usize, statement: &str) -> String {
    #[derive(QueryableByName)]
    struct Detail {
        #[diesel(sql_type = Text)]
        detail: String,
    }
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
        line: String,
    }
    let lines: Vec<String> = match conn {
        DbConnection::Sqlite(conn) => {
            let rows: Vec<Detail> = diesel::sql_query(format!("EXPLAIN QUERY PLAN {statement}")).load(conn).unwrap();
            rows.into_iter().map(|row| row.detail).collect()
        }
        DbConnection::Postgres(conn) => {
            // A plan that holds for any values, as for a statement that is prepared once.
            let binds = (1..).take_while(|n| statement.contains(&format!("${n}"))).count();
            let nulls = vec!["NULL"; binds].join(", ");
            let arguments = if binds == 0 { String::new() } else { format!("({nulls})") };
            // As the deletion of texts is run.
            let seqscan = if statement.starts_with("DELETE FROM sources") { "off" } else { "on" };
            let settings = format!("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = {seqscan}");
            conn.batch_execute(&format!("{settings}; PREPARE s{number} AS {statement}")).unwrap();
            let rows: Vec<Line> =
                diesel::sql_query(format!("EXPLAIN EXECUTE s{number}{arguments}")).load(conn).unwrap();
            rows.into_iter().map(|row| row.line).collect()
        }
    };
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_loop_scans_a_table() {
    for (kind, url, _folder) in databases() {
        let db = Db::open(&url).unwrap();
        let plans = db
            .write(|conn| {
                fill(conn);
                let statements = record(conn);
                Ok(statements.into_iter().enumerate().map(|(n, s)| (plan(conn, n, &s), s)).collect::<Vec<_>>())
            })
            .await
            .unwrap();
        assert!(plans.len() >= 30, "{kind}: only {} statements were seen", plans.len());
        for (plan, statement) in &plans {
            // SQLite says SCAN also for walking an index in order, which LIMIT cuts short.
            // What a statement has just found may be walked through.
            let found = |line: &str| ["SCAN lines", "SCAN first", "SCAN open"].iter().any(|scan| line.ends_with(scan));
            let scans = |line: &str| {
                line.contains("Seq Scan") || line.trim().starts_with("SCAN") && !line.contains("USING") && !found(line)
            };
            assert!(!plan.lines().any(scans), "{kind}: {statement}\n{plan}");
        }
        let one_call = plans.iter().filter(|(_, s)| s.contains("NOT IN ('completed'"));
        for (plan, statement) in one_call {
            let by_key = plan.contains("calls_pkey") || plan.contains("sqlite_autoindex_calls");
            assert!(by_key, "{kind}: a single call is found by its key: {statement}\n{plan}");
        }
        for (words, index) in
            [("r.queue = lines.name", "calls_to_push"), ("r.root = lines.name", "executions_to_begin")]
        {
            let (plan, statement) = plans.iter().find(|(_, s)| s.contains(words)).expect("the look at the lines");
            assert!(plan.contains(index), "{kind}: {statement}\n{plan}");
        }
        let open_group =
            plans.iter().find(|(_, s)| s.contains("'running')") && s.starts_with("SELECT") && s.contains("wake_group"));
        let (plan, statement) = open_group.expect("the look at a group");
        assert!(plan.contains("calls_unsettled"), "{kind}: {statement}\n{plan}");
    }
}
