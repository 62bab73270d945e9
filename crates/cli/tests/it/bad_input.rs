//! What goes wrong, and what is said then.

use durable_testing::Postgres;

use crate::Shell;

/// The command's exit code, and that its message has all these parts.
fn refused(shell: &Shell, args: &[&str], code: i32, parts: &[&str]) {
    let said = shell.durable(args);
    assert_eq!(said.code, Some(code), "{args:?}: {}{}", said.out, said.err);
    assert_eq!(said.out, "", "{args:?}: nothing on stdout");
    for part in parts {
        assert!(said.err.contains(part), "{args:?}: {part:?} is not in\n{}", said.err);
    }
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

fn with(name: &str, text: &str) -> Shell {
    let shell = Shell::new();
    shell.write(name, text);
    shell.write("tasks.py", "def encode_video(path): return path\ndef create_playlist(files): return files\n");
    shell
}

#[test]
fn a_file_that_is_not_there_or_not_text() {
    let shell = Shell::new();
    refused(&shell, &["run", "nowhere.py"], 2, &["cannot read the workflow nowhere.py", "No such file"]);
    std::fs::write(shell.path().join("binary.py"), [0x66, 0xff, 0xfe]).unwrap();
    refused(&shell, &["run", "binary.py"], 2, &["binary.py is not UTF-8 (byte 1)"]);
    refused(&shell, &["run", "."], 2, &["cannot read the workflow"]);
}

#[test]
fn a_syntax_error_has_its_line_and_a_caret() {
    let shell = with("flow.py", "async def main():\n    return (1,\n");
    refused(&shell, &["run", "flow.py"], 2, &["flow.py:", "SyntaxError", "^"]);
    refused(&shell, &["check", "flow.py"], 2, &["SyntaxError", "^"]);
    let checked = shell.json(&["check", "flow.py", "--json"]);
    assert_eq!(checked["ok"], false);
    assert_eq!(checked["error"]["type"], "SyntaxError");
}

#[test]
fn syntax_that_is_not_supported_says_what_to_write_instead() {
    let shell = with("flow.py", "def main():\n    yield 1\n");
    refused(&shell, &["run", "flow.py"], 2, &["flow.py:2:", "    yield 1\n", "^", "hint: build and return a list"]);
    let shell = with("flow.py", "class Mine(Exception):\n    pass\n");
    refused(&shell, &["check", "flow.py"], 2, &["flow.py:1:", "^", "hint: write a plain class"]);
}

#[test]
fn check_tells_everything_at_once_and_a_warning_refuses_nothing() {
    let text = "import durable\nfrom dataclasses import asdict\nfrom zoneinfo import ZoneInfo\n\nclass Mine(ValueError):\n    pass\n\n\
                async def main():\n    waited = durable.wait_signal('x')\n    return totl\n";
    let shell = with("flow.py", text);
    refused(
        &shell,
        &["check", "flow.py"],
        2,
        &["flow.py:2:", "flow.py:3:", "flow.py:5:", "flow.py:9:14: warning: ", "flow.py:10:", "4 to mend"],
    );
    let checked = shell.json(&["check", "flow.py", "--json"]);
    let lines: Vec<_> = checked["errors"].as_array().unwrap().iter().map(|error| error["line"].as_i64()).collect();
    assert_eq!(lines, [Some(2), Some(3), Some(5), Some(10)]);
    assert_eq!(checked["warnings"][0]["line"], 9);
    refused(&shell, &["run", "flow.py"], 2, &["flow.py:2:", "dataclasses has no asdict"]);
    shell.write("flow.py", "import durable\nasync def main():\n    waited = durable.wait_signal('x')\n    return 1\n");
    assert_eq!(shell.durable(&["check", "flow.py"]).code, Some(0));
    assert_eq!(shell.output_of(&["run", "flow.py"]), 1);
}

#[test]
fn a_name_of_the_standard_library_means_no_functions() {
    let shell = with("flow.py", "from calendar import book\nasync def main():\n    return await book(2)\n");
    refused(&shell, &["run", "flow.py"], 2, &["flow.py:1:", "a workflow has no module calendar"]);
    shell.write("calendar.py", "def book(n): return n\n");
    refused(&shell, &["run", "flow.py"], 2, &["calendar.py would stand in for Python's own module", "rename the file"]);
}

#[test]
fn a_function_is_called_by_a_name_that_is_an_input() {
    let shell = with("flow.py", "");
    shell.write("flow.py", "import tasks\nasync def main(name):\n    return await getattr(tasks, name)('a')\n");
    assert_eq!(shell.output_of(&["run", "flow.py", "--input", "name=\"encode_video\""]), "a");
    refused(
        &shell,
        &["run", "flow.py", "--input", "name=\"nope\""],
        1,
        &["AttributeError: module 'tasks' has no attribute 'nope'", "line 3, in main"],
    );
}

#[test]
fn an_unknown_function_is_answered_with_near_names() {
    let shell =
        with("flow.py", "from tasks import encode_vidio\nasync def main():\n    return await encode_vidio(1)\n");
    refused(
        &shell,
        &["run", "flow.py"],
        2,
        &["flow.py:1: nobody offers the function tasks.encode_vidio", "did you mean tasks.encode_video?"],
    );
    let shell = Shell::new();
    shell.write("flow.py", "from jobs import x\nasync def main():\n    return await x(1)\n");
    refused(&shell, &["run", "flow.py"], 2, &["jobs.x", "no functions are offered: name a file with --functions"]);
    let shell = with("flow.py", "async def main():\n    return await encode_vidio(1)\n");
    refused(
        &shell,
        &["run", "flow.py", "--functions", "tasks.py"],
        1,
        &["NameError: name 'encode_vidio' is not defined", "did you mean tasks.encode_video?"],
    );
    refused(&shell, &["run", "flow.py", "--functions", "none.py"], 2, &["there is no file of functions none.py"]);
}

#[test]
fn functions_that_cannot_be_imported() {
    let shell = Shell::new();
    shell.write("flow.py", "from tasks import x\nasync def main():\n    return await x(1)\n");
    shell.write("tasks.py", "import nowhere_to_be_found\n");
    refused(&shell, &["run", "flow.py"], 2, &["ModuleNotFoundError", "tasks.py\", line 1"]);
    shell.write("tasks.py", "def x(a): return a\n");
    refused(&shell, &["run", "flow.py", "--python", "no-such-python"], 2, &["cannot start no-such-python"]);
    refused(&shell, &["run", "flow.py", "-m", "no_such_module"], 2, &["no_such_module"]);
}

#[test]
fn inputs_that_are_wrong_or_missing() {
    let shell = with("flow.py", "def main(order, size=1):\n    return order\n");
    let run = |input: &'static str| vec!["run", "flow.py", "--input", input];
    refused(&shell, &["run", "flow.py"], 2, &["missing input \"order\": give it with --input order=JSON"]);
    refused(&shell, &run("order=abc"), 2, &["--input order: abc is not JSON", "--input order='\"abc\"'"]);
    refused(&shell, &run("order"), 2, &["write it as name=JSON"]);
    refused(&shell, &run("ordr=1"), 2, &["flow.py has no input \"ordr\": it takes order, size"]);
    shell.write("list.json", "[1]");
    refused(&shell, &["run", "flow.py", "--inputs", "list.json"], 2, &["list.json does not hold a JSON object"]);
    shell.write("broken.json", "{\"a\": }");
    refused(&shell, &["run", "flow.py", "--inputs", "broken.json"], 2, &["broken.json is not JSON", "line 1 column 7"]);
    refused(&shell, &["run", "flow.py", "--inputs", "none.json"], 2, &["cannot read the inputs none.json"]);
    refused(&shell, &["run", "flow.py", "--id", "a b"], 2, &["\"a b\" is not an execution id"]);
}

#[test]
fn json_that_is_nested_too_deeply_is_called_so() {
    let shell = with("flow.py", "def main(order):\n    return order\n");
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    let says = |args: &[&str]| {
        let said = shell.durable(args);
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains("is nested too deeply: at most 100 levels"), "{}", said.err);
        assert!(!said.err.contains("not JSON") && said.err.len() < 500, "{}", said.err);
    };
    says(&["run", "flow.py", "--input", &format!("order={deep}")]);
    shell.write("deep.json", &format!("{{\"order\": {deep}}}"));
    says(&["run", "flow.py", "--inputs", "deep.json"]);
    says(&["signal", "some-id", "name", &deep]);
    says(&["fork", "some-id", "--set", &format!("1={deep}")]);
}

