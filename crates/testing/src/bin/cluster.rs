//! The production topology as plain processes on free ports of this machine, until it is interrupted.
//!
//! Says where everything is once it serves; leaves nothing behind.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use durable_testing::{Cluster, ClusterSettings};

/// Starts Postgres, Redis, orchestrators and workers as plain processes on free ports; runs until interrupted.
#[derive(Debug, Parser)]
#[command(name = "durable-cluster", version)]
struct Args {
    /// How many workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// How many orchestrators.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    orchestrators: u16,
    /// How many functions each worker runs at the same time.
    #[arg(long, default_value_t = 8)]
    concurrency: u16,
    /// A Python file whose functions the workers offer; may be given several times.
    #[arg(long = "functions", value_name = "FILE")]
    functions: Vec<PathBuf>,
    /// Queues that the workers serve.
    #[arg(long = "queue", default_value = "default")]
    queue: String,
    /// Do not force commits to the disk: faster, and a power cut may lose them.
    #[arg(long)]
    no_fsync: bool,
    /// End when stdin is closed, too.
    #[arg(long, hide = true)]
    until_eof: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let mut options = vec!["--queue".into(), args.queue.clone(), "--concurrency".into(), args.concurrency.to_string()];
    for file in &args.functions {
        if !file.is_file() {
            return Err(format!("there is no file of functions {}", file.display()));
        }
        let file = std::path::absolute(file).map_err(|error| error.to_string())?;
        options.extend(["--functions".into(), file.display().to_string()]);
    }
    let cluster = Cluster::start(ClusterSettings {
        workers: args.workers.into(),
        orchestrators: args.orchestrators.into(),
        worker_options: options,
        fsync: !args.no_fsync,
        ..ClusterSettings::default()
    })?;
    let mut out = std::io::stdout();
    let said =
        writeln!(out, "api {}\nredis {}\ndatabase {}", cluster.api(0), cluster.redis_url(), cluster.database_url())
            .and_then(|()| out.flush());
    said.map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let eof = tokio::task::spawn_blocking({
            let until_eof = args.until_eof;
            move || {
                if until_eof {
                    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
                } else {
                    std::thread::park();
                    Ok(())
                }
            }
        });
        tokio::select! {
            () = durable_process::asked_to_stop() => {}
            _ = eof => {}
        }
    });
    drop(cluster);
    runtime.shutdown_background();
    Ok(())
}
