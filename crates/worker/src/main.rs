//! `durable-worker`: runs functions for workflows.

use std::process::ExitCode;

/// Keeps the interpreter's memory limit: without it a workflow could take the whole process down.
#[global_allocator]
static ALLOCATOR: monty_alloc::LimitedAllocator = monty_alloc::LimitedAllocator;

fn main() -> ExitCode {
    durable_worker::main(durable_worker::Registry::new())
}
