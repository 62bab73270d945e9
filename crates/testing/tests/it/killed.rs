//! A process is killed at every gap, and a fresh one finishes what it left.

use std::{
    collections::HashMap,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
};

use durable_core::{
    id::ExecutionId,
    model::{CallKind, CallStatus, ExecutionStatus, Json},
    store::{DatabaseUrl, Db, calls, executions, versions},
};
use durable_testing::{Postgres, sqlite};

/// Every step after which the process is killed, at each of its occurrences.
const GAPS: &[(&str, usize)] = &[
    ("start", 1),
    ("claim", 6),
    ("advance", 6),
    ("pause", 5),
    ("dispatch", 4),
    ("begin", 6),
    ("function", 6),
    ("settle", 8),
    ("finish", 1),
];

const OUTPUT: &str = r#"["alone",["a12","b12","c"],["g0","g1","g2","g3"]]"#;

fn gap(url: &DatabaseUrl, effects: &Path, id: &str, death: Option<(&str, usize)>) -> ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_durable-gap"));
    let url = match url {
        DatabaseUrl::Sqlite(path) => format!("sqlite://{path}"),
        DatabaseUrl::Postgres(url) => url.clone(),
    };
    command.arg(url).arg(effects).arg(id);
    if let Some((step, count)) = death {
        command.arg(step).arg(count.to_string());
    }
    command.status().expect("durable-gap runs")
}

fn killed_everywhere(kind: &str, url: &DatabaseUrl, folder: &Path) {
    let db = Db::open(url).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (step, times) in GAPS {
        for count in 1..=*times {
            let id = format!("{step}-{count}");
            let effects = folder.join(format!("{kind}-{id}"));
            let died = gap(url, &effects, &id, Some((step, count)));
            assert_eq!(died.signal(), Some(9), "{kind} {id}: the process was to be killed there, and {died}");
            let finished = gap(url, &effects, &id, None);
            assert!(finished.success(), "{kind} {id}: the next process ended with {finished}");
            runtime.block_on(check(kind, &db, &id, &effects));
        }
    }
}

/// The output is right, every call has one outcome that was delivered once, and every call's
/// function ran, more often than once only where its outcome had not been recorded.
async fn check(kind: &str, db: &Db, id: &str, effects: &Path) {
    let key: ExecutionId = id.parse().unwrap();
    let (execution, calls) =
        db.read(move |conn| Ok((executions::get(conn, &key)?.unwrap(), calls::list(conn, &key)?))).await.unwrap();
    assert_eq!(execution.status, ExecutionStatus::Completed, "{kind} {id}");
    assert_eq!(execution.output, Some(Json(OUTPUT.into())), "{kind} {id}");
    assert_eq!(calls.len(), 11, "{kind} {id}");
    let mut ran: HashMap<String, i64> = HashMap::new();
    for line in std::fs::read_to_string(effects).unwrap().lines() {
        *ran.entry(line.to_owned()).or_default() += 1;
    }
    for call in &calls {
        assert_eq!(call.status, CallStatus::Completed, "{kind} {id} call {}", call.id);
        assert!(call.delivered_in.is_some(), "{kind} {id} call {}", call.id);
        if call.kind == CallKind::Function {
            let times = ran.remove(&format!("{id}/{}", call.id)).unwrap_or(0);
            assert!((1..=2).contains(&times), "{kind} {id} call {} ran {times} times", call.id);
        }
    }
    assert!(ran.is_empty(), "{kind} {id}: functions ran for calls that do not exist: {ran:?}");
}

#[test]
fn a_process_killed_at_any_gap_loses_nothing_on_sqlite() {
    let (url, folder) = sqlite();
    killed_everywhere("sqlite", &url, folder.path());
}

#[test]
fn a_process_killed_at_any_gap_loses_nothing_on_postgres() {
    let folder = tempfile::tempdir().unwrap();
    killed_everywhere("postgres", &Postgres::shared().database(), folder.path());
}

