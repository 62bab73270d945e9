//! `durable delete`.

use std::process::ExitCode;

use durable_core::{
    id::ExecutionId,
    orchestrator::OrchestrationError,
    store::{Db, executions, retention},
    time::{Clock, SystemClock, Timestamp, parse_duration},
};
use serde_json::json;

use crate::{
    args,
    commands::view::open_existing,
    failure::wrong,
    output::{line, note},
};

/// Deletes executions that have ended, some rows at a time: nobody else waits long for the database.
pub(crate) async fn delete(args: args::Delete) -> anyhow::Result<ExitCode> {
    let db = open_existing(&args.store).await?;
    let deleted = match &args.ended_before {
        Some(text) => {
            let time = parse_duration(text)
                .ok_or_else(|| wrong(format!("--ended-before {text}: a time such as 90d or 12h is wanted")))?;
            let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
            before(&db, Timestamp(SystemClock.now().0.saturating_sub(micros))).await?
        }
        None => these(&db, &args.ids).await?,
    };
    if args.json {
        line(json!({ "deleted": deleted }));
    } else {
        note(format_args!("deleted: {deleted}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn before(db: &Db, instant: Timestamp) -> anyhow::Result<usize> {
    let mut deleted = 0;
    loop {
        let (rows, executions) = db.write(move |conn| retention::ended(conn, instant)).await?;
        deleted += executions;
        if rows == 0 {
            return Ok(deleted);
        }
    }
}

async fn these(db: &Db, ids: &[ExecutionId]) -> anyhow::Result<usize> {
    // All or none.
    for id in ids {
        let key = id.clone();
        let found = db.read(move |conn| executions::brief(conn, &key)).await?;
        let execution = found.ok_or_else(|| OrchestrationError::NotFound(id.clone()))?;
        if !execution.status.is_final() {
            return Err(wrong(format!(
                "execution {id} is {}: only what has ended is deleted\nhint: durable cancel {id}",
                execution.status
            )));
        }
    }
    for id in ids {
        loop {
            let key = id.clone();
            match db.write(move |conn| retention::one(conn, &key)).await? {
                Some(false) => {}
                Some(true) | None => break,
            }
        }
    }
    Ok(ids.len())
}
