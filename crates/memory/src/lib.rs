//! What each turn holds in memory.
//!
//! The interpreter asks two numbers of the whole process, `LIVE_MEMORY` and `BASELINE_MEMORY`, how much is held. Turns run side
//! by side, and what one holds must not be counted against another. So [`TurnAllocator`] keeps an account per thread that
//! runs a turn, and shows the interpreter that of the thread which allocated last: nearly always the one that asks.
//! Where it was another's, the turn that was stopped can tell ([`Account::was_misled`]), and is taken again by itself
//! ([`Account::open_exactly`]): meanwhile the interpreter is shown that account alone, and others are looked at from outside
//! ([`held`]).

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicIsize, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
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
    /// How often it was opened: part of the numbers of its accounts.
    opened: AtomicUsize,
    held: AtomicIsize,
    most: AtomicUsize,
    /// [`GOES_ON`], [`STOPS`] or [`LEFT`].
    stop: AtomicU8,
}

/// Nobody has told the turn to stop.
const GOES_ON: u8 = 0;

/// It was told to.
const STOPS: u8 = 1;

/// It was, and did not: nobody waits for it any more.
const LEFT: u8 = 2;

impl Entry {
    fn holds(&self) -> usize {
        usize::try_from(self.held.load(Relaxed)).unwrap_or(0)
    }
}

static ENTRIES: [Entry; ACCOUNTS] = [const {
    Entry {
        open: AtomicBool::new(false),
        opened: AtomicUsize::new(0),
        held: AtomicIsize::new(0),
        most: AtomicUsize::new(0),
        stop: AtomicU8::new(GOES_ON),
    }
}; ACCOUNTS];

/// How many large turns have ended, whose numbers may have misled others.
static LARGE_ENDED: AtomicU64 = AtomicU64::new(0);

/// How often a turn was told to stop, by a number that may have misled others.
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// The account that is shown alone; [`NONE`] when each is shown in its time.
static EXACT: AtomicUsize = AtomicUsize::new(NONE);

/// No account.
const NONE: usize = usize::MAX;

thread_local! {
    /// The account of this thread. A plain number, so that it can be read in the middle of an allocation.
    static MINE: Cell<usize> = const { Cell::new(NONE) };
    /// Allocations of a turn that was left.
    static COUNT: Cell<u8> = const { Cell::new(0) };
}

/// The system's allocator, which also keeps the accounts of turns.
pub struct TurnAllocator;

fn charge(bytes: isize) {
    let mine = MINE.get();
    let Some(entry) = ENTRIES.get(mine) else { return };
    // Only this thread writes it.
    let held = entry.held.load(Relaxed).wrapping_add(bytes);
    entry.held.store(held, Relaxed);
    let held = usize::try_from(held).unwrap_or(0);
    if held > entry.most.load(Relaxed) {
        entry.most.store(held, Relaxed);
    }
    let exact = EXACT.load(Relaxed);
    if exact != NONE && exact != mine {
        return;
    }
    match entry.stop.load(Relaxed) {
        GOES_ON => LIVE_MEMORY.store(held, Relaxed),
        STOPS => LIVE_MEMORY.store(ENDLESS, Relaxed),
        // Now and then, so that it stops in the end and others are seldom misled.
        _ if COUNT.replace(COUNT.get().wrapping_add(1)) == 0 => LIVE_MEMORY.store(ENDLESS, Relaxed),
        _ => {}
    }
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
    exact: bool,
    large_ended: u64,
    stops: u64,
    /// It belongs to its thread.
    _own: std::marker::PhantomData<*const ()>,
}

impl Account {
    /// Opens one for this thread. None when there are too many.
    pub fn open() -> Option<Self> {
        BASELINE_MEMORY.store(0, Relaxed);
        let free = |entry: &Entry| entry.open.compare_exchange(false, true, Relaxed, Relaxed).is_ok();
        let entry = ENTRIES.iter().position(free)?;
        let Entry { held, most, stop, .. } = &ENTRIES[entry];
        held.store(0, Relaxed);
        most.store(0, Relaxed);
        stop.store(GOES_ON, Relaxed);
        MINE.set(entry);
        charge(0);
        let (large_ended, stops) = (LARGE_ENDED.load(Relaxed), STOPPED.load(Relaxed));
        ENTRIES[entry].opened.fetch_add(1, Relaxed);
        Some(Self { entry, exact: false, large_ended, stops, _own: std::marker::PhantomData })
    }

