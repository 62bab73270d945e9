//! Kills whatever can be killed while executions run, then checks what they came to.

mod clients;
mod faults;
mod hostile;
mod invariants;
mod load;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use durable_testing::{Cluster, ClusterSettings, Proxy};

/// Runs executions of mixed shape on a private cluster while it kills and stops processes, empties and restarts servers
/// and cuts connections; then checks that every execution finished with the right output, recorded once.
///
/// Beside them run clients that hang up in the middle of a request or before its answer, keep hundreds of connections half
/// open, and pause executions in the middle of turns; and hostile executions (names with NUL, names that are too long, turns without end, memory without end), each
/// of which has to end with its sentence.
#[derive(Debug, Parser)]
#[command(
    name = "durable-chaos",
    version,
    after_help = "Exit codes: 0 all invariants held · 1 one did not · 3 no cluster"
)]
struct Args {
    /// How long faults are injected.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,
    /// Where the random choices begin. The same seed makes the same choices; when they happen is up to the machine.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Executions started per second.
    #[arg(long, default_value_t = 4.0)]
    rate: f64,
    /// How many workers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    workers: u8,
    /// Keep the logs of the processes in this folder.
    #[arg(long, value_name = "FOLDER")]
    keep_logs: Option<std::path::PathBuf>,
}

/// How long after the last fault everything may take to finish.
const SETTLE: Duration = Duration::from_secs(90);

fn say(text: impl std::fmt::Display) {
    // Nobody has to read it.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn print(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::from(3)
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    // Short leases: what a minute decides in production, seconds decide here.
    let env = [("DURABLE_LEASE", "3s"), ("DURABLE_CLAIM", "3s"), ("DURABLE_PUSH_AGAIN", "5s"), ("DURABLE_LOG", "info")];
    let settings = ClusterSettings {
        workers: args.workers.into(),
        orchestrators: 2,
        worker_options: vec!["--concurrency".into(), "8".into(), "--grace".into(), "2s".into()],
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        fsync: true,
    };
    let mut proxies = None;
    let cluster = Cluster::start_via(settings, |postgres, redis| {
        let (postgres, redis) = (Proxy::to(postgres)?, Proxy::to(redis)?);
        let ports = (postgres.port(), redis.port());
        proxies = Some((postgres, redis));
        Ok(ports)
    })?;
    let (postgres, redis) = proxies.ok_or("no proxies")?;
    invariants::watch(&cluster)?;
    say(format_args!("seed {}, {} s, {} workers, 2 orchestrators, fsync on", args.seed, args.seconds, args.workers));
    let stop = AtomicBool::new(false);
    let crowd = hostile::Crowd::default();
    let (faults, begun, clients) = thread::scope(|scope| {
        let load = Arc::new(load::Load::new(args.seed));
        let submitting = scope.spawn({
            let (load, cluster, stop, rate) = (load.clone(), &cluster, &stop, args.rate);
            move || load.submit(cluster, stop, rate)
        });
        let attacking = scope.spawn({
            let (crowd, cluster, stop) = (&crowd, &cluster, &stop);
            move || crowd.submit(cluster, stop)
        });
        let visiting = scope.spawn({
            let (load, cluster, stop) = (load.clone(), &cluster, &stop);
            let mut clients = clients::Clients::new(args.seed);
            move || {
                if let Some(clients) = &mut clients {
                    clients.run(cluster, &load, stop);
                }
                clients
            }
        });
        let mut faults = faults::Faults::new(&cluster, postgres, redis, args.seed);
        let end = Instant::now() + Duration::from_secs(args.seconds);
        while Instant::now() < end {
            faults.next();
            progress(&faults, &load, end);
        }
        stop.store(true, Ordering::Relaxed);
        faults.heal();
        let _ = (submitting.join(), attacking.join());
        let clients = visiting.join().ok().flatten();
        let unfinished = load.until_finished(&cluster, &mut faults, SETTLE);
        say(format_args!(
            "{unfinished} of {} executions unfinished {} s after the last fault at most",
            load.count(),
            SETTLE.as_secs()
        ));
        (faults, load, clients)
    });
    let clients = clients.ok_or("no clients")?;
    print("faults injected");
    faults.counts().iter().for_each(|(what, count)| print(format_args!("  {what:45} {count:>6}")));
    print("clients beside");
    clients.counts().iter().for_each(|(what, count)| print(format_args!("  {what:45} {count:>6}")));
    print(format_args!("  {:45} {:>6}", "hostile executions", crowd.count()));
    print("invariants checked");
    let mut checks = invariants::check(&cluster, &begun);
    checks.extend(crowd.check(&cluster));
    checks.extend(clients.check(&cluster));
    for check in &checks {
        let mark = if check.held { "held" } else { "BROKEN" };
        print(format_args!("  {:60} {mark:6}  {}", check.what, check.detail));
    }
    let held = checks.iter().all(|check| check.held);
    if let Some(folder) = &args.keep_logs {
        cluster.keep_logs(folder)?;
    } else if !held {
        say(cluster.logs());
    }
    let all = faults.counts().iter().map(|(_, count)| count).sum::<usize>();
    print(format_args!(
        "{}: {} executions, {all} faults, seed {}",
        if held { "all invariants held" } else { "INVARIANTS BROKEN" },
        begun.count(),
        args.seed
    ));
    Ok(held)
}

fn progress(faults: &faults::Faults<'_>, load: &load::Load, end: Instant) {
    if std::io::stderr().is_terminal() {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let _ =
            write!(std::io::stderr(), "\r{left:4} s left, {:4} executions, last: {:40}", load.count(), faults.last());
    }
}
