//! `durable-worker`: runs functions for workflows.

use std::process::ExitCode;

/// Keeps the memory limit of turns: without it a workflow could take the whole process down.
#[global_allocator]
static ALLOCATOR: durable_memory::TurnAllocator = durable_memory::TurnAllocator;

fn main() -> ExitCode {
    durable_worker::main(durable_worker::Registry::new())
}
