//! The command line, and [`run`] for programs that bring Rust functions of their own.

mod args;
mod client;
mod commands;
mod door;
mod embedded;
mod failure;
mod output;
mod progress;
mod sources;

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::Parser;
use durable_core::{
    id::ExecutionId,
    model::Json,
    orchestrator::start,
    store::{DatabaseUrl, Db},
};
use durable_process::run_program;
use durable_worker::Registry;
use serde_json::Map;

use crate::{
    args::{Args, StartArgs},
    embedded::{Embedded, Ended},
    progress::Progress,
    sources::Workflow,
};

/// The program `durable`: parses, runs, answers with an exit code.
pub fn main() -> ExitCode {
    let args = Args::parse();
    run_program(async move {
        args.logging.start("warn")?;
        Ok(commands::run(args.command).await.unwrap_or_else(failure::report))
    })
}

/// The program `durable-start`.
pub fn start_main() -> ExitCode {
    let args = StartArgs::parse();
    run_program(async move {
        args.logging.start("warn")?;
        Ok(commands::run(args::Command::Start(args.start)).await.unwrap_or_else(failure::report))
    })
}

/// Starts a workflow with these functions and runs it to its end in this process, showing its
/// progress on stderr; answers its output. Its state is in the database `db`, as with `durable run`.
pub async fn run(registry: Registry, db: &str, workflow: &Path) -> anyhow::Result<Json> {
    let Workflow { program, files } = checked(workflow, &registry)?;
    let url: DatabaseUrl = db.parse()?;
    let db = tokio::task::spawn_blocking(move || Db::open(&url)).await??;
    let id = ExecutionId::generate();
    let progress = Arc::new(Progress::new(false));
    let embedded = Embedded::new(db, registry, 8, progress.clone())?;
    let request = start::Start { id: Some(id.clone()), files, ..start::Start::new(program, Map::new()) };
    start::start(&embedded.engine, request).await?;
    progress.title(format!("{} · execution {id}", workflow.display()), &id);
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

fn checked(file: &Path, registry: &Registry) -> anyhow::Result<Workflow> {
    let workflow = sources::program(file)?;
    sources::check_functions(&workflow, &registry.offers())?;
    Ok(workflow)
}
