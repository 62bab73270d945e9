//! The command line, word for word.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use durable_core::{allow::Allow, id::ExecutionId, store::DatabaseUrl};
use durable_process::{Logging, Quotas};

use crate::failure::wrong;

/// Durable functions for Python: workflows that survive whatever happens to the process.
#[derive(Debug, Parser)]
#[command(
    name = "durable",
    version,
    after_help = "\
Exit codes: 0 done · 1 the execution failed · 2 wrong arguments, file or inputs · \
3 database or system failure · 4 no such execution, or not ended · 130 interrupted"
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a workflow to its end, in this process, with its state in a database.
    Run(Run),
    /// Go on with an execution that was interrupted, or paused.
    Resume(Resume),
    /// Start a workflow on a server: durable-start does the same.
    Start(Start),
    /// Bring a database's schema up to date.
    Migrate(Migrate),
    /// List executions, the newest first.
    List(List),
    /// Show an execution with its calls.
    Show(Show),
    /// Show an execution's calls with their results and failed attempts.
    Calls(One),
    /// Print an execution's output.
    Result(One),
    /// Print what an execution's workflow and functions wrote.
    Logs(One),
    /// Send something to an execution that waits for it, or will: durable signal ID NAME JSON.
    Signal(Signal),
    /// Complete a callback by its token, or fail it: durable complete TOKEN JSON.
    Complete(Complete),
    /// Cancel an execution: its workflow sees it at its awaits and may clean up.
    Cancel(Cancel),
    /// Keep an execution from going on until durable resume.
    Pause(Asked),
    /// Let a failed or cancelled execution go on from its last state: what failed is run again, what succeeded is not. With
    /// other code, also one that waits.
    Retry(Retry),
    /// Start another execution from a kept state of one, with other outcomes or other code if you like.
    Fork(Fork),
    /// Make a workflow the newest version of a name.
    Deploy(Deploy),
    /// List named workflows with their versions.
    Workflows(Workflows),
    /// Compile a workflow and say what it cannot do, without running it.
    Check(Check),
    /// Delete executions that have ended, with all that belongs to them: those of these ids, or all that ended long ago.
    Delete(Delete),
    /// Measure this machine: calls per second, latencies, commits per call.
    Bench(Bench),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Store {
    /// The database: sqlite://PATH, a path ending in .db, or postgres://USER@HOST/NAME.
    #[arg(
        long = "db",
        alias = "database-url",
        value_name = "URL",
        env = "DURABLE_DATABASE_URL",
        default_value = "sqlite://durable.db",
        hide_env_values = true
    )]
    url: String,
}

impl Store {
    /// Read here and not by clap, whose error would show the password.
    pub(crate) fn url(&self) -> anyhow::Result<DatabaseUrl> {
        Ok(self.url.parse()?)
    }
}

#[derive(Debug, Default, ClapArgs)]
pub(crate) struct Functions {
    /// A Python file whose functions the workflow calls; may be given several times. Without any,
    /// the files beside the workflow that it imports are taken.
    #[arg(long = "functions", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A Python module whose functions the workflow calls; may be given several times.
    #[arg(short = 'm', long = "module", value_name = "MODULE")]
    pub(crate) modules: Vec<String>,
    /// The Python that runs the functions.
    #[arg(long, env = "DURABLE_PYTHON", default_value = "python3", value_name = "PROGRAM")]
    pub(crate) python: PathBuf,
    /// What the execution may use.
    #[command(flatten)]
    pub(crate) quotas: Quotas,
    /// How many functions run at the same time [default: twice the processors, at least 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: Option<u16>,
}

impl Functions {
    /// The number of functions that run at the same time.
    pub(crate) fn concurrency(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.concurrency.map_or((2 * processors).max(4), usize::from)
    }
}

/// What a workflow may do. Without a list, whatever the server offers.
#[derive(Debug, ClapArgs)]
pub(crate) struct Allowing {
    /// A function that the workflow may call, as module.function, module.* or *; may be given several times. An empty name
    /// alone allows none. Holds for its children too.
    #[arg(long = "allow-function", value_name = "NAME", value_delimiter = ',')]
    functions: Vec<String>,
    /// A queue that its calls may name beside its own, as NAME or BEGINNING*; may be given several times.
    #[arg(long = "allow-queue", value_name = "NAME", value_delimiter = ',')]
    queues: Vec<String>,
    /// A deployed workflow that it may start as a child, as NAME or BEGINNING*; may be given several times.
    #[arg(long = "allow-child", value_name = "NAME", value_delimiter = ',')]
    children: Vec<String>,
}

