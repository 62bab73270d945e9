//! A queue inside one process, for `durable run` and for tests. Its contents die with the process,
//! which is allowed: the database knows what has to be pushed again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast},
    time::Instant,
};
use uuid::Uuid;

use crate::{Bell, Enqueued, Fate, ForeignResult, Job, JobId, Lease, Presence, Queue, QueueError, Swept, Way};

/// See [`Queue`] for what it promises. Clones are the same queue.
#[derive(Clone)]
pub struct MemoryQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    arrived: Notify,
    bells: broadcast::Sender<Bell>,
    lease: Duration,
    capacity: usize,
}

#[derive(Default)]
struct State {
    waiting: HashMap<String, VecDeque<Waiting>>,
    /// Generation of every job that is waiting or leased.
    known: HashMap<JobId, u64>,
    leased: HashMap<JobId, Held>,
}

struct Waiting {
    job: Job,
    /// How often it was handed out already.
    deliveries: u64,
}

struct Held {
    lease: Lease,
    expires: Instant,
}

/// Bells that a listener may be behind with.
const BELLS_KEPT: usize = 1024;

impl MemoryQueue {
    /// `lease`: how long a holder may stay silent. `capacity`: how many jobs may wait per queue.
    pub fn new(lease: Duration, capacity: usize) -> Self {
        let bells = broadcast::channel(BELLS_KEPT).0;
        Self(Arc::new(Shared { state: Mutex::default(), arrived: Notify::new(), bells, lease, capacity }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section below leaves the maps consistent, so a panic elsewhere does no harm.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, queues: &[String], worker: &str, max: usize) -> Vec<Lease> {
        let mut state = self.state();
        let mut taken = Vec::new();
        for queue in queues {
            while taken.len() < max {
                let next = state.waiting.get_mut(queue).and_then(VecDeque::pop_front);
                let Some(Waiting { job, deliveries }) = next else { break };
                let token = Uuid::new_v4().simple().to_string();
                let deliveries = deliveries + 1;
                let lease = Lease { worker: worker.to_owned(), token, job: job.clone(), deliveries };
                state.leased.insert(job.id, Held { lease: lease.clone(), expires: Instant::now() + self.0.lease });
                taken.push(lease);
            }
        }
        taken
    }
}

impl State {
    fn push(&mut self, job: Job, capacity: usize) -> Enqueued {
        if self.known.get(&job.id).is_some_and(|known| *known >= job.generation) {
            return Enqueued::Duplicate;
        }
        let waiting = self.waiting.entry(job.queue.clone()).or_default();
        if waiting.len() >= capacity {
            return Enqueued::Full;
        }
        // A newer generation replaces the older one wherever that is: the old holder is fenced.
        if self.known.insert(job.id.clone(), job.generation).is_some() {
            waiting.retain(|other| other.job.id != job.id);
            self.leased.remove(&job.id);
        }
        waiting.push_back(Waiting { job, deliveries: 0 });
        Enqueued::Queued
    }

    fn end(&mut self, lease: &Lease) -> Option<Lease> {
        let held = self.leased.get(&lease.job.id)?;
        if held.lease.token != lease.token {
            return None;
        }
        self.leased.remove(&lease.job.id).map(|held| held.lease)
    }

    fn put_back(&mut self, job: Job, deliveries: u64, way: Way) {
        let waiting = self.waiting.entry(job.queue.clone()).or_default();
        match way {
            Way::Back => waiting.push_back(Waiting { job, deliveries }),
            _ => waiting.push_front(Waiting { job, deliveries }),
        }
    }
}

#[async_trait::async_trait]
impl Queue for MemoryQueue {
    async fn enqueue(&self, jobs: Vec<Job>) -> Result<Vec<Enqueued>, QueueError> {
        let answers = {
            let mut state = self.state();
            jobs.into_iter().map(|job| state.push(job, self.0.capacity)).collect()
        };
        self.0.arrived.notify_waiters();
        Ok(answers)
    }

    async fn pop(&self, queues: &[String], worker: &str, max: usize, wait: Duration) -> Result<Vec<Lease>, QueueError> {
        let deadline = Instant::now() + wait;
        loop {
            // Registered before looking, so that a push between the look and the wait is not missed.
            let arrived = self.0.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let taken = self.take(queues, worker, max);
            if !taken.is_empty() || max == 0 {
                return Ok(taken);
            }
            if tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn beat(&self, leases: &[Lease]) -> Result<Vec<Lease>, QueueError> {
        let mut state = self.state();
        let expires = Instant::now() + self.0.lease;
        let lost = leases.iter().filter(|lease| match state.leased.get_mut(&lease.job.id) {
            Some(held) if held.lease.token == lease.token => {
                held.expires = expires;
                false
            }
            _ => true,
        });
        Ok(lost.cloned().collect())
    }

    async fn end(&self, lease: &Lease, way: Way) -> Result<Fate, QueueError> {
        let fate = {
            let mut state = self.state();
            match (state.end(lease), way) {
                (None, _) => Fate::Lost,
                (Some(ended), Way::Done | Way::Refused) => {
                    state.known.remove(&ended.job.id);
                    Fate::Done
                }
                (Some(ended), Way::Front | Way::Back) => {
                    state.put_back(ended.job, ended.deliveries - 1, way);
                    Fate::Done
                }
            }
        };
        self.0.arrived.notify_waiters();
        Ok(fate)
    }

    async fn sweep(&self) -> Result<Swept, QueueError> {
        let put_back = {
            let mut state = self.state();
            let now = Instant::now();
            let expired: Vec<Lease> =
                state.leased.values().filter(|held| held.expires <= now).map(|held| held.lease.clone()).collect();
            for lease in &expired {
                if let Some(ended) = state.end(lease) {
                    state.put_back(ended.job, ended.deliveries, Way::Front);
                }
            }
            expired.len()
        };
        if put_back > 0 {
            self.0.arrived.notify_waiters();
        }
        Ok(Swept { put_back, ..Swept::default() })
    }

    async fn cancel(&self, queue: &str, id: &JobId) -> Result<bool, QueueError> {
        let mut state = self.state();
        let Some(waiting) = state.waiting.get_mut(queue) else { return Ok(false) };
        let before = waiting.len();
        waiting.retain(|other| other.job.id != *id);
        let removed = waiting.len() < before;
        if removed {
            state.known.remove(id);
        }
        Ok(removed)
    }

    async fn depth(&self, queue: &str) -> Result<usize, QueueError> {
        Ok(self.state().waiting.get(queue).map_or(0, VecDeque::len))
    }

    fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Nobody else looks.
    async fn show(&self, _: &Presence) -> Result<(), QueueError> {
        Ok(())
    }

    async fn leave(&self, _: &Presence) -> Result<(), QueueError> {
        Ok(())
    }

    async fn ring(&self, bell: Bell) -> Result<(), QueueError> {
        // Nobody listens: then nobody has to know.
        let _ = self.0.bells.send(bell);
        Ok(())
    }

    fn bells(&self) -> broadcast::Receiver<Bell> {
        self.0.bells.subscribe()
    }

    fn foreign(&self) -> &[String] {
        &[]
    }

    async fn foreign_result(&self, _: &Lease) -> Result<Option<ForeignResult>, QueueError> {
        Ok(None)
    }

    fn apart(&self) -> Arc<dyn Queue> {
        Arc::new(self.clone())
    }
}
