//! Every workflow in `docs/workflows.md` gives what it says.

use std::sync::Arc;

use durable_core::{
    id::ExecutionId,
    interpreter::{Known, Program, check, children::bundle},
    model::{ExecutionStatus, Failure, Files, Json},
    orchestrator::{
        mend,
        signal::{Signalling, signal},
        start::{Start, start},
    },
};
use durable_testing::{Rig, sqlite};
use serde_json::{Map, Value};

const DOCS: &str = include_str!("../../../../docs/workflows.md");

#[tokio::test(flavor = "multi_thread")]
async fn the_workflows_in_the_docs_give_what_they_say() {
    let blocks = DOCS.split("```python\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut seen = 0;
    for source in blocks {
        seen += 1;
        let told = source.lines().find_map(|line| line.strip_prefix("# gives: ")).expect("what it gives");
        let told: Value = serde_json::from_str(told).unwrap_or_else(|error| panic!("{error}: {told}"));
        let (url, _folder) = sqlite();
        let rig = Rig::new(&url, "w");
        let id = insert(&rig, source).await;
        for line in source.lines().filter_map(|line| line.strip_prefix("# signal: ")) {
            let (name, payload) = line.split_once(' ').unwrap();
            let (name, payload) = (name.to_owned(), Json(payload.to_owned()));
            signal(&rig.engine, Signalling { execution: id.clone(), name, payload, key: None }).await.unwrap();
        }
        rig.clock.advance(std::time::Duration::from_secs(60));
        rig.tick().await;
        let ended = rig.run_queues(&id, &["default", "payments"], |work| {
            let args: Value = work.args.parse().unwrap();
            match work.function.starts_with("tasks.fail") {
                true => Err(Failure::new("ValueError", args[0].as_str().unwrap())),
                false => Ok(args[0].clone()),
            }
        });
        let ended = ended.await;
        assert_eq!(ended.status, ExecutionStatus::Completed, "{:?}\n{source}", ended.error);
        assert_eq!(ended.output.unwrap().parse().unwrap(), told, "{source}");
    }
    assert!(seen >= 13, "{seen} workflows");
}

/// A block that says which file it is lies beside all others.
async fn insert(rig: &Rig, source: &str) -> ExecutionId {
    let beside = |path: &str| {
        let (_, rest) = DOCS.split_once(&format!("This file is `{path}`:\n\n```python\n"))?;
        Some(rest.split("```").next()?.to_owned())
    };
    let known = Known { file: &beside, ..Known::NOTHING };
    let mistakes = check("workflow.py", source, &known).into_iter().filter(|found| !found.warning);
    assert_eq!(mistakes.collect::<Vec<_>>(), []);
    let program = Arc::new(Program::compile("workflow.py", source).unwrap());
    let files = bundle("workflow.py", source, beside);
    start(&rig.engine, Start { files, ..Start::new(program, Map::new()) }).await.unwrap().execution.id
}

const MENDING: &str = include_str!("../../../../docs/mending.md");

#[tokio::test(flavor = "multi_thread")]
async fn the_workflow_in_the_docs_fails_and_is_mended_as_they_say() {
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let mut blocks = MENDING.split("```python\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let (buggy, mended) = (blocks.next().unwrap(), blocks.next().unwrap());
    let answer = |_: &str, args: &[Value]| Ok(args[0].clone());
    let id = rig.start(buggy).await;
    let failed = rig.run(&id, answer).await.error.unwrap();
    assert!(buggy.contains(&format!("# fails: {}", failed.kind)), "{failed}");
    let program = std::sync::Arc::new(Program::compile("workflow.py", mended).unwrap());
    let new = mend::NewCode { program, files: Files::new(), launch: None };
    let would = mend::mend(&rig.engine, &id, new.clone(), true).await.unwrap();
    let place = &would.waits[0];
    let said = format!("at line {}: {} {} (call {})", place.line.unwrap(), place.kind, place.function, place.call);
    assert!(MENDING.contains(&said), "{said}");
    let parts = Program::compile("workflow.py", &mended.replace("30 * 86400", "20 * 86400")).unwrap();
    let parts = mend::NewCode { program: std::sync::Arc::new(parts), files: Files::new(), launch: None };
    let refused = mend::mend(&rig.engine, &id, parts, false).await.unwrap_err().to_string();
    let refused = refused.replace(id.as_str(), "ID");
    assert!(MENDING.replace("record\n(line", "record (line").contains(&refused), "{refused}");
    mend::mend(&rig.engine, &id, new, false).await.unwrap();
    let ended = rig.run(&id, answer).await;
    let told = mended.lines().find_map(|line| line.strip_prefix("# mends the one before, and gives: ")).unwrap();
    assert_eq!(ended.output, Some(Json(told.into())), "{:?}", ended.error);
}
