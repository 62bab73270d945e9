//! The worker: a [`Registry`] of functions, and the loop that takes jobs, runs them, records what
//! they led to and advances whatever can go on.
//!
//! A worker of one's own is a `main` that fills a registry with Rust functions; the functions of
//! Python files and modules are added by [`python::PythonHost`].

mod arguments;
mod attempt;
mod builtin;
mod clock;
mod fleet;
mod function;
mod heart;
mod http;
mod log;
mod options;
mod program;
pub mod python;
mod registry;
mod worker;

pub use arguments::{Arguments, FromArguments, Kwargs, Rest};
pub use builtin::builtins;
pub use clock::AttemptClock;
pub use function::{
    Function, FunctionError, Handler, Invocation, Reporter, Returned, cancellation, heartbeat, idempotency_key,
};
pub use http::HttpFunction;
pub use log::CallLog;
pub use options::{BadOption, FunctionOptions};
pub use program::main;
pub use registry::{DuplicateFunction, Registry};
pub use worker::{Listed, Worker, WorkerSettings};
