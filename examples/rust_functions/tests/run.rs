//! The example, run as its README says.

use std::{path::Path, process::Command};

#[test]
fn rust_functions_answer_a_workflow() {
    let folder = tempfile::tempdir().unwrap();
    let workflow = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflow.py");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rust-functions"));
    let output = command.arg(workflow).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = "{\"words\":{\"be\":2,\"not\":1,\"or\":1,\"to\":2},\"checksum\":5318}\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{said}");
}
