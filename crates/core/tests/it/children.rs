//! Children by a function of the workflow's file or by a file beside it, on both databases.

use std::sync::Arc;

use durable_core::{
    id::ExecutionId,
    interpreter::{Known, Program, check, children::bundle},
    model::{Deployed, Execution, ExecutionStatus, Failure, Files},
    orchestrator::{
        OrchestrationError,
        claim::claim,
        drive::drive,
        mend::{self, NewCode},
        revive::{self, Forking},
        start::{Start, start},
    },
    store::{executions, workflows},
};
use durable_testing::{Rig, databases};
use serde_json::{Map, Value, json};

fn first(_: &str, args: &[Value]) -> Result<Value, Failure> {
    Ok(args.first().cloned().unwrap_or(Value::Null))
}

fn files(files: &[(&str, &str)]) -> Files {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

fn code(name: &str, source: &str, files: Files) -> NewCode {
    NewCode { program: Arc::new(Program::compile(name, source).unwrap()), files, launch: None }
}

fn request(source: &str, files: Files) -> Start {
    let program = Arc::new(Program::compile("workflow.py", source).unwrap_or_else(|error| panic!("{error}")));
    Start { files, ..Start::new(program, Map::new()) }
}

async fn started(rig: &Rig, source: &str, files: Files) -> ExecutionId {
    let id = start(&rig.engine, request(source, files)).await.unwrap().execution.id;
    drive(&rig.engine, claim(&rig.engine, &id).await.unwrap().unwrap()).await.unwrap();
    id
}

fn output(kind: &str, ended: &Execution) -> Value {
    assert_eq!(ended.status, ExecutionStatus::Completed, "{kind}: {:?}", ended.error);
    ended.output.as_ref().unwrap().parse().unwrap()
}

async fn child(rig: &Rig, parent: &ExecutionId, call: usize) -> Execution {
    let call = rig.calls(parent).await[call].id;
    rig.execution(&format!("{parent}-{call}").parse().unwrap()).await
}

const SQUARES: &str = "
import asyncio
from durable import run_child, start_child
from tasks import f

FACTOR = 2

async def square(n, plus: int = 0):
    return FACTOR * await f(n) * n + plus

async def factorial(n):
    return 1 if n < 2 else n * await run_child(factorial, {'n': n - 1})

async def main():
    handles = [start_child(square, {'n': n}) for n in range(3)]
    squares = await asyncio.gather(*handles, run_child(workflow=square, inputs={'n': 1, 'plus': 5}))
    which = factorial
    free = await start_child(square, {'n': 9}, id='free', detached=True)
    try:
        await run_child(square, {'m': 1})
    except TypeError as error:
        wrong = str(error)
    return [squares, await run_child(which, {'n': 4}), free, wrong]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_function_of_the_same_file_is_a_child() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = started(&rig, SQUARES, Files::new()).await;
        let ended = output(kind, &rig.run(&id, first).await);
        assert_eq!(ended[0], json!([0, 2, 8, 7]), "{kind}");
        assert_eq!((&ended[1], &ended[2]), (&json!(24), &json!("free")), "{kind}");
        assert!(ended[3].as_str().unwrap().contains("square() "), "{kind}: {ended}");
        assert_eq!(rig.calls(&id).await[0].function, "workflow.py:square", "{kind}");
        let first = child(&rig, &id, 0).await;
        assert_eq!((first.workflow.as_str(), first.parent.unwrap().execution_id), ("workflow.py:square", id), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_a_function_fails_with_a_traceback_of_its_file() {
    let source = "from durable import run_child\nasync def inner(n):\n    return {}[n]\nasync def main():\n    return await run_child(inner, {'n': 1})\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = started(&rig, source, Files::new()).await;
        let ended = rig.run(&id, first).await;
        let failure = ended.error.unwrap();
        assert_eq!(failure.kind, "KeyError", "{kind}");
        assert!(failure.traceback.unwrap().contains("File \"workflow.py\", line 5, in main"), "{kind}");
        let traceback = child(&rig, &id, 0).await.error.unwrap().traceback.unwrap();
        assert!(traceback.contains("File \"workflow.py\", line 3, in inner"), "{kind}: {traceback}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_child_is_a_type_error_at_its_line() {
    let source = "
from functools import partial
from durable import run_child
from tasks import encode

def plain(n):
    return n

def decorate(f):
    return f

@decorate
async def decorated(n):
    return n

async def positional(n, /):
    return n

async def twice(n):
    return n

async def fine(n):
    return n

async def main():
    async def nested(n):
        return n

    def inside():
        async def twice(n):
            return n + 1
        return twice

    said = []
    coroutine = fine(1)
    for given in [nested, plain, decorated, positional, inside(), lambda n: n, coroutine, 3, {}, partial(fine, 1), main.__class__ if False else None]:
        try:
            await run_child(given, {'n': 1})
        except TypeError as error:
            said.append(str(error))
    await coroutine
    try:
        await run_child(fine, source='1')
    except TypeError as error:
        said.append(str(error))
    return said
";
    let (_, url, _folder) = databases().remove(0);
    let rig = Rig::new(&url, "w");
    let id = started(&rig, source, Files::new()).await;
    let said = output("", &rig.run(&id, first).await);
    let said: Vec<&str> = said.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let wanted = [
        "nested cannot be a child: it is defined inside something",
        "plain cannot be a child: it is no async def",
        "decorated cannot be a child: it has a decorator",
        "positional cannot be a child: a child's inputs are given by name",
        "twice cannot be a child: the file has several functions of that name",
        "a lambda cannot be a child",
        "a coroutine cannot be a child",
        "3 is no workflow",
        "{} is no workflow",
        "is no workflow",
        "a workflow is wanted",
        "source= goes with a name",
    ];
    assert_eq!(said.len(), wanted.len(), "{said:#?}");
    for (said, wanted) in said.iter().zip(wanted) {
        assert!(said.starts_with("start_child(): ") && said.contains(wanted), "{said}\n{wanted}");
    }
    let script = "import durable\nasync def square(n):\n    return n\nawait durable.run_child(square, {'n': 1})\n";
    let id = started(&rig, script, Files::new()).await;
    let failure = rig.run(&id, first).await.error.unwrap();
    assert!(failure.message.contains("runs something at the top level"), "{failure}");
    assert!(failure.traceback.unwrap().contains("line 4"));
}

const PARENT: &str = "
import jobs.images as images
from durable import run_child
from child import main as child_main, resize
from tasks import f

async def main():
    by_name = await run_child('child.py', {'n': await f(1)})
    by_reference = await run_child(child_main, {'n': 2})
    return [by_name, by_reference, await run_child(resize, {'n': 3}), await run_child(images.thumb, {'n': 4})]
";

const CHILD: &str = "
from durable import run_child
from tasks import f

async def main(n):
    return ['child', await f(n), await run_child('jobs/images.py', {'n': n})]

async def resize(n):
    return ['resized', n]
";

const IMAGES: &str = "
from child import resize
from durable import run_child

async def main(n):
    return ['images', n]

async def thumb(n):
    return await run_child(resize, {'n': 10 * n})
";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_beside_is_a_child_and_so_are_its_own_children() {
    let all = files(&[("child.py", CHILD), ("jobs/images.py", IMAGES)]);
    assert_eq!(bundle("workflow.py", PARENT, |path| all.get(path).cloned()), all);
    // What it imports to start it is no function of a worker.
    let program = Program::compile("workflow.py", PARENT).unwrap();
    assert_eq!(program.served.keys().collect::<Vec<_>>(), ["tasks.f"]);
    assert_eq!(program.modules().collect::<Vec<_>>(), ["tasks"]);
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = started(&rig, PARENT, all.clone()).await;
        let ended = output(kind, &rig.run(&id, first).await);
        let wanted = json!([["child", 1, ["images", 1]], ["child", 2, ["images", 2]], ["resized", 3], ["resized", 40]]);
        assert_eq!(ended, wanted, "{kind}");
        let names: Vec<String> = rig.calls(&id).await.iter().skip(1).map(|call| call.function.clone()).collect();
        assert_eq!(names, ["child.py", "child.py:main", "child.py:resize", "jobs/images.py:thumb"], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_did_not_come_along_is_a_name_error_that_says_what_to_do() {
    let source = "
from durable import run_child

async def main():
    said = []
    for name in ['child', 'other']:
        try:
            await run_child(f'{name}.py')
        except NameError as error:
            said.append(str(error))
    return said
";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = started(&rig, source, files(&[("child.py", "async def main(): pass\n")])).await;
        let ended = output(kind, &rig.run(&id, first).await);
        assert_eq!(ended.as_array().unwrap().len(), 1, "{kind}: a file that came along is found by any name");
        let said = ended[0].as_str().unwrap();
        assert!(said.contains("other.py did not come with the workflow: write the name"), "{kind}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployed_workflow_has_its_own_files() {
    let report = "from durable import run_child\nasync def part(n):\n    return n\nasync def main():\n    return [await run_child(part, {'n': 1}), await run_child('child.py', {'n': 2})]\n";
    let parent = "from durable import run_child\nasync def main():\n    return [await run_child('report'), await run_child('child.py', {'n': 3})]\n";
    let mine = files(&[("child.py", "async def main(n):\n    return ['mine', n]\n")]);
    let theirs = files(&[("child.py", "async def main(n):\n    return ['theirs', n]\n")]);
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let first_version = deployed(&rig, report, &theirs).await;
        assert_eq!(deployed(&rig, report, &theirs).await, first_version, "{kind}: the same texts are the same version");
        let id = started(&rig, parent, mine.clone()).await;
        let ended = output(kind, &rig.run(&id, first).await);
        assert_eq!(ended, json!([[1, ["theirs", 2]], ["mine", 3]]), "{kind}");
        assert_eq!(deployed(&rig, report, &mine).await.version, 2, "{kind}: another file is another version");
        let id = started(&rig, parent, mine.clone()).await;
        let ended = output(kind, &rig.run(&id, first).await);
        assert_eq!(ended, json!([[1, ["mine", 2]], ["mine", 3]]), "{kind}");
    }
}

async fn deployed(rig: &Rig, source: &str, files: &Files) -> Deployed {
    let (program, files) = (Program::compile("report.py", source).unwrap(), files.clone());
    let now = rig.engine.now();
    rig.engine.db.write(move |conn| workflows::deploy(conn, "report", (&program, &files), now)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_other_files_is_another_workflow() {
    let source = "from durable import run_child\nasync def main():\n    return await run_child('child.py')\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let with =
            |text: &str| Start { id: Some("one".parse().unwrap()), ..request(source, files(&[("child.py", text)])) };
        assert!(start(&rig.engine, with("1\n")).await.unwrap().created, "{kind}");
        assert!(!start(&rig.engine, with("1\n")).await.unwrap().created, "{kind}");
        let taken = start(&rig.engine, with("2\n")).await.unwrap_err();
        assert!(matches!(taken, OrchestrationError::IdTaken(_)), "{kind}: {taken}");
    }
}

const STEPS: &str = "
from durable import run_child, wait_signal, continue_as_new
from tasks import f

async def step(n, rounds: int = 0):
    await f(n)
    if rounds < 2:
        continue_as_new(n=n, rounds=rounds + 1)
    return {}[n]

async def main():
    one = await run_child(step, {'n': 1})
    return [one, await run_child('child.py')]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_a_function_is_mended_and_goes_on_as_that_function() {
    let mended = STEPS.replace("{}[n]", "{n: 'mended'}[n]");
    let child_file = files(&[("child.py", "async def main():\n    return 'old'\n")]);
    let new_file = files(&[("child.py", "async def main():\n    return 'new'\n")]);
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = started(&rig, STEPS, child_file.clone()).await;
        let ended = rig.run(&id, first).await;
        assert_eq!(ended.status, ExecutionStatus::Failed, "{kind}");
        let part = child(&rig, &id, 0).await;
        assert_eq!((part.workflow.as_str(), part.status), ("workflow.py:step", ExecutionStatus::Failed), "{kind}");
        // Code without that function is refused.
        let without = code("mended.py", "async def main():\n    pass\n", Files::new());
        let refused = mend::mend(&rig.engine, &part.id, without, false).await.unwrap_err().to_string();
        assert!(
            refused.contains("it began with the function step: mended.py has no async def step"),
            "{kind}: {refused}"
        );
        // The child by itself, with a file that is called otherwise.
        mend::mend(&rig.engine, &part.id, code("mended.py", &mended, child_file.clone()), false).await.unwrap();
        let part = rig.run(&part.id, first).await;
        assert_eq!((part.workflow.as_str(), output(kind, &part)), ("mended.py:step", json!("mended")), "{kind}");
        // Its parent: what its children run from now on is the new code's too.
        mend::mend(&rig.engine, &id, code("mended.py", &mended, new_file.clone()), false).await.unwrap();
        assert_eq!(output(kind, &rig.run(&id, first).await), json!(["mended", "new"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parents_retry_lets_its_child_go_on() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "from durable import run_child\nfrom tasks import f\nasync def step(n):\n    return await f(n)\nasync def main():\n    return await run_child(step, {'n': 1})\n";
        let id = started(&rig, source, Files::new()).await;
        let ended = rig.run(&id, |_, _| Err(Failure::new("ValueError", "once"))).await;
        assert_eq!(ended.status, ExecutionStatus::Failed, "{kind}");
        revive::retry(&rig.engine, &id).await.unwrap();
        assert_eq!(output(kind, &rig.run(&id, first).await), json!(1), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_could_not_begin_begins_when_its_parent_is_tried_again() {
    let source = "from durable import run_child, start_child\nfrom tasks import f\nasync def main():\n    await f(1)\n    name = 'child'\n    return [await run_child('late', {'n': 1}), await start_child(f'{name}.py', {'n': 2}, id=CHOSEN, detached=True)]\n";
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = source.replace("CHOSEN", "'chosen'");
        let id = started(&rig, &source, Files::new()).await;
        let ended = rig.run(&id, first).await;
        assert!(ended.error.unwrap().message.contains("no workflow is deployed under the name late"), "{kind}");
        // Nothing has changed: it is told the same again, and does not wait for ever.
        revive::retry(&rig.engine, &id).await.unwrap();
        assert_eq!(rig.run(&id, first).await.status, ExecutionStatus::Failed, "{kind}");
        let program = Program::compile("late.py", "async def main(n):\n    return ['late', n]\n").unwrap();
        let now = rig.engine.now();
        let deploy = move |conn: &mut _| workflows::deploy(conn, "late", (&program, &Files::new()), now);
        rig.engine.db.write(deploy).await.unwrap();
        revive::retry(&rig.engine, &id).await.unwrap();
        let ended = rig.run(&id, first).await;
        let failure = ended.error.unwrap();
        assert!(failure.message.contains("the file child.py did not come with the workflow"), "{kind}: {failure}");
        // With other code comes the file.
        let with = files(&[("child.py", "async def main(n):\n    return n\n")]);
        mend::mend(&rig.engine, &id, code("workflow.py", &source, with), false).await.unwrap();
        assert_eq!(output(kind, &rig.run(&id, first).await), json!([["late", 1], "chosen"]), "{kind}");
        assert!(rig.execution(&"chosen".parse().unwrap()).await.parent.is_none(), "{kind}: nobody waits for it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_files_alone_are_other_code() {
    let source = "from durable import run_child, wait_signal\nfrom tasks import f\nasync def main():\n    await f(1)\n    return await run_child('child.py')\n";
    let (old, new) = (files(&[("child.py", "'old'\n")]), files(&[("child.py", "'new'\n")]));
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = started(&rig, source, old.clone()).await;
        let same = mend::mend(&rig.engine, &id, code("workflow.py", source, old.clone()), false).await.unwrap();
        assert_eq!(same.status.as_str(), "unchanged", "{kind}");
        let other = mend::mend(&rig.engine, &id, code("workflow.py", source, new.clone()), false).await.unwrap();
        assert_eq!((other.status.as_str(), other.version), ("mended", 2), "{kind}");
        // A fork of it has its files, and with other code those of that.
        let forking = Forking { from: id.clone(), id: None, at: None, set: Vec::new(), runner: None, with: None };
        let fork = revive::fork(&rig.engine, forking.clone()).await.unwrap();
        let with = Some(code("workflow.py", source, old.clone()));
        let back = revive::fork(&rig.engine, Forking { with, ..forking }).await.unwrap();
        for (id, wanted) in [(&id, "new"), (&fork, "new"), (&back, "old")] {
            assert_eq!(output(kind, &rig.run(id, first).await), json!(wanted), "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_of_a_child_goes_on_as_its_function() {
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let source = "from durable import run_child\nfrom tasks import f\nasync def step(n):\n    return [n, await f(n)]\nasync def main():\n    return await run_child(step, {'n': 1})\n";
        let id = started(&rig, source, Files::new()).await;
        rig.tick().await;
        let from = child(&rig, &id, 0).await.id;
        let with = Some(code("new.py", &source.replace("[n,", "['new', n,"), Files::new()));
        let forking = Forking { from, id: None, at: None, set: Vec::new(), runner: None, with };
        let fork = revive::fork(&rig.engine, forking).await.unwrap();
        let ended = rig.run(&fork, first).await;
        assert_eq!((ended.workflow.as_str(), output(kind, &ended)), ("new.py:step", json!(["new", 1, 1])), "{kind}");
    }
}

fn found(source: &str, beside: &[(&str, &str)]) -> Vec<(String, u32, String)> {
    let beside = files(beside);
    let known = Known { file: &|path| beside.get(path).cloned(), ..Known::NOTHING };
    let found = check("workflow.py", source, &known);
    found
        .into_iter()
        .map(|found| {
            assert!(found.excerpt.is_some() && found.advice.is_some(), "{found}");
            (found.file.clone(), found.line.unwrap(), found.message)
        })
        .collect()
}

fn tells(body: &str, beside: &[(&str, &str)], file: &str, line: u32, message: &str) {
    let source = format!(
        "import child\nimport durable\nfrom durable import run_child\n\nasync def square(n):\n    return n\n\ndef plain(n):\n    return n\n\nasync def main(n: int = 1):\n    async def nested():\n        return n\n    await nested()\n    return {body}\n"
    );
    let found = found(&source, beside);
    assert_eq!(found.len(), 1, "{body}: {found:#?}");
    assert_eq!((found[0].0.as_str(), found[0].1), (file, line), "{body}: {found:?}");
    assert!(found[0].2.contains(message), "{body}: {found:?}");
}

#[test]
fn check_sees_what_children_run() {
    let at = |body: &str, message: &str| tells(body, &[], "workflow.py", 15, message);
    at("await run_child('nowhere.py')", "there is no nowhere.py beside the workflow");
    at("await durable.start_child('jobs/nowhere.py', {}, detached=True)", "there is no jobs/nowhere.py");
    at("await run_child('../child.py')", "\"../child.py\" is no file beside the workflow");
    at("await run_child('/etc/child.py')", "is no file beside the workflow");
    at("await run_child(child.main)", "there is no child.py beside the workflow");
    at("await run_child(child)", "child is no workflow");
    at("await run_child(plain)", "plain cannot be a child: it is no async def");
    at("await run_child(workflow=nested)", "nested cannot be a child: it is defined inside something");
    at("await run_child(lambda: 1)", "a lambda cannot be a child");
    at("await run_child(square(1))", "square(…) is a coroutine");
    let beside = |body: &str, text: &str, file: &str, line: u32, message: &str| {
        tells(body, &[("child.py", text)], file, line, message);
    };
    beside(
        "await run_child(child.resize)",
        "async def main(): pass\n",
        "workflow.py",
        15,
        "child.py has no async def resize",
    );
    beside("await run_child(child.resize)", "def resize(): pass\n", "workflow.py", 15, "it is no async def");
    beside(
        "await run_child(child.main)",
        "import durable\nasync def main():\n    return totl\n",
        "child.py",
        3,
        "name 'totl'",
    );
    beside("await run_child('child.py')", "async def main():\n    yield 1\n", "child.py", 2, "generators");
    let missing = "import durable\nasync def main():\n    return await durable.run_child('deep.py')\n";
    beside("await run_child('child.py')", missing, "child.py", 3, "there is no deep.py beside the workflow");
    let text = format!("await run_child('c', source={missing:?})");
    tells(&text, &[], "workflow.py", 15, "there is no deep.py");
    let fine = "from durable import run_child, start_child\nNAME = 'child.py'\nasync def square(n):\n    return n\nasync def main():\n    one = square\n    await start_child('report')\n    await run_child(NAME)\n    await run_child('workflow.py')\n    return [await run_child(one, {'n': 1}), await run_child(main)]\n";
    let beside = [("child.py", "async def main():\n    pass\n"), ("workflow.py", fine)];
    assert_eq!(found(fine, &beside), []);
    assert_eq!(bundle("workflow.py", fine, |path| files(&beside).get(path).cloned()), files(&beside));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_that_an_execution_begins_with_may_be_named_at_its_start() {
    let (_, url, _folder) = databases().remove(0);
    let rig = Rig::new(&url, "w");
    let source = "async def square(n):\n    return n * n\nasync def main():\n    return 'main'\n";
    let program = Arc::new(Program::compile("flow.py:square", source).unwrap());
    assert!(program.check_inputs(&Map::new()).is_err(), "its inputs are that function's");
    let inputs = json!({"n": 7}).as_object().unwrap().clone();
    let id = start(&rig.engine, Start::new(program, inputs)).await.unwrap().execution.id;
    assert_eq!(output("", &rig.run(&id, first).await), json!(49));
    let refused = Program::compile("flow.py:nothing", source).unwrap_err().to_string();
    assert_eq!(refused, "flow.py: NameError: flow.py has no async def nothing at its top level");
    let kept = rig.engine.db.read(|conn| executions::source(conn, "nothing")).await.unwrap();
    assert_eq!(kept, None);
}
