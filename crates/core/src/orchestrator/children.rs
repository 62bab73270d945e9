//! children: executions that a workflow starts. Each is inserted by the pause that made its call, so it is started once,
//! and the end of each is the outcome of that call.

use std::time::Duration;

use super::{
    claim::Claim,
    settle::{Next, settle_in},
};
use crate::{
    allow::Allowed,
    id::ExecutionId,
    interpreter::{NewCall, NewChild, split_name},
    model::{Execution, Failure, Json, Outcome, Parent},
    store::{
        DbConnection, StoreError,
        calls::{self, AttemptOf},
        children::not_begun,
        executions::{self, Ending, NewExecution},
        files, workflows,
    },
    time::Timestamp,
};

/// Whose children are begun.
pub(super) struct Of<'a> {
    pub(super) execution: &'a Execution,
    pub(super) secret: &'a str,
    /// The files that came with its workflow.
    pub(super) files: Option<&'a Json>,
    /// What it may do, and its children therefore.
    pub(super) allowed: &'a Allowed,
}

/// The workflow that a child runs.
struct Source {
    file: String,
    code: String,
    hash: String,
    /// The files that its own children run.
    files: Option<Json>,
    /// What it may do.
    allowed: Result<Allowed, String>,
}

/// Inserts the execution that a call starts. An outcome, if the call has one at once: nobody waits for the child, or it
/// cannot be started.
pub(super) fn begin(
    conn: &mut DbConnection,
    of: &Of<'_>,
    call: &NewCall,
    child: &NewChild,
    now: Timestamp,
) -> Result<Option<Outcome>, StoreError> {
    let Of { execution: parent, secret, .. } = of;
    let failed = |kind: &str, message: String| Ok(Some(Outcome::Failed(Failure::new(kind, message))));
    let Some(source) = find(conn, of, call, child)? else {
        return failed("NameError", not_there(&call.function));
    };
    let allowed = match source.allowed {
        Ok(allowed) => allowed,
        Err(why) => return failed("PermissionError", why),
    };
    let id = match &child.id {
        Some(chosen) => chosen.clone(),
        None => id_of(conn, parent, call, secret)?,
    };
    let inherited = parent.deadline_at.filter(|_| !child.detached);
    let own = child.deadline.map(|time| now.after(time));
    let new = NewExecution {
        workflow: source.file,
        source: source.code,
        source_hash: source.hash,
        files: source.files,
        queue: parent.queue.clone(),
        runner: parent.runner.clone(),
        inputs: child.inputs.clone(),
        launch: None,
        now,
        due_at: now,
        deadline_at: inherited.into_iter().chain(own).min(),
        parent: (!child.detached).then(|| Parent { execution_id: parent.id.clone(), call_id: call.id }),
        depth: parent.depth + 1,
        root: Some(parent.top().clone()),
        secret: secret_of(secret, &id),
        id: id.clone(),
        allowed,
    };
    if !executions::insert(conn, &new)? {
        // To be found by whoever begins it again.
        executions::keep_source(conn, &new.source_hash, &new.source, now)?;
        return failed("RuntimeError", format!("execution {id} exists already: choose another id= for the child"));
    }
    Ok(child.detached.then(|| Outcome::Completed(Json::from(&serde_json::Value::from(id.as_str())))))
}

/// What makes a child's tokens. A parent that is older than secrets has none to derive it from.
fn secret_of(parent: &str, child: &ExecutionId) -> String {
    match parent {
        "" => super::start::secret(),
        parent => blake3::keyed_hash(blake3::hash(parent.as_bytes()).as_bytes(), child.as_str().as_bytes())
            .to_hex()
            .to_string(),
    }
}

fn not_there(name: &str) -> String {
    let (file, function) = split_name(name);
    if !file.ends_with(".py") {
        return format!(
            "no workflow is deployed under the name {name}: durable deploy {name} FILE, or give its text with source="
        );
    }
    let hint = match function {
        Some(function) => format!(
            "hand over the function itself, run_child({}.{function}, …)",
            file.trim_end_matches(".py").replace('/', ".")
        ),
        None => format!("write the name there as it is, run_child({name:?}, …)"),
    };
    format!("the file {file} did not come with the workflow: {hint}, so that it is found when the workflow is started")
}

