//! mend: other code for an execution that runs, or has failed. The new code is led from its beginning through everything on
//! record, call by call ([`rebuild`](super::rebuild)); where it parts from the record, it is refused and nothing is changed.
//! Then code, state and epoch are replaced in one transaction, if the execution is still as it was seen: whoever dies before
//! that commit has changed nothing, and whoever computes with the former code has lost its claim.

use std::{sync::Arc, time::Duration};

use super::{
    Engine, Event, OrchestrationError, cancel,
    children::{AT_ONCE, begin_again},
    pause::{give_up, hand_out_signals, log_lines},
    rebuild::{Again, Rebuilt, Until, epoch_of},
    revive::{Forking, obstacle, retry},
};
use crate::{
    id::{CallId, Epoch, ExecutionId},
    interpreter::{AdvanceError, CompileError, Program, split_name},
    model::{Awaited, Execution, ExecutionStatus, Files, Json, Mended, Mending, Stream},
    store::{
        DbConnection, StoreError,
        calls::{self, Past, Withdrawn},
        control, executions, files, logs, snapshots,
        versions::{self, Replacement},
    },
    time::Timestamp,
};

/// How often it is tried while others advance the execution, and how long is waited in between.
const TRIES: usize = 100;
const BETWEEN: Duration = Duration::from_millis(50);

/// Other code.
#[derive(Debug, Clone)]
pub struct NewCode {
    /// The code.
    pub program: Arc<Program>,
    /// The files beside it that its children run.
    pub files: Files,
    /// What whoever started the execution left to be found again, if that is another with this code.
    pub launch: Option<Json>,
}

/// An execution as it was seen, and what it has come to with other code.
struct Plan {
    seen: Execution,
    /// None when it has not paused yet: it begins with the new code.
    rebuilt: Option<Rebuilt>,
    again: usize,
    version: i64,
}

/// Gives an execution other code, from the pause on at which it is, or had been when it failed or was cancelled: then it goes
/// on. With `dry_run` nothing is changed, and the answer says what would be.
#[tracing::instrument(name = "mend", level = "info", skip_all, fields(execution.id = %id))]
pub async fn mend(
    engine: &Engine,
    id: &ExecutionId,
    code: NewCode,
    dry_run: bool,
) -> Result<Mended, OrchestrationError> {
    let code = fitting(engine, id, code).await?;
    for _ in 0..TRIES {
        match plan(engine, id, &code, dry_run).await? {
            Planned::Held => {}
            Planned::Done(mended) => return Ok(mended),
            Planned::Ready(plan) if dry_run => return Ok(told(&plan, true)),
            Planned::Ready(plan) => {
                let plan = Arc::from(plan);
                if carry_out(engine, &plan, &code).await? {
                    return Ok(told(&plan, false));
                }
            }
        }
        // Somebody advances it: a turn takes some milliseconds.
        tokio::time::sleep(BETWEEN).await;
    }
    Err(OrchestrationError::Busy(id.clone()))
}

/// What began with a function of its file goes on with that function of the new one.
pub(super) async fn fitting(
    engine: &Engine,
    id: &ExecutionId,
    mut code: NewCode,
) -> Result<NewCode, OrchestrationError> {
    let seen = super::start::find(engine, id).await?;
    if let (Some(function), None) = (split_name(&seen.workflow).1, split_name(&code.program.name).1) {
        let name = format!("{}:{function}", code.program.file);
        let compiled = Program::compile(&name, &code.program.source);
        let refused = |error: CompileError| OrchestrationError::Parted {
            id: id.clone(),
            why: format!("it began with the function {function}: {}", error.message),
        };
        code.program = Arc::new(compiled.map_err(refused)?);
    }
    Ok(code)
}

enum Planned {
    /// Somebody advances it at this moment.
    Held,
    /// There is nothing to be replaced.
    Done(Mended),
    Ready(Box<Plan>),
}

async fn plan(engine: &Engine, id: &ExecutionId, code: &NewCode, dry_run: bool) -> Result<Planned, OrchestrationError> {
    let (key, program) = (id.clone(), &code.program);
    let found = engine.db.read(move |conn| look(conn, &key)).await?;
    let Some(Seen { seen, files, past, version, again, refused }) = found else {
        return Err(OrchestrationError::NotFound(id.clone()));
    };
    match seen.status {
        ExecutionStatus::Running => return Ok(Planned::Held),
        ExecutionStatus::Completed => {
            let wish = "be mended; durable fork --with begins another from one of its pauses";
            return Err(OrchestrationError::Ended { id: id.clone(), status: seen.status, wish });
        }
        ExecutionStatus::Failed
        | ExecutionStatus::Cancelled
        | ExecutionStatus::Scheduled
        | ExecutionStatus::Waiting
        | ExecutionStatus::Paused => {}
    }
    if let Some(why) = refused {
        return Err(OrchestrationError::NoState { id: id.clone(), wish: "retried", why });
    }
    let same = seen.source_hash == program.hash && files == files::hashes(&code.files);
    if same && seen.workflow == program.name {
        let mut plan = Plan { seen, rebuilt: None, again, version: version - 1 };
        if plan.seen.status.is_final() {
            if !dry_run {
                plan.again = retry(engine, id).await?;
            }
            return Ok(Planned::Done(told(&plan, dry_run)));
        }
        return Ok(Planned::Done(Mended { status: Mending::Unchanged, ..told(&plan, dry_run) }));
    }
    fits(program, &past)?;
    let rebuilt = match seen.suspension {
        0 => None,
        pause => {
            // What its last turn was told has not gone into a state.
            let last = if seen.status.is_final() { Epoch(seen.epoch.0 - 1) } else { seen.epoch };
            let rebuilt = led_through(engine, id, (program, past), Until { pause, epoch: last }).await?;
            Some(check_waits(id, rebuilt, seen.finished_at)?)
        }
    };
    Ok(Planned::Ready(Box::new(Plan { seen, rebuilt, again, version })))
}

