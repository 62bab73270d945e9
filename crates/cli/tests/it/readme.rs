//! The quickstart, as it stands in the README.

use serde_json::json;

use crate::Shell;

#[test]
fn the_quickstart_does_what_it_says() {
    let readme = include_str!("../../../../README.md");
    let blocks: Vec<&str> = readme.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let shell = Shell::new();
    shell.write("workflow.py", blocks[0]);
    shell.write("tasks.py", blocks[1]);
    let output = shell.output_of(&["run", "workflow.py", "--input", r#"items=["tea", "milk"]"#, "--id", "quick"]);
    assert_eq!(output, json!({"tea": 4.5, "milk": 1.2}));
    assert!(readme.contains(&format!("$ durable run workflow.py --input items='[\"tea\", \"milk\"]'\n{output}\n")));
    assert!(shell.durable(&["logs", "quick"]).out.contains("to me: {'tea': 4.5, 'milk': 1.2}"));
}
