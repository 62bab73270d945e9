//! Errors as people see them, and what they mean as exit codes.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; for commands that wait for an execution: it completed |
//! | 1 | the execution failed |
//! | 2 | the command was wrong: arguments, workflow file, functions, inputs |
//! | 3 | the database, Redis, the server or the system failed; nothing was lost, try again |
//! | 4 | there is no such execution, or it has not ended yet |
//! | 130 | interrupted; the message says how to go on |

use std::{io::Write, process::ExitCode};

use durable_core::{
    interpreter::{CompileError, InputError},
    orchestrator::OrchestrationError,
    store::{InvalidDatabaseUrl, StoreError},
};

/// The execution failed.
pub const EXECUTION_FAILED: u8 = 1;
/// The command was wrong.
pub const WRONG: u8 = 2;
/// A server or the system failed.
pub const SYSTEM: u8 = 3;
/// There is no such thing, or not yet.
pub const NOT_THERE: u8 = 4;
/// Somebody interrupted.
pub const INTERRUPTED: u8 = 130;

/// An error that knows its exit code.
#[derive(Debug)]
pub struct Coded {
    /// See the table.
    pub code: u8,
    /// What people read.
    pub message: String,
}

impl std::error::Error for Coded {}

impl std::fmt::Display for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// The command was wrong.
pub fn wrong(message: impl Into<String>) -> anyhow::Error {
    Coded { code: WRONG, message: message.into() }.into()
}

/// There is no such thing, or not yet.
pub fn not_there(message: impl Into<String>) -> anyhow::Error {
    Coded { code: NOT_THERE, message: message.into() }.into()
}

/// Says what went wrong and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // That nobody reads it changes nothing.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    let found = error.chain().find_map(|cause| {
        if let Some(coded) = cause.downcast_ref::<Coded>() {
            return Some(coded.code);
        }
        if let Some(error) = cause.downcast_ref::<OrchestrationError>() {
            return match error {
                OrchestrationError::NotFound(_) => Some(NOT_THERE),
                OrchestrationError::Name(_)
                | OrchestrationError::Input(_)
                | OrchestrationError::IdTaken(_)
                | OrchestrationError::OtherInputs(_)
                | OrchestrationError::OtherRights(_)
                | OrchestrationError::Ended { .. }
                | OrchestrationError::NotFailed { .. }
                | OrchestrationError::NoState { .. }
                | OrchestrationError::Parted { .. }
                | OrchestrationError::Busy(_)
                | OrchestrationError::Exists { .. } => Some(WRONG),
                OrchestrationError::Store(_)
                | OrchestrationError::Queue(_)
                | OrchestrationError::Advance { .. }
                | OrchestrationError::Compile { .. } => Some(SYSTEM),
            };
        }
        let wrong = cause.is::<CompileError>() || cause.is::<InputError>() || cause.is::<InvalidDatabaseUrl>();
        if wrong {
            return Some(WRONG);
        }
        cause.is::<StoreError>().then_some(SYSTEM)
    });
    found.unwrap_or(SYSTEM)
}

/// Runs a program's future to its end, on a runtime of its own.
pub fn run_program(program: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    for warning in crate::secrets::warnings(std::env::args()) {
        eprintln!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&error.into()),
    };
    let ended = runtime.block_on(program);
    // Threads that still wait for a child process or a database must not hold up the exit.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| report(&error))
}
