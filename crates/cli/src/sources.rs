//! What the user points at: workflow files, function files, inputs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use durable_core::{
    allow::Rights,
    interpreter::{CompileError, Known, Program, children::bundle, value},
    model::Files,
    offers::Offers,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{args::Functions, failure::wrong};

/// Reads and compiles a workflow; mistakes that can be seen are refused.
pub(crate) fn program(file: &Path) -> anyhow::Result<Workflow> {
    program_with(file, &[], &[])
}

/// The same, with functions from these files and modules.
pub(crate) fn program_with(file: &Path, files: &[PathBuf], modules: &[String]) -> anyhow::Result<Workflow> {
    let (name, source) = read(file)?;
    match findings(file, &name, &source, files, modules).into_iter().find(|found| !found.warning) {
        None => Workflow::of(file, &name, &source),
        Some(mistake) => Err(mistake.into()),
    }
}

/// Everything that is wrong with a workflow, or may be. Its functions are those of `files` and `modules`, or of the files
/// beside it.
pub(crate) fn findings(
    file: &Path,
    name: &str,
    source: &str,
    files: &[PathBuf],
    modules: &[String],
) -> Vec<CompileError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let beside = |module: &str| folder.join(format!("{module}.py")).is_file() || folder.join(module).is_dir();
    let given = |module: &str| {
        files.iter().any(|file| file.file_stem().is_some_and(|stem| stem == module))
            || modules.iter().any(|known| known.split('.').next() == Some(module))
    };
    let defines = |text: &str, name: &str| {
        text.lines().any(|line| {
            let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("def ");
            rest.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with(['(', ' ', '[']))
        })
    };
    let function = |name: &str| {
        let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
        texts.into_iter().any(|text| defines(&text, name))
    };
    let known = Known {
        module: &|module| beside(module) || given(module),
        function: &function,
        file: &|path| read_beside(file, path),
    };
    durable_core::interpreter::check(name, source, &known)
}

/// What it would do that it may not, as far as its text tells.
pub(crate) fn forbidden(file: &Path, name: &str, source: &str, rights: Rights<'_>) -> Vec<CompileError> {
    let known = Known { file: &|path| read_beside(file, path), ..Known::NOTHING };
    durable_core::interpreter::forbidden(name, source, &known, rights)
}

/// A workflow that compiles, with the files beside it that its children run.
pub(crate) struct Workflow {
    pub(crate) program: Arc<Program>,
    pub(crate) files: Files,
}

impl Workflow {
    pub(crate) fn of(file: &Path, name: &str, source: &str) -> anyhow::Result<Self> {
        let program = Arc::new(Program::compile(name, source)?);
        Ok(Self { program, files: bundle(name, source, |path| read_beside(file, path)) })
    }

    /// As a request to a server.
    pub(crate) fn request(&self) -> Value {
        let mut request = json!({"name": self.program.name, "source": self.program.source});
        if !self.files.is_empty() {
            request["files"] = json!(self.files);
        }
        request
    }

    /// All that is run: the workflow, and what its children run.
    fn programs(&self) -> anyhow::Result<Vec<Arc<Program>>> {
        let mut all = vec![self.program.clone()];
        for (file, text) in self.files.iter().filter(|(file, _)| **file != self.program.file) {
            all.push(Arc::new(Program::compile(file, text)?));
        }
        Ok(all)
    }
}

/// The text of a file beside a workflow.
fn read_beside(workflow: &Path, path: &str) -> Option<String> {
    let folder = workflow.parent().unwrap_or(Path::new("."));
    std::fs::read_to_string(folder.join(path)).ok()
}

/// A workflow's name and text.
pub(crate) fn read(file: &Path) -> anyhow::Result<(String, String)> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| wrong(format!("cannot read the workflow {shown}: {error}")))?;
    let source = String::from_utf8(bytes)
        .map_err(|error| wrong(format!("{shown} is not UTF-8 (byte {})", error.utf8_error().valid_up_to())))?;
    let name = file.file_name().map_or_else(|| "workflow.py".into(), |name| name.to_string_lossy().into_owned());
    Ok((name, source))
}

/// Where an execution's functions come from; kept with it, so that it can be resumed by its id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) python: PathBuf,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) modules: Vec<String>,
    /// Where the functions run.
    pub(crate) directory: PathBuf,
}

