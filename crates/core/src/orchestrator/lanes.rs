//! Where turns run. As many short ones at a time as there are processors; the rest wait for their turn. One that computes for
//! long goes on in another lane, behind the others, so that short ones do not wait for it.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, RwLock, Semaphore};

/// A turn that has computed for so long is a long one.
pub(super) const LONG: Duration = Duration::from_millis(100);

/// Long turns at a time, for each processor: many, since most of them hold nothing but their turn.
const LONG_EACH: usize = 16;

/// No more turns become long ones while all together hold so much memory.
const HELD: usize = 2 << 30;

/// Most processors that are used for turns: each turn has an account for its memory.
const MOST: usize = 16;

/// The lanes of a process.
#[derive(Debug)]
pub(super) struct Lanes {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    /// Held for writing by who must be alone.
    others: Arc<RwLock<()>>,
}

/// The right to run a turn.
#[derive(Debug)]
pub(super) struct Lane {
    permit: Option<OwnedSemaphorePermit>,
    long: bool,
    _beside: Beside,
}

#[derive(Debug)]
enum Beside {
    Others { _guard: OwnedRwLockReadGuard<()> },
    Nobody { _guard: OwnedRwLockWriteGuard<()> },
}

impl Default for Lanes {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from).min(MOST);
        Self {
            short: Arc::new(Semaphore::new(processors)),
            long: Arc::new(Semaphore::new(processors * LONG_EACH)),
            others: Arc::default(),
        }
    }
}

impl Lanes {
    /// Waits for a lane; when it must be `alone`, until no other turn of this process runs.
    pub(super) async fn enter(&self, alone: bool) -> Lane {
        if alone {
            let beside = Beside::Nobody { _guard: self.others.clone().write_owned().await };
            return Lane { permit: None, long: true, _beside: beside };
        }
        // Never closed, so never refused.
        let permit = self.short.clone().acquire_owned().await.ok();
        let beside = Beside::Others { _guard: self.others.clone().read_owned().await };
        Lane { permit, long: false, _beside: beside }
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
