//! dispatch: jobs for pending function calls go to the queue. Safe to repeat: the queue refuses an
//! attempt that it already has, and `settle` refuses a second outcome.

use std::time::Duration;

use durable_queue::{Enqueued, Job, JobId, Lease};
use serde_json::value::RawValue;

use super::{Engine, Event, OrchestrationError};
use crate::{
    id::{CallId, ExecutionId},
    model::Json,
    options::CallOptions,
    store::{
        calls::{self, AttemptOf, Work},
        pushes,
    },
    time::Timestamp,
};

/// Arguments up to this many bytes travel in the job, which saves its worker a read.
const INLINE: usize = 16 << 10;

/// When calls are pushed again that the queue could not be told of.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Pushes calls; answers which queues were full. A queue that is full or unreachable is no failure of
/// theirs: the clock pushes them again.
#[tracing::instrument(name = "dispatch", level = "info", skip_all, fields(execution.id = work.first().map(|work| tracing::field::display(work.attempt.execution.clone())), calls = work.len()))]
pub async fn dispatch(engine: &Engine, work: Vec<Work>) -> Vec<String> {
    if work.is_empty() {
        return Vec::new();
    }
    let attempts: Vec<AttemptOf> = work.iter().map(|work| work.attempt.clone()).collect();
    let queues: Vec<String> = work.iter().map(|work| work.queue.clone()).collect();
    let jobs: Vec<Job> = work.into_iter().map(|work| job(engine, work)).collect();
    match engine.queue.enqueue(jobs).await {
        Ok(answers) => {
            attempts.first().into_iter().for_each(|of| engine.observe(Event::Dispatched(&of.execution)));
            let refused = answers.iter().zip(attempts.into_iter().zip(queues));
            let refused = refused.filter(|(answer, _)| **answer == Enqueued::Full).map(|(_, refused)| refused);
            let (attempts, mut full): (_, Vec<String>) = refused.unzip();
            not_queued(engine, attempts, engine.now());
            full.sort();
            full.dedup();
            full
        }
        Err(error) => {
            tracing::warn!(%error, calls = attempts.len(), "calls could not be queued; they are pushed again soon");
            not_queued(engine, attempts, engine.now().after(AFTER_FAILURE));
            Vec::new()
        }
    }
}

/// Lost, this makes nothing wrong: every pending call has a date for its next push already.
pub fn not_queued(engine: &Engine, attempts: Vec<AttemptOf>, at: Timestamp) {
    if attempts.is_empty() {
        return;
    }
    engine.db.write_lazily(move |conn| attempts.iter().try_for_each(|of| pushes::not_queued(conn, of, at)));
}

fn job(engine: &Engine, work: Work) -> Job {
    let Work { attempt: of, function, queue, args, kwargs, options, deadline } = work;
    // A worker that is not ours has nowhere to read them from.
    let plain = deadline.is_none() && options.to_json().is_none();
    let inline = plain && args.0.len() + kwargs.0.len() <= INLINE;
    let name = serde_json::Value::from(function.as_str());
    let body = if engine.queue.foreign().contains(&queue) {
        // The last gate, for calls that were made when other functions were listed.
        if engine.queue.takes(&queue, &function) {
            format!("[{name},null,{args},{kwargs}]")
        } else {
            tracing::warn!(execution.id = %of.execution, call.id = of.call.0, function.name = function, queue,
                "a function that --rq-queue does not list is not run there");
            "[\"durable.not_listed\",null,[],{}]".to_owned()
        }
    } else if inline {
        let seal = seal(engine, (&of, &queue, &function), &args.0, &kwargs.0);
        format!("[{name},\"{seal}\",{args},{kwargs}]")
    } else {
        format!("[{name}]")
    };
    Job {
        id: JobId(format!("{}-{}", of.execution, of.call)),
        queue,
        generation: u64::try_from(of.number).unwrap_or(0),
        body,
    }
}

/// Shows that a job is as we queued it. Without it, whoever can write to Redis could have any function run with any
/// arguments in an execution's name.
fn seal(engine: &Engine, (of, queue, function): (&AttemptOf, &str, &str), args: &str, kwargs: &str) -> String {
    let (call, number) = (of.call.0.to_le_bytes(), of.number.to_le_bytes());
    let (execution, queue, function) = (of.execution.as_str().as_bytes(), queue.as_bytes(), function.as_bytes());
    engine.db.seal(&[execution, &call, &number, queue, function, args.as_bytes(), kwargs.as_bytes()])
}

/// A job that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("job {id} is none of ours: {cause}")]
pub struct UnreadableJob {
    id: JobId,
    cause: String,
}

/// Which call a job is for.
pub fn call_of(id: &JobId) -> Option<(ExecutionId, CallId)> {
    let (execution, call) = id.0.rsplit_once('-')?;
    Some((execution.parse().ok()?, CallId(call.parse().ok()?)))
}

/// Which attempt a job is for, and the function's name: what is known before anything is read.
pub fn read_job(job: &Job) -> Result<(AttemptOf, String), UnreadableJob> {
    let unreadable = |cause: String| UnreadableJob { id: job.id.clone(), cause };
    let (execution, call) = call_of(&job.id).ok_or_else(|| unreadable("its id is not EXECUTION-CALL".into()))?;
    let parts: Vec<Box<RawValue>> = serde_json::from_str(&job.body)
        .map_err(|error| unreadable(format!("its data is not a call as JSON ({error})")))?;
    let name = parts.first().and_then(|name| serde_json::from_str(name.get()).ok());
    let name = name.ok_or_else(|| unreadable("its data names no function".into()))?;
    let number = i64::try_from(job.generation).unwrap_or(0);
    if number == 0 {
        return Err(unreadable("it has no generation".into()));
    }
    Ok((AttemptOf { execution, call, number }, name))
}

/// The work that a job asks for; none when the call is settled or another attempt has replaced this.
pub async fn load_work(engine: &Engine, lease: &Lease) -> Result<Option<Work>, OrchestrationError> {
    let Ok((attempt, function)) = read_job(&lease.job) else { return Ok(None) };
    let parts: Vec<Box<RawValue>> = serde_json::from_str(&lease.job.body).unwrap_or_default();
    // Handed out before: its outcome may have been recorded by a worker that died before it could say so.
    // A job without its seal is not believed: what it asks for is read, if such a call is there.
    if let ([_, sealed, args, kwargs], 1) = (parts.as_slice(), lease.deliveries)
        && serde_json::from_str::<String>(sealed.get()).is_ok_and(|sealed| {
            sealed == seal(engine, (&attempt, &lease.job.queue, &function), args.get(), kwargs.get())
        })
    {
        let (args, kwargs) = (Json(args.get().to_owned()), Json(kwargs.get().to_owned()));
        let (queue, options) = (lease.job.queue.clone(), CallOptions::default());
        return Ok(Some(Work { attempt, function, queue, args, kwargs, options, deadline: None }));
    }
    Ok(engine.db.read(move |conn| calls::work(conn, &attempt)).await?)
}
