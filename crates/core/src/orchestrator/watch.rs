//! watch: what happens to a claim and a turn while it runs.
//!
//! A claim lasts as long as its process lives: it is renewed while its turn waits for a lane or computes. A turn that has used
//! up what it may, whose claim was lost, or whose process ends, is stopped; one that cannot be interrupted is left behind, and
//! what it comes to is thrown away.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::oneshot::{Receiver, channel},
    time::{Instant, sleep, timeout},
};

use super::{
    Engine,
    claim::Claimed,
    lanes::{LANES, LONG, Lane},
    limits,
};
use crate::{
    allow::Rights,
    interpreter::{self, AdvanceError, Control, End, Limits, Origin, Program, Step, StopReason, Turn},
    store::{claims, executions::Won},
};

/// How often a turn that has not ended at once is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// How often the claim of a turn that runs is looked at, at least: whoever cancels by force waits for no more than this.
const CLAIM_LOOK: Duration = Duration::from_millis(500);

/// A turn that runs ahead of its claim for so long has its outcome recorded first: should it break its process, the function
/// does not run again.
const AHEAD: Duration = Duration::from_millis(50);

/// How long a turn that was told to stop may take for it, before it is left behind.
const STOPS: Duration = Duration::from_millis(500);

/// Tries of a turn that the machine did not let end, and the waits between them.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(200);

/// How much the system prefers other threads to one that computes for long, and to one that was left behind.
const LONG_NICENESS: i32 = 15;
const LEFT_NICENESS: i32 = 19;

/// A claimed execution while its turn runs.
pub(super) struct Watch<'a> {
    engine: &'a Engine,
    claimed: &'a mut Claimed,
    renewed: Instant,
}

/// A turn on its own thread; unwanted once this is dropped.
struct Running {
    control: Arc<Control>,
    step: Receiver<Result<Step, AdvanceError>>,
    began: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.stop(StopReason::Unwanted);
        self.control.leave();
    }
}

impl Running {
    fn begin(engine: &Engine, won: &Arc<Won>, program: &Arc<Program>, exact: bool) -> Result<Self, AdvanceError> {
        let (tell, step) = channel();
        let control = Arc::new(if exact { Control::exact() } else { Control::default() });
        let (won, program, seen) = (won.clone(), program.clone(), control.clone());
        let (offers, limits) = (engine.offers.clone(), limits::of_turn(engine, &won));
        let span = tracing::info_span!("advance", execution.id = %won.execution.id, epoch = won.execution.epoch.0);
        interpreter::begin(move || {
            let _entered = span.entered();
            let turn = Turn {
                program: &program,
                execution: &won.execution.id,
                now: won.at,
                secret: &won.secret,
                offers: &offers,
                limits,
                rights: Rights { allowed: &won.allowed, queue: &won.execution.queue },
            };
            let origin = match &won.state {
                None => Origin::Start { inputs: &won.inputs, first_call: won.first_call.0 },
                Some((snapshot, base)) => Origin::Paused { snapshot, base, outcomes: &won.outcomes },
            };
            let taken = catch_unwind(AssertUnwindSafe(|| interpreter::advance_here(&turn, origin, &seen)));
            // Nobody may want it any more.
            let _ = tell.send(taken.unwrap_or_else(|panic| Err(AdvanceError::Crashed(said(&*panic)))));
        })?;
        Ok(Self { control, step, began: Instant::now() })
    }

    /// How long it has computed.
    fn computed(&self) -> Duration {
        self.control.computed().unwrap_or_else(|| self.began.elapsed())
    }

    /// Stops it; what it comes to then, or what became of one that cannot be stopped.
    async fn stop(&mut self, why: StopReason, limits: Limits, won: &Won) -> Result<Step, AdvanceError> {
        self.control.stop(why);
        let told = Instant::now();
        while told.elapsed() < STOPS {
            self.control.hurry();
            if let Ok(ended) = timeout(Duration::from_millis(1), &mut self.step).await {
                return ended.unwrap_or(Err(AdvanceError::Unwanted));
            }
        }
        self.control.leave();
        self.control.yield_to_others(LEFT_NICENESS);
        tracing::warn!(execution.id = %won.execution.id, "a turn cannot be interrupted: its thread is left behind");
        match why {
            StopReason::Unwanted => Err(AdvanceError::Unwanted),
            StopReason::Spent | StopReason::Greedy => Ok(never_stopped(why, limits, won)),
        }
    }
}

