//! The command line, and [`run`] for programs that bring Rust functions of their own.

mod args;
mod commands;
mod embedded;
mod failure;
mod output;
mod owner;
mod progress;
mod sources;

use std::{io::IsTerminal, path::Path, process::ExitCode, sync::Arc};

use clap::Parser;
use durable_core::{
    id::ExecutionId,
    model::Json,
    orchestrator::start,
    store::{DatabaseUrl, Db},
};
use durable_worker::Registry;
use serde_json::Map;

use crate::{
    args::Args,
    embedded::{Embedded, Ended},
    progress::Progress,
};

/// The program `durable`: parses, runs, answers with an exit code.
pub fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&args.log))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
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

/// Starts a workflow with these functions and runs it to its end in this process, showing its
/// progress on stderr; answers its output. Its state is in the database `db`, as with `durable run`.
pub async fn run(registry: Registry, db: &str, workflow: &Path) -> anyhow::Result<Json> {
    let program = sources::program(workflow)?;
    sources::check_functions(&program, &registry.offers())?;
    let url: DatabaseUrl = db.parse()?;
    let db = tokio::task::spawn_blocking(move || Db::open(&url)).await??;
    let id = ExecutionId::generate();
    let progress = Arc::new(Progress::new(false));
    let embedded = Embedded::new(db, &id, registry, 8, progress.clone())?;
    let request = start::Start {
        id: Some(id.clone()),
        program: Arc::new(program),
        inputs: Map::new(),
        queue: "default".into(),
        launch: None,
    };
    start::start(&embedded.engine, request).await?;
    let ended = embedded.run(&id).await;
    progress.close();
    match ended? {
        Ended::Finished(execution) => match (execution.output, execution.error) {
            (Some(output), _) => Ok(output),
            (None, Some(failure)) => anyhow::bail!("execution {id} failed: {failure}"),
            (None, None) => anyhow::bail!("execution {id} ended without an outcome"),
        },
        Ended::Interrupted => anyhow::bail!("execution {id} was interrupted"),
    }
}
