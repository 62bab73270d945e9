//! What the user points at: workflow files, function files, inputs.

use std::path::{Path, PathBuf};

use durable_core::{
    interpreter::Program,
    offers::Offers,
};
use serde_json::{Map, Value};

use crate::{args::Functions, failure::wrong};

/// Reads and compiles a workflow.
pub(crate) fn program(file: &Path) -> anyhow::Result<Program> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| wrong(format!("cannot read the workflow {shown}: {error}")))?;
    let source = String::from_utf8(bytes)
        .map_err(|error| wrong(format!("{shown} is not UTF-8 (byte {})", error.utf8_error().valid_up_to())))?;
    let name = file.file_name().map_or_else(|| "workflow.py".into(), |name| name.to_string_lossy().into_owned());
    Ok(Program::compile(&name, &source)?)
}

/// The files of functions: those that were named, or those beside the workflow that it imports.
pub(crate) fn function_files(workflow: &Path, program: &Program, named: &Functions) -> anyhow::Result<Vec<PathBuf>> {
    if !named.files.is_empty() || !named.modules.is_empty() {
        if let Some(missing) = named.files.iter().find(|file| !file.is_file()) {
            return Err(wrong(format!("there is no file of functions {}", missing.display())));
        }
        return named.files.iter().map(|file| Ok(std::path::absolute(file)?)).collect();
    }
    let folder = workflow.parent().unwrap_or(Path::new("."));
    let mut files: Vec<PathBuf> = Vec::new();
    for module in program.served.keys().filter_map(|dotted| dotted.rsplit_once('.')).map(|(module, _)| module) {
        let file = folder.join(format!("{module}.py"));
        if file.is_file() && !files.contains(&file) {
            files.push(std::path::absolute(file)?);
        }
    }
    Ok(files)
}

/// Refuses a workflow that imports functions which nobody offers.
pub(crate) fn check_functions(program: &Program, offers: &Offers) -> anyhow::Result<()> {
    let unknown = program.served.iter().find(|(name, _)| !offers.offers(name));
    match unknown {
        None => Ok(()),
        Some((name, line)) => {
            let file = &program.name;
            Err(wrong(format!("{file}:{line}: nobody offers the function {name}: {}", offers.hint(name))))
        }
    }
}

/// The inputs: a file's, overridden by single ones.
pub(crate) fn inputs(single: &[String], file: Option<&Path>) -> anyhow::Result<Map<String, Value>> {
    let mut inputs = match file {
        None => Map::new(),
        Some(file) => {
            let shown = file.display();
            let text = std::fs::read_to_string(file)
                .map_err(|error| wrong(format!("cannot read the inputs {shown}: {error}")))?;
            match serde_json::from_str(&text) {
                Ok(Value::Object(object)) => object,
                Ok(_) => return Err(wrong(format!("{shown} does not hold a JSON object of inputs by name"))),
                Err(error) => return Err(wrong(format!("{shown} is not JSON: {error}"))),
            }
        }
    };
    for input in single {
        let (name, text) = input
            .split_once('=')
            .ok_or_else(|| wrong(format!("--input {input}: write it as name=JSON, for example count=3")))?;
        let value = serde_json::from_str(text).map_err(|error| {
            let quoted = Value::from(text);
            wrong(format!("--input {name}: {text} is not JSON ({error})\nhint: a text needs quotes: --input {name}='{quoted}'"))
        })?;
        inputs.insert(name.to_owned(), value);
    }
    Ok(inputs)
}
