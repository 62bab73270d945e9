//! `durable check`.

use std::process::ExitCode;

use durable_core::{
    allow::{Allowed, Rights},
    interpreter::{CompileError, Entry, ParameterKind, Program},
};
use serde_json::{Value, json};

use crate::{
    args,
    failure::{WRONG, wrong},
    output::{line, note},
    sources,
};

/// Says what a workflow needs, or all that is wrong with it and where. Warnings are said, and leave it well.
pub(crate) fn check(args: &args::Check) -> anyhow::Result<ExitCode> {
    let file = args.file.display().to_string();
    let (name, source) = sources::read(&args.file)?;
    let mut found = sources::findings(&args.file, &name, &source, &[], &[]);
    if let Some(allow) = args.allow.lists()? {
        let allowed = Allowed::of(Some(allow), None).map_err(|invalid| wrong(invalid.to_string()))?;
        let rights = Rights { allowed: &allowed, ..Rights::all() };
        found.extend(sources::forbidden(&args.file, &name, &source, rights));
    }
    let (warnings, mistakes): (Vec<_>, Vec<_>) = found.iter().partition(|found| found.warning);
    if !args.json {
        found.iter().for_each(note);
    }
    let shown = |found: Vec<&CompileError>| found.into_iter().map(shown).collect::<Vec<_>>();
    let program = match mistakes.is_empty() {
        true => Some(Program::compile(&name, &source)?),
        false => None,
    };
    let functions: Vec<&String> = program.iter().flat_map(|program| program.served.keys()).collect();
    if args.json {
        let (errors, warnings) = (shown(mistakes), shown(warnings));
        let inputs = program.as_ref().map_or_else(Vec::new, inputs);
        line(json!({"file": file, "ok": errors.is_empty(), "inputs": inputs, "functions": functions,
                    "error": errors.first(), "errors": errors, "warnings": warnings}));
    } else if program.is_none() {
        note(format_args!("error: {file}: {} to mend", mistakes.len()));
    } else {
        let names: Vec<&str> = functions.iter().map(|name| name.as_str()).collect();
        let called = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        line(format_args!("{file}: ok; it imports {called}"));
    }
    Ok(if program.is_some() { ExitCode::SUCCESS } else { ExitCode::from(WRONG) })
}

fn inputs(program: &Program) -> Vec<Value> {
    match &program.entry {
        Entry::Main(parameters) => {
            parameters.iter().map(|p| json!({"name": p.name, "required": p.kind == ParameterKind::Required})).collect()
        }
        Entry::Script => Vec::new(),
    }
}

fn shown(found: &CompileError) -> Value {
    json!({"file": found.file, "line": found.line, "column": found.column, "type": found.kind,
           "message": found.message, "excerpt": found.excerpt, "hint": found.advice})
}