impl Launch {
    /// What the options say, or else the files beside the workflow that it imports.
    pub(crate) fn find(file: &Path, workflow: &Workflow, options: &Functions) -> anyhow::Result<Self> {
        let mut launch = Self {
            python: options.python.clone(),
            files: Vec::new(),
            modules: Vec::new(),
            directory: std::env::current_dir()?,
        };
        if !launch.take(options)? {
            launch.files = files_beside(file, workflow)?;
        }
        Ok(launch)
    }

    /// Replaces the functions by those that the options name, if they name any.
    pub(crate) fn take(&mut self, options: &Functions) -> anyhow::Result<bool> {
        if options.files.is_empty() && options.modules.is_empty() {
            return Ok(false);
        }
        if let Some(missing) = options.files.iter().find(|file| !file.is_file()) {
            return Err(wrong(format!("there is no file of functions {}", missing.display())));
        }
        self.files = options.files.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
        self.modules.clone_from(&options.modules);
        Ok(true)
    }
}

impl Launch {
    /// The same with the files beside mended code that it imports, where no file or module of that name is taken already.
    pub(crate) fn with_code(&mut self, file: &Path, workflow: &Workflow) -> anyhow::Result<()> {
        for file in files_beside(file, workflow)? {
            let stem = file.file_stem();
            let known = self.files.iter().any(|known| known.file_stem() == stem)
                || self.modules.iter().any(|module| Some(module.as_ref()) == stem);
            if !known {
                self.files.push(file);
            }
        }
        Ok(())
    }
}

fn files_beside(file: &Path, workflow: &Workflow) -> anyhow::Result<Vec<PathBuf>> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut files: Vec<PathBuf> = Vec::new();
    for program in workflow.programs()? {
        let named = program.served.keys().filter_map(|dotted| Some(dotted.rsplit_once('.')?.0));
        for module in named.chain(program.modules()) {
            let file = std::path::absolute(folder.join(format!("{module}.py")))?;
            if file.is_file() && !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// Refuses a workflow that imports functions which nobody offers.
pub(crate) fn check_functions(workflow: &Workflow, offers: &Offers) -> anyhow::Result<()> {
    for program in workflow.programs()? {
        if let Some((name, line)) = program.served.iter().find(|(name, _)| !offers.offers(name)) {
            let file = &program.file;
            return Err(wrong(format!("{file}:{line}: nobody offers the function {name}: {}", offers.hint(name))));
        }
    }
    Ok(())
}

/// A JSON value that was given as an argument; `before` and `write` say where.
pub(crate) fn json(text: &str, before: &str, write: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        let hint = match error.is_syntax() && !is_too_deep(&error) {
            true => format!("\nhint: a text needs quotes: {write}'{}'", shortened(&Value::from(text).to_string())),
            false => String::new(),
        };
        wrong(format!("{before}{}{hint}", not_json(&shortened(text), &error)))
    })
}

/// Nesting that is too deep is no mistake in the text.
fn not_json(what: &str, error: &serde_json::Error) -> String {
    match is_too_deep(error) {
        true => format!("{what} is nested too deeply: at most {} levels are taken", value::MAX_DEPTH),
        false => format!("{what} is not JSON ({error})"),
    }
}

fn is_too_deep(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("recursion limit")
}

/// What people wrote, as far as it has to be shown.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 200;
    let end = text.floor_char_boundary(SHOWN);
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}

/// The inputs: a file's, overridden by single ones.
pub(crate) fn inputs(single: &[String], file: Option<&Path>) -> anyhow::Result<Map<String, Value>> {
    let mut inputs = match file {
        None => Map::new(),
        Some(file) => {
            let shown = file.display();
            let read = if file == Path::new("-") {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(file)
            };
            let text = read.map_err(|error| wrong(format!("cannot read the inputs {shown}: {error}")))?;
            match serde_json::from_str(&text) {
                Ok(Value::Object(object)) => object,
                Ok(_) => return Err(wrong(format!("{shown} does not hold a JSON object of inputs by name"))),
                Err(error) => return Err(wrong(not_json(&shown.to_string(), &error))),
            }
        }
    };
    for input in single {
        let (name, text) = input
            .split_once('=')
            .ok_or_else(|| wrong(format!("--input {input}: write it as name=JSON, for example count=3")))?;
        let value = json(text, &format!("--input {name}: "), &format!("--input {name}="))?;
        inputs.insert(name.to_owned(), value);
    }
    Ok(inputs)
}
