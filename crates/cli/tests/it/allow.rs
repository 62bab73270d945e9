//! What a workflow may do, as people say it.

use crate::Shell;

const FLOW: &str = "from tasks import double, pay

async def main():
    try:
        await pay(1)
    except PermissionError:
        return await double(2)
";

fn shell() -> Shell {
    let shell = Shell::new();
    shell.write("flow.py", FLOW);
    shell.write("tasks.py", "def double(n):\n    return 2 * n\n\ndef pay(n):\n    return 'paid'\n");
    shell
}

#[test]
fn a_run_may_do_only_what_its_options_name() {
    let shell = shell();
    assert_eq!(shell.output_of(&["run", "flow.py", "--id", "r", "--allow-function", "tasks.double"]), 4);
    assert!(shell.durable(&["show", "r"]).out.contains("may use    functions: tasks.double"));
    let said = shell.durable(&["run", "flow.py", "--id", "n", "--allow-function="]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("PermissionError") && said.err.contains("no function"), "{}", said.err);
    let said = shell.durable(&["run", "flow.py", "--allow-function", "tasks .f"]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("names no function"), "{}", said.err);
}

#[test]
fn a_check_with_the_same_options_tells_what_would_be_refused() {
    let shell = shell();
    let said = shell.durable(&["check", "flow.py", "--allow-function", "tasks.double"]);
    assert_eq!(said.code, Some(2), "{}", said.out);
    assert!(said.err.contains("flow.py:5:15: PermissionError: tasks.pay may not be called"), "{}", said.err);
    assert_eq!(shell.durable(&["check", "flow.py", "--allow-function", "tasks.*"]).code, Some(0));
    assert_eq!(shell.durable(&["check", "flow.py"]).code, Some(0));
}
