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
    let _ = writeln!(stderr(), "{}", printable(&text.to_string()));
}

/// A text that a terminal only shows: what would move its cursor or change its colours is told as what it is.
pub(crate) fn printable(text: &str) -> String {
    let shown =
        |c: char| if c.is_control() && c != '\n' && c != '\t' { format!("{}", c.escape_default()) } else { c.into() };
    text.chars().map(shown).collect()
}
