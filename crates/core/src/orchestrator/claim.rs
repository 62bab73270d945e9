//! claim: the exclusive, expiring, fenced right to advance one execution.

use super::{Engine, Event, OrchestrationError};
use crate::{
    id::{Epoch, ExecutionId, WorkerId},
    store::{
        DbConnection, StoreError,
        executions::{self, Fence, Won},
    },
    time::Timestamp,
};

/// A won claim. [`pause`](super::pause) and [`finish`](super::finish) consume it and repeat its
/// epoch; when it has expired and somebody else holds the execution, they write nothing.
#[must_use = "a claim that is dropped blocks its execution until it expires"]
#[derive(Debug)]
pub struct Claimed {
    won: Won,
}

impl Claimed {
    /// Which execution.
    pub fn id(&self) -> &ExecutionId {
        &self.won.execution.id
    }

    /// The claim's fence.
    pub fn epoch(&self) -> Epoch {
        self.won.execution.epoch
    }

    /// What the claim's winner may work with.
    pub(super) fn won(&self) -> &Won {
        &self.won
    }

    pub(super) fn fence(&self) -> Fence {
        Fence { id: self.id().clone(), epoch: self.epoch() }
    }
}

/// How a claim is made: by whom, when, and how long it lasts.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    worker: WorkerId,
    now: Timestamp,
    until: Timestamp,
}

impl Claim {
    pub(super) fn of(engine: &Engine) -> Self {
        let now = engine.now();
        Self { worker: engine.worker.clone(), now, until: now.after(engine.settings.claim) }
    }

    /// Inside somebody's transaction.
    pub(super) fn make(&self, conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Claimed>, StoreError> {
        let won = executions::claim(conn, id, &self.worker, self.now, self.until)?;
        Ok(won.map(|won| Claimed { won }))
    }
}

/// Claims an execution; none when it is held by somebody, or has ended.
pub async fn claim(engine: &Engine, id: &ExecutionId) -> Result<Option<Claimed>, OrchestrationError> {
    let (claim, key) = (Claim::of(engine), id.clone());
    let claimed = engine.db.write(move |conn| claim.make(conn, &key)).await?;
    if let Some(claimed) = &claimed {
        engine.observe(Event::Claimed(claimed.id(), claimed.epoch()));
    }
    Ok(claimed)
}
