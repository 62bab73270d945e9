//! The worker: a [`Registry`] of functions, and the loop that takes jobs, runs them, records what
//! they led to and advances whatever can go on.
//!
//! A worker of one's own is a `main` that fills a registry with Rust functions; the functions of
//! Python files and modules are added by [`python::PythonHost`].

mod arguments;
mod attempt;
mod function;
mod options;
pub mod python;
mod registry;
mod worker;

pub use arguments::{Arguments, FromArguments, Kwargs, Rest};
pub use function::{CallLog, Function, FunctionError, Handler, Invocation};
pub use options::{BadOption, FunctionOptions, parse_duration};
pub use registry::{DuplicateFunction, Registry};
pub use worker::{Worker, WorkerSettings};
