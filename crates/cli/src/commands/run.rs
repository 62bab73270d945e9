//! `durable run` and `durable resume`.

use std::{path::Path, process::ExitCode, sync::Arc};

use durable_core::{
    allow::Allowed,
    id::{ExecutionId, WorkerId},
    interpreter::Program,
    model::{Execution, ExecutionStatus, Failure, Json},
    orchestrator::{History, OrchestrationError, rescue::take_over, start},
    store::{Db, calls, executions, files},
    time::parse_duration,
};
use durable_process::{Owner, look_up};
use durable_worker::Registry;
use serde_json::json;

use crate::{
    args::{self, Functions},
    commands::{control, view::open_existing},
    embedded::{self, Embedded, Ended},
    failure::{EXECUTION_FAILED, INTERRUPTED, wrong},
    output::{line, note},
    progress::{Progress, seconds},
    sources::{self, Launch, Workflow},
};

/// Runs a workflow to its end.
pub(crate) async fn run(args: args::Run) -> anyhow::Result<ExitCode> {
    let workflow = sources::program_with(&args.file, &args.functions.files, &args.functions.modules)?;
    let inputs = sources::inputs(&args.inputs, args.inputs_file.as_deref())?;
    workflow.program.check_inputs(&inputs)?;
    let launch = Launch::find(&args.file, &workflow, &args.functions)?;
    let (registry, host) = embedded::python(&launch, &args.functions).await?;
    sources::check_functions(&workflow, &registry.offers())?;
    let db = open(args.store.url()?).await?;
    let id = args.id.unwrap_or_else(ExecutionId::generate);
    let deadline = match args.deadline.as_deref() {
        None => None,
        Some(text) => Some(
            parse_duration(text)
                .filter(|time| !time.is_zero())
                .ok_or_else(|| wrong(format!("--deadline {text}: a time such as 90s or 2h is wanted")))?,
        ),
    };
    let allowed = Allowed::of(args.allow.lists()?, None).map_err(|invalid| wrong(invalid.to_string()))?;
    let history = if args.keep_all { History::All } else { History::Last };
    let session = Session { functions: args.functions, json: args.json, db, history };
    let embedded = session.embedded(registry)?;
    let launch = Some(Json::from(&serde_json::to_value(&launch)?));
    let Workflow { program, files } = workflow;
    let request = start::Start { id: Some(id), files, launch, deadline, allowed, ..start::Start::new(program, inputs) };
    let started = start::start(&embedded.engine, request).await?;
    let ended = match started.created {
        true => session.finish(embedded, started.execution).await,
        false => session.go_on(embedded, started.execution).await,
    };
    embedded::end(host).await;
    ended
}

/// Goes on with an execution.
pub(crate) async fn resume(args: args::Resume) -> anyhow::Result<ExitCode> {
    if let Some(server) = args.target.server() {
        return control::resume(&server, &args.id, args.json).await;
    }
    let db = open_existing(&args.target.store).await?;
    let id = args.id.clone();
    if control::release(&db, &id).await? {
        note(format_args!("execution {id} goes on where workers serve it"));
        return Ok(ExitCode::SUCCESS);
    }
    let found = db
        .read(move |conn| {
            let Some(execution) = executions::get(conn, &id)? else { return Ok(None) };
            let source = executions::source(conn, &execution.source_hash)?;
            let launch = executions::launch(conn, &id)?;
            let files = files::of(conn, &id)?;
            let files = files::texts(conn, files.as_ref())?;
            Ok(Some((execution, source.unwrap_or_default(), files, launch)))
        })
        .await?;
    let (execution, source, files, launch) = found.ok_or_else(|| OrchestrationError::NotFound(args.id.clone()))?;
    let session = Session { functions: args.functions, json: args.json, db, history: History::Last };
    if execution.status.is_final() {
        return Ok(session.print(&execution));
    }
    let program = Arc::new(Program::compile(&execution.workflow, &source)?);
    let workflow = Workflow { program, files };
    let mut launch: Launch = match launch {
        Some(launch) => serde_json::from_str(&launch.0)?,
        None => Launch::find(Path::new(&workflow.program.file), &workflow, &session.functions)?,
    };
    launch.take(&session.functions)?;
    let (registry, host) = embedded::python(&launch, &session.functions).await?;
    sources::check_functions(&workflow, &registry.offers())?;
    let embedded = session.embedded(registry)?;
    let ended = session.go_on(embedded, execution).await;
    embedded::end(host).await;
    ended
}