struct Seen {
    seen: Execution,
    files: Option<Json>,
    past: Past,
    version: i64,
    again: usize,
    refused: Option<String>,
}

fn look(conn: &mut DbConnection, id: &ExecutionId) -> Result<Option<Seen>, StoreError> {
    let Some(seen) = executions::get(conn, id)? else { return Ok(None) };
    let Some(past) = calls::past(conn, id)? else { return Ok(None) };
    let version = i64::try_from(versions::list(conn, &seen)?.len()).unwrap_or(0) + 1;
    let ended = matches!(seen.status, ExecutionStatus::Failed | ExecutionStatus::Cancelled);
    let refused = if ended { obstacle(conn, &seen, true)? } else { None };
    let again = match seen.suspension {
        _ if !ended => 0,
        0 => past.recorded.len(),
        _ => control::to_be_run_again(conn, &seen)?,
    };
    let files = files::of(conn, id)?;
    Ok(Some(Seen { seen, files, past, version, again, refused }))
}

/// The inputs that are there are inputs of the new code.
fn fits(program: &Program, past: &Past) -> Result<(), OrchestrationError> {
    let inputs = past.inputs.parse().unwrap_or_default();
    program.check_inputs(inputs.as_object().unwrap_or(&serde_json::Map::new()))?;
    Ok(())
}

/// Takes every turn up to a pause again with this code, off the async threads.
async fn led_through(
    engine: &Engine,
    id: &ExecutionId,
    (program, past): (&Arc<Program>, Past),
    until: Until,
) -> Result<Rebuilt, OrchestrationError> {
    let (offers, limits, program) = (engine.offers.clone(), engine.settings.limits, program.clone());
    let run = move || Again::new((&offers, limits), &past, &program).run(until);
    let done = tokio::task::spawn_blocking(run).await;
    match done.unwrap_or_else(|panic| Err(AdvanceError::Crashed(panic.to_string()))) {
        Ok(rebuilt) => Ok(rebuilt),
        Err(AdvanceError::Diverged(why)) => Err(OrchestrationError::Parted { id: id.clone(), why }),
        Err(source) => Err(OrchestrationError::Advance { execution: id.clone(), source }),
    }
}

/// What the former code had given up cannot be waited for any more.
fn check_waits(id: &ExecutionId, rebuilt: Rebuilt, finished: Option<Timestamp>) -> Result<Rebuilt, OrchestrationError> {
    let lost = rebuilt.dropped.iter().find(|(call, at)| {
        // What was open when it ended is run again.
        rebuilt.waits.contains_key(call) && finished.is_none_or(|finished| *at < finished)
    });
    match lost {
        None => Ok(rebuilt),
        Some((call, _)) => {
            let (awaited, _) = &rebuilt.waits[call];
            let line = awaited.line.map_or_else(String::new, |line| format!(" (line {line})"));
            let why = format!(
                "it still waits for call {call} ({} {}{line}), which the former code had given up by then",
                awaited.kind, awaited.function
            );
            Err(OrchestrationError::Parted { id: id.clone(), why })
        }
    }
}

/// The one transaction. False when the execution is not as it was seen.
async fn carry_out(engine: &Engine, plan: &Arc<Plan>, code: &NewCode) -> Result<bool, OrchestrationError> {
    let (p, c, now) = (plan.clone(), code.clone(), engine.now());
    let done = engine.db.write(move |conn| {
        let Some(found) = control::lock(conn, &p.seen.id)? else { return Ok(None) };
        if found.status != p.seen.status || found.epoch != p.seen.epoch {
            return Ok(None);
        }
        let state = p.rebuilt.as_ref().map(|rebuilt| (&rebuilt.snapshot, &rebuilt.base));
        let new = Replacement { program: &c.program, files: &c.files, state, launch: c.launch.as_ref() };
        if !versions::replace(conn, &found, new, now)? {
            return Ok(None);
        }
        if found.status.is_final() {
            control::revive(conn, &found, now)?;
            begin_again(conn, &found.id, now)?;
        }
        let withdrawn = match &p.rebuilt {
            Some(rebuilt) => settle_in(conn, &found.id, rebuilt, now)?,
            None => Vec::new(),
        };
        let text = format!("its code is version {} now: {} {}\n", p.version, c.program.name, &c.program.hash[..12]);
        logs::append(conn, &found.id, &log_lines(vec![(Stream::Stderr, text)], now), u64::MAX)?;
        Ok(Some(withdrawn))
    });
    let Some(withdrawn) = done.await? else { return Ok(false) };
    let id = &plan.seen.id;
    tracing::info!(execution.id = %id, version = plan.version, "its code was mended");
    engine.keep_hot(id, None);
    engine.keep(&code.program);
    cancel::withdraw(engine, id, withdrawn);
    engine.observe(Event::Mended(id));
    engine.sooner(AT_ONCE);
    Ok(true)
}