    /// Opens one that alone is shown to the interpreter as long as it is there. One at a time.
    pub fn open_exactly() -> Option<Self> {
        let mut account = Self::open()?;
        EXACT.store(account.entry, Relaxed);
        account.exact = true;
        charge(0);
        Some(account)
    }

    /// Its number, by which others can look at it, or [`stop`] its turn. No later account has it.
    pub fn number(&self) -> usize {
        ENTRIES[self.entry].opened.load(Relaxed) * ACCOUNTS + self.entry
    }

    /// What the turn holds, in bytes. Nothing where [`TurnAllocator`] is not the program's allocator.
    pub fn held(&self) -> usize {
        ENTRIES[self.entry].holds()
    }

    /// The most that it has held.
    pub fn most(&self) -> usize {
        ENTRIES[self.entry].most.load(Relaxed)
    }

    /// Whether the interpreter may have been shown more than this turn has held, because of another turn.
    pub fn was_misled(&self) -> bool {
        if self.exact {
            return false;
        }
        let own = self.most().max(LARGE);
        let misleads = |(place, entry): (usize, &Entry)| {
            let stops = || entry.stop.load(Relaxed) != GOES_ON;
            place != self.entry && entry.open.load(Relaxed) && (stops() || entry.most.load(Relaxed) > own)
        };
        ENTRIES.iter().enumerate().any(misleads)
            || STOPPED.load(Relaxed) != self.stops
            || LARGE_ENDED.load(Relaxed) != self.large_ended
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        MINE.set(NONE);
        let entry = &ENTRIES[self.entry];
        if entry.most.load(Relaxed) > LARGE {
            LARGE_ENDED.fetch_add(1, Relaxed);
        }
        if entry.stop.load(Relaxed) != GOES_ON {
            STOPPED.fetch_add(1, Relaxed);
        }
        if self.exact {
            EXACT.store(NONE, Relaxed);
        }
        LIVE_MEMORY.store(0, Relaxed);
        entry.open.store(false, Relaxed);
    }
}

/// What the turn of this account holds, in bytes.
pub fn held(number: usize) -> usize {
    of(number).map_or(0, Entry::holds)
}

/// The entry of an account that is still there. It may close at any moment: whoever is stopped in its place can tell.
fn of(number: usize) -> Option<&'static Entry> {
    let entry = &ENTRIES[number % ACCOUNTS];
    (entry.open.load(Relaxed) && entry.opened.load(Relaxed) == number / ACCOUNTS).then_some(entry)
}

/// What all turns of the process hold, in bytes.
pub fn held_by_all() -> usize {
    ENTRIES.iter().filter(|entry| entry.open.load(Relaxed)).map(Entry::holds).sum()
}

/// Lets the interpreter of another thread's turn stop at its next look at its memory, as if it held too much. To be repeated
/// until it has, since others write the same number; they may stop too, and can tell. Nothing, while another is looked at
/// exactly.
pub fn stop(number: usize) {
    let Some(entry) = of(number) else { return };
    STOPPED.fetch_add(1, Relaxed);
    entry.stop.store(STOPS, Relaxed);
    let exact = EXACT.load(Relaxed);
    if exact == NONE || exact == number % ACCOUNTS {
        LIVE_MEMORY.store(ENDLESS, Relaxed);
    }
}

/// Nobody waits any longer until that turn has stopped. It is still to.
pub fn leave(number: usize) {
    if let Some(entry) = of(number) {
        entry.stop.store(LEFT, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: TurnAllocator = TurnAllocator;

    /// They read what the whole process is shown, so they run one after the other.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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

    #[test]
    fn an_exact_account_is_shown_whatever_others_hold() {
        let shown = on_a_thread(|| {
            let account = Account::open_exactly().unwrap();
            let mine = vec![1_u8; 1 << 20];
            let beside = std::thread::spawn(|| {
                let _account = Account::open().unwrap();
                vec![1_u8; 64 << 20].len()
            });
            assert_eq!(beside.join().unwrap(), 64 << 20);
            let held = account.held();
            drop(vec![0_u8; 64]);
            assert!(!account.was_misled());
            (LIVE_MEMORY.load(Relaxed).abs_diff(held), mine.len())
        });
        assert!(shown.0 < 4096, "{}", shown.0);
    }
}