#[test]
fn what_was_recorded_before_the_kill_is_not_run_again() {
    let (url, folder) = sqlite();
    let effects = folder.path().join("effects");
    assert_eq!(gap(&url, &effects, "once", Some(("settle", 5))).signal(), Some(9));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let completed: Vec<String> = runtime.block_on(async {
        let db = Db::open(&url).unwrap();
        let calls = db.read(|conn| calls::list(conn, &"once".parse().unwrap())).await.unwrap();
        let done = calls.iter().filter(|c| c.status == CallStatus::Completed && c.kind == CallKind::Function);
        done.map(|call| format!("once/{}", call.id)).collect()
    });
    assert!(completed.len() >= 4, "{completed:?}");
    assert!(gap(&url, &effects, "once", None).success());
    let ran = std::fs::read_to_string(&effects).unwrap();
    for key in completed {
        assert_eq!(ran.lines().filter(|line| **line == key).count(), 1, "{key} was recorded, and ran again");
    }
}

/// Signals, a new beginning, children, spawned coroutines and timeouts: killed after every occurrence of every step, as far as there are any.
fn life_killed_everywhere(kind: &str, url: &DatabaseUrl, folder: &Path) {
    let db = Db::open(url).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut kills = 0;
    for step in GAPS.iter().map(|(step, _)| *step).chain(["again"]) {
        for count in 1.. {
            let id = format!("life-{step}-{count}");
            let effects = folder.join(format!("{kind}-{id}"));
            let died = gap(url, &effects, &id, Some((step, count)));
            if died.signal() != Some(9) {
                assert!(died.success(), "{kind} {id}: it ended with {died}");
                break;
            }
            kills += 1;
            let finished = gap(url, &effects, &id, None);
            assert!(finished.success(), "{kind} {id}: the next process ended with {finished}");
            runtime.block_on(check_life(kind, &db, &id, &effects));
        }
    }
    assert!(kills >= 45, "{kind}: killed {kills} times");
}

async fn check_life(kind: &str, db: &Db, id: &str, effects: &Path) {
    let key: ExecutionId = id.parse().unwrap();
    let (execution, calls) =
        db.read(move |conn| Ok((executions::get(conn, &key)?.unwrap(), calls::list(conn, &key)?))).await.unwrap();
    let output = r#"[7,["child1","child2"],"side","late"]"#;
    assert_eq!(execution.output, Some(Json(output.into())), "{kind} {id}: {:?}", execution.error);
    let children: Vec<_> = calls.iter().filter(|call| call.kind == CallKind::Child).collect();
    assert_eq!(children.len(), 2, "{kind} {id}");
    for call in children {
        let child: ExecutionId = format!("{id}-{}", call.id).parse().unwrap();
        let child = db.read(move |conn| executions::get(conn, &child)).await.unwrap().unwrap();
        assert_eq!(child.status, ExecutionStatus::Completed, "{kind} {id}");
    }
    let mut ran: HashMap<String, usize> = HashMap::new();
    for line in std::fs::read_to_string(effects).unwrap().lines() {
        *ran.entry(line.to_owned()).or_default() += 1;
    }
    assert_eq!(ran.len(), 5, "{kind} {id}: {ran:?}");
    assert!(ran.values().all(|times| *times <= 2), "{kind} {id}: {ran:?}");
}

#[test]
fn a_whole_life_survives_a_kill_at_any_gap_on_sqlite() {
    let (url, folder) = sqlite();
    life_killed_everywhere("sqlite", &url, folder.path());
}

#[test]
fn a_whole_life_survives_a_kill_at_any_gap_on_postgres() {
    let folder = tempfile::tempdir().unwrap();
    life_killed_everywhere("postgres", &Postgres::shared().database(), folder.path());
}

