//! The program `durable-orchestrator`.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use clap::Parser;
use durable_core::{offers::Offers, orchestrator::Engine};
use durable_process::{Logging, Servers, named_process, run_program, stop_on_signals, wrong};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{api, clock_loop, foreign};

/// Starts executions over HTTP and acts when time passes: timers, retries, lost workers, lost jobs. Any number of them may
/// run against one database.
#[derive(Debug, Parser)]
#[command(
    name = "durable-orchestrator",
    version,
    after_help = "Exit codes: 0 stopped as asked · 2 wrong arguments · 3 database or Redis failure · \
                  130 ended by a second signal"
)]
struct Args {
    /// Where the HTTP API listens. Beyond this machine only with a token.
    #[arg(long, value_name = "HOST:PORT", env = "DURABLE_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// What clients of the API have to bring, as Authorization: Bearer TOKEN.
    #[arg(long, value_name = "TOKEN", env = "DURABLE_API_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    logging: Logging,
}

/// Runs it.
pub fn main() -> ExitCode {
    let args = Args::parse();
    run_program(async move {
        args.logging.start("info")?;
        run(args).await
    })
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let token = args.token.filter(|token| !token.is_empty());
    if !args.listen.ip().is_loopback() && token.is_none() {
        return Err(wrong(format!(
            "--listen {}: beyond this machine the API needs a token\nhint: set DURABLE_API_TOKEN, here and for clients",
            args.listen
        )));
    }
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", args.listen))?;
    let (db, queue) = args.servers.open().await?;
    let clock = args.servers.clock(&db).await?;
    let name = named_process(&format!("{}-orchestrator", durable_process::host()));
    let mut engine = Engine::new(db, Arc::new(queue), name, Offers::anything());
    engine.settings = args.servers.timing.settings();
    engine.clock = clock;
    let engine = Arc::new(engine);
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone());
    tracing::info!(api = format!("http://{}", listener.local_addr()?), "ready");
    let mut tasks = JoinSet::new();
    tasks.spawn(clock_loop::run(engine.clone(), stop.clone()));
    tasks.spawn(foreign::run(engine.clone(), stop.clone()));
    api::serve(engine, listener, token, stop.clone()).await?;
    stop.cancel();
    tasks.join_all().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
