//! `durable`: runs workflows on this machine, and shows what became of them.

use std::process::ExitCode;

/// Keeps the memory limit of turns: without it a workflow could take the whole process down.
#[global_allocator]
static ALLOCATOR: durable_memory::TurnAllocator = durable_memory::TurnAllocator;

fn main() -> ExitCode {
    durable_cli::main()
}
