//! A queue inside one process, for `durable run` and for tests. Its contents die with the process,
//! which is allowed: the database knows what has to be pushed again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use crate::{Enqueued, Fate, Job, JobId, Lease, Queue, QueueError};

/// See [`Queue`] for what it promises.
pub struct MemoryQueue {
    state: Mutex<State>,
    arrived: Notify,
    lease: Duration,
    capacity: usize,
}

#[derive(Default)]
struct State {
    waiting: HashMap<String, VecDeque<Job>>,
    /// Generation of every job that is waiting or leased.
    known: HashMap<JobId, u64>,
    leased: HashMap<JobId, Held>,
}

struct Held {
    lease: Lease,
    expires: Instant,
}

impl MemoryQueue {
    /// `lease`: how long a holder may stay silent. `capacity`: how many jobs may wait per queue.
    pub fn new(lease: Duration, capacity: usize) -> Self {
        Self { state: Mutex::default(), arrived: Notify::new(), lease, capacity }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section below leaves the maps consistent, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, queues: &[String], worker: &str, max: usize) -> Vec<Lease> {
        let mut state = self.state();
        let mut taken = Vec::new();
        for queue in queues {
            while taken.len() < max {
                let Some(job) = state.waiting.get_mut(queue).and_then(VecDeque::pop_front) else { break };
                let lease =
                    Lease { worker: worker.to_owned(), token: Uuid::new_v4().simple().to_string(), job: job.clone() };
                state.leased.insert(job.id, Held { lease: lease.clone(), expires: Instant::now() + self.lease });
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
            waiting.retain(|other| other.id != job.id);
            self.leased.remove(&job.id);
        }
        waiting.push_back(job);
        Enqueued::Queued
    }

    fn end(&mut self, lease: &Lease) -> Option<Job> {
        let held = self.leased.get(&lease.job.id)?;
        if held.lease.token != lease.token {
            return None;
        }
        self.leased.remove(&lease.job.id).map(|held| held.lease.job)
    }

    fn put_back(&mut self, job: Job) {
        self.waiting.entry(job.queue.clone()).or_default().push_front(job);
    }
}

#[async_trait::async_trait]
impl Queue for MemoryQueue {
    async fn enqueue(&self, jobs: Vec<Job>) -> Result<Vec<Enqueued>, QueueError> {
        let answers = {
            let mut state = self.state();
            jobs.into_iter().map(|job| state.push(job, self.capacity)).collect()
        };
        self.arrived.notify_waiters();
        Ok(answers)
    }

    async fn pop(&self, queues: &[String], worker: &str, max: usize, wait: Duration) -> Result<Vec<Lease>, QueueError> {
        let deadline = Instant::now() + wait;
        loop {
            // Registered before looking, so that a push between the look and the wait is not missed.
            let arrived = self.arrived.notified();
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
        let expires = Instant::now() + self.lease;
        let lost = leases.iter().filter(|lease| match state.leased.get_mut(&lease.job.id) {
            Some(held) if held.lease.token == lease.token => {
                held.expires = expires;
                false
            }
            _ => true,
        });
        Ok(lost.cloned().collect())
    }

    async fn ack(&self, lease: &Lease) -> Result<Fate, QueueError> {
        let mut state = self.state();
        Ok(match state.end(lease) {
            Some(job) => {
                state.known.remove(&job.id);
                Fate::Done
            }
            None => Fate::Lost,
        })
    }

    async fn release(&self, lease: &Lease) -> Result<Fate, QueueError> {
        let fate = {
            let mut state = self.state();
            match state.end(lease) {
                Some(job) => {
                    state.put_back(job);
                    Fate::Done
                }
                None => Fate::Lost,
            }
        };
        self.arrived.notify_waiters();
        Ok(fate)
    }

    async fn reap(&self) -> Result<usize, QueueError> {
        let expired = {
            let mut state = self.state();
            let now = Instant::now();
            let expired: Vec<Lease> =
                state.leased.values().filter(|held| held.expires <= now).map(|held| held.lease.clone()).collect();
            for lease in &expired {
                if let Some(job) = state.end(lease) {
                    state.put_back(job);
                }
            }
            expired.len()
        };
        self.arrived.notify_waiters();
        Ok(expired)
    }

    async fn cancel(&self, queue: &str, id: &JobId) -> Result<bool, QueueError> {
        let mut state = self.state();
        let Some(waiting) = state.waiting.get_mut(queue) else { return Ok(false) };
        let before = waiting.len();
        waiting.retain(|job| job.id != *id);
        let removed = waiting.len() < before;
        if removed {
            state.known.remove(id);
        }
        Ok(removed)
    }

    async fn depth(&self, queue: &str) -> Result<usize, QueueError> {
        Ok(self.state().waiting.get(queue).map_or(0, VecDeque::len))
    }
}
