//! `durable check`.

use std::process::ExitCode;

use durable_core::interpreter::{CompileError, Entry, ParameterKind};
use serde_json::{Value, json};

use crate::{
    args,
    failure::WRONG,
    output::{line, note},
    sources,
};

/// Compiles a workflow and says what it needs, or what is wrong with it and where.
pub(crate) fn check(args: &args::Check) -> anyhow::Result<ExitCode> {
    let file = args.file.display().to_string();
    match sources::compile(&args.file) {
        Ok(program) if !program.mistakes().is_empty() => {
            let mistakes = program.mistakes();
            if args.json {
                let found: Vec<Value> = mistakes.iter().map(shown).collect();
                line(
                    json!({"file": file, "ok": false, "inputs": [], "functions": [], "error": found[0], "errors": found}),
                );
            } else {
                mistakes.iter().for_each(note);
                note(format_args!("error: {file}: {} to mend", mistakes.len()));
            }
            Ok(ExitCode::from(WRONG))
        }
        Ok(program) => {
            let functions: Vec<&String> = program.served.keys().collect();
            let inputs = match &program.entry {
                Entry::Main(parameters) => parameters
                    .iter()
                    .map(|p| json!({"name": p.name, "required": p.kind == ParameterKind::Required}))
                    .collect(),
                Entry::Script => Vec::new(),
            };
            if args.json {
                line(
                    json!({"file": file, "ok": true, "inputs": inputs, "functions": functions, "error": null, "errors": []}),
                );
            } else {
                let names: Vec<&str> = functions.iter().map(|name| name.as_str()).collect();
                let called = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                line(format_args!("{file}: ok; it imports {called}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if args.json && error.is::<CompileError>() => {
            let found = error.downcast_ref::<CompileError>().map_or(Value::Null, shown);
            let all = [found.clone()];
            line(json!({"file": file, "ok": false, "inputs": [], "functions": [], "error": found, "errors": all}));
            Ok(ExitCode::from(WRONG))
        }
        Err(error) => Err(error),
    }
}

fn shown(found: &CompileError) -> Value {
    json!({"file": found.file, "line": found.line, "column": found.column, "type": found.kind,
           "message": found.message, "excerpt": found.excerpt, "hint": found.advice})
}
