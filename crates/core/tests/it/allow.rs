//! What a workflow may do: told where it is started or deployed, kept by all that comes of it. On both databases.

use std::sync::Arc;

use durable_core::{
    allow::{Allow, Allowed, Rights},
    id::ExecutionId,
    interpreter::{Known, Program, forbidden},
    model::{Execution, ExecutionStatus, Failure, Files},
    orchestrator::{
        OrchestrationError,
        claim::claim,
        drive::drive,
        mend::{self, NewCode},
        revive::{self, Forking},
        start::{Start, start},
    },
    store::workflows,
};
use durable_testing::{Rig, databases, sqlite};
use serde_json::{Map, Value, json};

fn list(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

fn only_functions(names: &[&str]) -> Allow {
    Allow { functions: list(names), ..Allow::default() }
}

fn request(source: &str, allow: Allow) -> Start {
    let program = Arc::new(Program::compile("workflow.py", source).unwrap_or_else(|error| panic!("{error}")));
    Start { allowed: Allowed::of(Some(allow), None).unwrap(), ..Start::new(program, Map::new()) }
}

async fn started(rig: &Rig, source: &str, allow: Allow) -> ExecutionId {
    let id = start(&rig.engine, request(source, allow)).await.unwrap().execution.id;
    drive(&rig.engine, claim(&rig.engine, &id).await.unwrap().unwrap()).await.unwrap();
    id
}

fn first(function: &str, args: &[Value]) -> Result<Value, Failure> {
    match function {
        "tasks.fail" => Err(Failure::new("RuntimeError", "as asked")),
        _ => Ok(args.first().cloned().unwrap_or(Value::Null)),
    }
}

async fn deploy(rig: &Rig, name: &str, source: &str, allow: Option<Allow>) {
    let program = Program::compile("deployed.py", source).unwrap_or_else(|error| panic!("{error}"));
    let (name, now) = (name.to_owned(), rig.engine.now());
    let deploy =
        move |conn: &mut _| workflows::deploy_allowing(conn, &name, (&program, &Files::new()), allow.as_ref(), now);
    rig.engine.db.write(deploy).await.unwrap();
}

fn output(kind: &str, ended: &Execution) -> Value {
    assert_eq!(ended.status, ExecutionStatus::Completed, "{kind}: {:?}", ended.error);
    ended.output.as_ref().unwrap().parse().unwrap()
}

const THREE: &str = "
import durable
from mail import send
from tasks import f

async def tried(make):
    try:
        return await make()
    except PermissionError as error:
        return str(error)

async def main():
    return [
        await tried(lambda: f(1)),
        await tried(lambda: send(2)),
        await tried(lambda: durable.call('os.system', 'ls')),
        await tried(lambda: durable.call(f, 3, queue='gpu')),
        await tried(lambda: durable.call(f, 4, queue='default')),
    ]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_calls_only_what_is_listed_and_is_told_so_at_its_line() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = started(&rig, THREE, Allow { queues: list(&["cpu"]), ..only_functions(&["tasks.*"]) }).await;
        let ended = output(kind, &rig.run(&id, first).await);
        assert_eq!((&ended[0], &ended[4]), (&json!(1), &json!(4)), "{kind}: its own queue is always there");
        for (place, parts) in [
            (1, ["mail.send may not be called", "tasks.*", "--allow-function"]),
            (2, ["os.system may not be called", "tasks.*", "--allow-function"]),
            (3, ["the queue gpu", "default and cpu", "--allow-queue"]),
        ] {
            let said = ended[place].as_str().unwrap();
            assert!(parts.iter().all(|part| said.contains(part)), "{kind}: {said}");
        }
        assert_eq!(rig.calls(&id).await.len(), 2, "{kind}: what is refused is no call");

        let id =
            started(&rig, "from mail import send\n\nasync def main():\n    await send(1)\n", only_functions(&[])).await;
        let failed = rig.execution(&id).await.error.unwrap();
        assert_eq!(failed.kind, "PermissionError", "{kind}");
        assert!(failed.traceback.unwrap().contains("line 4"), "{kind}: at its line");
        assert!(failed.message.contains("may call no function"), "{kind}: {}", failed.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_starts_only_the_deployed_workflows_that_are_listed() {
    let source = "
from durable import run_child
from tasks import f

async def own(n):
    return await f(n)

async def tried(name):
    try:
        return await run_child(name)
    except PermissionError as error:
        return str(error)

async def main():
    return [await tried('report'), await tried('pay'), await run_child(own, {'n': 7})]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        deploy(&rig, "report", "async def main():\n    return 'reported'\n", None).await;
        deploy(&rig, "pay", "async def main():\n    return 'paid'\n", None).await;
        let id = started(&rig, source, Allow { children: list(&["rep*"]), ..Allow::default() }).await;
        let ended = output(kind, &rig.run(&id, first).await);
        assert_eq!((&ended[0], &ended[2]), (&json!("reported"), &json!(7)), "{kind}: its own functions are itself");
        let said = ended[1].as_str().unwrap();
        assert!(said.contains("pay may not be started") && said.contains("rep*"), "{kind}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_may_no_more_than_its_parent_nor_than_its_deployment() {
    let child = "
from tasks import f, g, h

async def tried(function):
    try:
        return await function(1)
    except PermissionError:
        return None

async def main():
    return [await tried(f), await tried(g), await tried(h)]
";
    let parent = "from durable import run_child\n\nasync def main():\n    return await run_child('child')\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        deploy(&rig, "child", child, Some(only_functions(&["tasks.g", "tasks.h"]))).await;
        let id = started(&rig, parent, only_functions(&["tasks.f", "tasks.g"])).await;
        assert_eq!(output(kind, &rig.run(&id, first).await), json!([null, 1, null]), "{kind}");
        // A text that it makes up may no more than it may itself.
        let made = format!(
            "
from durable import run_child

async def main():
    return await run_child('made', source={child:?})
"
        );
        let id = started(&rig, &made, only_functions(&["tasks.h"])).await;
        assert_eq!(output(kind, &rig.run(&id, first).await), json!([null, null, 1]), "{kind}");
    }
}

const LIVES: &str = "
from durable import continue_as_new
from tasks import f, g, fail

async def main(life: int = 0):
    try:
        await g(life)
    except PermissionError:
        await f(life)
        if life == 0:
            continue_as_new(life=1)
        await fail(1)
        return 'refused again'
    return 'called'
";

#[tokio::test(flavor = "multi_thread")]
async fn new_lives_retries_forks_and_mended_code_may_no_more() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let may = only_functions(&["tasks.f", "tasks.fail"]);
        let id = started(&rig, LIVES, may.clone()).await;
        assert_eq!(rig.run(&id, first).await.status, ExecutionStatus::Failed, "{kind}: in its second life");
        // What was refused is refused again when its state is made from its record.
        let mended = LIVES.replace("'refused again'", "'still refused'");
        let code = |source: &str| {
            let program = Arc::new(Program::compile("workflow.py", source).unwrap());
            NewCode { program, files: Files::new(), launch: None }
        };
        let forking = |with: Option<NewCode>| Forking {
            from: id.clone(),
            id: None,
            at: None,
            set: Vec::new(),
            runner: None,
            with,
        };
        let fork = revive::fork(&rig.engine, forking(None)).await.unwrap();
        let with = revive::fork(&rig.engine, forking(Some(code(&mended)))).await.unwrap();
        mend::mend(&rig.engine, &id, code(&mended), false).await.unwrap();
        let well = |_: &str, args: &[Value]| Ok(args.first().cloned().unwrap_or(Value::Null));
        for (which, said) in [(&id, "still refused"), (&fork, "refused again"), (&with, "still refused")] {
            assert_eq!(output(kind, &rig.run(which, well).await), json!(said), "{kind}");
            let key = which.clone();
            let kept = rig.engine.db.read(move |conn| durable_core::store::executions::allowed(conn, &key)).await;
            assert_eq!(kept.unwrap().lists(), std::slice::from_ref(&may), "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_other_lists_is_told_apart() {
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let source = "async def main():\n    return 1\n";
    let with = |allow: Allow| Start { id: Some("one".parse().unwrap()), ..request(source, allow) };
    assert!(start(&rig.engine, with(only_functions(&["a.*"]))).await.unwrap().created);
    assert!(!start(&rig.engine, with(only_functions(&["a.*"]))).await.unwrap().created);
    let other = start(&rig.engine, with(Allow::default())).await.unwrap_err();
    assert!(matches!(other, OrchestrationError::OtherRights(_)), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_with_another_list_is_another_version() {
    let (url, _folder) = sqlite();
    let rig = Rig::new(&url, "w");
    let source = "async def main():\n    return 1\n";
    for allow in [None, None, Some(only_functions(&["a.*"])), Some(only_functions(&["a.*"])), Some(Allow::default())] {
        deploy(&rig, "w", source, allow).await;
    }
    let all = rig.engine.db.read(|conn| workflows::list(conn, 0, 10)).await.unwrap();
    let allowed: Vec<bool> = all.iter().rev().map(|one| one.allow.is_some()).collect();
    assert_eq!(allowed, [false, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_children_stand_for_no_key_and_squat_nobody() {
    let source = "
from durable import run_child, start_child

async def own():
    return 1

async def tried(id):
    try:
        return await run_child(own, id=id)
    except (ValueError, RuntimeError) as error:
        return str(error)

async def main():
    return [await tried('key-0123'), await tried('taken'), await tried('free'), await run_child(own)]
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let other = Start {
            id: Some("taken".parse().unwrap()),
            ..request("async def main():\n    return 2\n", Allow::default())
        };
        start(&rig.engine, other).await.unwrap();
        // Somebody has guessed how its children will be called.
        for call in 0..20 {
            let id = Some(format!("victim-{call}").parse().unwrap());
            start(&rig.engine, Start { id, ..request("async def main():\n    return 3\n", Allow::default()) })
                .await
                .unwrap();
        }
        let id = Some("victim".parse().unwrap());
        let id = start(&rig.engine, Start { id, ..request(source, Allow::default()) }).await.unwrap().execution.id;
        drive(&rig.engine, claim(&rig.engine, &id).await.unwrap().unwrap()).await.unwrap();
        let ended = output(kind, &rig.run(&id, first).await);
        assert!(ended[0].as_str().unwrap().contains("idempotency keys"), "{kind}: {ended}");
        assert!(ended[1].as_str().unwrap().contains("execution taken exists already"), "{kind}: {ended}");
        assert_eq!((&ended[2], &ended[3]), (&json!(1), &json!(1)), "{kind}: the guess kept nobody out");
    }
}

#[test]
fn a_check_tells_what_would_be_refused() {
    let source = "
import tasks
from durable import call, map, run_child
from mail import send as mail
from tasks import f

async def main(name: str):
    await f(1)
    await mail('x')
    await tasks.g(2)
    await call('os.system', 'ls', queue='gpu')
    await map(mail, [1])
    await run_child('pay')
    await run_child('report')
    await call(name, queue=name)
    return print
";
    let allow = Allow { functions: list(&["tasks.f"]), queues: list(&[]), children: list(&["report"]) };
    let allowed = Allowed::of(Some(allow), None).unwrap();
    let rights = Rights { allowed: &allowed, ..Rights::all() };
    let found = forbidden("w.py", source, &Known::NOTHING, rights);
    let seen: Vec<(u32, &str)> =
        found.iter().map(|found| (found.line.unwrap(), found.message.split(':').next().unwrap())).collect();
    assert_eq!(
        seen,
        [
            (9, "mail.send may not be called"),
            (10, "tasks.g may not be called"),
            (11, "os.system may not be called"),
            (11, "nothing may be called in the queue gpu"),
            (12, "mail.send may not be called"),
            (13, "the workflow pay may not be started"),
        ]
    );
    assert!(found.iter().all(|found| found.kind == "PermissionError"));
    assert!(forbidden("w.py", source, &Known::NOTHING, Rights::all()).is_empty());
}
