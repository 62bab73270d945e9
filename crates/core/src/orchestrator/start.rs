//! start: an execution is inserted. The same id twice is the same execution.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{Engine, Event, OrchestrationError};
use crate::{
    allow::Allowed,
    id::{ExecutionId, check_name},
    interpreter::Program,
    model::{Execution, ExecutionStatus, Files, Json},
    store::{
        StoreError, control,
        executions::{self, NewExecution, Whose},
        files,
    },
};

/// What to start.
#[derive(Debug, Clone)]
pub struct Start {
    /// The caller's id; generated when there is none.
    pub id: Option<ExecutionId>,
    /// The compiled workflow.
    pub program: Arc<Program>,
    /// The files beside it that its children run.
    pub files: Files,
    /// The inputs by name, as JSON.
    pub inputs: Map<String, Value>,
    /// Where its calls are queued.
    pub queue: String,
    /// JSON to be found again by whoever resumes it.
    pub launch: Option<Json>,
    /// How long it may take before it is cancelled.
    pub deadline: Option<Duration>,
    /// What to do if there is one of that id.
    pub conflict: Conflict,
    /// What it may do.
    pub allowed: Allowed,
}

impl Start {
    /// A start with nothing out of the ordinary.
    pub fn new(program: Arc<Program>, inputs: Map<String, Value>) -> Self {
        Self {
            id: None,
            program,
            files: Files::new(),
            inputs,
            queue: "default".into(),
            launch: None,
            deadline: None,
            conflict: Conflict::UseExisting,
            allowed: Allowed::default(),
        }
    }
}

/// What to do when an execution of the wanted id is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conflict {
    /// It is the one that was meant, if workflow and inputs are the same.
    #[default]
    UseExisting,
    /// It is a mistake.
    Fail,
    /// One that failed or was cancelled is replaced; any other is the one that was meant.
    RestartIfFailed,
}

/// An execution that exists.
#[derive(Debug, Clone)]
pub struct Started {
    /// The execution as it is now.
    pub execution: Execution,
    /// Whether this start made it; otherwise it was there.
    pub created: bool,
}

/// Starts an execution, or finds the one of that id. What is inserted and not claimed soon is taken
/// up by [`rescue`](super::rescue).
#[tracing::instrument(name = "start", level = "info", skip_all, fields(execution.id = start.id.as_ref().map(tracing::field::display)))]
pub async fn start(engine: &Engine, start: Start) -> Result<Started, OrchestrationError> {
    check_name("the queue", &start.queue)?;
    let inputs = start.program.check_inputs(&start.inputs)?;
    let id = start.id.unwrap_or_else(ExecutionId::generate);
    let now = engine.now();
    let new = NewExecution {
        id: id.clone(),
        workflow: start.program.name.clone(),
        source: start.program.source.clone(),
        source_hash: start.program.hash.clone(),
        files: files::hashes(&start.files),
        queue: start.queue,
        runner: matches!(engine.whose, Whose::Run(_)).then(|| engine.worker.clone()),
        inputs,
        launch: start.launch,
        now,
        due_at: now.after(engine.settings.start),
        deadline_at: start.deadline.map(|time| now.after(time)),
        parent: None,
        depth: 0,
        root: None,
        secret: secret(),
        allowed: start.allowed,
    };
    let conflict = start.conflict;
    let texts = Arc::new(start.files);
    let insert = || {
        let (new, texts) = (new.clone(), texts.clone());
        engine.db.write(move |conn| {
            if conflict == Conflict::RestartIfFailed
                && let Some(old) = control::lock(conn, &new.id)?
                && matches!(old.status, ExecutionStatus::Failed | ExecutionStatus::Cancelled)
            {
                executions::delete(conn, &new.id)?;
            }
            files::keep(conn, &texts, now)?;
            executions::insert(conn, &new)
        })
    };
    let created = match insert().await {
        // Somebody else inserted the same id or source at the same moment: now it can be seen.
        Err(StoreError::Duplicate(_)) => insert().await?,
        other => other?,
    };
    engine.keep(&start.program);
    let execution = find(engine, &id).await?;
    if created {
        tracing::info!(execution.id = %id, workflow = %execution.workflow, "execution started");
        engine.observe(Event::Started(&id));
    } else if conflict == Conflict::Fail {
        return Err(OrchestrationError::Exists { id, status: execution.status });
    } else if execution.source_hash != new.source_hash {
        return Err(OrchestrationError::IdTaken(id));
    } else {
        let key = id.clone();
        let found = move |conn: &mut _| {
            Ok((executions::inputs(conn, &key)?, files::of(conn, &key)?, executions::allowed(conn, &key)?))
        };
        let (inputs, files, allowed) = engine.db.read(found).await?;
        if files != new.files {
            return Err(OrchestrationError::IdTaken(id));
        }
        if allowed != new.allowed {
            return Err(OrchestrationError::OtherRights(id));
        }
        if inputs.as_ref() != Some(&new.inputs) {
            return Err(OrchestrationError::OtherInputs(id));
        }
    }
    Ok(Started { execution, created })
}

/// What makes tokens unguessable.
pub(super) fn secret() -> String {
    let (high, low) = (rand::random::<u128>(), rand::random::<u128>());
    format!("{high:032x}{low:032x}")
}

/// The execution of that id.
pub async fn find(engine: &Engine, id: &ExecutionId) -> Result<Execution, OrchestrationError> {
    let key = id.clone();
    let found = engine.db.read(move |conn| executions::get(conn, &key)).await?;
    found.ok_or_else(|| OrchestrationError::NotFound(id.clone()))
}
