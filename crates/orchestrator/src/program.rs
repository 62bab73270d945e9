//! The program `durable-orchestrator`.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use durable_core::{offers::Offers, orchestrator::Engine};
use durable_process::{Logging, Servers, named_process, parse_size, run_program, stop_on_signals, wrong};
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
    /// What clients of the API have to bring, as Authorization: Bearer TOKEN. Rather set the variable: arguments can be read by
    /// everybody on this machine.
    #[arg(long, value_name = "TOKEN", env = "DURABLE_API_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Another name of this machine, by which clients without a token may call it.
    #[arg(long = "host", value_name = "NAME", env = "DURABLE_HOSTS", value_delimiter = ',')]
    hosts: Vec<String>,
    /// The largest body of a callback's request, such as 512KiB or 4MiB.
    #[arg(long, value_name = "SIZE", env = "DURABLE_CALLBACK_LIMIT", default_value = "1MiB", value_parser = callback_limit)]
    callback_limit: usize,
    /// How many connections there may be; by default half of the files that the system lets this process open.
    #[arg(long, value_name = "N", env = "DURABLE_CONNECTIONS", value_parser = clap::value_parser!(u32).range(8..))]
    connections: Option<u32>,
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    logging: Logging,
}

/// How long the clock may take for its last tick.
const GRACE: Duration = Duration::from_secs(5);

fn callback_limit(text: &str) -> Result<usize, String> {
    match parse_size(text) {
        Some(size) if (1024..=api::MAX_BODY).contains(&size) => Ok(size),
        Some(_) => Err(format!("from 1KiB to {}MiB are possible", api::MAX_BODY >> 20)),
        None => Err("a size such as 512KiB or 4MiB is wanted".into()),
    }
}

/// Connections that a process takes: the rest of its files is for the database, Redis and itself.
fn connections() -> usize {
    (durable_process::open_files() / 2).clamp(8, 4096)
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
    let serving = api::Serving {
        access: api::Access { token: token.map(Arc::from), hosts: args.hosts.into() },
        callback_limit: args.callback_limit,
        connections: args.connections.map_or_else(connections, |most| most as usize),
    };
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
    api::serve(engine.clone(), listener, serving, stop.clone()).await?;
    stop.cancel();
    engine.stop().await;
    if tokio::time::timeout(GRACE, tasks.join_all()).await.is_err() {
        tracing::warn!("what was under way is not waited for any longer; others take it up");
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