/// Goes on with an execution that this machine ran, with the functions that it had.
pub(crate) async fn go_on(id: ExecutionId, target: args::Target, json: bool) -> anyhow::Result<ExitCode> {
    let none = Functions { files: Vec::new(), modules: Vec::new(), python: "python3".into(), ..Functions::default() };
    resume(args::Resume { id, functions: none, target, json }).await
}

async fn open(url: durable_core::store::DatabaseUrl) -> anyhow::Result<Db> {
    Ok(tokio::task::spawn_blocking(move || Db::open(&url)).await??)
}

/// What `run` and `resume` have in common.
struct Session {
    functions: Functions,
    json: bool,
    db: Db,
    history: History,
}

impl Session {
    fn embedded(&self, registry: Registry) -> anyhow::Result<Embedded> {
        let progress = Arc::new(Progress::new(self.json));
        Embedded::new(self.db.clone(), registry, self.functions.concurrency(), progress)
            .map(|embedded| embedded.keeping(self.history, self.functions.quotas.quota()))
    }

    /// Takes an execution over from the process that ran it, which must be dead.
    async fn go_on(&self, embedded: Embedded, execution: Execution) -> anyhow::Result<ExitCode> {
        if execution.status.is_final() {
            return Ok(self.print(&execution));
        }
        let id = &execution.id;
        for owner in self.owners(&execution).await? {
            match look_up(&owner) {
                Owner::Dead => {}
                Owner::Alive(pid) => return Err(wrong(format!("execution {id} is being run by process {pid}"))),
                Owner::Elsewhere => {
                    return Err(wrong(format!("execution {id} is being run on another machine, by {owner}")));
                }
            }
        }
        let key = id.clone();
        let calls = self.db.read(move |conn| calls::list(conn, &key)).await?;
        embedded.progress().found(&calls);
        if !take_over(&embedded.engine, id, execution.runner.as_ref()).await? {
            return Err(wrong(format!("execution {id} has just been taken over by another process")));
        }
        self.finish(embedded, execution).await
    }

    async fn owners(&self, execution: &Execution) -> anyhow::Result<Vec<WorkerId>> {
        let id = execution.id.clone();
        let mut owners = self.db.read(move |conn| calls::workers_of(conn, &id)).await?;
        owners.extend(execution.runner.clone());
        owners.extend(execution.claimed_by.clone());
        Ok(owners)
    }

    async fn finish(&self, embedded: Embedded, execution: Execution) -> anyhow::Result<ExitCode> {
        let id = execution.id.clone();
        let progress = embedded.progress();
        progress.title(format!("{} · execution {id}", execution.workflow), &id);
        let ended = embedded.run(&id).await;
        progress.close();
        match ended? {
            Ended::Finished(execution) => Ok(self.print(&execution)),
            Ended::Interrupted => {
                let db = self.db.url();
                note(format_args!(
                    "interrupted; what was completed is kept. Go on with:\n  durable resume {id} --db {db}"
                ));
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    }

    /// The output alone on stdout, as one line of JSON.
    fn print(&self, execution: &Execution) -> ExitCode {
        if self.json {
            line(json!({"id": execution.id, "status": execution.status, "output": execution.output,
                       "error": execution.error}));
        } else if let Some(output) = &execution.output {
            line(format_args!("{output}"));
        }
        if execution.status == ExecutionStatus::Completed {
            if let (Some(end), false) = (execution.finished_at, self.json) {
                note(format_args!("completed in {}", seconds(end.since(execution.created_at))));
            }
            return ExitCode::SUCCESS;
        }
        if let (Some(failure), false) = (&execution.error, self.json) {
            print_failure(execution.id.as_str(), execution.status.as_str(), failure);
        }
        ExitCode::from(EXECUTION_FAILED)
    }
}

/// Why an execution failed: traceback, hint, and a last line that names it.
pub(crate) fn print_failure(id: &str, status: &str, failure: &Failure) {
    match &failure.traceback {
        Some(traceback) => note(traceback.trim_end()),
        None => note(format_args!("{failure}")),
    }
    if let Some(hint) = failure.message.split_once("\nhint: ").map(|(_, hint)| hint) {
        note(format_args!("hint: {hint}"));
    }
    let how = if status == "failed" { "failed" } else { "was cancelled" };
    note(format_args!("error: execution {id} {how}: {}", failure.kind));
}
