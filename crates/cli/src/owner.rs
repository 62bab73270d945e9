//! Which processes of this machine still live.

use durable_core::id::WorkerId;
use rustix::process::{Pid, test_kill_process};

/// The name of this process in claims and calls.
pub(crate) fn this_process() -> WorkerId {
    let pid = std::process::id();
    WorkerId::new(&host(), pid, &started(pid).unwrap_or_else(|| "0".into()))
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// When a process was started, in the system's own units; where the system tells.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command's name in brackets and may hold anything; after it, the start
    // is the twentieth.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19).map(str::to_owned)
}

/// What is known of the process that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It ran on this machine and has ended.
    Dead,
    /// It runs on this machine, under this number.
    Alive(u32),
    /// It runs, or ran, on another machine.
    Elsewhere,
}

/// Asks the system about a process.
pub(crate) fn look_up(owner: &WorkerId) -> Owner {
    let Some((on, number, mark)) = owner.parts() else { return Owner::Elsewhere };
    if on != host() {
        return Owner::Elsewhere;
    }
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    let runs = pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH));
    let same = started(number).is_none_or(|started| started == mark);
    if runs && same { Owner::Alive(number) } else { Owner::Dead }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_its_successor_of_the_same_number() {
        let me = this_process();
        assert_eq!(look_up(&me), Owner::Alive(std::process::id()));
        assert_eq!(look_up(&WorkerId::new(&host(), std::process::id(), "1")), Owner::Dead);
        assert_eq!(look_up(&WorkerId::new("another-machine", 1, "1")), Owner::Elsewhere);
    }
}
