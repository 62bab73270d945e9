//! What must hold in the end. The database itself watches each change, by triggers that the engine knows nothing of.

use std::time::Duration;

use durable_testing::{Cluster, eventually};
use serde_json::Value;

use crate::load::Load;

/// One of them.
pub(crate) struct Check {
    pub(crate) what: &'static str,
    pub(crate) held: bool,
    pub(crate) detail: String,
}

/// Writes down every settling, every delivery and every change that should not be.
const TRIGGERS: &str = "
CREATE TABLE audit (what TEXT NOT NULL, execution_id TEXT NOT NULL, call_id BIGINT);
CREATE FUNCTION watch_call() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status IN ('completed', 'failed') AND OLD.status IS DISTINCT FROM NEW.status THEN
        INSERT INTO audit VALUES ('settled', NEW.execution_id, NEW.call_id);
    END IF;
    IF OLD.status IN ('completed', 'failed', 'cancelled')
        AND (OLD.status, OLD.result, OLD.error) IS DISTINCT FROM (NEW.status, NEW.result, NEW.error) THEN
        INSERT INTO audit VALUES ('outcome changed', NEW.execution_id, NEW.call_id);
    END IF;
    IF OLD.delivered_in IS DISTINCT FROM NEW.delivered_in THEN
        INSERT INTO audit VALUES ('delivered', NEW.execution_id, NEW.call_id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER watch_call AFTER UPDATE ON calls FOR EACH ROW EXECUTE FUNCTION watch_call();
CREATE FUNCTION watch_execution() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.epoch NOT IN (OLD.epoch, OLD.epoch + 1) THEN
        INSERT INTO audit VALUES ('epoch skipped', NEW.id, NULL);
    END IF;
    IF OLD.status = 'running' AND NEW.status <> 'running' AND NEW.epoch <> OLD.epoch THEN
        INSERT INTO audit VALUES ('moved on without the claim', NEW.id, NULL);
    END IF;
    IF OLD.status IN ('completed', 'failed')
        AND (OLD.status, OLD.output, OLD.error) IS DISTINCT FROM (NEW.status, NEW.output, NEW.error) THEN
        INSERT INTO audit VALUES ('end changed', NEW.id, NULL);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER watch_execution AFTER UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION watch_execution();
";

/// Begins to watch.
pub(crate) fn watch(cluster: &Cluster) -> Result<(), String> {
    cluster.postgres.query("postgres", TRIGGERS).map(drop)
}

/// Looks at what everything came to.
pub(crate) fn check(cluster: &Cluster, load: &Load) -> Vec<Check> {
    let none = |what: &'static str, query: &str| {
        let count = cluster.sql(&format!("SELECT count(*) FROM ({query}) AS found"));
        Check { what, held: count == "0", detail: format!("{count} found") }
    };
    let twice = |what: &str| {
        format!("SELECT 1 FROM audit WHERE what = '{what}' GROUP BY execution_id, call_id HAVING count(*) > 1")
    };
    let of = |what: &str| format!("SELECT 1 FROM audit WHERE what = '{what}'");
    vec![
        outputs(cluster, load),
        none("every execution ended", "SELECT 1 FROM executions WHERE status NOT IN ('completed', 'failed')"),
        none("no call is left open", "SELECT 1 FROM calls WHERE status IN ('pending', 'running')"),
        none(
            "every child completed",
            "SELECT 1 FROM executions WHERE parent_call_id IS NOT NULL AND status <> 'completed'",
        ),
        none("no signal was lost", "SELECT 1 FROM signals WHERE call_id IS NULL AND name <> 'note'"),
        none("no signal was kept twice", "SELECT 1 FROM signals GROUP BY execution_id, name HAVING count(*) > 1"),
        notes(cluster, load),
        none("no claim is left", "SELECT 1 FROM executions WHERE claimed_by IS NOT NULL OR due_at IS NOT NULL"),
        none("no outcome was recorded twice", &twice("settled")),
        none("no recorded outcome was changed", &of("outcome changed")),
        none("no outcome was delivered twice", &twice("delivered")),
        none(
            "every outcome of a completed execution was delivered",
            "SELECT 1 FROM calls JOIN executions ON executions.id = execution_id WHERE executions.status = 'completed'
             AND calls.status IN ('completed', 'failed') AND delivered_in IS NULL",
        ),
        none("no epoch was skipped", &of("epoch skipped")),
        none("no execution moved on without its claim", &of("moved on without the claim")),
        none("no end was changed", &of("end changed")),
        queue(cluster),
    ]
}

/// What was sent without a key is there once, if anybody was told that it is.
fn notes(cluster: &Cluster, load: &Load) -> Check {
    let rows = cluster.sql("SELECT execution_id FROM signals WHERE name = 'note'");
    let noted = load.noted();
    let missing = noted.iter().filter(|id| !rows.lines().any(|row| row == id.as_str())).count();
    let detail = format!("{} acknowledged, {missing} missing", noted.len());
    Check { what: "every acknowledged signal is there", held: missing == 0, detail }
}

fn outputs(cluster: &Cluster, load: &Load) -> Check {
    let rows = cluster.sql(
        "SELECT id || ' ' || coalesce(output, 'failed: ' || error, status) FROM executions WHERE parent_call_id IS NULL
         AND id NOT LIKE 'hostile-%' AND id NOT LIKE 'left-%'",
    );
    let seen: std::collections::HashMap<&str, &str> = rows.lines().filter_map(|row| row.split_once(' ')).collect();
    let wrong: Vec<String> = load.with(|started| {
        let wrong = started.iter().filter_map(|expected| {
            let output = seen.get(expected.id.as_str()).copied().unwrap_or("missing");
            let right = serde_json::from_str::<Value>(output).is_ok_and(|output| output == expected.output);
            (!right).then(|| format!("{}: {output}, not {}", expected.id, expected.output))
        });
        wrong.collect()
    });
    let detail = if wrong.is_empty() { format!("{} right", load.count()) } else { wrong.join("; ") };
    let strangers = seen.len() != load.count();
    let detail =
        if strangers { format!("{} executions, {} started; {detail}", seen.len(), load.count()) } else { detail };
    Check { what: "every execution has the right output, once", held: wrong.is_empty() && !strangers, detail }
}

/// Leases of the dead expire first.
fn queue(cluster: &Cluster) -> Check {
    let empty = eventually(Duration::from_secs(20), || {
        let left: Vec<String> = ["LLEN rq:queue:default", "ZCARD rq:wip:default", "LLEN rq:queue:default:intermediate"]
            .iter()
            .map(|command| cluster.redis.ask(&command.split(' ').collect::<Vec<_>>()))
            .collect::<Result<_, _>>()?;
        if left.iter().all(|count| count == "0") { Ok(()) } else { Err(format!("waiting, held, parked: {left:?}")) }
    });
    Check { what: "the queue is empty", held: empty.is_ok(), detail: empty.err().unwrap_or_else(|| "0 jobs".into()) }
}
