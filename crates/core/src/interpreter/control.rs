//! What a turn may still use, and how it is told to stop.
//!
//! A turn is measured by the processor time of its thread, over all the answers that it asks of the host: a frozen or busy
//! machine takes nothing from it. It looks at every answer; whoever watches it looks from outside, and lets the interpreter
//! stop where it computes by itself.

use std::{
    sync::atomic::{AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use durable_memory::Account;

/// Why a turn is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// It has computed for longer than it may.
    Spent = 1,
    /// Nobody wants what it comes to: the claim is lost, or the process ends.
    Unwanted = 2,
    /// It holds more memory than it may.
    Greedy = 3,
}

/// A turn, as it is seen from outside.
#[derive(Debug)]
pub struct Control {
    /// A [`StopReason`], or 0.
    why: AtomicU8,
    /// The number of its thread's [`Account`](durable_memory::Account).
    account: AtomicUsize,
    /// The system's number of its thread; 0 before it has begun.
    thread: AtomicI32,
    /// The processor time of its thread at which it has used up what it may, in microseconds.
    ends: AtomicU64,
    /// Whether its memory is looked at exactly.
    exact: bool,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            why: AtomicU8::new(0),
            account: AtomicUsize::new(usize::MAX),
            thread: AtomicI32::new(0),
            ends: AtomicU64::new(u64::MAX),
            exact: false,
        }
    }
}

impl Control {
    /// Of a turn whose memory is looked at exactly. One at a time.
    pub fn exact() -> Self {
        Self { exact: true, ..Self::default() }
    }

    /// Tells it to stop; the first reason stands.
    pub fn stop(&self, why: StopReason) {
        let _ = self.why.compare_exchange(0, why as u8, Ordering::Relaxed, Ordering::Relaxed);
        self.hurry();
    }

    /// Once more: others write what the interpreter looks at.
    pub fn hurry(&self) {
        durable_memory::stop(self.account.load(Ordering::Relaxed));
    }

    /// Why it was told to stop, if it was.
    pub fn stopped(&self) -> Option<StopReason> {
        match self.why.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(StopReason::Spent),
            3 => Some(StopReason::Greedy),
            _ => Some(StopReason::Unwanted),
        }
    }

    /// Nobody waits any longer until it has stopped.
    pub fn leave(&self) {
        durable_memory::leave(self.account.load(Ordering::Relaxed));
    }

    /// How long it has computed; none where the system does not tell.
    pub fn computed(&self) -> Option<Duration> {
        of_thread(self.thread.load(Ordering::Relaxed))
    }

    /// The limit that it has broken, seen from outside: that of its time, or of so much memory.
    pub fn broken(&self, memory: usize) -> Option<StopReason> {
        if durable_memory::held(self.account.load(Ordering::Relaxed)) > memory {
            return Some(StopReason::Greedy);
        }
        let overdue = self.computed().is_some_and(|computed| micros(computed) > self.ends.load(Ordering::Relaxed));
        overdue.then_some(StopReason::Spent)
    }

    /// Lets the system prefer others' threads to this one.
    pub fn yield_to_others(&self, niceness: i32) {
        #[cfg(target_os = "linux")]
        if let Some(thread) = rustix::process::Pid::from_raw(self.thread.load(Ordering::Relaxed)) {
            // There, a thread has a priority of its own. That it is not granted changes nothing that is promised.
            let _ = rustix::process::setpriority_process(Some(thread), niceness);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = niceness;
    }

    /// On the turn's thread: an account of what it holds.
    pub(super) fn account(&self) -> Option<Account> {
        if self.exact { Account::open_exactly() } else { Account::open() }
    }

    /// On the turn's thread: it begins, and may compute for so long.
    pub(super) fn begin(&self, account: Option<usize>, limit: Duration) {
        self.account.store(account.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.ends.store(micros(own_time() + limit), Ordering::Relaxed);
        self.thread.store(own_thread(), Ordering::Relaxed);
    }

    /// On the turn's thread: it may compute for longer.
    pub(super) fn allow(&self, more: Duration) {
        self.ends.fetch_add(micros(more), Ordering::Relaxed);
    }

    /// On the turn's thread: whether it may go on. Asked at every answer of the host.
    pub(super) fn look(&self) -> Option<StopReason> {
        if self.stopped().is_none() && micros(own_time()) > self.ends.load(Ordering::Relaxed) {
            self.stop(StopReason::Spent);
        }
        self.stopped()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The processor time of this thread.
pub(super) fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(target_os = "linux")]
fn own_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

#[cfg(not(target_os = "linux"))]
fn own_thread() -> i32 {
    0
}

/// The processor time of another thread of this process.
fn of_thread(thread: i32) -> Option<Duration> {
    if !cfg!(target_os = "linux") || thread == 0 {
        return None;
    }
    let told = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    told.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
