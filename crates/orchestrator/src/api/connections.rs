//! Connections: how many there may be, and which gives way when there are too many. Whoever has not sent a whole request
//! gives way, the longest first; so a health check is heard whoever else holds connections open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

/// Connections beyond the limit that are taken when all others are being answered: for health checks, and to tell the rest.
const RESERVE: usize = 32;

/// All connections of a process.
pub(super) struct Connections {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
}

/// One of them.
pub(super) struct Connection {
    number: u64,
    /// Since when a request, or the rest of one, is waited for; none while one is answered.
    waits_since: Mutex<Option<Instant>>,
    /// It has to give way.
    pub(super) gives_way: CancellationToken,
    /// There were too many when it came: only health checks are answered.
    pub(super) crowded: bool,
}

impl Connection {
    /// A whole request has come in.
    pub(super) fn heard(&self) {
        *self.waits_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The next request, or the rest of this one, is waited for.
    pub(super) fn listens(&self) {
        *self.waits_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn waits_since(&self) -> Option<Instant> {
        *self.waits_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    pub(super) connection: Arc<Connection>,
    all: Arc<Connections>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.open.lock().unwrap_or_else(PoisonError::into_inner).all.remove(&self.connection.number);
    }
}

impl Connections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A place for one more; another may have to give way to it. None when every place is needed.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let full = open.all.len() >= self.most;
        let crowded = full && !open.make_room();
        if crowded && open.all.len() >= self.most + RESERVE {
            return None;
        }
        open.next += 1;
        let connection = Arc::new(Connection {
            number: open.next,
            waits_since: Mutex::new(Some(Instant::now())),
            gives_way: CancellationToken::new(),
            crowded,
        });
        open.all.insert(connection.number, connection.clone());
        Some(Place { connection, all: self.clone() })
    }

    /// Closes the one that has been waited for longest, when the system has no more files.
    pub(super) fn make_room(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).make_room();
    }
}

impl Open {
    /// Answers whether one gave way.
    fn make_room(&mut self) -> bool {
        let waiting = self.all.values().filter_map(|one| Some((one.waits_since()?, one.number)));
        let Some((_, oldest)) = waiting.min() else { return false };
        if let Some(gone) = self.all.remove(&oldest) {
            gone.gives_way.cancel();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_sent_no_whole_request_gives_way_the_longest_first() {
        let all = Connections::new(2);
        let (answered, half) = (all.admit().unwrap(), all.admit().unwrap());
        answered.connection.heard();
        let third = all.admit().unwrap();
        assert!(half.connection.gives_way.is_cancelled() && !answered.connection.gives_way.is_cancelled());
        third.connection.heard();
        let crowded: Vec<Place> = std::iter::from_fn(|| {
            let place = all.admit()?;
            place.connection.heard();
            Some(place)
        })
        .collect();
        assert_eq!(crowded.len(), RESERVE, "there is some room even when all are being answered");
        assert!(crowded.iter().all(|place| place.connection.crowded));
        drop(crowded);
        drop(third);
        assert!(!all.admit().unwrap().connection.crowded);
    }
}