/// Gives the calls the wake rules of the new code, and cancels what that has given up.
fn settle_in(
    conn: &mut DbConnection,
    id: &ExecutionId,
    rebuilt: &Rebuilt,
    now: Timestamp,
) -> Result<Vec<Withdrawn>, StoreError> {
    let wakes: Vec<_> = rebuilt.waits.iter().map(|(call, (_, wake))| (*call, *wake)).collect();
    calls::rewake(conn, id, &wakes)?;
    let (jobs, returned) = give_up(conn, id, &rebuilt.given_up, now)?;
    if hand_out_signals(conn, id, &[], returned, now)? {
        executions::wake(conn, id, now)?;
    }
    Ok(jobs)
}

fn told(plan: &Plan, dry_run: bool) -> Mended {
    let Plan { seen, rebuilt, again, version } = plan;
    let status = if seen.status.is_final() { Mending::Retrying } else { Mending::Mended };
    Mended {
        id: seen.id.clone(),
        status,
        dry_run,
        calls: *again,
        outcomes: rebuilt.as_ref().map_or(0, |rebuilt| rebuilt.outcomes),
        pause: seen.suspension,
        waits: rebuilt.as_ref().map_or_else(Vec::new, awaited),
        version: *version,
        held: seen.held && !seen.status.is_final(),
    }
}

fn awaited(rebuilt: &Rebuilt) -> Vec<Awaited> {
    rebuilt.waits.values().map(|(awaited, _)| awaited.clone()).collect()
}

/// A state for a fork, made with other code.
pub(super) struct ForFork {
    pub(super) pause: i64,
    pub(super) rebuilt: Rebuilt,
    /// The life that it was made from: an execution that has begun anew since has another.
    pub(super) first_call: CallId,
}

/// Leads other code through an execution's record up to the pause that a fork begins at. The record up to there does not
/// change, but for an execution that begins anew.
pub(super) async fn for_fork(
    engine: &Engine,
    forking: &Forking,
    program: &Arc<Program>,
) -> Result<ForFork, OrchestrationError> {
    let (key, at) = (forking.from.clone(), forking.at);
    let found = engine.db.read(move |conn| {
        let Some(seen) = executions::get(conn, &key)? else { return Ok(None) };
        let Some(past) = calls::past(conn, &key)? else { return Ok(None) };
        let pause = at.unwrap_or(seen.suspension);
        let kept = snapshots::get(conn, &key, pause)?.map(|kept| kept.epoch);
        let last = calls::last_delivery_before(conn, &key, &seen)?;
        Ok(Some((seen, past, pause, kept, last)))
    });
    let id = &forking.from;
    let (seen, past, pause, kept, last) = found.await?.ok_or_else(|| OrchestrationError::NotFound(id.clone()))?;
    let refused = |why: String| OrchestrationError::NoState { id: id.clone(), wish: "forked", why };
    if !(1..=seen.suspension).contains(&pause) {
        let why = match seen.suspension {
            0 => "it has not paused: start another from the beginning".to_owned(),
            last => format!("there is no pause {pause}; it has paused {last} times"),
        };
        return Err(refused(why));
    }
    let known = kept.or_else(|| epoch_of(&past.recorded, pause, (seen.suspension, last)));
    let Some(epoch) = known else {
        return Err(refused(format!("the record does not tell what it knew at pause {pause} (see --history)")));
    };
    fits(program, &past)?;
    let first_call = past.first_call;
    let rebuilt = led_through(engine, id, (program, past), Until { pause, epoch }).await?;
    Ok(ForFork { pause, rebuilt, first_call })
}

/// What a fork with other code would begin from. Changes nothing.
pub async fn rehearse_fork(engine: &Engine, forking: &Forking) -> Result<Mended, OrchestrationError> {
    let Some(code) = &forking.with else {
        let why = "without other code there is nothing to rehearse: leave --dry-run out".to_owned();
        return Err(OrchestrationError::NoState { id: forking.from.clone(), wish: "forked", why });
    };
    let code = fitting(engine, &forking.from, code.clone()).await?;
    let ForFork { pause, rebuilt, .. } = for_fork(engine, forking, &code.program).await?;
    Ok(Mended {
        id: forking.from.clone(),
        status: Mending::Forked,
        dry_run: true,
        calls: 0,
        outcomes: rebuilt.outcomes,
        pause,
        waits: awaited(&rebuilt),
        version: 1,
        held: false,
    })
}
