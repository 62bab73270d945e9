//! How many files a process may open: connections are files, too.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as the system lets this process open at most; its own limit is set to that.
pub fn open_files() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let most = if setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current };
    most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}
