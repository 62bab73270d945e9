//! `durable check`.

use std::process::ExitCode;

use durable_core::interpreter::{CompileError, Entry, ParameterKind};
use serde_json::{Value, json};

use crate::{args, failure::WRONG, output::line, sources};

/// Compiles a workflow and says what it needs, or what is wrong with it and where.
pub(crate) fn check(args: &args::Check) -> anyhow::Result<ExitCode> {
    let file = args.file.display().to_string();
    match sources::program(&args.file) {
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
                line(json!({"file": file, "ok": true, "inputs": inputs, "functions": functions, "error": null}));
            } else {
                let names: Vec<&str> = functions.iter().map(|name| name.as_str()).collect();
                let called = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                line(format_args!("{file}: ok; it imports {called}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if args.json && error.is::<CompileError>() => {
            let found = error.downcast_ref::<CompileError>().map_or(Value::Null, |found| {
                json!({"file": found.file, "line": found.line, "column": found.column, "type": found.kind,
                       "message": found.message, "excerpt": found.excerpt, "hint": found.advice})
            });
            line(json!({"file": file, "ok": false, "inputs": [], "functions": [], "error": found}));
            Ok(ExitCode::from(WRONG))
        }
        Err(error) => Err(error),
    }
}