/// Begins what could not begin when its call was made, now that an execution is tried again: perhaps it can now. Answers
/// whether any call has its outcome already.
pub(super) fn begin_again(conn: &mut DbConnection, id: &ExecutionId, now: Timestamp) -> Result<bool, StoreError> {
    let open = not_begun(conn, id)?;
    let (Some(execution), false) = (executions::get(conn, id)?, open.is_empty()) else { return Ok(false) };
    let (secret, files, allowed) =
        (executions::secret(conn, id)?, files::of(conn, id)?, executions::allowed(conn, id)?);
    let parent = Of { execution: &execution, secret: &secret, files: files.as_ref(), allowed: &allowed };
    let mut woken = false;
    for call in &open {
        let Some(child) = &call.child else { continue };
        if let Some(outcome) = begin(conn, &parent, call, child, now)? {
            let number = calls::attempt_number(conn, id, call.id)?.unwrap_or(1);
            let of = AttemptOf { execution: id.clone(), call: call.id, number };
            calls::settle(conn, &of, &outcome, now)?;
            woken = true;
        }
    }
    Ok(woken)
}

/// What a child runs: its own text, a function of its parent's file, a file that came with that, or what is deployed.
fn find(conn: &mut DbConnection, of: &Of<'_>, call: &NewCall, child: &NewChild) -> Result<Option<Source>, StoreError> {
    let name = &call.function;
    let (files, allowed) = (of.files.cloned(), Ok(of.allowed.clone()));
    if let Some(code) = &child.source {
        let hash = blake3::hash(code.as_bytes()).to_hex().to_string();
        return Ok(Some(Source { file: name.clone(), code: code.clone(), hash, files, allowed }));
    }
    let kept =
        if child.own { Some(of.execution.source_hash.clone()) } else { files::hash(of.files, split_name(name).0)? };
    if let Some(hash) = kept {
        let code = executions::source(conn, &hash)?.unwrap_or_default();
        return Ok(Some(Source { file: name.clone(), code, hash, files, allowed }));
    }
    let Some(deployed) = workflows::newest(conn, name)? else { return Ok(None) };
    let code = executions::source(conn, &deployed.source_hash)?.unwrap_or_default();
    let allowed = of
        .allowed
        .child(name)
        .and_then(|()| of.allowed.narrowed(deployed.allow.as_ref()).map_err(|invalid| invalid.to_string()));
    Ok(Some(Source { file: deployed.file, code, hash: deployed.source_hash, files: deployed.files, allowed }))
}

/// The parent's id and the call's number, as long as that fits and nobody has taken it: then one that nobody could guess.
fn id_of(conn: &mut DbConnection, parent: &Execution, call: &NewCall, secret: &str) -> Result<ExecutionId, StoreError> {
    let text = format!("{}-{}", parent.id, call.id);
    if let Ok(id) = text.parse()
        && executions::brief(conn, &id)?.is_none()
    {
        return Ok(id);
    }
    Ok(ExecutionId::of_child(secret, &text))
}

/// Tells the call that waits for a child how it ended.
pub(super) fn report(
    conn: &mut DbConnection,
    child: &ExecutionId,
    parent: &Parent,
    ending: &Ending,
    claim: &Claim,
) -> Result<Option<Next>, StoreError> {
    let Some(number) = calls::attempt_number(conn, &parent.execution_id, parent.call_id)? else { return Ok(None) };
    let of = AttemptOf { execution: parent.execution_id.clone(), call: parent.call_id, number };
    let outcome = match ending {
        Ending::Completed(output) => Outcome::Completed(output.clone()),
        Ending::Failed(failure) => Outcome::Failed(failure.clone()),
        Ending::Cancelled(_) => {
            Outcome::Failed(Failure::new("durable.Cancelled", format!("the child execution {child} was cancelled")))
        }
    };
    settle_in(conn, &of, &outcome, claim)
}

/// How long until the clock should look at something that is due now.
pub(super) const AT_ONCE: Duration = Duration::ZERO;
