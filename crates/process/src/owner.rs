//! Which processes of this machine still live.

use durable_core::id::WorkerId;
use rustix::process::{Pid, test_kill_process};

/// The name of this process in claims and calls.
pub fn this_process() -> WorkerId {
    named_process(&host())
}

/// A name for this process that begins with one that people chose. Two workers of one name differ in the rest.
pub fn named_process(name: &str) -> WorkerId {
    let pid = std::process::id();
    WorkerId::new(name, pid, &stat(pid).map_or_else(|| "0".into(), |stat| stat.started))
}

/// The name of this machine.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What the system says of a process, where it says anything.
struct Stat {
    /// It has ended, and only its parent has not noticed.
    zombie: bool,
    /// When it was started, in the system's own units.
    started: String,
}

fn stat(pid: u32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command's name in brackets and may hold anything. After it, the state
    // is the first and the start the twentieth.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let zombie = matches!(fields.next()?, "Z" | "X");
    Some(Stat { zombie, started: fields.nth(18)?.to_owned() })
}

/// What is known of the process that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It ran on this machine and has ended.
    Dead,
    /// It runs on this machine, under this number.
    Alive(u32),
    /// It runs, or ran, on another machine.
    Elsewhere,
}

/// Asks the system about a process.
pub fn look_up(owner: &WorkerId) -> Owner {
    let Some((on, number, mark)) = owner.parts() else { return Owner::Elsewhere };
    if on != host() {
        return Owner::Elsewhere;
    }
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    let runs = pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH));
    let same = stat(number).is_none_or(|stat| stat.started == mark && !stat.zombie);
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
