//! `durable-orchestrator`: starts executions, and acts when time passes.

use std::process::ExitCode;

/// Keeps the interpreter's memory limit: without it a workflow could take the whole process down.
#[global_allocator]
static ALLOCATOR: monty_alloc::LimitedAllocator = monty_alloc::LimitedAllocator;

fn main() -> ExitCode {
    durable_orchestrator::main()
}
