//! How a process ended, and which call is to blame.

use std::{fs::File, os::unix::fs::FileExt, process::ExitStatus};

use rustix::process::Signal;

use super::marks::{Mark, Marks};

/// The end of a process.
#[derive(Debug, Clone)]
pub(super) struct Death {
    /// As in "the process … was killed by SIGKILL".
    pub(super) how: String,
    /// The traceback that faulthandler wrote, if it did.
    pub(super) traceback: Option<String>,
    /// The call that did it, and its function.
    pub(super) culprit: Option<(u64, String)>,
}

/// How a process ended, in words.
pub(super) fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    if let Some(code) = status.code() {
        return format!("ended with exit code {code}");
    }
    let Some(number) = status.signal() else { return format!("ended ({status})") };
    let (name, why) = match Signal::from_named_raw(number) {
        Some(Signal::KILL) => ("SIGKILL", " (from outside, or the machine was out of memory)"),
        Some(Signal::SEGV) => ("SIGSEGV", " (segmentation fault)"),
        Some(Signal::ABORT) => ("SIGABRT", " (abort)"),
        Some(Signal::BUS) => ("SIGBUS", " (bus error)"),
        Some(Signal::FPE) => ("SIGFPE", " (arithmetic error)"),
        Some(Signal::ILL) => ("SIGILL", " (illegal instruction)"),
        Some(Signal::TERM) => ("SIGTERM", ""),
        Some(Signal::INT) => ("SIGINT", ""),
        Some(Signal::HUP) => ("SIGHUP", ""),
        Some(Signal::QUIT) => ("SIGQUIT", ""),
        Some(Signal::PIPE) => ("SIGPIPE", ""),
        Some(Signal::ALARM) => ("SIGALRM", " (an alarm that nobody handles)"),
        Some(Signal::USR1) => ("SIGUSR1", ""),
        Some(Signal::USR2) => ("SIGUSR2", ""),
        Some(Signal::XCPU) => ("SIGXCPU", " (its CPU time was used up)"),
        _ => return format!("was ended by signal {number}"),
    };
    format!("was ended by {name}{why}")
}

/// What faulthandler wrote when the process crashed.
pub(super) fn crash_text(file: &File) -> Option<String> {
    let mut bytes = vec![0; 64 << 10];
    let count = file.read_at(&mut bytes, 0).ok().filter(|count| *count > 0)?;
    bytes.truncate(count);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The part of faulthandler's text that is about the thread that crashed, without the frames of the host.
pub(super) fn traceback(text: &str) -> String {
    let ours = |line: &str| line.contains("/_durable_");
    let mut lines = Vec::new();
    let mut here = true;
    for line in text.lines() {
        if line.starts_with("Thread 0x") || line.starts_with("Extension modules:") {
            here = false;
        } else if line.starts_with("Current thread ") {
            here = true;
        }
        if here && !ours(line) && !line.contains("File \"<string>\"") {
            lines.push(line);
        }
    }
    lines.join("\n").trim().to_owned()
}

/// The call that the crash happened in: of the thread that faulthandler names, or of the one whose turn it was.
pub(super) fn culprit(crash: Option<&str>, marks: &Marks) -> Option<u64> {
    let busy = marks.busy();
    let named = crash.and_then(crashed_thread).and_then(|thread| busy.iter().find(|mark| mark.thread == thread));
    let turn = || marks.turn().filter(|mark| mark.call != 0);
    named.copied().or_else(turn).or_else(|| only(&busy)).map(|mark| mark.call)
}

fn only(busy: &[Mark]) -> Option<Mark> {
    let first = *busy.first()?;
    busy.iter().all(|mark| mark.call == first.call).then_some(first)
}

fn crashed_thread(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("Current thread 0x")?;
    let digits = rest.split(|character: char| !character.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn an_end_is_told_by_exit_code_or_signal() {
        assert_eq!(in_words(ExitStatus::from_raw(7 << 8)), "ended with exit code 7");
        assert_eq!(in_words(ExitStatus::from_raw(11)), "was ended by SIGSEGV (segmentation fault)");
        assert_eq!(
            in_words(ExitStatus::from_raw(9)),
            "was ended by SIGKILL (from outside, or the machine was out of memory)"
        );
        assert_eq!(in_words(ExitStatus::from_raw(40)), "was ended by signal 40");
    }

    #[test]
    fn of_a_crash_the_thread_that_crashed_is_shown_without_the_host() {
        let text = "Fatal Python error: Aborted\n\nThread 0x00007f01 (most recent call first):\n  \
                    File \"/x/other.py\", line 1 in wait\n\nCurrent thread 0x00007f02 (most recent call first):\n  \
                    File \"/x/tasks.py\", line 3 in boom\n  File \"/tmp/h/_durable_host.py\", line 9 in main\n  \
                    File \"<string>\", line 1 in <module>\n\nExtension modules: _x (total: 1)\n";
        let shown = traceback(text);
        assert!(shown.contains("tasks.py\", line 3 in boom") && shown.starts_with("Fatal Python error: Aborted"));
        assert!(!shown.contains("_durable_") && !shown.contains("other.py") && !shown.contains("<string>"), "{shown}");
        assert_eq!(crashed_thread(text), Some(0x7f02));
    }
}
