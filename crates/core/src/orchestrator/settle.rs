//! settle: a call's outcome is recorded, once, and the execution is claimed if that lets it go on.

use std::{sync::Arc, time::Duration};

use super::{
    Engine, Event, OrchestrationError,
    claim::{Claim, Claimed},
};
use crate::{
    id::{ExecutionId, WorkerId},
    model::{Failure, LogLine, Outcome, Wake},
    retry::RetryPolicy,
    store::{
        DbConnection, StoreError,
        calls::{self, AttemptOf},
        executions, logs,
    },
    time::Timestamp,
};

/// An attempt that was made.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// Which.
    pub of: AttemptOf,
    /// What it led to.
    pub outcome: Outcome,
    /// Whether, after a failure, another attempt may be made. A lost worker never counts.
    pub retry: Retry,
    /// When its function was started, where that is known.
    pub started_at: Option<Timestamp>,
    /// Who made it.
    pub worker: Option<WorkerId>,
    /// What the function wrote.
    pub log: Vec<LogLine>,
}

/// What follows a failure.
#[derive(Debug, Clone)]
pub enum Retry {
    /// The call fails.
    No,
    /// As the policy says.
    By(RetryPolicy),
    /// The attempt's worker is gone: again, at once, until that has happened too often.
    Lost,
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Settled {
    /// The call has its outcome. With a claim, the execution can go on and the caller advances it.
    Recorded(Option<Claimed>),
    /// Another attempt will be made.
    Retrying,
    /// The call had its outcome already, or this attempt was given up: nothing changed.
    Ignored,
}

/// What was decided inside the transaction.
#[derive(Debug)]
enum Verdict {
    Settled(Next),
    Retrying(Duration),
    Ignored,
}

/// What a settled call leads to.
#[derive(Debug)]
pub(super) enum Next {
    /// The execution is claimed.
    Claimed(Box<Claimed>),
    /// It has to be claimed after the commit, if this group is complete then.
    Group(i64),
    /// It has to be claimed after the commit.
    Claim,
    /// Others wake it, or nobody has to.
    Nothing,
}

/// Records what an attempt led to.
#[tracing::instrument(name = "settle", level = "info", skip_all, fields(execution.id = %attempted.of.execution, call.id = attempted.of.call.0, attempt = attempted.of.number))]
pub async fn settle(engine: &Engine, mut attempted: Attempted) -> Result<Settled, OrchestrationError> {
    let now = engine.now();
    attempted.outcome = attempted.outcome.bounded();
    let attempted = Arc::new(attempted);
    let (claim, max_lost, luck) = (Claim::of(engine), engine.settings.max_lost, rand::random::<f64>());
    let a = attempted.clone();
    let verdict = engine.db.write(move |conn| record(conn, &a, &claim, max_lost, luck, now)).await?;
    let of = &attempted.of;
    Ok(match verdict {
        Verdict::Ignored => Settled::Ignored,
        Verdict::Retrying(wait) => {
            if let Outcome::Failed(failure) = &attempted.outcome {
                tracing::info!(execution.id = %of.execution, call.id = of.call.0, %failure, ?wait, "attempt failed");
                engine.observe(Event::Retrying { of, failure, wait });
            }
            engine.sooner(wait);
            Settled::Retrying
        }
        Verdict::Settled(next) => {
            engine.observe(Event::Settled { of, outcome: &attempted.outcome, log: &attempted.log });
            Settled::Recorded(follow(engine, &of.execution, next).await?)
        }
    })
}

/// What a recorded outcome leads to, once it is committed: the claim, if the execution can go on and nobody else holds it.
pub(super) async fn follow(
    engine: &Engine,
    execution: &ExecutionId,
    next: Next,
) -> Result<Option<Claimed>, OrchestrationError> {
    let claimed = match next {
        Next::Claimed(claimed) => Some(*claimed),
        Next::Group(group) => claim_if_complete(engine, execution, group).await?,
        Next::Claim => claim_now(engine, execution).await?,
        Next::Nothing => None,
    };
    if let Some(claimed) = &claimed {
        engine.observe(Event::Claimed(claimed.id(), claimed.epoch()));
    }
    Ok(claimed)
}

fn record(
    conn: &mut DbConnection,
    attempted: &Attempted,
    claim: &Claim,
    max_lost: i64,
    luck: f64,
    now: Timestamp,
) -> Result<Verdict, StoreError> {
    let of = &attempted.of;
    if let Outcome::Failed(failure) = &attempted.outcome
        && let Some(wait) = next_attempt(conn, attempted, (max_lost, luck), now)?
    {
        if !calls::retry(conn, of, now.after(wait))? {
            return Ok(Verdict::Ignored);
        }
        record_failure(conn, attempted, failure, claim)?;
        return Ok(Verdict::Retrying(wait));
    }
    let Some(next) = settle_in(conn, of, &attempted.outcome, claim)? else { return Ok(Verdict::Ignored) };
    match &attempted.outcome {
        Outcome::Failed(failure) => record_failure(conn, attempted, failure, claim)?,
        Outcome::Completed(_) | Outcome::Cancelled => logs::append(conn, &of.execution, &attempted.log, claim.log)?,
    }
    Ok(Verdict::Settled(next))
}

/// Records an outcome inside somebody's transaction. None when the call had one already, or the attempt is over.
pub(super) fn settle_in(
    conn: &mut DbConnection,
    of: &AttemptOf,
    outcome: &Outcome,
    claim: &Claim,
) -> Result<Option<Next>, StoreError> {
    let Some(wake) = calls::settle(conn, of, outcome, claim.now)? else { return Ok(None) };
    let wakes = match wake {
        _ if !matches!(outcome, Outcome::Completed(_)) => true,
        Wake::Alone => true,
        Wake::OnFailure => false,
        // Whoever looks then sees whether the group is complete.
        Wake::Group(_) if claim.leaves_word() => true,
        // Two settlers that have not committed yet would each see the other's call open. Where that
        // can be, the look comes after the commit.
        Wake::Group(group) if !conn.is_serial() => return Ok(Some(Next::Group(group))),
        Wake::Group(group) => !calls::group_is_open(conn, &of.execution, group)?,
    };
    if !wakes {
        return Ok(Some(Next::Nothing));
    }
    Ok(Some(match claim.make(conn, &of.execution)? {
        Some(claimed) => Next::Claimed(Box::new(claimed)),
        // Whoever holds the execution may pause it and look for outcomes before this one is committed. So
        // once more after the commit; where writers are serial, that cannot be.
        None if !conn.is_serial() => Next::Claim,
        None => Next::Nothing,
    }))
}

/// How long until the next attempt, if there is to be one.
fn next_attempt(
    conn: &mut DbConnection,
    attempted: &Attempted,
    (max_lost, luck): (i64, f64),
    now: Timestamp,
) -> Result<Option<Duration>, StoreError> {
    Ok(match &attempted.retry {
        Retry::No => None,
        Retry::By(policy) => {
            let (failed, _) = calls::failed_attempts(conn, &attempted.of)?;
            let Some(budget) = calls::budget(conn, &attempted.of)? else { return Ok(None) };
            let policy = budget.options.over(policy.clone());
            if matches!(&attempted.outcome, Outcome::Failed(failure) if policy.is_final(failure)) {
                return Ok(None);
            }
            let wait = policy.wait(failed - budget.forgiven + 1, luck);
            // An attempt that would begin after the deadline is none.
            wait.filter(|wait| budget.deadline.is_none_or(|deadline| now.after(*wait) < deadline))
        }
        Retry::Lost => {
            let (_, lost) = calls::failed_attempts(conn, &attempted.of)?;
            (lost + 1 < max_lost).then_some(Duration::ZERO)
        }
    })
}

fn record_failure(
    conn: &mut DbConnection,
    attempted: &Attempted,
    failure: &Failure,
    claim: &Claim,
) -> Result<(), StoreError> {
    let lost = matches!(attempted.retry, Retry::Lost);
    let times = (attempted.started_at, claim.now);
    calls::insert_attempt(conn, &attempted.of, attempted.worker.as_ref(), failure, lost, times)?;
    logs::append(conn, &attempted.of.execution, &attempted.log, claim.log)
}

/// Claims an execution when no call of the group is unsettled. Called after the settle's commit,
/// so that of two settlers at least the later one sees both outcomes.
async fn claim_if_complete(
    engine: &Engine,
    id: &ExecutionId,
    group: i64,
) -> Result<Option<Claimed>, OrchestrationError> {
    let key = id.clone();
    if engine.db.read(move |conn| calls::group_is_open(conn, &key, group)).await? {
        return Ok(None);
    }
    claim_now(engine, id).await
}

async fn claim_now(engine: &Engine, id: &ExecutionId) -> Result<Option<Claimed>, OrchestrationError> {
    let (claim, key) = (Claim::of(engine), id.clone());
    let make = move |conn: &mut DbConnection| match executions::get(conn, &key)? {
        Some(execution) => claim.on(&execution).make(conn, &key),
        None => Ok(None),
    };
    Ok(engine.db.write(make).await?)
}
