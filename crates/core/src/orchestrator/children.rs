//! children: executions that a workflow starts. Each is inserted by the pause that made its call, so it is started once,
//! and the end of each is the outcome of that call.

use std::time::Duration;

use super::{
    claim::Claim,
    settle::{Next, settle_in},
};
use crate::{
    id::ExecutionId,
    interpreter::{NewCall, NewChild},
    model::{Execution, Failure, Json, Outcome, Parent},
    store::{
        DbConnection, StoreError,
        calls::{self, AttemptOf},
        executions::{self, Ending, NewExecution},
        workflows,
    },
    time::Timestamp,
};

/// The workflow that a child runs.
struct Source {
    file: String,
    code: String,
    hash: String,
}

/// Inserts the execution that a call starts. An outcome, if the call has one at once: nobody waits for the child, or it
/// cannot be started.
pub(super) fn begin(
    conn: &mut DbConnection,
    (parent, secret): (&Execution, &str),
    call: &NewCall,
    child: &NewChild,
    now: Timestamp,
) -> Result<Option<Outcome>, StoreError> {
    let failed = |kind: &str, message: String| Ok(Some(Outcome::Failed(Failure::new(kind, message))));
    let Some(source) = find(conn, &call.function, child)? else {
        let message = format!(
            "no workflow is deployed under the name {name}: durable deploy {name} FILE, or give its text with source=",
            name = call.function
        );
        return failed("NameError", message);
    };
    let id = child.id.clone().unwrap_or_else(|| id_of(&parent.id, call));
    let inherited = parent.deadline_at.filter(|_| !child.detached);
    let own = child.deadline.map(|time| now.after(time));
    let new = NewExecution {
        workflow: source.file,
        source: source.code,
        source_hash: source.hash,
        queue: parent.queue.clone(),
        runner: parent.runner.clone(),
        inputs: child.inputs.clone(),
        launch: None,
        now,
        due_at: now,
        deadline_at: inherited.into_iter().chain(own).min(),
        parent: (!child.detached).then(|| Parent { execution_id: parent.id.clone(), call_id: call.id }),
        secret: blake3::keyed_hash(blake3::hash(secret.as_bytes()).as_bytes(), id.as_str().as_bytes())
            .to_hex()
            .to_string(),
        id: id.clone(),
    };
    if !executions::insert(conn, &new)? {
        return failed("RuntimeError", format!("execution {id} exists already: choose another id= for the child"));
    }
    Ok(child.detached.then(|| Outcome::Completed(Json::from(&serde_json::Value::from(id.as_str())))))
}

fn find(conn: &mut DbConnection, name: &str, child: &NewChild) -> Result<Option<Source>, StoreError> {
    if let Some(code) = &child.source {
        let hash = blake3::hash(code.as_bytes()).to_hex().to_string();
        return Ok(Some(Source { file: name.to_owned(), code: code.clone(), hash }));
    }
    let Some(deployed) = workflows::newest(conn, name)? else { return Ok(None) };
    let code = executions::source(conn, &deployed.source_hash)?.unwrap_or_default();
    Ok(Some(Source { file: deployed.file, code, hash: deployed.source_hash }))
}

/// The parent's id and the call's number, as long as that fits.
fn id_of(parent: &ExecutionId, call: &NewCall) -> ExecutionId {
    let text = format!("{parent}-{}", call.id);
    text.parse().unwrap_or_else(|_| ExecutionId::from_key(&text))
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
