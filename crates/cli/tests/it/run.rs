//! `run`, `resume`, and the commands that look.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::Shell;

const TASKS: &str = "
import time
import durable

def add(a, b):
    print(f'adding {a} and {b}')
    return a + b

def slow(path):
    with open(path, 'a') as file:
        file.write(durable.idempotency_key() + '\\n')
    time.sleep(0.6)
    return 1

@durable.function(retries=0)
def fail(message):
    raise ValueError(message)
";

const WORKFLOW: &str = "
import asyncio
from tasks import add

async def main(a: int, b: int = 2):
    print('thinking')
    return {'sum': await add(a, b)}
";

fn shell() -> Shell {
    let shell = Shell::new();
    shell.write("tasks.py", TASKS);
    shell.write("flow.py", WORKFLOW);
    shell
}

#[test]
fn the_output_alone_is_on_stdout_and_progress_on_stderr() {
    let shell = shell();
    let said = shell.durable(&["run", "flow.py", "--input", "a=1"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "{\"sum\":3}\n"));
    for part in [
        "flow.py · execution ",
        "workflow: thinking",
        "started   tasks.add (line 7)",
        "completed tasks.add",
        "adding 1 and 2",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
}

#[test]
fn json_is_one_object() {
    let shell = shell();
    let said = shell.durable(&["run", "flow.py", "--input", "a=1", "--json", "--id", "my-run"]);
    assert_eq!(said.out, "{\"id\":\"my-run\",\"status\":\"completed\",\"output\":{\"sum\":3},\"error\":null}\n");
    assert_eq!(said.err, "");
}

#[test]
fn inputs_come_from_a_file_and_single_ones_win() {
    let shell = shell();
    shell.write("in.json", r#"{"a": 10, "b": 20}"#);
    assert_eq!(shell.output_of(&["run", "flow.py", "--inputs", "in.json", "--input", "b=5"]), json!({"sum": 15}));
}

#[test]
fn functions_are_named_by_file_or_module() {
    let shell = shell();
    std::fs::create_dir(shell.path().join("lib")).unwrap();
    std::fs::rename(shell.path().join("tasks.py"), shell.path().join("lib/tasks.py")).unwrap();
    assert_eq!(
        shell.output_of(&["run", "flow.py", "--input", "a=1", "--functions", "lib/tasks.py"]),
        json!({"sum": 3})
    );
    shell.write("flow2.py", "from lib.tasks import add\nasync def main():\n    return await add(1, 1)\n");
    assert_eq!(shell.output_of(&["run", "flow2.py", "-m", "lib.tasks"]), json!(2));
}

#[test]
fn the_same_id_is_the_same_execution() {
    let shell = shell();
    let first = shell.durable(&["run", "flow.py", "--input", "a=1", "--id", "once"]);
    let second = shell.durable(&["run", "flow.py", "--input", "a=1", "--id", "once"]);
    let other = shell.durable(&["run", "flow.py", "--input", "a=99", "--id", "once"]);
    assert_eq!(other.code, Some(2));
    assert!(other.err.contains("execution once exists already, with other inputs"), "{}", other.err);
    assert_eq!((first.out.as_str(), second.out.as_str()), ("{\"sum\":3}\n", "{\"sum\":3}\n"));
    assert_eq!(shell.json(&["list", "--json"]).as_array().unwrap().len(), 1);
}

#[test]
fn what_became_of_an_execution_can_be_looked_at() {
    let shell = shell();
    shell.durable(&["run", "flow.py", "--input", "a=1", "--id", "e1"]);
    assert_eq!(shell.durable(&["result", "e1"]).out, "{\"sum\":3}\n");
    let list = shell.durable(&["list"]);
    assert!(list.out.contains("e1") && list.out.contains("completed"), "{}", list.out);
    let show = shell.durable(&["show", "e1"]);
    assert!(show.out.contains("status     completed") && show.out.contains("tasks.add"), "{}", show.out);
    let calls = shell.json(&["calls", "e1", "--json"]);
    assert_eq!(calls[0]["function"], "tasks.add");
    assert_eq!((&calls[0]["args"], &calls[0]["result"]), (&json!([1, 2]), &json!(3)));
    assert_eq!(calls[0]["delivered_in"], 2);
    let logs = shell.durable(&["logs", "e1"]);
    assert!(logs.out.contains("workflow  thinking") && logs.out.contains("adding 1 and 2"), "{}", logs.out);
    assert_eq!(shell.json(&["show", "e1", "--json"])["status"], "completed");
    assert_eq!(shell.json(&["result", "e1", "--json"])["output"], json!({"sum": 3}));
    assert_eq!(shell.json(&["logs", "e1", "--json"])[0]["text"], "thinking\n");
    assert_eq!(shell.json(&["list", "--json", "--status", "failed"]), json!([]));
}

#[test]
fn a_failed_execution_has_exit_code_one_and_both_tracebacks() {
    let shell = shell();
    shell.write("fails.py", "from tasks import fail\nasync def main():\n    return await fail('no funds')\n");
    let said = shell.durable(&["run", "fails.py", "--id", "f1"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    for part in [
        "File \"fails.py\", line 3, in main",
        "ValueError: no funds",
        "tasks.py\", line 17, in fail",
        "failed: ValueError",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    let again = shell.durable(&["result", "f1"]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("no funds"));
    assert_eq!(shell.json(&["run", "fails.py", "--json"])["error"]["type"], "ValueError");
}

#[test]
fn there_is_no_such_execution() {
    let shell = shell();
    for command in ["show", "calls", "result", "logs", "resume"] {
        let said = shell.durable(&[command, "nowhere"]);
        assert_eq!(said.code, Some(4), "{command}: {}", said.err);
        assert_eq!(said.err, "error: there is no database sqlite://durable.db: nothing has been run with it\n");
    }
    assert!(!shell.path().join("durable.db").exists(), "looking creates nothing");
    shell.durable(&["run", "flow.py", "--input", "a=1"]);
    for command in ["show", "calls", "result", "logs", "resume"] {
        let said = shell.durable(&[command, "nowhere"]);
        assert_eq!(said.code, Some(4), "{command}: {}", said.err);
        assert_eq!(said.err, "error: there is no execution nowhere\n");
    }
}

/// Starts a run in the background and waits until `ready` holds.
fn begin(shell: &Shell, args: &[&str], ready: impl Fn() -> bool) -> std::process::Child {
    let mut command = shell.command(args);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready() {
        assert!(Instant::now() < deadline, "the run did not come so far");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn lines(shell: &Shell, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(shell.path().join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

const SLOW: &str = "
import asyncio
from tasks import slow
async def main():
    first = await slow('ran')
    second = await slow('ran')
    third = await slow('ran')
    return first + second + third
";

#[test]
fn a_killed_run_is_resumed_by_its_id_and_runs_nothing_twice_that_was_completed() {
    let shell = shell();
    shell.write("slow.py", SLOW);
    let mut run = begin(&shell, &["run", "slow.py", "--id", "k1"], || lines(&shell, "ran").len() == 2);
    run.kill().unwrap();
    run.wait().unwrap();
    let not_yet = shell.durable(&["result", "k1"]);
    assert_eq!(not_yet.code, Some(4));
    assert!(not_yet.err.contains("has not ended") && not_yet.err.contains("durable resume k1"), "{}", not_yet.err);
    let begun = Instant::now();
    let resumed = shell.durable(&["resume", "k1"]);
    assert_eq!(resumed.out, "3\n");
    assert!(resumed.err.contains("completed tasks.slow (line 6) #2"), "what was found is named: {}", resumed.err);
    assert!(begun.elapsed() < Duration::from_secs(5), "no lease has to run out: {:?}", begun.elapsed());
    let ran = lines(&shell, "ran");
    assert_eq!(ran.iter().filter(|key| *key == &ran[0]).count(), 1, "the first call was completed: {ran:?}");
    assert_eq!(ran.len(), 4, "the second was under way when the process was killed: {ran:?}");
    assert_eq!(shell.output_of(&["resume", "k1"]), json!(3), "resuming what has ended shows its output");
}

#[test]
fn an_execution_that_runs_is_not_run_by_another_process() {
    let shell = shell();
    shell.write("slow.py", SLOW);
    let mut run = begin(&shell, &["run", "slow.py", "--id", "r1"], || lines(&shell, "ran").len() == 1);
    let said = shell.durable(&["resume", "r1"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains(&format!("is being run by process {}", run.id())), "{}", said.err);
    let two = shell.durable(&["run", "flow.py", "--input", "a=1"]);
    assert_eq!(two.out, "{\"sum\":3}\n", "another execution in the same database does not mind");
    assert!(run.wait().unwrap().success());
}

#[test]
fn ctrl_c_stops_cleanly_and_says_how_to_go_on() {
    let shell = shell();
    shell.write("slow.py", SLOW);
    let run = begin(&shell, &["run", "slow.py", "--id", "c1"], || lines(&shell, "ran").len() == 1);
    let pid = rustix::process::Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = run.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("durable resume c1 --db sqlite://durable.db"), "{err}");
    let calls = shell.json(&["calls", "c1", "--json"]);
    assert_eq!(calls[0]["status"], "completed", "the running function was let finish");
    assert_eq!(shell.output_of(&["resume", "c1"]), json!(3));
    assert_eq!(lines(&shell, "ran").len(), 3, "and nothing ran twice");
}

#[test]
fn a_failed_gather_does_not_keep_the_program_waiting_for_the_others() {
    let shell = shell();
    let source = "
import asyncio
from tasks import fail, slow
async def main():
    await asyncio.gather(fail('at once'), *[slow('ran') for _ in range(12)])
";
    shell.write("flow3.py", source);
    let begun = Instant::now();
    assert_eq!(shell.durable(&["run", "flow3.py"]).code, Some(1));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let shell = shell();
    for _ in 0..3 {
        shell.durable(&["run", "flow.py", "--input", "a=1"]);
    }
    let durable = env!("CARGO_BIN_EXE_durable");
    let script = format!("{durable} list | true; echo ${{PIPESTATUS[0]}}");
    let output = std::process::Command::new("bash").args(["-c", &script]).current_dir(shell.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n");
}

#[test]
fn check_says_what_a_workflow_needs() {
    let shell = shell();
    let said = shell.durable(&["check", "flow.py"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "flow.py: ok; it imports tasks.add\n"));
    let checked = shell.json(&["check", "flow.py", "--json"]);
    assert_eq!(checked["inputs"], json!([{"name": "a", "required": true}, {"name": "b", "required": false}]));
    assert_eq!(checked["functions"], json!(["tasks.add"]));
}

#[test]
fn a_run_goes_on_when_nobody_reads_its_progress() {
    let shell = shell();
    let durable = env!("CARGO_BIN_EXE_durable");
    let script = format!("{durable} run flow.py --input a=1 --id gone 2>&1 >out | true; sleep 0.1; cat out");
    let deadline = Instant::now() + Duration::from_secs(20);
    std::process::Command::new("bash").args(["-c", &script]).current_dir(shell.path()).output().unwrap();
    while std::fs::read_to_string(shell.path().join("out")).unwrap_or_default() != "{\"sum\":3}\n" {
        assert!(Instant::now() < deadline, "the output never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const CLEANING: &str = "
import asyncio
import os
import time

import durable


async def cleans(path):
    open(path + '.began', 'w').close()
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.4)
        open(path, 'w').close()


def heedless():
    time.sleep(60)


async def quick(path):
    while not os.path.exists(path + '.began'):
        await asyncio.sleep(0.01)
    return 'quick'


def environment():
    return sorted(name for name in os.environ if name.startswith(('DURABLE_', 'PGPASS', 'KEPT_')))
";

#[test]
fn an_asynchronous_function_cleans_up_before_the_run_ends() {
    let shell = Shell::new();
    shell.write("tasks.py", CLEANING);
    let flow = "import durable\nfrom tasks import cleans, heedless, quick\n\nasync def main(path: str):\n    \
                return await durable.race(quick(path), cleans(path), heedless())\n";
    shell.write("flow.py", flow);
    let path = shell.path().join("cleaned");
    let begun = Instant::now();
    let said = shell.durable(&["run", "flow.py", "--input", &format!("path=\"{}\"", path.display())]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "{\"$py\":\"tuple\",\"items\":[0,\"quick\"]}\n"),
        "{}",
        said.err
    );
    assert!(path.exists(), "it was given its time");
    assert!(begun.elapsed() < Duration::from_secs(20), "what cannot clean up is not waited for");
}

#[test]
fn functions_do_not_inherit_the_keys_of_the_installation() {
    let shell = Shell::new();
    shell.write("tasks.py", CLEANING);
    shell.write("flow.py", "from tasks import environment\n\nasync def main():\n    return await environment()\n");
    let mut command = shell.command(&["run", "flow.py"]);
    command.env("DURABLE_API_TOKEN", "sesame").env("PGPASSWORD", "sesame").env("KEPT_KEY", "mine");
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[\"KEPT_KEY\"]\n");
}
