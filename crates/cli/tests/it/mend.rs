//! A workflow's own code is mended while it runs, from a terminal.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::Shell;

const TASKS: &str = "
def good(n):
    open('ran', 'a').write(f'{n}\\n')
    return n
";

const BUGGY: &str = "
import asyncio
from tasks import good

async def main():
    row = {'price': await good(1)}
    await asyncio.sleep(0.3)
    return [row['prize'], await good(2)]
";

fn failed(shell: &Shell, id: &str) {
    shell.write("tasks.py", TASKS);
    shell.write("flow.py", BUGGY);
    let said = shell.durable(&["run", "flow.py", "--id", id]);
    assert!(said.code == Some(1) && said.err.contains("KeyError"), "{}", said.err);
}

fn ran(shell: &Shell) -> String {
    std::fs::read_to_string(shell.path().join("ran")).unwrap_or_default()
}

#[test]
fn a_failed_run_goes_on_with_mended_code_and_the_old_stays_on_record() {
    let shell = Shell::new();
    failed(&shell, "m-1");
    shell
        .write("flow.py", &BUGGY.replace("prize", "price").replace("import asyncio", "import asyncio\nimport durable"));
    let said = shell.durable(&["retry", "m-1", "--with", "flow.py", "--dry-run"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    for part in [
        "nothing was changed: execution m-1 would go on with flow.py",
        "led through 1 recorded outcome to pause 2",
        "at line 8: timer sleep 0.3s",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    let told = shell.json(&["retry", "m-1", "--with", "flow.py", "--dry-run", "--json"]);
    assert_eq!(
        (&told["status"], &told["waits"][0]["line"], &told["dry_run"]),
        (&json!("retrying"), &json!(8), &json!(true))
    );
    assert_eq!(shell.json(&["show", "m-1", "--json"])["status"], "failed");
    let said = shell.durable(&["retry", "m-1", "--with", "flow.py"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "[1,2]\n"), "{}", said.err);
    assert!(said.err.contains("execution m-1 goes on with flow.py as version 2 of its code"), "{}", said.err);
    assert_eq!(ran(&shell), "1\n2\n", "what succeeded was not run again");
    let shown = shell.durable(&["show", "m-1"]).out;
    assert!(
        shown.contains("code       version 1: flow.py ") && shown.contains("code       version 2: flow.py "),
        "{shown}"
    );
    let shown = shell.json(&["show", "m-1", "--json"]);
    assert_eq!(shown["versions"][0]["until"], shown["versions"][1]["since"]);
    assert_eq!(shell.durable(&["show", "m-1", "--code", "1"]).out.trim(), BUGGY.trim());
    assert!(shell.durable(&["show", "m-1", "--code"]).out.contains("price'], await"));
    assert_eq!(shell.durable(&["show", "m-1", "--code", "3"]).code, Some(4));
    assert!(shell.durable(&["logs", "m-1"]).out.contains("its code is version 2 now"));
    let said = shell.durable(&["retry", "m-1", "--with", "flow.py"]);
    assert!(said.code == Some(2) && said.err.contains("is completed and cannot be mended"), "{}", said.err);
}

#[test]
fn code_that_cannot_go_on_is_refused_with_the_place() {
    let shell = Shell::new();
    failed(&shell, "m-1");
    let refused = |text: &str, part: &str| {
        shell.write("new.py", text);
        for command in ["retry", "fork"] {
            let said = shell.durable(&[command, "m-1", "--with", "new.py"]);
            assert!(said.code == Some(2) && said.err.contains(part), "{command}: {}", said.err);
            assert!(!said.err.contains("panicked"), "{}", said.err);
        }
        assert_eq!(shell.json(&["show", "m-1", "--json"])["status"], "failed");
    };
    refused("async def main(:\n", "new.py:1");
    refused("from tasks import good\n\nasync def main():\n    good(1)\n", "is not awaited");
    refused(&BUGGY.replace("main()", "main(more)"), "more");
    refused(
        &BUGGY.replace("good(1)", "good(7)"),
        "call 1 is function tasks.good [1] {} on record (line 6), and function tasks.good [7] {} now (line 6)",
    );
    refused(
        &BUGGY.replace("sleep(0.3)", "sleep(0.4)"),
        "timer sleep 0.3s [] {} on record (line 7), and timer sleep 0.4s [] {} now (line 7)",
    );
    let said = shell.durable(&["retry", "m-1", "--with", "nowhere.py"]);
    assert!(said.code == Some(2) && said.err.contains("cannot read the workflow nowhere.py"), "{}", said.err);
    assert_eq!(shell.durable(&["retry", "nobody", "--with", "new.py"]).code, Some(4));
    assert_eq!(shell.durable(&["fork", "nobody", "--with", "new.py"]).code, Some(4));
    assert_eq!(shell.durable(&["retry", "m-1", "--dry-run"]).code, Some(2), "--dry-run wants --with");
    assert_eq!(shell.json(&["list", "--json"]).as_array().unwrap().len(), 1, "no fork was left behind");
}

#[test]
fn a_run_that_waits_is_mended_under_its_process_and_a_paused_one_before_it_is_resumed() {
    let shell = Shell::new();
    shell.write("tasks.py", TASKS);
    let source = "from durable import wait_signal\nfrom tasks import good\n\nasync def main():\n    return {}[await wait_signal('go')]\n";
    shell.write("flow.py", source);
    shell.write("fixed.py", &source.replace("{}[await wait_signal('go')]", "await good(await wait_signal('go'))"));
    for paused in [false, true] {
        let id = if paused { "w-2" } else { "w-1" };
        let running = shell
            .command(&["run", "flow.py", "--id", id])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while shell.json_or_null(&["show", id, "--json"])["status"] != "waiting" {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(50));
        }
        if paused {
            assert_eq!(shell.durable(&["pause", id]).code, Some(0));
        }
        let said = shell.durable(&["retry", id, "--with", "fixed.py"]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(said.err.contains("waits with fixed.py as version 2"), "{}", said.err);
        assert_eq!(said.err.contains(&format!("it is paused; durable resume {id}")), paused, "{}", said.err);
        assert!(shell.durable(&["retry", id, "--with", "fixed.py"]).err.contains("has this code already"));
        if paused {
            assert_eq!(shell.durable(&["resume", id]).code, Some(0));
        }
        assert_eq!(shell.durable(&["signal", id, "go", "7"]).code, Some(0));
        let output = running.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "7\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn mended_code_may_call_functions_of_another_file() {
    let shell = Shell::new();
    failed(&shell, "m-1");
    shell.write("more.py", "def better(row):\n    return row['price'] * 10\n");
    let fixed =
        BUGGY.replace("row['prize']", "await better(row)").replace("from tasks", "from more import better\nfrom tasks");
    shell.write("flow.py", &fixed);
    let said = shell.durable(&["retry", "m-1", "--with", "flow.py"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "[10,2]\n"), "{}", said.err);
}

#[test]
fn a_fork_has_the_id_that_was_wished_and_is_begun_without_being_waited_for() {
    let shell = Shell::new();
    failed(&shell, "m-1");
    shell.write("fixed.py", &BUGGY.replace("prize", "price"));
    let said = shell.durable(&["fork", "m-1", "--with", "fixed.py", "--at", "1", "--dry-run"]);
    assert!(
        said.out.contains("a fork of execution m-1 would begin with fixed.py") && said.out.contains("pause 1"),
        "{}",
        said.out
    );
    let said = shell.durable(&["fork", "m-1", "--with", "fixed.py", "--id", "f-1", "--no-wait"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "f-1\n"), "{}", said.err);
    assert!(said.err.contains("durable resume f-1"), "{}", said.err);
    assert_eq!(shell.json(&["show", "f-1", "--json"])["status"], "waiting");
    let said = shell.durable(&["resume", "f-1"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "[1,2]\n"), "{}", said.err);
    let said = shell.durable(&["fork", "m-1", "--with", "fixed.py", "--id", "f-1"]);
    assert!(said.code == Some(2) && said.err.contains("f-1 exists already"), "{}", said.err);
    let said = shell.durable(&["fork", "m-1", "--with", "fixed.py", "--id", "f-2"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "[1,2]\n"), "{}", said.err);
    let told: Value = shell.json(&["fork", "m-1", "--with", "fixed.py", "--id", "f-3", "--no-wait", "--json"]);
    assert_eq!((&told["id"], &told["workflow"]), (&json!("f-3"), &json!("fixed.py")));
    assert_eq!(shell.json(&["show", "m-1", "--json"])["status"], "failed", "the first is left alone");
    assert_eq!(ran(&shell), "1\n2\n2\n");
}

/// The terminal is closed, the machine loses its power, at any moment: the code is the old or the new, with its state.
#[test]
fn a_mending_that_is_killed_has_happened_or_has_not() {
    let shell = Shell::new();
    shell.write("fixed.py", &BUGGY.replace("prize", "price"));
    failed(&shell, "k-0");
    let begun = Instant::now();
    assert_eq!(shell.durable(&["fork", "k-0", "--id", "k-00", "--no-wait"]).code, Some(0));
    let whole = begun.elapsed();
    let mut seen = [0, 0];
    for round in 1..=12 {
        let id = format!("k-{round}");
        let said = shell.durable(&["fork", "k-0", "--id", &id]);
        assert_eq!(said.code, Some(1), "{}", said.err);
        let mut mending = shell
            .command(&["retry", &id, "--with", "fixed.py"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * round / 8);
        mending.kill().unwrap();
        mending.wait().unwrap();
        let shown = shell.json(&["show", &id, "--json"]);
        let mended = shown["versions"].as_array().unwrap().len() == 2;
        assert_eq!(shown["workflow"], if mended { "fixed.py" } else { "flow.py" }, "{shown}");
        seen[usize::from(mended)] += 1;
        if !mended {
            assert_eq!(shown["status"], "failed", "{shown}");
        }
        let command = if mended { vec!["resume", &id] } else { vec!["retry", &id, "--with", "fixed.py"] };
        let said = shell.durable(&command);
        assert_eq!((said.code, said.out.as_str()), (Some(0), "[1,2]\n"), "{round}: {}", said.err);
    }
    assert!(seen[0] > 0, "killed before: {seen:?}");
    assert!(ran(&shell).starts_with("1\n") && !ran(&shell)[2..].contains('1'), "{}", ran(&shell));
}
