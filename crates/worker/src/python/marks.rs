//! Which call each thread of a Python process is in the middle of, in memory that outlives the process.

use std::{fs::File, io, os::unix::fs::FileExt};

const MARK: usize = 24;
const THREADS: usize = 128;

/// The memory, as a file.
pub(super) struct Marks(File);

/// A thread, and the call that it works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) thread: u64,
    /// 0 for none.
    pub(super) call: u64,
    /// How often the thread has changed calls.
    pub(super) count: u64,
}

impl Marks {
    pub(super) fn new() -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        file.set_len((MARK * THREADS) as u64)?;
        Ok(Self(file))
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Whose turn it is on the event loop.
    pub(super) fn turn(&self) -> Option<Mark> {
        let mut bytes = [0; MARK];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        read(&bytes)
    }

    /// All threads that are in the middle of a call.
    pub(super) fn busy(&self) -> Vec<Mark> {
        let mut bytes = vec![0; MARK * THREADS];
        if self.0.read_exact_at(&mut bytes, 0).is_err() {
            return Vec::new();
        }
        bytes.chunks_exact(MARK).filter_map(read).filter(|mark| mark.call != 0).collect()
    }
}

fn read(bytes: &[u8]) -> Option<Mark> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some(Mark { thread: number(0)?, call: number(8)?, count: number(16)? })
}
