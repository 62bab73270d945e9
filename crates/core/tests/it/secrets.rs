//! Executions that have no secret, because they are older than secrets: nothing of theirs can be guessed.

use durable_core::{
    allow::Allowed,
    id::ExecutionId,
    interpreter::Program,
    model::{ExecutionStatus, Json},
    orchestrator::{claim::claim, drive::drive},
    store::executions::{self, NewExecution},
};
use durable_testing::{Rig, databases};
use serde_json::{Value, json};

async fn old(rig: &Rig, source: &str) -> ExecutionId {
    let program = Program::compile("old.py", source).unwrap();
    let now = rig.engine.now();
    let new = NewExecution {
        id: "old".parse().unwrap(),
        workflow: program.name.clone(),
        source: program.source.clone(),
        source_hash: program.hash.clone(),
        files: None,
        queue: "default".into(),
        runner: None,
        inputs: Json("{}".into()),
        launch: None,
        now,
        due_at: now,
        deadline_at: None,
        parent: None,
        depth: 0,
        root: None,
        secret: String::new(),
        allowed: Allowed::default(),
    };
    let id = new.id.clone();
    assert!(rig.engine.db.write(move |conn| executions::insert(conn, &new)).await.unwrap());
    drive(&rig.engine, claim(&rig.engine, &id).await.unwrap().unwrap()).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_without_a_secret_makes_no_callback_that_could_be_guessed() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = old(&rig, "from durable import callback\n\nasync def main():\n    callback()\n").await;
        let failed = rig.execution(&id).await;
        assert_eq!(failed.status, ExecutionStatus::Failed, "{kind}");
        assert!(failed.error.unwrap().message.contains("before executions had secrets"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_children_have_secrets_of_their_own() {
    let source = "
from durable import run_child

async def child():
    from durable import uuid4
    return uuid4()

async def main():
    return [await run_child(child, id='one'), await run_child(child, id='two')]
";
    let mut seen = Vec::new();
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = old(&rig, source).await;
        let ended = rig.run(&id, |_, _| Ok(json!(null))).await;
        assert_eq!(ended.status, ExecutionStatus::Completed, "{kind}: {:?}", ended.error);
        let drawn: Value = ended.output.unwrap().parse().unwrap();
        seen.extend(drawn.as_array().unwrap().clone());
        let secret = |id: &'static str| rig.engine.db.read(move |conn| executions::secret(conn, &id.parse().unwrap()));
        let (one, two) = (secret("one").await.unwrap(), secret("two").await.unwrap());
        assert!(one.len() == 64 && two.len() == 64 && one != two, "{kind}: {one} {two}");
    }
    // The same ids in two databases: what is drawn does not follow from them.
    assert_eq!(seen.iter().collect::<std::collections::HashSet<_>>().len(), 4, "{seen:?}");
}
