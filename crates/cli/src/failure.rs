//! Errors as people see them, and what they mean as exit codes.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; for `run`, `resume` and `result`: the execution completed |
//! | 1 | the execution failed |
//! | 2 | the command was wrong: arguments, workflow file, functions, inputs |
//! | 3 | the database or the system failed; nothing was lost, try again |
//! | 4 | there is no such execution, or it has not ended yet |
//! | 130 | interrupted; the message says how to go on |

use std::process::ExitCode;

use durable_core::{
    interpreter::{CompileError, InputError},
    orchestrator::OrchestrationError,
    store::{InvalidDatabaseUrl, StoreError},
};
use durable_worker::{DuplicateFunction, python::PythonError};

use crate::output::note;

pub(crate) const EXECUTION_FAILED: u8 = 1;
pub(crate) const WRONG: u8 = 2;
pub(crate) const SYSTEM: u8 = 3;
pub(crate) const NOT_THERE: u8 = 4;
pub(crate) const INTERRUPTED: u8 = 130;

/// An error that knows its exit code.
#[derive(Debug)]
pub(crate) struct Coded {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl std::error::Error for Coded {}

impl std::fmt::Display for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// The command was wrong.
pub(crate) fn wrong(message: impl Into<String>) -> anyhow::Error {
    Coded { code: WRONG, message: message.into() }.into()
}

/// There is no such thing, or not yet.
pub(crate) fn not_there(message: impl Into<String>) -> anyhow::Error {
    Coded { code: NOT_THERE, message: message.into() }.into()
}

/// Says what went wrong and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    note(format_args!("error: {error:#}"));
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
                OrchestrationError::Input(_) | OrchestrationError::IdTaken(_) | OrchestrationError::OtherInputs(_) => {
                    Some(WRONG)
                }
                OrchestrationError::Store(_)
                | OrchestrationError::Queue(_)
                | OrchestrationError::Advance { .. }
                | OrchestrationError::Compile { .. } => Some(SYSTEM),
            };
        }
        let wrong = cause.is::<CompileError>()
            || cause.is::<InputError>()
            || cause.is::<InvalidDatabaseUrl>()
            || cause.is::<DuplicateFunction>()
            || cause.is::<PythonError>();
        if wrong {
            return Some(WRONG);
        }
        cause.is::<StoreError>().then_some(SYSTEM)
    });
    found.unwrap_or(SYSTEM)
}
