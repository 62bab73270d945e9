//! The time of an attempt: it begins with the function's first line, and stands still while others hold the function up.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// When an attempt's function began, and for how long others have held it up. Clones share it.
#[derive(Debug, Clone)]
pub struct AttemptClock {
    began: Arc<watch::Sender<Option<Instant>>>,
    held_up: Arc<Mutex<Duration>>,
}

impl Default for AttemptClock {
    fn default() -> Self {
        Self { began: Arc::new(watch::Sender::new(None)), held_up: Arc::default() }
    }
}

impl AttemptClock {
    /// The function begins; only the first time counts.
    pub fn start(&self) {
        self.began.send_if_modified(|began| began.is_none() && began.replace(Instant::now()).is_none());
    }

    /// Whether the function has begun.
    pub fn has_started(&self) -> bool {
        self.began.borrow().is_some()
    }

    /// Others have kept the function from going on for this long.
    pub fn hold_up(&self, time: Duration) {
        *self.held_up.lock().unwrap_or_else(PoisonError::into_inner) += time;
    }

    /// Waits until the function has had this much time.
    pub(crate) async fn has_had(&self, time: Duration) {
        let mut began = self.began.subscribe();
        // The sender lives as long as this clock.
        let began = began.wait_for(Option::is_some).await.ok().and_then(|began| *began).unwrap_or_else(Instant::now);
        loop {
            let held_up = *self.held_up.lock().unwrap_or_else(PoisonError::into_inner);
            let had = began.elapsed().saturating_sub(held_up);
            match time.checked_sub(had) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return,
            }
        }
    }
}
