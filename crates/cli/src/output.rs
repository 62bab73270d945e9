//! What goes to stdout, data and nothing else, and what goes to stderr, for people.

use std::{
    fmt::Display,
    io::{ErrorKind, Write, stderr, stdout},
};

/// Prints a line. A reader that has gone (`durable list | head -1`) ends the program quietly.
pub(crate) fn line(text: impl Display) {
    if let Err(error) = writeln!(stdout(), "{text}") {
        if error.kind() != ErrorKind::BrokenPipe {
            note(format_args!("error: cannot write to stdout: {error}"));
        }
        std::process::exit(i32::from(error.kind() != ErrorKind::BrokenPipe) * i32::from(crate::failure::SYSTEM));
    }
}

/// Tells people something. That nobody reads it is no reason to stop working.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(stderr(), "{text}");
}
