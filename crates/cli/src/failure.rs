//! Errors that only this program has, as exit codes; the table is in `durable_process`.

use std::process::ExitCode;

pub(crate) use durable_process::{Coded, EXECUTION_FAILED, INTERRUPTED, SYSTEM, WRONG, not_there, wrong};
use durable_worker::{DuplicateFunction, python::PythonError};

/// Says what went wrong and gives the exit code.
pub(crate) fn report(error: anyhow::Error) -> ExitCode {
    let is_wrong = error.chain().any(|cause| cause.is::<DuplicateFunction>() || cause.is::<PythonError>());
    durable_process::report(&if is_wrong { wrong(format!("{error:#}")) } else { error })
}
