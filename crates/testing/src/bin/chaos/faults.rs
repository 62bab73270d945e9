//! What is done to the cluster.

use std::{
    thread,
    time::{Duration, Instant},
};

use durable_testing::{Cluster, Proxy};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::Signal;

const KINDS: [&str; 11] = [
    "worker killed (SIGKILL)",
    "worker asked to stop (SIGTERM)",
    "worker frozen past its lease (SIGSTOP, SIGCONT)",
    "orchestrator killed (SIGKILL)",
    "orchestrator frozen past its claims (SIGSTOP)",
    "Redis emptied (FLUSHALL)",
    "Redis killed and started empty",
    "Postgres killed and started again",
    "database connections cut",
    "Redis connections cut",
    "a COMMIT passed on, its answer lost",
];

/// How often each is chosen, in parts of a hundred.
const WEIGHTS: [u32; 11] = [20, 7, 10, 10, 5, 7, 5, 5, 9, 8, 14];

/// Longer than the leases and claims of the cluster.
const FROZEN: Duration = Duration::from_secs(5);

pub(crate) struct Faults<'a> {
    cluster: &'a Cluster,
    postgres: Proxy,
    redis: Proxy,
    random: StdRng,
    counts: [usize; KINDS.len()],
    last: usize,
    /// What is frozen, and until when.
    frozen: Vec<(Who, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Worker(usize),
    Orchestrator(usize),
}

impl<'a> Faults<'a> {
    pub(crate) fn new(cluster: &'a Cluster, postgres: Proxy, redis: Proxy, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { cluster, postgres, redis, random, counts: [0; KINDS.len()], last: 0, frozen: Vec::new() }
    }

    pub(crate) fn counts(&self) -> Vec<(&'static str, usize)> {
        KINDS.into_iter().zip(self.counts).collect()
    }

    pub(crate) fn last(&self) -> &'static str {
        KINDS[self.last]
    }

    /// Waits a while, then does one thing.
    pub(crate) fn next(&mut self) {
        let calm = Instant::now() + Duration::from_millis(self.random.random_range(200..1500));
        while Instant::now() < calm {
            self.tend();
            thread::sleep(Duration::from_millis(50));
        }
        let mut point = self.random.random_range(0..WEIGHTS.iter().sum::<u32>());
        let kind = WEIGHTS.iter().position(|weight| {
            let here = point < *weight;
            point = point.saturating_sub(*weight);
            here
        });
        self.last = kind.unwrap_or(0);
        let cluster = self.cluster;
        let worker = self.random.random_range(0..cluster.worker_pids().len().max(1));
        let orchestrator = self.random.random_range(0..2);
        let done = match self.last {
            0 => {
                cluster.signal_worker(worker, Signal::KILL);
                Ok(())
            }
            1 => {
                cluster.signal_worker(worker, Signal::TERM);
                Ok(())
            }
            2 => self.freeze(Who::Worker(worker)),
            3 => {
                cluster.signal_orchestrator(orchestrator, Signal::KILL);
                Ok(())
            }
            4 => self.freeze(Who::Orchestrator(orchestrator)),
            5 => cluster.redis.ask(&["FLUSHALL"]).map(drop),
            6 => cluster.redis.restart(),
            7 => {
                cluster.postgres.kill(Signal::KILL);
                cluster.postgres.restart()
            }
            8 => {
                self.postgres.cut();
                Ok(())
            }
            9 => {
                self.redis.cut();
                Ok(())
            }
            _ => {
                self.postgres.lose_commits(1);
                Ok(())
            }
        };
        match done {
            Ok(()) => self.counts[self.last] += 1,
            Err(error) => crate::say(format_args!("{}: {error}", self.last())),
        }
    }

    fn freeze(&mut self, who: Who) -> Result<(), String> {
        if self.frozen.iter().any(|(frozen, _)| *frozen == who) {
            return Err("frozen already".into());
        }
        self.send(who, Signal::STOP);
        self.frozen.push((who, Instant::now() + FROZEN));
        Ok(())
    }

    fn send(&self, who: Who, signal: Signal) {
        match who {
            Who::Worker(n) => self.cluster.signal_worker(n, signal),
            Who::Orchestrator(n) => self.cluster.signal_orchestrator(n, signal),
        }
    }

    /// Thaws what was frozen long enough, and starts what has ended, as a supervisor would.
    fn tend(&mut self) {
        let now = Instant::now();
        let (thaw, frozen) = std::mem::take(&mut self.frozen).into_iter().partition(|(_, until)| *until <= now);
        self.frozen = frozen;
        let thaw: Vec<(Who, Instant)> = thaw;
        thaw.into_iter().for_each(|(who, _)| self.send(who, Signal::CONT));
        for n in 0..self.cluster.worker_count() {
            if !self.cluster.worker_lives(n) {
                restarted(self.cluster.start_worker(n));
            }
        }
        for n in 0..2 {
            if !self.cluster.orchestrator_lives(n) {
                restarted(self.cluster.start_orchestrator(n));
            }
        }
    }

    /// No more faults: everything runs again.
    pub(crate) fn heal(&mut self) {
        self.postgres.lose_commits(0);
        for (who, _) in std::mem::take(&mut self.frozen) {
            self.send(who, Signal::CONT);
        }
        self.tend();
    }
}

fn restarted(started: Result<(), String>) {
    if let Err(error) = started {
        crate::say(format_args!("a process cannot be started again: {error}"));
    }
}
