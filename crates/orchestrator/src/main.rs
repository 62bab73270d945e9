//! `durable-orchestrator`: starts executions, and acts when time passes.

use std::process::ExitCode;

/// Keeps the memory limit of turns: without it a workflow could take the whole process down.
#[global_allocator]
static ALLOCATOR: durable_memory::TurnAllocator = durable_memory::TurnAllocator;

fn main() -> ExitCode {
    durable_orchestrator::main()
}
