//! What people ask of executions that another process runs, or has run.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Shell, example};

/// A run in the background.
fn run(shell: &Shell, arguments: &[&str]) -> Child {
    shell.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until an execution has that status.
fn until(shell: &Shell, id: &str, status: &str) -> Value {
    until_so(shell, id, status, |shown| shown["status"] == status)
}

/// Waits until what is shown of an execution is so.
fn until_so(shell: &Shell, id: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let said = shell.durable(&["show", id, "--json"]);
        let shown: Value = serde_json::from_str(&said.out).unwrap_or_default();
        if is_so(&shown) {
            return shown;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{id} is not {what}: {}{}", said.out, said.err);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_person_approves_from_another_terminal() {
    let shell = Shell::new();
    let running = run(&shell, &["run", &example("human_approval"), "--id", "expense-1"]);
    let waits = |shown: &Value| {
        shown["calls"].as_array().and_then(|calls| calls.last()).is_some_and(|it| it["kind"] == "signal")
    };
    let shown = until_so(&shell, "expense-1", "waiting for a signal", waits);
    assert_eq!(shown["progress"], "waiting for the manager");
    let said = shell.durable(&["signal", "expense-1", "decision", "yes"]);
    assert!(said.code == Some(2) && said.err.contains("hint: a text needs quotes: '\"yes\"'"), "{}", said.err);
    let said = shell.durable(&["signal", "expense-1", "decision", "\"yes\"", "--key", "k"]);
    assert!(said.code == Some(0) && said.err.contains("is delivered"), "{}", said.err);
    let (code, out) = ended(running);
    let output: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &output["status"], &output["by"]), (Some(0), &json!("paid"), &json!("manager")));
    assert!(output["receipt"].as_str().unwrap().contains("expense…"), "the key that the workflow chose: {output}");
    let said = shell.durable(&["signal", "expense-1", "decision", "1"]);
    assert!(said.code == Some(2) && said.err.contains("is completed and cannot take a signal"), "{}", said.err);
    let said = shell.durable(&["signal", "nobody", "decision", "1"]);
    assert_eq!(said.code, Some(4), "{}", said.err);
}

#[test]
fn an_approval_that_nobody_gives_escalates_and_expires() {
    let shell = Shell::new();
    let patience = r#"patience=[["manager", 0.2], ["director", 0.3]]"#;
    let output = shell.output_of(&["run", &example("human_approval"), "--input", patience, "--id", "e"]);
    assert_eq!(output, json!({"status": "expired"}));
    let log = shell.durable(&["logs", "e"]).out;
    assert!(log.contains("to the director") && log.contains("no answer who='manager'"), "{log}");
}

const SLOW: &str = "
import asyncio
import durable
from tasks import note, slow

async def main():
    try:
        return await slow()
    except durable.Cancelled:
        await note('cleaned up')
        raise
";

const TASKS: &str = "
import asyncio, pathlib, time
import durable

async def slow():
    durable.heartbeat(0.25, 'first quarter')
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        pathlib.Path('told').write_text('async')
        raise

def busy():
    for n in range(600):
        durable.heartbeat(n / 600)
        if durable.cancelled():
            pathlib.Path('told').write_text('sync')
            return 'ended early'
        time.sleep(0.1)

def stubborn():
    time.sleep(60)

def note(text):
    pathlib.Path('noted').write_text(text)
";

