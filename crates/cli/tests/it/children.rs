//! Children by a function of the workflow's file or by a file beside it, as people run them.

use serde_json::json;

use crate::Shell;

const FLOW: &str = "import asyncio
import child
from durable import run_child, start_child
from tasks import double

async def square(n):
    return n * n

async def main():
    squares = await asyncio.gather(*[start_child(square, {'n': n}) for n in range(4)])
    return [squares, await run_child('child.py', {'n': await double(2)}), await run_child(child.resize, {'n': 1})]
";

const CHILD: &str = "from durable import run_child
from other_tasks import triple

async def resize(n):
    return ['resized', n]

async def main(n):
    return await run_child('jobs/grand.py', {'n': await triple(n)})
";

/// A folder with a workflow, and all that its children need.
fn folder() -> Shell {
    let shell = Shell::new();
    std::fs::create_dir(shell.path().join("jobs")).unwrap();
    shell.write("flow.py", FLOW);
    shell.write("child.py", CHILD);
    shell.write("jobs/grand.py", "async def main(n):\n    return ['grand', n]\n");
    shell.write("tasks.py", "def double(n):\n    return 2 * n\n");
    shell.write("other_tasks.py", "def triple(n):\n    return 3 * n\n");
    shell
}

#[test]
fn a_run_takes_its_childrens_files_and_functions_from_beside_it() {
    let shell = folder();
    let said = shell.durable(&["check", "flow.py"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{}", said.out);
    let output = shell.output_of(&["run", "flow.py", "--id", "r"]);
    assert_eq!(output, json!([[0, 1, 4, 9], ["grand", 12], ["resized", 1]]));
    let list = shell.durable(&["list"]).out;
    for name in ["flow.py:square", "child.py:resize", "jobs/grand.py"] {
        assert!(list.contains(name), "{name}: {list}");
    }
    assert!(shell.durable(&["show", "r"]).out.contains("child flow.py:square"));
}

#[test]
fn a_mistake_in_a_childs_file_is_told_with_its_name_and_refused_at_every_start() {
    let shell = folder();
    shell.write("jobs/grand.py", "async def main(n):\n    return m\n");
    for arguments in [&["check", "flow.py"][..], &["run", "flow.py"], &["deploy", "flow", "flow.py"]] {
        let said = shell.durable(arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}");
        assert!(said.err.contains("jobs/grand.py:2:12: NameError: name 'm'"), "{arguments:?}: {}", said.err);
    }
    std::fs::remove_file(shell.path().join("jobs/grand.py")).unwrap();
    for arguments in
        [&["check", "flow.py"][..], &["run", "flow.py"], &["start", "flow.py"], &["deploy", "f", "flow.py"]]
    {
        let said = shell.durable(arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}");
        for part in ["child.py:8:28: FileNotFoundError: there is no jobs/grand.py", "^^^^", "hint: put the file there"]
        {
            assert!(said.err.contains(part), "{arguments:?}: {part}\n{}", said.err);
        }
    }
    let found = shell.json(&["check", "flow.py", "--json"]);
    assert_eq!((&found["errors"][0]["file"], &found["errors"][0]["line"]), (&json!("child.py"), &json!(8)));
}

#[test]
fn a_function_that_only_a_childs_file_uses_must_be_offered_too() {
    let shell = folder();
    shell.write("other_tasks.py", "def quadruple(n):\n    return 4 * n\n");
    let said = shell.durable(&["run", "flow.py"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("child.py:2: nobody offers the function other_tasks.triple"), "{}", said.err);
}

#[test]
fn a_deployed_workflow_brings_its_files_along() {
    let shell = folder();
    let said = shell.durable(&["deploy", "flow", "flow.py"]);
    assert!(said.code == Some(0) && said.err.contains("version 1 of flow"), "{}", said.err);
    shell
        .write("parent.py", "from durable import run_child\n\nasync def main():\n    return await run_child('flow')\n");
    for file in ["flow.py", "child.py", "jobs/grand.py"] {
        std::fs::remove_file(shell.path().join(file)).unwrap();
    }
    let arguments = ["run", "parent.py", "--functions", "tasks.py", "--functions", "other_tasks.py"];
    assert_eq!(shell.output_of(&arguments), json!([[0, 1, 4, 9], ["grand", 12], ["resized", 1]]));
}

#[test]
fn a_run_that_failed_goes_on_with_other_files() {
    let shell = folder();
    shell.write("child.py", "async def resize(n):\n    return n\n\nasync def main(n):\n    return {}[n]\n");
    let said = shell.durable(&["run", "flow.py", "--id", "r"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    let failed = shell.json(&["list", "--json"]);
    let child = failed.as_array().unwrap().iter().find(|one| one["workflow"] == "child.py").unwrap();
    let child = child["id"].as_str().unwrap();
    // The child has its own code; its parent, asked to go on, lets it go on.
    shell.write("child.py", CHILD);
    let said = shell.durable(&["retry", child, "--with", "child.py"]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let said = shell.durable(&["retry", "r", "--with", "flow.py"]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains("[[0,1,4,9],[\"grand\",12],[\"resized\",1]]"), "{}{}", said.out, said.err);
}
