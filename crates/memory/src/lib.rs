//! What each turn holds in memory.
//!
//! The interpreter asks two numbers of the whole process, `LIVE_MEMORY` and `BASELINE_MEMORY`, how much is held. Turns run side
//! by side, and what one holds must not be counted against another. So [`TurnAllocator`] keeps an account per thread that
//! runs a turn, and shows the interpreter that of the thread which allocated last: nearly always the one that asks.
//! Where it was another's, the turn that was stopped can tell ([`Account::was_misled`]), and is taken again.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use monty_types::{BASELINE_MEMORY, LIVE_MEMORY};

/// Most turns that have an account at the same time.
const ACCOUNTS: usize = 512;

/// What is smaller misleads nobody: limits are far larger.
const LARGE: usize = 16 << 20;

/// What is shown to an interpreter that is to stop: more than any limit.
const ENDLESS: usize = usize::MAX / 2;

/// One turn's; each in a cache line of its own, since its thread writes it at every allocation.
#[repr(align(128))]
struct Entry {
    open: AtomicBool,
    held: AtomicIsize,
    most: AtomicUsize,
    stopped: AtomicBool,
}

static ENTRIES: [Entry; ACCOUNTS] = [const {
    Entry {
        open: AtomicBool::new(false),
        held: AtomicIsize::new(0),
        most: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
    }
}; ACCOUNTS];

/// How often a number was shown that may have misled others: a large turn ended, or one was stopped.
static MISLEADING: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The account of this thread. A plain number, so that it can be read in the middle of an allocation.
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The system's allocator, which also keeps the accounts of turns.
pub struct TurnAllocator;

fn charge(bytes: isize) {
    let Some(entry) = ENTRIES.get(MINE.get()) else { return };
    // Only this thread writes it.
    let held = entry.held.load(Relaxed).wrapping_add(bytes);
    entry.held.store(held, Relaxed);
    let held = usize::try_from(held).unwrap_or(0);
    if held > entry.most.load(Relaxed) {
        entry.most.store(held, Relaxed);
    }
    LIVE_MEMORY.store(if entry.stopped.load(Relaxed) { ENDLESS } else { held }, Relaxed);
}

fn size(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every method hands its arguments to `System` as they are and answers what that answers. The accounting
// allocates nothing and cannot panic.
unsafe impl GlobalAlloc for TurnAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(size(layout.size()));
        // SAFETY: the caller's own arguments.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        charge(-size(layout.size()));
        // SAFETY: the caller's own arguments.
        unsafe { System.dealloc(pointer, layout) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(size(layout.size()));
        // SAFETY: the caller's own arguments.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        charge(size(new) - size(layout.size()));
        // SAFETY: the caller's own arguments.
        unsafe { System.realloc(pointer, layout, new) }
    }
}

/// The account of the turn that this thread runs, until it is dropped.
#[derive(Debug)]
pub struct Account {
    entry: usize,
    misleading: u64,
    /// It belongs to its thread.
    _own: std::marker::PhantomData<*const ()>,
}

impl Account {
    /// Opens one for this thread. None when there are too many.
    pub fn open() -> Option<Self> {
        BASELINE_MEMORY.store(0, Relaxed);
        let free = |entry: &Entry| entry.open.compare_exchange(false, true, Relaxed, Relaxed).is_ok();
        let entry = ENTRIES.iter().position(free)?;
        let Entry { held, most, stopped, .. } = &ENTRIES[entry];
        held.store(0, Relaxed);
        most.store(0, Relaxed);
        stopped.store(false, Relaxed);
        MINE.set(entry);
        LIVE_MEMORY.store(0, Relaxed);
        Some(Self { entry, misleading: MISLEADING.load(Relaxed), _own: std::marker::PhantomData })
    }

    /// Its number, by which others can [`stop`] it.
    pub fn number(&self) -> usize {
        self.entry
    }

    /// What the turn holds, in bytes. Nothing where [`TurnAllocator`] is not the program's allocator.
    pub fn held(&self) -> usize {
        usize::try_from(ENTRIES[self.entry].held.load(Relaxed)).unwrap_or(0)
    }

    /// The most that it has held.
    pub fn most(&self) -> usize {
        ENTRIES[self.entry].most.load(Relaxed)
    }

    /// Whether the interpreter may have been shown more than this turn has held, because of another turn.
    pub fn was_misled(&self) -> bool {
        let own = self.most().max(LARGE);
        let misleads = |(place, entry): (usize, &Entry)| {
            let larger = || entry.stopped.load(Relaxed) || entry.most.load(Relaxed) > own;
            place != self.entry && entry.open.load(Relaxed) && larger()
        };
        ENTRIES.iter().enumerate().any(misleads) || MISLEADING.load(Relaxed) != self.misleading
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        MINE.set(usize::MAX);
        let entry = &ENTRIES[self.entry];
        if entry.most.load(Relaxed) > LARGE || entry.stopped.load(Relaxed) {
            MISLEADING.fetch_add(1, Relaxed);
        }
        LIVE_MEMORY.store(0, Relaxed);
        entry.open.store(false, Relaxed);
    }
}

/// What all turns of the process hold, in bytes.
pub fn held_by_all() -> usize {
    let held = |entry: &Entry| usize::try_from(entry.held.load(Relaxed)).unwrap_or(0);
    ENTRIES.iter().filter(|entry| entry.open.load(Relaxed)).map(held).sum()
}

/// Lets the interpreter of another thread's turn stop at its next look at its memory, as if it held too much. To be repeated
/// until it has, since others write the same number; they may stop too, and can tell.
pub fn stop(number: usize) {
    let Some(entry) = ENTRIES.get(number) else { return };
    if entry.open.load(Relaxed) {
        MISLEADING.fetch_add(1, Relaxed);
        entry.stopped.store(true, Relaxed);
        LIVE_MEMORY.store(ENDLESS, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: TurnAllocator = TurnAllocator;

    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn an_account_counts_what_its_thread_holds_and_nothing_else() {
        let (held, most, after) = on_a_thread(|| {
            let account = Account::open().unwrap();
            let elsewhere = std::thread::spawn(|| vec![1_u8; 8 << 20].len());
            let mine = vec![1_u8; 4 << 20];
            assert_eq!(elsewhere.join().unwrap(), 8 << 20);
            let held = account.held();
            drop(mine);
            (held, account.most(), account.held())
        });
        assert!((4 << 20..5 << 20).contains(&held), "{held}");
        assert!((4 << 20..5 << 20).contains(&most), "{most}");
        assert!(after < 1 << 20, "{after}");
    }

    #[test]
    fn a_turn_beside_a_larger_one_knows_that_it_may_have_been_misled() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let large = std::thread::spawn(move || {
            let _account = Account::open().unwrap();
            let _held = vec![1_u8; 64 << 20];
            tell.send(()).unwrap();
            ended.recv().unwrap();
        });
        told.recv().unwrap();
        let beside = on_a_thread(move || {
            let account = Account::open().unwrap();
            let beside = account.was_misled();
            end.send(()).unwrap();
            large.join().unwrap();
            (beside, account.was_misled())
        });
        assert_eq!(beside, (true, true), "while the other is there, and when it was");
    }
}
