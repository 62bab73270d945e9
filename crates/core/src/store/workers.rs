//! Workers: who runs functions, and which. A row lives as long as its heartbeat.

use diesel::{ExpressionMethods, Insertable, QueryDsl, Queryable, RunQueryDsl, Selectable, SelectableHelper};

use super::{DbConnection, StoreError, schema::workers};
use crate::{id::WorkerId, model::Worker, time::Timestamp};

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = workers)]
struct WorkerRow {
    name: String,
    host: String,
    pid: i64,
    queues: String,
    functions: String,
    concurrency: i64,
    started_at: i64,
    due_at: i64,
}

/// Says that a worker is there until `due_at`.
pub fn beat(conn: &mut DbConnection, worker: &Worker) -> Result<(), StoreError> {
    let renewed =
        diesel::update(workers::table.find(&worker.name.0)).set(workers::due_at.eq(worker.due_at.0)).execute(conn)?;
    if renewed == 0 {
        let texts = |texts: &[String]| serde_json::Value::from(texts.to_vec()).to_string();
        let row = WorkerRow {
            name: worker.name.0.clone(),
            host: worker.host.clone(),
            pid: i64::from(worker.pid),
            queues: texts(&worker.queues),
            functions: texts(&worker.functions),
            concurrency: i64::from(worker.concurrency),
            started_at: worker.started_at.0,
            due_at: worker.due_at.0,
        };
        diesel::insert_into(workers::table).values(&row).execute(conn)?;
    }
    Ok(())
}

/// The worker has ended.
pub fn leave(conn: &mut DbConnection, name: &WorkerId) -> Result<(), StoreError> {
    diesel::delete(workers::table.find(&name.0)).execute(conn)?;
    Ok(())
}

/// Removes workers that have been silent since `before`; answers how many.
pub fn forget(conn: &mut DbConnection, before: Timestamp) -> Result<usize, StoreError> {
    Ok(diesel::delete(workers::table.filter(workers::due_at.lt(before.0))).execute(conn)?)
}

/// Those that live at `now`, by name.
pub fn live(conn: &mut DbConnection, now: Timestamp) -> Result<Vec<Worker>, StoreError> {
    let rows: Vec<WorkerRow> = workers::table
        .filter(workers::due_at.gt(now.0))
        .order(workers::name)
        .select(WorkerRow::as_select())
        .load(conn)?;
    rows.into_iter().map(Worker::try_from).collect()
}

impl TryFrom<WorkerRow> for Worker {
    type Error = StoreError;

    fn try_from(row: WorkerRow) -> Result<Self, StoreError> {
        let strange = || StoreError::Inconsistent(format!("worker {} is unreadable", row.name));
        let texts = |text: &str| serde_json::from_str::<Vec<String>>(text).map_err(|_| strange());
        Ok(Self {
            queues: texts(&row.queues)?,
            functions: texts(&row.functions)?,
            pid: u32::try_from(row.pid).map_err(|_| strange())?,
            concurrency: u32::try_from(row.concurrency).map_err(|_| strange())?,
            started_at: Timestamp(row.started_at),
            due_at: Timestamp(row.due_at),
            name: WorkerId(row.name),
            host: row.host,
        })
    }
}
