//! dispatch: jobs for pending function calls go to the queue. Safe to repeat: the queue refuses an
//! attempt that it already has, and `settle` refuses a second outcome.

use durable_queue::{Enqueued, Job, JobId};
use serde::{Deserialize, Serialize};

use super::{Engine, Event, OrchestrationError};
use crate::{
    id::{CallId, ExecutionId},
    model::Json,
    store::calls::{self, AttemptOf, Work},
};

/// Arguments up to this many bytes travel in the job, which saves its worker a read.
const INLINE: usize = 16 << 10;

/// A job's body.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    execution: ExecutionId,
    call: CallId,
    attempt: i64,
    function: String,
    /// Arguments as JSON text; absent when they are too large to travel.
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kwargs: Option<String>,
}

/// Pushes calls. A queue that is full or unreachable is no failure of theirs: the clock pushes
/// them again.
pub async fn dispatch(engine: &Engine, id: &ExecutionId, work: Vec<Work>) -> Result<(), OrchestrationError> {
    if work.is_empty() {
        return Ok(());
    }
    let jobs: Vec<Job> = work.into_iter().map(job).collect();
    let answers = engine.queue.enqueue(jobs).await?;
    let full = answers.iter().filter(|answer| **answer == Enqueued::Full).count();
    if full > 0 {
        tracing::info!(execution.id = %id, full, "the queue is full; these calls are pushed again later");
    }
    engine.observe(Event::Dispatched(id));
    Ok(())
}

fn job(work: Work) -> Job {
    let Work { attempt: of, function, queue, args, kwargs } = work;
    let inline = args.0.len() + kwargs.0.len() <= INLINE;
    let body = Body {
        execution: of.execution.clone(),
        call: of.call,
        attempt: of.number,
        function,
        args: inline.then_some(args.0),
        kwargs: inline.then_some(kwargs.0),
    };
    Job {
        id: JobId(format!("{}-{}", of.execution, of.call)),
        queue,
        generation: u64::try_from(of.number).unwrap_or(0),
        body: serde_json::to_string(&body).unwrap_or_else(|error| unreachable!("texts are always JSON: {error}")),
    }
}

/// A job that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("job {id} has an unreadable body: {cause}")]
pub struct UnreadableJob {
    id: JobId,
    cause: serde_json::Error,
}

/// Which attempt a job is for, and the function's name: what is known before anything is read.
pub fn read_job(job: &Job) -> Result<(AttemptOf, String), UnreadableJob> {
    let body: Body = serde_json::from_str(&job.body).map_err(|cause| UnreadableJob { id: job.id.clone(), cause })?;
    Ok((AttemptOf { execution: body.execution, call: body.call, number: body.attempt }, body.function))
}

/// The work that a job asks for; none when the call is settled or another attempt has replaced this.
pub async fn load_work(engine: &Engine, job: &Job) -> Result<Option<Work>, OrchestrationError> {
    let Ok(body) = serde_json::from_str::<Body>(&job.body) else { return Ok(None) };
    let attempt = AttemptOf { execution: body.execution, call: body.call, number: body.attempt };
    if let (Some(args), Some(kwargs)) = (body.args, body.kwargs) {
        let queue = job.queue.clone();
        return Ok(Some(Work { attempt, function: body.function, queue, args: Json(args), kwargs: Json(kwargs) }));
    }
    Ok(engine.db.read(move |conn| calls::work(conn, &attempt)).await?)
}
