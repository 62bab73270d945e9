//! What is told of a workflow's text before anything runs.

use durable_core::interpreter::{CompileError, Known, check};

fn found(source: &str) -> Vec<CompileError> {
    check("w.py", source, &Known::NOTHING)
}

#[test]
fn scratch() {
    for folder in ["../../examples", "../../python/tests/workflows"] {
        let mut open = vec![std::path::PathBuf::from(folder)];
        while let Some(at) = open.pop() {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { open.push(path); continue; }
                if path.extension().is_some_and(|e| e == "py") && !path.ends_with("tasks.py") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    for f in found(&text) { println!("{}: {f}", path.display()); }
                }
            }
        }
    }
    for (i, block) in include_str!("../../../../docs/workflows.md").split("```python\n").skip(1).enumerate() {
        for f in found(block.split("```").next().unwrap()) { println!("doc {i}: {f}"); }
    }
    println!("=====");
    let bad = std::fs::read_to_string("/tmp/chk/bad.py").unwrap();
    for f in found(&bad) { println!("{f}"); }
}