/// The words of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// The end of an execution whose turn could not be stopped: it was told of nothing.
fn never_stopped(why: StopReason, limits: Limits, won: &Won) -> Step {
    let failure = interpreter::never_stopped(why, limits);
    Step {
        log: Vec::new(),
        progress: None,
        withdrawn: Vec::new(),
        unread: won.outcomes.iter().map(|(id, _)| *id).collect(),
        end: End::Fail { failure, abandoned: Vec::new() },
    }
}

impl<'a> Watch<'a> {
    pub(super) fn new(engine: &'a Engine, claimed: &'a mut Claimed) -> Self {
        Self { engine, claimed, renewed: Instant::now() }
    }

    /// Takes a turn, again if it was the machine's fault that it did not end.
    pub(super) async fn take(&mut self, won: Arc<Won>, program: Arc<Program>) -> Result<Step, AdvanceError> {
        let mut exact = false;
        let mut passing = AdvanceError::Crowded;
        for again in 0..TRIES {
            let lane = self.meanwhile(LANES.enter(exact)).await?;
            passing = match self.turn(lane, &won, &program).await {
                Err(error @ (AdvanceError::Crowded | AdvanceError::Passing(_))) => error,
                ended => return ended,
            };
            tracing::warn!(execution.id = %won.execution.id, why = %passing, "a turn is taken again");
            exact |= passing == AdvanceError::Crowded;
            self.meanwhile(sleep(BETWEEN * 2_u32.pow(again))).await?;
        }
        Err(AdvanceError::Passing(passing.to_string()))
    }

    /// Waits for something, and keeps the claim.
    pub(super) async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, AdvanceError> {
        tokio::pin!(wait);
        let every = self.engine.settings.claim / 3;
        loop {
            let next = (self.renewed + every).saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                waited = &mut wait => return Ok(waited),
                () = self.engine.stopping.cancelled() => return Err(AdvanceError::Unwanted),
                () = sleep(next) => self.renew().await?,
            }
        }
    }

    async fn turn(&mut self, mut lane: Lane, won: &Arc<Won>, program: &Arc<Program>) -> Result<Step, AdvanceError> {
        let engine = self.engine;
        let every = CLAIM_LOOK.min(engine.settings.claim / 3);
        let mut running = Running::begin(engine, won, program, lane.is_exact())?;
        loop {
            tokio::select! {
                biased;
                step = &mut running.step => return step.unwrap_or(Err(AdvanceError::Unwanted)),
                () = engine.stopping.cancelled() => return running.stop(StopReason::Unwanted, engine.settings.limits, won).await,
                () = sleep(LOOK) => {}
            }
            if running.computed() > LONG && LANES.lengthen(&mut lane) {
                running.control.yield_to_others(LONG_NICENESS);
            }
            if let Some(broken) = running.control.broken(engine.settings.limits.memory) {
                return running.stop(broken, engine.settings.limits, won).await;
            }
            let ahead = self.claimed.is_foreseen() && running.began.elapsed() > AHEAD;
            if (ahead || self.renewed.elapsed() > every) && self.renew().await.is_err() {
                let _ = running.stop(StopReason::Unwanted, engine.settings.limits, won).await;
                return Err(AdvanceError::Unwanted);
            }
        }
    }

    /// Makes the claim last; one that was foreseen is made first. Fails when somebody else has the execution. A store that is
    /// away decides nothing: it is asked again before the claim is over, and when the turn is written.
    async fn renew(&mut self) -> Result<(), AdvanceError> {
        self.renewed = Instant::now();
        let (held, until) = (self.claimed.fence(), self.engine.now().after(self.engine.settings.claim));
        let foreseen = self.claimed.is_foreseen();
        let h = held.clone();
        let kept = self.engine.db.write(move |conn| match foreseen {
            true => h.secure(conn),
            false => claims::renew(conn, &h.fence, until),
        });
        match kept.await {
            Ok(true) if foreseen => {
                held.observe(self.engine);
                self.claimed.is_made();
                Ok(())
            }
            Ok(true) => Ok(()),
            Ok(false) => Err(AdvanceError::Unwanted),
            Err(error) => {
                tracing::warn!(execution.id = %self.claimed.id(), %error, "a claim could not be renewed");
                Ok(())
            }
        }
    }
}