#[test]
fn a_cancelled_run_tells_its_function_cleans_up_and_ends() {
    let shell = Shell::new();
    shell.write("tasks.py", TASKS);
    shell.write("flow.py", SLOW);
    let running = run(&shell, &["run", "flow.py", "--id", "c-1"]);
    let begun = Instant::now();
    loop {
        let shown = shell.durable(&["show", "c-1"]).out;
        if shown.contains("25 %: first quarter") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{shown}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = shell.durable(&["cancel", "c-1"]);
    assert!(said.code == Some(0) && said.err.contains("is asked to end"), "{}", said.err);
    let (code, out) = ended(running);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_eq!(shell.durable(&["result", "c-1"]).code, Some(1));
    assert_eq!(until(&shell, "c-1", "cancelled")["error"]["type"], "durable.Cancelled");
    assert_eq!(std::fs::read_to_string(shell.path().join("noted")).unwrap(), "cleaned up");
    let said = shell.durable(&["cancel", "c-1"]);
    assert!(said.code == Some(2) && said.err.contains("is cancelled already"), "{}", said.err);
}

#[test]
fn a_synchronous_function_is_told_of_a_cancellation_from_another_terminal() {
    let shell = Shell::new();
    shell.write("tasks.py", TASKS);
    let source = "import asyncio, durable\nfrom tasks import busy\n\nasync def main():\n    try:\n        await busy()\n    \
                  except durable.Cancelled:\n        await asyncio.sleep(4)\n        return 'cleaned up'\n";
    shell.write("flow.py", source);
    let running = run(&shell, &["run", "flow.py", "--id", "c-1"]);
    let begun = Instant::now();
    while !shell.durable(&["show", "c-1"]).out.contains("%") {
        assert!(begun.elapsed() < Duration::from_secs(20), "the function has not begun");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(shell.durable(&["cancel", "c-1"]).code, Some(0));
    assert_eq!(ended(running), (Some(0), "\"cleaned up\"\n".into()));
    assert_eq!(std::fs::read_to_string(shell.path().join("told")).unwrap(), "sync");
}

#[test]
fn a_cancelled_execution_whose_run_was_killed_cleans_up_when_it_is_resumed() {
    let shell = Shell::new();
    let source = "import asyncio, durable\n\nasync def main():\n    try:\n        await asyncio.sleep(1000)\n    \
                  except durable.Cancelled:\n        await asyncio.sleep(0.1)\n        durable.log('cleaned up')\n        raise\n";
    shell.write("flow.py", source);
    let mut running = run(&shell, &["run", "flow.py", "--id", "c-1"]);
    until(&shell, "c-1", "waiting");
    running.kill().unwrap();
    running.wait().unwrap();
    let said = shell.durable(&["cancel", "c-1"]);
    assert!(
        said.code == Some(0) && said.err.contains("nobody runs execution c-1 now; durable resume c-1"),
        "{}",
        said.err
    );
    let said = shell.durable(&["resume", "c-1"]);
    assert!(said.code == Some(1) && said.err.contains("cleaned up"), "{}", said.err);
    assert!(said.err.contains("durable.Cancelled: it was cancelled"), "{}", said.err);
    assert_eq!(until(&shell, "c-1", "cancelled")["error"]["type"], "durable.Cancelled");
}

#[test]
fn a_run_that_begins_anew_goes_on_by_itself() {
    let shell = Shell::new();
    shell.write("tasks.py", "def work(x): return x\n");
    let source = "from durable import continue_as_new\nfrom tasks import work\n\nasync def main(n: int = 1, total: int = 0):\n    \
                  total += await work(n)\n    if n < 20:\n        continue_as_new(n=n + 1, total=total)\n    return total\n";
    shell.write("flow.py", source);
    assert_eq!(shell.output_of(&["run", "flow.py"]), 210);
}

#[test]
fn a_synchronous_function_sees_that_it_is_cancelled_and_a_stubborn_one_is_killed() {
    let shell = Shell::new();
    shell.write("tasks.py", TASKS);
    for (function, told) in [("busy", true), ("stubborn", false)] {
        let _ = std::fs::remove_file(shell.path().join("told"));
        let source = format!(
            "import asyncio, durable\nfrom tasks import {function}\n\nasync def main():\n    try:\n        \
             await durable.timeout({function}(), 0.5)\n    except durable.TaskTimeout:\n        await asyncio.sleep(7)\n    return 1\n"
        );
        shell.write("flow.py", &source);
        let output = shell.output_of(&["run", "flow.py"]);
        assert_eq!(output, 1);
        assert_eq!(shell.path().join("told").exists(), told, "{function}");
    }
}

#[test]
fn a_paused_run_waits_and_a_resumed_one_goes_on() {
    let shell = Shell::new();
    let source = "import asyncio\n\nasync def main():\n    await asyncio.sleep(1.5)\n    await asyncio.sleep(0.1)\n    return 'done'\n";
    shell.write("flow.py", source);
    let running = run(&shell, &["run", "flow.py", "--id", "p-1"]);
    until(&shell, "p-1", "waiting");
    let said = shell.durable(&["pause", "p-1"]);
    assert!(said.code == Some(0) && said.err.contains("durable resume p-1 lets it go on"), "{}", said.err);
    std::thread::sleep(Duration::from_secs(2));
    until(&shell, "p-1", "paused");
    let said = shell.durable(&["resume", "p-1"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(ended(running), (Some(0), "\"done\"\n".into()));
}

#[test]
fn a_failed_run_is_mended_and_retried_without_repeating_what_succeeded() {
    let shell = Shell::new();
    let tasks = |body: &str| {
        shell.write("tasks.py", &format!("import durable\n\ndef good(n):\n    open('ran', 'a').write(f'{{n}}\\n')\n    return n\n\n@durable.function(retries=0)\ndef bad(n):\n    {body}\n"));
    };
    tasks("raise ValueError('not yet')");
    shell.write(
        "flow.py",
        "from tasks import bad, good\n\nasync def main():\n    return [await good(1), await bad(2), await good(3)]\n",
    );
    let said = shell.durable(&["run", "flow.py", "--id", "r-1", "--keep-all"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    tasks("return n");
    let said = shell.durable(&["retry", "r-1"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "[1,2,3]\n"), "{}", said.err);
    assert!(said.err.contains("1 calls of execution r-1 are run again"), "{}", said.err);
    assert_eq!(std::fs::read_to_string(shell.path().join("ran")).unwrap(), "1\n3\n");
    let said = shell.durable(&["retry", "r-1"]);
    assert!(said.code == Some(2) && said.err.contains("only failed and cancelled"), "{}", said.err);
    let calls = shell.json(&["calls", "r-1", "--json"]);
    let second = calls[1]["id"].to_string();
    let said = shell.durable(&["fork", "r-1", "--at", "2", "--set", &format!("{second}=\"other\""), "--as", "r-2"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "[1,\"other\",3]\n"), "{}", said.err);
    let said = shell.durable(&["fork", "r-1", "--set", "x=1"]);
    assert!(said.code == Some(2) && said.err.contains("is no call's number"), "{}", said.err);
}

#[test]
fn workflows_are_deployed_and_started_by_their_parents() {
    let shell = Shell::new();
    let said = shell.durable(&["workflows"]);
    assert_eq!(said.code, Some(4), "{}", said.err);
    shell.write("tasks.py", "def double(n):\n    return 2 * n\n");
    shell.write("child.py", "from tasks import double\n\nasync def main(n):\n    return await double(n)\n");
    let said = shell.durable(&["deploy", "doubler", "child.py"]);
    assert!(said.code == Some(0) && said.err.contains("child.py is version 1 of doubler"), "{}", said.err);
    assert!(shell.durable(&["workflows"]).out.contains("doubler"), "{}", shell.durable(&["workflows"]).out);
    let parent =
        "from durable import run_child\n\nasync def main():\n    return await run_child('doubler', {'n': 21})\n";
    shell.write("parent.py", parent);
    let output = shell.output_of(&["run", "parent.py", "--functions", "tasks.py", "--id", "par"]);
    assert_eq!(output, 42);
    let shown = shell.durable(&["show", "par"]).out;
    assert!(shown.contains("child doubler"), "{shown}");
    let list = shell.json(&["list", "--json"]);
    assert_eq!(list.as_array().unwrap().len(), 2);
    let said = shell.durable(&["deploy", "a/b", "child.py"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
}

#[test]
fn what_a_run_started_and_does_not_wait_for_ends_too() {
    let shell = Shell::new();
    let source = "
import asyncio
import durable

LATE = '''
import asyncio
async def main():
    try:
        await asyncio.sleep(0.4)
    finally:
        await asyncio.sleep(0.3)
    return 'late'
'''

async def main():
    await durable.start_child('late.py', source=LATE, id='free', detached=True)
    durable.start_child('late.py', source=LATE, id='bound')
    await asyncio.sleep(0.1)
    return 'early'
";
    shell.write("flow.py", source);
    assert_eq!(shell.output_of(&["run", "flow.py"]), "early");
    assert_eq!(until(&shell, "free", "completed")["output"], "late");
    until(&shell, "bound", "cancelled");
}

#[test]
fn a_callback_is_completed_once_from_another_terminal() {
    let shell = Shell::new();
    shell.write("tasks.py", "def publish(token):\n    open('token', 'w').write(token)\n");
    let source = "from durable import callback\nfrom tasks import publish\n\nasync def main():\n    token, answer = callback()\n    await publish(token)\n    return await answer\n";
    shell.write("flow.py", source);
    let running = run(&shell, &["run", "flow.py", "--id", "cb"]);
    let begun = Instant::now();
    let token = loop {
        match std::fs::read_to_string(shell.path().join("token")) {
            Ok(token) if token.len() == 48 => break token,
            _ => assert!(begun.elapsed() < Duration::from_secs(20)),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(shell.durable(&["complete", &token, "{\"signed\": true}"]).code, Some(0));
    let said = shell.durable(&["complete", &token, "2"]);
    assert!(said.code == Some(2) && said.err.contains("the first one stands"), "{}", said.err);
    assert_eq!(ended(running), (Some(0), "{\"signed\":true}\n".into()));
    assert_eq!(shell.durable(&["complete", "nonsense"]).code, Some(4));
}

#[test]
fn check_lists_every_mistake_with_its_place() {
    let shell = Shell::new();
    shell.write(
        "flow.py",
        "import subprocess\nfrom tasks import f\n\nasync def main():\n    f(1)\n    raise ValueError(3)\n",
    );
    let said = shell.durable(&["check", "flow.py"]);
    assert_eq!(said.code, Some(2));
    for part in [
        "flow.py:1:8: ModuleNotFoundError",
        "flow.py:5:5: SyntaxError: tasks.f() is not awaited",
        "flow.py:6:11: TypeError",
        "3 to mend",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    let told = shell.json(&["check", "flow.py", "--json"]);
    assert_eq!((told["errors"].as_array().unwrap().len(), &told["error"]["line"]), (3, &json!(1)));
    assert_eq!(shell.durable(&["run", "flow.py"]).code, Some(2));
}

#[test]
fn the_other_examples_do_what_they_say() {
    let shell = Shell::new();
    let output = shell.output_of(&["run", &example("saga"), "--input", "budget=800"]);
    assert_eq!(output["undone"], json!(["hotel", "flight"]), "{output}");
    assert!(output["why"].as_str().unwrap().starts_with("the car in Lisbon costs 140"), "{output}");
    assert_eq!(shell.output_of(&["run", &example("saga")])["left"], 90);
    let output = shell.output_of(&["run", &example("fan_out_limited")]);
    assert_eq!(output, json!({"words": 1966, "failed": [7, 17]}));
    let output = shell.output_of(&["run", &example("agent_loop")]);
    assert_eq!(output["answer"], "It was built in 1894: 264 half-years.");
    let output = shell.output_of(&["run", &example("order_pipeline"), "--input", "items=[\"piano\"]"]);
    assert_eq!(output["status"], "out of stock");
    let running = run(&shell, &["run", &example("order_pipeline"), "--input", "review_after=0.1", "--id", "o"]);
    let begun = Instant::now();
    let mut completed = Vec::new();
    while completed.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        let text = std::fs::read_to_string(shell.path().join("parcels.txt")).unwrap_or_default();
        for token in text.lines().filter_map(|line| line.split(' ').nth(1)).map(String::from) {
            if !completed.contains(&token) && shell.durable(&["complete", &token, "\"Ada\""]).code == Some(0) {
                completed.push(token);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, out) = ended(running);
    let output: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &output["status"], &output["parcels"][1]["signed_by"]), (Some(0), &json!("done"), &json!("Ada")));
}

#[test]
fn what_has_ended_is_deleted_on_demand_and_nothing_else() {
    let shell = Shell::new();
    shell.write("done.py", "async def main():\n    return 1\n");
    shell.write("waits.py", "import durable\nasync def main():\n    await durable.wait_signal('go')\n");
    for id in ["one", "two", "three"] {
        assert_eq!(shell.durable(&["run", "done.py", "--id", id]).code, Some(0));
    }
    let mut waiting = run(&shell, &["run", "waits.py", "--id", "open"]);
    until(&shell, "open", "waiting");
    let said = shell.durable(&["delete", "one", "open"]);
    assert!(said.code == Some(2) && said.err.contains("hint: durable cancel open"), "{}", said.err);
    let said = shell.durable(&["delete", "nobody"]);
    assert_eq!(said.code, Some(4), "{}", said.err);
    assert_eq!(shell.durable(&["show", "one"]).code, Some(0), "nothing was deleted");
    let said = shell.durable(&["delete", "one", "--json"]);
    assert_eq!((said.code, said.out.trim()), (Some(0), r#"{"deleted":1}"#), "{}", said.err);
    assert_eq!(shell.durable(&["show", "one"]).code, Some(4));
    let said = shell.durable(&["delete", "--ended-before", "1h", "--json"]);
    assert_eq!((said.code, said.out.trim()), (Some(0), r#"{"deleted":0}"#), "{}", said.err);
    let said = shell.durable(&["delete", "--ended-before", "0s", "--json"]);
    assert_eq!((said.code, said.out.trim()), (Some(0), r#"{"deleted":2}"#), "{}", said.err);
    assert_eq!(shell.durable(&["show", "open"]).code, Some(0));
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn a_limit_of_one_run_is_an_option_and_a_variable() {
    let shell = Shell::new();
    shell.write(
        "many.py",
        "import asyncio\nasync def main():\n    for n in range(9):\n        await asyncio.sleep(0.001)\n",
    );
    assert_eq!(shell.durable(&["run", "many.py"]).code, Some(0));
    let said = shell.durable(&["run", "many.py", "--limit", "calls=4"]);
    assert!(said.code == Some(1) && said.err.contains("(--limit calls=4)"), "{}", said.err);
    let variable = shell.command(&["run", "many.py"]).env("DURABLE_LIMITS", "calls=5,log=1MiB").output().unwrap();
    assert!(String::from_utf8_lossy(&variable.stderr).contains("(--limit calls=5)"));
    let said = shell.durable(&["run", "many.py", "--limit", "call=4"]);
    assert!(said.code == Some(2) && said.err.contains("is no limit"), "{}", said.err);
}