/// Waits that are given up, signals to itself, and the end of a cancelled function: killed after every occurrence of every step.
fn waits_killed_everywhere(kind: &str, url: &DatabaseUrl, folder: &Path) {
    let db = Db::open(url).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut kills = 0;
    for (step, _) in GAPS {
        for count in 1.. {
            let id = format!("waits-{step}-{count}");
            let effects = folder.join(format!("{kind}-{id}"));
            let died = gap(url, &effects, &id, Some((step, count)));
            if died.signal() != Some(9) {
                assert!(died.success(), "{kind} {id}: it ended with {died}");
                break;
            }
            kills += 1;
            let finished = gap(url, &effects, &id, None);
            assert!(finished.success(), "{kind} {id}: the next process ended with {finished}");
            let key: ExecutionId = id.parse().unwrap();
            let execution = runtime.block_on(db.read(move |conn| executions::get(conn, &key))).unwrap().unwrap();
            let output = r#"[0,1,"undone"]"#;
            assert_eq!(execution.output, Some(Json(output.into())), "{kind} {id}: {:?}", execution.error);
            let ran = std::fs::read_to_string(&effects).unwrap();
            let undone = ran.lines().position(|line| line.starts_with(&id)).unwrap();
            let ended = ran.lines().skip(undone).filter(|line| line.starts_with("slow")).count();
            assert_eq!(ended, 0, "{kind} {id}: it was undone while it ran: {ran}");
        }
    }
    assert!(kills >= 30, "{kind}: killed {kills} times");
}

#[test]
fn waits_that_are_given_up_survive_a_kill_at_any_gap_on_sqlite() {
    let (url, folder) = sqlite();
    waits_killed_everywhere("sqlite", &url, folder.path());
}

#[test]
fn waits_that_are_given_up_survive_a_kill_at_any_gap_on_postgres() {
    let folder = tempfile::tempdir().unwrap();
    waits_killed_everywhere("postgres", &Postgres::shared().database(), folder.path());
}

/// A workflow fails by a mistake of its own and is mended: killed after every occurrence of every step, that of the mending too.
fn mended_killed_everywhere(kind: &str, url: &DatabaseUrl, folder: &Path) {
    let db = Db::open(url).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut kills = HashMap::new();
    for step in GAPS.iter().map(|(step, _)| *step).chain(["mend"]) {
        for count in 1.. {
            let id = format!("mend-{step}-{count}");
            let effects = folder.join(format!("{kind}-{id}"));
            let died = gap(url, &effects, &id, Some((step, count)));
            if died.signal() != Some(9) {
                assert!(died.success(), "{kind} {id}: it ended with {died}");
                break;
            }
            *kills.entry(step).or_insert(0) += 1;
            let finished = gap(url, &effects, &id, None);
            assert!(finished.success(), "{kind} {id}: the next process ended with {finished}");
            runtime.block_on(check_mended(kind, &db, &id, &effects));
        }
    }
    assert!(kills["mend"] == 1 && kills["finish"] == 2 && kills.values().sum::<i32>() >= 25, "{kind}: {kills:?}");
}

async fn check_mended(kind: &str, db: &Db, id: &str, effects: &Path) {
    let key: ExecutionId = id.parse().unwrap();
    let read = move |conn: &mut _| {
        let execution = executions::get(conn, &key)?.unwrap();
        Ok((calls::list(conn, &key)?, versions::list(conn, &execution)?.len(), execution))
    };
    let (calls, versions, execution) = db.read(read).await.unwrap();
    let output = r#"["alone",["a","b"],"late"]"#;
    assert_eq!(execution.output, Some(Json(output.into())), "{kind} {id}: {:?}", execution.error);
    assert_eq!((calls.len(), versions), (5, 2), "{kind} {id}");
    let mut ran: HashMap<String, usize> = HashMap::new();
    for line in std::fs::read_to_string(effects).unwrap().lines() {
        *ran.entry(line.to_owned()).or_default() += 1;
    }
    let functions: Vec<String> =
        calls.iter().filter(|call| call.kind == CallKind::Function).map(|call| format!("{id}/{}", call.id)).collect();
    assert!(ran.len() == 4 && functions.iter().all(|key| ran.contains_key(key)), "{kind} {id}: {ran:?}");
    assert!(ran.values().all(|times| *times <= 2) && ran.values().sum::<usize>() <= 6, "{kind} {id}: {ran:?}");
}

#[test]
fn a_mending_survives_a_kill_at_any_gap_on_sqlite() {
    let (url, folder) = sqlite();
    mended_killed_everywhere("sqlite", &url, folder.path());
}

#[test]
fn a_mending_survives_a_kill_at_any_gap_on_postgres() {
    let folder = tempfile::tempdir().unwrap();
    mended_killed_everywhere("postgres", &Postgres::shared().database(), folder.path());
}