#[test]
fn an_exception_of_fifty_megabytes_is_shown_with_its_first_and_last_part() {
    let shell = with("flow.py", "from tasks import shout\nasync def main():\n    await shout(50)\n");
    shell.write(
        "tasks.py",
        "import durable\n@durable.function(retries=1, backoff='10ms')\ndef shout(n):\n    raise ValueError('begin' + 'x' * (n << 20) + 'end')\n",
    );
    let said = shell.durable(&["run", "flow.py"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.len() < 256 << 10, "{} bytes", said.err.len());
    assert!(said.err.contains("ValueError: begin") && said.err.contains("bytes were cut here"), "{}", said.err);
    let database: u64 = ["durable.db", "durable.db-wal"]
        .iter()
        .filter_map(|name| std::fs::metadata(shell.path().join(name)).ok())
        .map(|file| file.len())
        .sum();
    assert!(database < 4 << 20, "{database} bytes");
}

#[test]
fn an_argument_that_cannot_be_sent_fails_the_execution_with_its_place() {
    let shell = with(
        "flow.py",
        "from tasks import encode_video\nasync def main():\n    return await encode_video(lambda: 1)\n",
    );
    refused(&shell, &["run", "flow.py"], 1, &["TypeError: tasks.encode_video: argument 1", "line 3, in main"]);
}

#[test]
fn a_database_that_is_wrong_or_away() {
    let shell = with("flow.py", "def main():\n    return 1\n");
    let run = |url: &'static str| vec!["run", "flow.py", "--db", url];
    refused(&shell, &run("mydata"), 2, &["\"mydata\" names no database", "sqlite://PATH"]);
    refused(&shell, &run("mysql://u:geheim@h/d"), 2, &["names no database", "mysql://u:***@h/d"]);
    refused(&shell, &run("sqlite:///nowhere/x.db"), 3, &["cannot open the database", "unable to open database file"]);
    refused(&shell, &run("postgres://u:geheim@127.0.0.1:1/d"), 3, &["u:***@127.0.0.1:1", "Connection refused"]);
    shell.write("text.db", &"not a database at all ".repeat(100));
    refused(&shell, &run("text.db"), 3, &["file is not a database"]);
}

#[test]
fn a_password_is_shown_nowhere() {
    let shell = with("flow.py", "def main():\n    return 1\n");
    for url in ["mysql://u:geheim@h/d", "postgres://u:geheim@127.0.0.1:1/d"] {
        let said = shell.durable(&["run", "flow.py", "--db", url]);
        assert!(!said.err.contains("geheim"), "{}", said.err);
    }
}

#[test]
fn a_database_of_a_newer_version() {
    let shell = with("flow.py", "def main():\n    return 1\n");
    assert_eq!(shell.durable(&["run", "flow.py"]).code, Some(0));
    let sql = "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')";
    let python = format!("import sqlite3; c = sqlite3.connect('durable.db'); c.execute(\"{sql}\"); c.commit()");
    let done = std::process::Command::new("python3").args(["-c", &python]).current_dir(shell.path()).status().unwrap();
    assert!(done.success());
    refused(&shell, &["run", "flow.py"], 3, &["newer version", "29990101000000"]);
    refused(&shell, &["list"], 3, &["newer version"]);
}

#[test]
fn a_snapshot_with_a_flipped_byte_is_refused() {
    let shell = Shell::new();
    shell.write("flow.py", "import asyncio\nasync def main():\n    await asyncio.sleep(3600)\n");
    let mut run = shell.command(&["run", "flow.py", "--id", "s1"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !shell.durable(&["show", "s1", "--json"]).out.contains("\"calls\":[{") {
        assert!(std::time::Instant::now() < deadline);
    }
    run.kill().unwrap();
    run.wait().unwrap();
    let python = "
import sqlite3
c = sqlite3.connect('durable.db')
(snapshot,) = c.execute('SELECT snapshot FROM executions').fetchone()
changed = bytearray(snapshot)
changed[len(changed) // 2] ^= 1
c.execute('UPDATE executions SET snapshot = ?', (bytes(changed),))
c.execute('UPDATE calls SET due_at = 0')
c.commit()
";
    let done = std::process::Command::new("python3").args(["-c", python]).current_dir(shell.path()).status().unwrap();
    assert!(done.success());
    refused(&shell, &["resume", "s1"], 1, &["durable.StateError", "does not match its checksum", "It was not loaded"]);
}

#[test]
fn a_workflow_that_never_ends_its_turn() {
    let shell = with("flow.py", "def main():\n    while True:\n        pass\n");
    refused(&shell, &["run", "flow.py"], 1, &["TimeoutError", "time limit", "hint: a workflow only decides"]);
}

#[test]
fn a_workflow_that_recurses_for_ever() {
    let shell = with("flow.py", "def main():\n    return main()\n");
    refused(&shell, &["run", "flow.py"], 1, &["RecursionError", "hint: move deep recursion"]);
}

#[test]
fn a_workflow_that_allocates_ten_gigabytes() {
    for code in ["'a' * 10**10", "[0] * 10**10", "bytes(10**11)", "1 << 10**12"] {
        let shell = with("flow.py", &format!("def main():\n    return len({code})\n"));
        refused(&shell, &["run", "flow.py"], 1, &["MemoryError"]);
    }
    let growing = "def main():\n    text = 'x' * 1000\n    while True:\n        text = text + text\n";
    let shell = with("flow.py", growing);
    refused(&shell, &["run", "flow.py"], 1, &["MemoryError"]);
}

#[test]
fn an_id_that_belongs_to_another_workflow() {
    let shell = with("flow.py", "def main():\n    return 1\n");
    shell.write("other.py", "def main():\n    return 2\n");
    assert_eq!(shell.durable(&["run", "flow.py", "--id", "x"]).code, Some(0));
    refused(&shell, &["run", "other.py", "--id", "x"], 2, &["execution x exists already, of another workflow"]);
}

#[test]
fn the_command_line_itself() {
    let shell = Shell::new();
    refused(&shell, &["rnu"], 2, &["unrecognized subcommand 'rnu'"]);
    refused(&shell, &["run", "x.py", "--concurrency", "0"], 2, &["0 is not in 1..=1024"]);
    refused(&shell, &["list", "--status", "odd"], 2, &["\"odd\" is no ExecutionStatus"]);
}

#[test]
fn the_same_commands_work_on_postgres() {
    let shell =
        with("flow.py", "from tasks import encode_video\nasync def main():\n    return await encode_video('a')\n");
    let durable_core::store::DatabaseUrl::Postgres(url) = Postgres::shared().database() else { panic!() };
    assert_eq!(shell.output_of(&["run", "flow.py", "--db", &url, "--id", "p1"]), "a");
    assert_eq!(shell.json(&["calls", "p1", "--db", &url, "--json"])[0]["result"], "a");
    assert!(!shell.path().join("durable.db").exists());
}
