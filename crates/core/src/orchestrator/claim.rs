//! claim: the exclusive, expiring, fenced right to advance one execution.

use std::sync::Arc;

use super::{Engine, Event, OrchestrationError, settle::Attempted, timers::ran_out};
use crate::{
    id::{Epoch, ExecutionId, WorkerId},
    model::Execution,
    store::{
        DbConnection, StoreError,
        calls::{self, AttemptOf},
        executions::{self, Fence, Whose, Won},
        logs,
    },
    time::Timestamp,
};

/// A won claim. [`pause`](super::pause) and [`finish`](super::finish) consume it and repeat its
/// epoch; when it has expired and somebody else holds the execution, they write nothing.
#[must_use = "a claim that is dropped blocks its execution until it expires"]
#[derive(Debug)]
pub struct Claimed {
    won: Arc<Won>,
    foreseen: Option<Foreseen>,
}

/// A claim that will be made by the transaction that needs it, see [`foresee`](super::foresee).
#[derive(Debug, Clone)]
pub(super) struct Foreseen {
    pub(super) attempted: Arc<Attempted>,
    pub(super) claim: Claim,
}

impl Claimed {
    pub(super) fn won_by(won: Won) -> Self {
        Self { won: Arc::new(won), foreseen: None }
    }

    pub(super) fn foreseen(won: Won, foreseen: Foreseen) -> Self {
        Self { won: Arc::new(won), foreseen: Some(foreseen) }
    }

    /// The same once more, for what is written when the first was refused.
    pub(super) fn once_more(&self) -> Self {
        Self { won: self.won.clone(), foreseen: self.foreseen.clone() }
    }

    /// Which execution.
    pub fn id(&self) -> &ExecutionId {
        &self.won.execution.id
    }

    /// The claim's fence.
    pub fn epoch(&self) -> Epoch {
        self.won.execution.epoch
    }

    /// Whether the claim is still to be made, by the transaction that needs it.
    pub(super) fn is_foreseen(&self) -> bool {
        self.foreseen.is_some()
    }

    /// A foreseen claim was made before the transaction that needs it.
    pub(super) fn is_made(&mut self) {
        self.foreseen = None;
    }

    /// What the claim's winner may work with.
    pub(super) fn won(&self) -> &Arc<Won> {
        &self.won
    }

    pub(super) fn fence(&self) -> Held {
        let fence = Fence { id: self.id().clone(), epoch: self.epoch() };
        Held { fence, foreseen: self.foreseen.clone() }
    }
}

/// What a write under a claim begins with.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) fence: Fence,
    foreseen: Option<Foreseen>,
}

impl Held {
    /// Makes a foreseen claim real: the settle, then the claim at exactly the foreseen epoch. False
    /// when either finds things otherwise. A settle that was recorded stays recorded, and whoever
    /// asked then has to look whether that outcome lets the execution go on.
    pub(super) fn secure(&self, conn: &mut DbConnection) -> Result<bool, StoreError> {
        let Some(Foreseen { attempted, claim }) = &self.foreseen else { return Ok(true) };
        if calls::settle(conn, &attempted.of, &attempted.outcome, claim.now)?.is_none() {
            return Ok(false);
        }
        logs::append(conn, &attempted.of.execution, &attempted.log, claim.log)?;
        executions::claim_at(conn, &self.fence, &claim.worker, claim.now, claim.until)
    }

    /// Tells whoever watches about the steps that the commit made real.
    pub(super) fn observe(&self, engine: &Engine) {
        if let Some(Foreseen { attempted, .. }) = &self.foreseen {
            let Attempted { of, outcome, log, .. } = &**attempted;
            engine.observe(Event::Settled { of, outcome, log });
            engine.observe(Event::Claimed(&self.fence.id, self.fence.epoch));
        }
    }
}

/// How a claim is made: by whom, when, and how long it lasts.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) worker: WorkerId,
    pub(super) now: Timestamp,
    pub(super) until: Timestamp,
    /// How long the log of an execution may become.
    pub(super) log: u64,
    /// Whoever is asked here only leaves word: a clock elsewhere claims.
    leaves_word: bool,
    /// The process whose executions this one runs by itself, if it does: itself.
    runner: Option<WorkerId>,
}

impl Claim {
    pub(super) fn of(engine: &Engine) -> Self {
        let now = engine.now();
        let until = now.after(engine.settings.claim);
        let runner = match &engine.whose {
            Whose::Run(runner) => Some(runner.clone()),
            Whose::Served => None,
        };
        let log = engine.settings.quota.log;
        Self { worker: engine.worker.clone(), now, until, log, leaves_word: !engine.advances, runner }
    }

    /// The same for this execution: one that another process runs, with a queue of its own, is left to that.
    pub(super) fn on(&self, execution: &Execution) -> Self {
        Self { leaves_word: self.leaves_word || self.runner != execution.runner, ..self.clone() }
    }

    /// Whether whoever asks here only leaves word.
    pub(super) fn leaves_word(&self) -> bool {
        self.leaves_word
    }

    /// Inside somebody's transaction.
    pub(super) fn make(&self, conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Claimed>, StoreError> {
        if self.leaves_word {
            executions::wake(conn, id, self.now)?;
            return Ok(None);
        }
        if !executions::claim(conn, id, &self.worker, self.now, self.until)? {
            return Ok(None);
        }
        // The clock may not have come to them yet, and what came in later must not come before them.
        for call in calls::overdue(conn, id, self.now)? {
            let of = AttemptOf { execution: id.clone(), call: call.id, number: call.attempt };
            calls::settle(conn, &of, &ran_out(&call), self.now)?;
        }
        Ok(Some(Claimed::won_by(executions::won(conn, id)?)))
    }
}

/// Claims an execution; none when it is held by somebody, or has ended.
#[tracing::instrument(name = "claim", level = "info", skip_all, fields(execution.id = %id))]
pub async fn claim(engine: &Engine, id: &ExecutionId) -> Result<Option<Claimed>, OrchestrationError> {
    let (claim, key) = (Claim::of(engine), id.clone());
    let claimed = engine.db.write(move |conn| claim.make(conn, &key)).await?;
    if let Some(claimed) = &claimed {
        engine.observe(Event::Claimed(claimed.id(), claimed.epoch()));
    }
    Ok(claimed)
}
