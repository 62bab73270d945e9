//! What to do with a job whose function this worker does not offer.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use durable_core::{
    model,
    offers::Offers,
    orchestrator::{Engine, dispatch::not_queued},
    store::{StoreError, calls::AttemptOf, workers},
};
use durable_queue::{Lease, Way};

/// How old the list of the other workers may be.
const FRESH: Duration = Duration::from_secs(2);

/// When a call that nobody offers is tried again: somebody may have come by then.
const NOBODY: Duration = Duration::from_secs(5);

/// How long this worker keeps out of the way of one that offers the function.
const STEP_ASIDE: Duration = Duration::from_millis(50);

/// The other workers, as last seen.
#[derive(Default)]
pub(crate) struct Fleet(Mutex<Option<(Instant, Vec<model::Worker>)>>);

impl Fleet {
    /// Leaves the job to a worker that offers its function. When there is none, the call waits in the
    /// database, where people are told what it waits for.
    pub(crate) async fn decline(&self, engine: &Engine, lease: &Lease, of: AttemptOf, function: &str) {
        let others = match self.others(engine).await {
            Ok(others) => others,
            Err(error) => {
                tracing::warn!(%error, "it is not known who offers what");
                Vec::new()
            }
        };
        let serves = |worker: &&model::Worker| worker.queues.contains(&lease.job.queue);
        let offers = |worker: &model::Worker| Offers::only(worker.functions.iter().cloned()).offers(function);
        let way = if others.iter().filter(serves).any(offers) {
            // Long enough for the other to take it first.
            tokio::time::sleep(STEP_ASIDE).await;
            Way::Back
        } else {
            tracing::warn!(execution.id = %of.execution, call.id = of.call.0, function, queue = lease.job.queue,
                           "no worker of this queue offers the function; its call waits");
            not_queued(engine, vec![of], engine.now().after(NOBODY));
            Way::Done
        };
        if let Err(error) = engine.queue.end(lease, way).await {
            tracing::warn!(%error, "a job could not be left to others; its lease expires");
        }
    }

    async fn others(&self, engine: &Engine) -> Result<Vec<model::Worker>, StoreError> {
        if let Some((seen, workers)) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner)
            && seen.elapsed() < FRESH
        {
            return Ok(workers.clone());
        }
        let now = engine.now();
        let workers = engine.db.read(move |conn| workers::live(conn, now)).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), workers.clone()));
        Ok(workers)
    }
}
