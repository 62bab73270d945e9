//! The threads on which the interpreter runs: their stack is large enough for its recursion limits, and they are watched.

use std::{
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use super::{AdvanceError, Control};

/// Bytes of stack that the interpreter needs.
pub const STACK: usize = 16 << 20;

/// How often a turn is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long work that somebody waits for waits for a thread, should the system have none.
const PATIENCE: Duration = Duration::from_secs(30);

/// Begins work on a thread of its own that nobody waits for. Fails when the system has no thread left, which passes.
pub fn begin(work: impl FnOnce() + Send + 'static) -> Result<(), AdvanceError> {
    let thread = std::thread::Builder::new().name("turn".into()).stack_size(STACK).spawn(work);
    thread.map(drop).map_err(|error| AdvanceError::Passing(format!("the system has no thread left: {error}")))
}

/// Runs `work` on a thread whose stack is large enough, and waits for it.
pub(super) fn on_big_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    scoped(work, |end| {
        // It is closed, which is an error.
        let _ = end.recv();
    })
}

/// The same for a turn, which is stopped when it has used up what it may.
pub(super) fn watched<T: Send>(control: &Control, memory: usize, work: impl FnOnce() -> T + Send) -> T {
    scoped(work, |end| {
        while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if let Some(why) = control.stopped().or_else(|| control.broken(memory)) {
                control.stop(why);
            }
        }
    })
}

/// Runs `work` on a thread and `wait` meanwhile, which is told of the end by a closed channel.
fn scoped<T: Send>(work: impl FnOnce() -> T + Send, wait: impl FnOnce(&Receiver<()>)) -> T {
    let (ended, end) = channel();
    let (once, done) = (Mutex::new(Some((work, ended))), Mutex::new(None));
    let run = || {
        let taken: Option<(_, Sender<()>)> = lock(&once).take();
        if let Some((work, _ended)) = taken {
            *lock(&done) = Some(work());
        }
    };
    std::thread::scope(|scope| {
        let began = Instant::now();
        let thread = loop {
            match std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run) {
                Ok(thread) => break thread,
                Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(LOOK),
                Err(error) => panic!("the system has no thread left: {error}"),
            }
        };
        wait(&end);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let done = lock(&done).take();
    done.unwrap_or_else(|| unreachable!("the thread has ended without a panic"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
