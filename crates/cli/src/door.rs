//! Where executions are looked up: the database, or a server. What is told is the same.

use durable_core::{
    id::ExecutionId,
    model::{Execution, ExecutionStatus, LogLine},
    orchestrator::OrchestrationError,
    shown::{Code, Shown, ShownCall},
    store::{Db, DbConnection, StoreError, calls, executions, logs, signals, versions},
};

use crate::{args::Target, client::Client, commands::view::open_existing, failure::not_there};

/// One of the two.
pub(crate) enum Door {
    Database(Db),
    Server(Client),
}

impl Door {
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        Ok(match target.server() {
            Some(server) => Self::Server(Client::new(&server)?),
            None => Self::Database(open_existing(&target.store).await?),
        })
    }

    /// Where it leads, as people may see it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Database(db) => db.url().to_string(),
            Self::Server(client) => client.shown_url(),
        }
    }

    /// The newest executions.
    pub(crate) async fn list(&self, status: Option<ExecutionStatus>, limit: u32) -> anyhow::Result<Vec<Execution>> {
        match self {
            Self::Database(db) => Ok(db.read(move |conn| executions::list(conn, status, i64::from(limit))).await?),
            Self::Server(client) => client.list(status, usize::try_from(limit).unwrap_or(usize::MAX)).await,
        }
    }

    pub(crate) async fn shown(&self, id: &ExecutionId) -> anyhow::Result<Shown> {
        match self {
            Self::Server(client) => client.shown(id).await,
            Self::Database(db) => {
                query(db, id, |conn, execution| {
                    let versions = versions::list(conn, &execution)?;
                    let untaken_signals = signals::untaken(conn, &execution.id)?;
                    let allow = executions::allowed(conn, &execution.id)?.lists().to_vec();
                    Ok(Shown { execution, versions, waiting: Vec::new(), untaken_signals, allow })
                })
                .await
            }
        }
    }

    pub(crate) async fn calls(&self, id: &ExecutionId) -> anyhow::Result<Vec<ShownCall>> {
        match self {
            Self::Server(client) => client.shown_calls(id).await,
            Self::Database(db) => query(db, id, |conn, execution| calls::shown(conn, &execution.id, None, None)).await,
        }
    }

    pub(crate) async fn logs(&self, id: &ExecutionId) -> anyhow::Result<Vec<LogLine>> {
        match self {
            Self::Server(client) => client.logs(id).await,
            Self::Database(db) => query(db, id, |conn, execution| logs::list(conn, &execution.id)).await,
        }
    }

    pub(crate) async fn code(&self, id: &ExecutionId, version: Option<i64>) -> anyhow::Result<Code> {
        match self {
            Self::Server(client) => client.code(id, version).await,
            Self::Database(db) => {
                let code = query(db, id, move |conn, execution| versions::code(conn, &execution, version)).await?;
                let none = || format!("the code of execution {id} has no version {}", version.unwrap_or(0));
                code.ok_or_else(|| not_there(none()))
            }
        }
    }
}

/// Runs a query about an execution that must exist.
async fn query<T: Send + 'static>(
    db: &Db,
    id: &ExecutionId,
    query: impl FnOnce(&mut DbConnection, Execution) -> Result<T, StoreError> + Send + 'static,
) -> anyhow::Result<T> {
    let key = id.clone();
    let found = db.read(move |conn| executions::get(conn, &key)?.map(|execution| query(conn, execution)).transpose());
    Ok(found.await?.ok_or_else(|| OrchestrationError::NotFound(id.clone()))?)
}
