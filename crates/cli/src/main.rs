//! `durable`: runs workflows on this machine, and shows what became of them.

mod args;
mod commands;
mod embedded;
mod failure;
mod owner;
mod progress;
mod sources;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

/// Keeps the interpreter's memory limit: without it a workflow could take the whole process down.
#[global_allocator]
static ALLOCATOR: monty_alloc::LimitedAllocator = monty_alloc::LimitedAllocator;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&args.log))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&error.into()),
    };
    let ended = runtime.block_on(commands::run(args.command));
    // Threads that still wait for a child process or a database must not hold up the exit.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
