//! Where turns run. As many short ones at a time as there are processors; the rest wait for their turn. One that computes for
//! long goes on in another lane, behind the others, so that short ones do not wait for it.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// A turn that has computed for so long is a long one.
pub(super) const LONG: Duration = Duration::from_millis(100);

/// Long turns at a time, for each processor: many, since most of them hold nothing but their turn.
const LONG_EACH: usize = 16;

/// No more turns become long ones while all together hold so much memory.
const HELD: usize = 2 << 30;

/// Most processors that are used for turns: each turn has an account for its memory.
const MOST: usize = 16;

/// The lanes of this process, whose turns share its processors and its memory, whichever engine takes them.
pub(super) static LANES: LazyLock<Lanes> = LazyLock::new(Lanes::default);

/// Lanes of one process.
#[derive(Debug)]
pub(super) struct Lanes {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    /// Held by the turn whose memory is looked at exactly.
    exact: Arc<Mutex<()>>,
}

/// The right to run a turn.
#[derive(Debug)]
pub(super) struct Lane {
    permit: Option<OwnedSemaphorePermit>,
    long: bool,
    exact: Option<OwnedMutexGuard<()>>,
}

impl Lane {
    /// Whether the turn's memory is looked at exactly, as only one's can be.
    pub(super) fn is_exact(&self) -> bool {
        self.exact.is_some()
    }
}

impl Default for Lanes {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from).min(MOST);
        Self {
            short: Arc::new(Semaphore::new(processors)),
            long: Arc::new(Semaphore::new(processors * LONG_EACH)),
            exact: Arc::default(),
        }
    }
}

impl Lanes {
    /// Waits for a lane.
    pub(super) async fn enter(&self, exact: bool) -> Lane {
        let exact = if exact { Some(self.exact.clone().lock_owned().await) } else { None };
        // Never closed, so never refused.
        let permit = self.short.clone().acquire_owned().await.ok();
        Lane { permit, long: false, exact }
    }

    /// Makes room for short turns. False when there are too many long ones already, or when it is one.
    pub(super) fn lengthen(&self, lane: &mut Lane) -> bool {
        if lane.long || durable_memory::held_by_all() > HELD {
            return false;
        }
        let Ok(permit) = self.long.clone().try_acquire_owned() else { return false };
        lane.permit = Some(permit);
        lane.long = true;
        true
    }
}
