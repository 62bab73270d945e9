//! What goes to stdout: data, and nothing else.

use std::{
    fmt::Display,
    io::{ErrorKind, Write, stdout},
};

/// Prints a line. A reader that has gone (`durable list | head -1`) ends the program quietly.
pub(crate) fn line(text: impl Display) {
    if let Err(error) = writeln!(stdout(), "{text}") {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: cannot write to stdout: {error}");
        }
        std::process::exit(i32::from(error.kind() != ErrorKind::BrokenPipe) * i32::from(crate::failure::SYSTEM));
    }
}