impl Allowing {
    /// The lists, if any is given.
    pub(crate) fn lists(&self) -> anyhow::Result<Option<Allow>> {
        let list = |names: &[String]| {
            let named = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
            (!names.is_empty()).then(|| named.map(str::to_owned).collect())
        };
        let allow =
            Allow { functions: list(&self.functions), queues: list(&self.queues), children: list(&self.children) };
        allow.check().map_err(|invalid| wrong(invalid.to_string()))?;
        Ok(Some(allow).filter(|allow| !allow.is_empty()))
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    /// The workflow: a Python file.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) functions: Functions,
    /// An input as name=JSON; may be given several times. A text needs quotes: name='"text"'.
    #[arg(long = "input", value_name = "NAME=JSON")]
    pub(crate) inputs: Vec<String>,
    /// A file that holds a JSON object of inputs, or - for stdin; single --input options win over it.
    #[arg(long = "inputs", value_name = "FILE")]
    pub(crate) inputs_file: Option<PathBuf>,
    /// The execution's id; when it exists, it is resumed instead of started again.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<ExecutionId>,
    /// How long it may take before it is cancelled, such as 90s or 2h.
    #[arg(long, value_name = "TIME")]
    pub(crate) deadline: Option<String>,
    /// Keep the state of every pause, so that durable fork can begin at any.
    #[arg(long, env = "DURABLE_KEEP_ALL", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) keep_all: bool,
    #[command(flatten)]
    pub(crate) allow: Allowing,
    #[command(flatten)]
    pub(crate) store: Store,
    /// Print one JSON object: id, status, output, error.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Resume {
    /// The execution.
    pub(crate) id: ExecutionId,
    #[command(flatten)]
    pub(crate) functions: Functions,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON object: id, status, output, error.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Server {
    /// The server's address.
    #[arg(long = "server", value_name = "URL", env = "DURABLE_API_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// The server's token, if it wants one. Rather set the variable: arguments can be read by everybody on this machine.
    #[arg(long, value_name = "TOKEN", env = "DURABLE_API_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// Where an execution is looked up or asked for something: of a server, or in the database itself.
#[derive(Debug, ClapArgs)]
pub(crate) struct Target {
    /// The server's address; without one, the database is read, or word is left in it, and whoever runs the execution
    /// finds it there.
    #[arg(long = "server", value_name = "URL", env = "DURABLE_API_URL")]
    pub(crate) api: Option<String>,
    /// The server's token, if it wants one. Rather set the variable: arguments can be read by everybody on this machine.
    #[arg(long = "token", value_name = "TOKEN", env = "DURABLE_API_TOKEN", hide_env_values = true)]
    pub(crate) api_token: Option<String>,
    #[command(flatten)]
    pub(crate) store: Store,
}

impl Target {
    /// The server, if one is named.
    pub(crate) fn server(&self) -> Option<Server> {
        let url = self.api.clone().filter(|url| !url.is_empty())?;
        Some(Server { url, token: self.api_token.clone() })
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Asked {
    /// The execution.
    pub(crate) id: ExecutionId,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Signal {
    /// The execution.
    pub(crate) id: ExecutionId,
    /// The signal's name.
    pub(crate) name: String,
    /// What is sent: JSON. A text needs quotes: '"text"'.
    #[arg(default_value = "null")]
    pub(crate) payload: String,
    /// A text of your own: the same text again is the same signal, so that sending may be repeated.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Complete {
    /// The callback's token.
    pub(crate) token: String,
    /// Its result: JSON. A text needs quotes: '"text"'.
    #[arg(default_value = "null")]
    pub(crate) result: String,
    /// Fail it with this text instead; the workflow sees a RuntimeError.
    #[arg(long, value_name = "TEXT", conflicts_with = "result")]
    pub(crate) error: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Cancel {
    #[command(flatten)]
    pub(crate) asked: Asked,
    /// End it now, whatever it does; nothing is cleaned up.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Other code.
#[derive(Debug, ClapArgs)]
pub(crate) struct With {
    /// A file that holds the workflow's mended code. It is led through everything on record, call by call; where it parts
    /// from the record, it is refused and nothing is changed.
    #[arg(long = "with", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Change nothing, and say what --with would do.
    #[arg(long, requires = "file")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Retry {
    #[command(flatten)]
    pub(crate) asked: Asked,
    #[command(flatten)]
    pub(crate) with: With,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Fork {
    #[command(flatten)]
    pub(crate) asked: Asked,
    #[command(flatten)]
    pub(crate) with: With,
    /// After which pause the new one begins [default: the last].
    #[arg(long, value_name = "PAUSE")]
    pub(crate) at: Option<i64>,
    /// An outcome that the new one finds instead of that on record, as CALL=JSON; may be given several times.
    #[arg(long, value_name = "CALL=JSON")]
    pub(crate) set: Vec<String>,
    /// The new execution's id.
    #[arg(long = "id", alias = "as", value_name = "ID")]
    pub(crate) new_id: Option<ExecutionId>,
    /// Print the new execution's id, and do not run it here; durable resume does. A server never waits.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Deploy {
    /// What executions and parents start it by.
    pub(crate) name: String,
    /// The workflow: a Python file.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) allow: Allowing,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Workflows {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Start {
    /// The workflow: a Python file, or the name of a deployed one.
    pub(crate) file: PathBuf,
    /// Follow the execution to its end and print its output; otherwise its id is printed.
    #[arg(long)]
    pub(crate) wait: bool,
    /// An input as name=JSON; may be given several times. A text needs quotes: name='"text"'.
    #[arg(long = "input", value_name = "NAME=JSON")]
    pub(crate) inputs: Vec<String>,
    /// A file that holds a JSON object of inputs, or - for stdin; single --input options win over it.
    #[arg(long = "inputs", value_name = "FILE")]
    pub(crate) inputs_file: Option<PathBuf>,
    /// The execution's id; when it exists, it is not started again.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<ExecutionId>,
    /// A text of your own that names the execution: the same text never starts a second one.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// What to do if there is an execution of that id or key.
    #[arg(long, value_name = "WISH", default_value = "use-existing",
          value_parser = ["use-existing", "fail", "restart-if-failed"])]
    pub(crate) on_conflict: String,
    /// How long it may take before it is cancelled, such as 90s or 2h.
    #[arg(long, value_name = "TIME")]
    pub(crate) deadline: Option<String>,
    /// The queue of its function calls.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) queue: String,
    #[command(flatten)]
    pub(crate) allow: Allowing,
    #[command(flatten)]
    pub(crate) server: Server,
    /// Print one JSON object: the execution, or with --wait its id, status, output, error.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Start a workflow on a server; print the execution's id, or with --wait follow it and print its output.
#[derive(Debug, Parser)]
#[command(
    name = "durable-start",
    version,
    after_help = "\
Exit codes: 0 started, or completed · 1 the execution failed · 2 wrong arguments, file or inputs · \
3 server or system failure · 4 no such address or workflow · 130 interrupted"
)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) start: Start,
    #[command(flatten)]
    pub(crate) logging: Logging,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Migrate {
    #[command(flatten)]
    pub(crate) store: Store,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Delete {
    /// The executions.
    #[arg(required_unless_present = "ended_before", conflicts_with = "ended_before")]
    pub(crate) ids: Vec<ExecutionId>,
    /// All that ended so long ago, such as 90d.
    #[arg(long, value_name = "TIME")]
    pub(crate) ended_before: Option<String>,
    #[command(flatten)]
    pub(crate) store: Store,
    /// Print one JSON object: how many were deleted.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// Only executions of this status: scheduled, running, waiting, paused, completed, failed or cancelled.
    #[arg(long)]
    pub(crate) status: Option<durable_core::model::ExecutionStatus>,
    /// How many at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print a JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct One {
    /// The execution.
    pub(crate) id: ExecutionId,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) one: One,
    /// Print the code that it runs instead, or, by a version's number, code that it ran before that was mended.
    #[arg(long, value_name = "VERSION", num_args = 0..=1, default_missing_value = "0")]
    pub(crate) code: Option<i64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Check {
    /// The workflow: a Python file.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) allow: Allowing,
    /// Print one JSON object: file, ok, entry, functions, error.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    /// Which loads: fanout (500 executions of a gather of 10), chain (1,000 calls one after the
    /// other, five times), latency (100 executions of one call), wide (a gather of 10,000).
    #[arg(value_parser = ["fanout", "chain", "latency", "wide"])]
    pub(crate) work: Vec<String>,
    /// The database to measure [default: a new SQLite file, deleted afterwards].
    #[arg(long = "db", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Measure a private cluster instead of this process: Postgres with fsync, Redis, worker processes.
    #[arg(long, conflicts_with = "url")]
    pub(crate) distributed: bool,
    /// How many worker processes --distributed starts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// Divide the sizes of the loads by this, for a quick look.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) scale_down: u32,
    /// Print one JSON object per figure: work, metric, value, unit.
    #[arg(long)]
    pub(crate) json: bool,
}
