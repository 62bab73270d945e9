//! A workflow file, read once: where its lines are, what it imports, how it begins.

use std::collections::{BTreeMap, BTreeSet};

use monty::MontyRun;
use monty_types::{CompileOptions, MontyException, MontyObject, StackFrame};
use ruff_text_size::{TextRange, TextSize};

use super::{
    children::{self, Children},
    compile_error::{CompileError, line_at, line_starts},
    entry::{self, Entry, INPUTS, InputError, ParameterKind},
    handlers,
    imports::Imports,
    lint, prelude, thread, tries, value,
};
use crate::{allow::Rights, model::Json};

/// Longest file name.
const MAX_NAME: usize = 255;

/// A workflow that compiles.
#[derive(Debug)]
pub struct Program {
    /// What executions of it are called: its file, and the function that it begins with if that is not `main`,
    /// `report.py:resize`.
    pub name: String,
    /// The file name shown in tracebacks.
    pub file: String,
    /// The file's text, as the user wrote it.
    pub source: String,
    /// Identifies the text: hexadecimal BLAKE3.
    pub hash: String,
    /// What is really compiled: the text with its entry call, on the same lines.
    prepared: String,
    /// The modules of the prelude that it imports, as text to be run first; empty when there are none.
    pub(super) prelude: String,
    /// How far the text is shifted by the line that stands before it: in bytes.
    shift: u32,
    /// Byte offset at which each line starts.
    line_starts: Vec<u32>,
    /// How it begins.
    pub entry: Entry,
    /// Dotted names of everything imported from modules that the host serves, with the line of
    /// their first mention: `tasks.encode`.
    pub served: BTreeMap<String, u32>,
    /// Whether anything in it sees exceptions on their way.
    pub(super) has_handlers: bool,
    /// Whether it awaits anything while an exception is handled.
    pub(super) awaits_in_handlers: bool,
    /// The modules that the host serves, dotted.
    modules: BTreeSet<String>,
    /// Dotted names of functions of files beside that it imports as children: `child.main`.
    children: BTreeSet<String>,
    /// Its own functions, each with why it cannot be a child, if it starts children.
    functions: BTreeMap<String, Option<String>>,
}

/// What whoever submits a workflow knows of the functions that there are.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Whether there is a module of functions of that name, although Python has one too.
    pub module: &'a (dyn Fn(&str) -> bool + Sync),
    /// Whether there is a function that the workflow may call by its bare name.
    pub function: &'a (dyn Fn(&str) -> bool + Sync),
    /// The text of a file beside the workflow, by its path from there.
    pub file: &'a (dyn Fn(&str) -> Option<String> + Sync),
}

impl Known<'_> {
    /// No functions are known.
    pub const NOTHING: Self = Self { module: &|_| false, function: &|_| false, file: &|_| None };
}

/// Everything that is wrong with a workflow's text, or may be, in the order of its lines; then what is with the files beside
/// it that its children run. Empty for one that is well.
pub fn check(name: &str, source: &str, known: &Known<'_>) -> Vec<CompileError> {
    let files = children::bundle(name, source, known.file);
    let mut found = check_file(name, source, known);
    let own = entry::split_name(name).0;
    found.extend(files.iter().filter(|(file, _)| *file != own).flat_map(|(file, text)| check_file(file, text, known)));
    found
}

/// What a workflow, or the files beside it that its children run, would do and may not, as far as their texts tell.
pub fn forbidden(name: &str, source: &str, known: &Known<'_>, rights: Rights<'_>) -> Vec<CompileError> {
    let files = children::bundle(name, source, known.file);
    let own = entry::split_name(name).0;
    thread::on_big_stack(|| {
        let mut found = lint::rights::forbidden(name, source, rights);
        let others = files.iter().filter(|(file, _)| *file != own);
        found.extend(others.flat_map(|(file, text)| lint::rights::forbidden(file, text, rights)));
        found
    })
}

pub(super) fn check_file(name: &str, source: &str, known: &Known<'_>) -> Vec<CompileError> {
    thread::on_big_stack(|| {
        let refused = Program::compile_here(name, source).err();
        // What is nested too deeply cannot be read.
        if let Some(refused) = refused.as_ref().filter(|refused| refused.message.contains("deeply nested")) {
            return vec![refused.clone()];
        }
        let mut found = lint::findings(name, source, known);
        found.extend(refused.filter(|refused| {
            let told = |found: &CompileError| found.line == refused.line || found.message == refused.message;
            !found.iter().any(|found| !found.warning && told(found))
        }));
        found.sort_by_key(|found| (found.line, found.column));
        found
    })
}

impl Program {
    /// Compiles and reads a workflow. Runs nothing.
    pub fn compile(name: &str, source: &str) -> Result<Self, CompileError> {
        thread::on_big_stack(|| Self::compile_here(name, source))
    }

    fn compile_here(name: &str, source: &str) -> Result<Self, CompileError> {
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            let message = format!("a workflow's file name has 1 to {MAX_NAME} bytes, none of them a control character");
            return Err(CompileError::bare("workflow", "ValueError", &message));
        }
        if let Some(at) = source.find('\0') {
            let range = TextRange::empty(TextSize::try_from(at).unwrap_or_default());
            return Err(CompileError::at(name, source, "SyntaxError", "source code cannot contain null bytes", range));
        }
        let (file, function) = entry::split_name(name);
        let (workflow, name) = (name, file);
        let line_starts = line_starts(source);
        // First, because it also bounds the nesting that the reading below recurses into.
        MontyRun::new(source.to_owned(), name, Vec::new(), CompileOptions::default())
            .map_err(|error| CompileError::new(name, source, &error, 0))?;
        let module = ruff_python_parser::parse_module(source)
            .map_err(|error| CompileError::at(name, source, "SyntaxError", &error.error.to_string(), error.location))?
            .into_syntax();
        let begins = match function {
            None => entry::main(&module),
            Some(function) => {
                let begins = children::entry(&module, file, function);
                Some(begins.map_err(|why| CompileError::bare(file, "NameError", &why))?)
            }
        };
        let imports = Imports::of(&module, begins.is_some());
        let own = imports.own();
        if let Some((unknown, at)) = own.unknown() {
            return Err(CompileError::unknown(name, source, unknown, at));
        }
        let (entry, prepared) = entry::prepare(source, (&module, begins), &own);
        if own.names.contains_key("durable.spawn") && entry == Entry::Script {
            let at = own.names.get("durable.spawn").copied().unwrap_or(0);
            return Err(CompileError::at_offset(
                name,
                source,
                "spawn() needs an async def main() that the file ends with",
                at,
            ));
        }
        let prelude = prelude::text(&own.modules, own.attributes, |dotted| own.uses(dotted));
        let prefix = if own.is_empty() { String::new() } else { prelude::prefix(own.attributes) };
        let shift = u32::try_from(prefix.len()).unwrap_or(0);
        let line_of = |offset: u32| line_at(&line_starts, offset);
        let starts_children = own.uses("durable.start_child") || own.uses("durable.run_child");
        let (mut served, mut modules) = imports.served(line_of);
        let (mut children, mut functions) = (BTreeSet::new(), BTreeMap::new());
        if starts_children {
            children = Children::of(&module, begins.is_some()).only;
            children.retain(|dotted| served.remove(dotted).is_some());
            let below = |dotted: &String, module: &String| dotted.starts_with(&format!("{module}."));
            modules.retain(|module| {
                !children.iter().any(|child| below(child, module)) || served.keys().any(|dotted| below(dotted, module))
            });
            functions = children::functions(&module);
        }
        let program = Self {
            name: workflow.to_owned(),
            file: file.to_owned(),
            hash: blake3::hash(source.as_bytes()).to_hex().to_string(),
            source: source.to_owned(),
            prepared,
            prelude,
            shift,
            line_starts,
            entry,
            served,
            has_handlers: tries::has_handlers(&module.body),
            awaits_in_handlers: tries::awaits_in_handlers(&module.body),
            modules,
            children,
            functions,
        };
        let before = u32::from(!program.prelude.is_empty());
        let compiled = program.compiled(vec![INPUTS.to_owned()]);
        compiled.map_err(|error| CompileError::new(name, source, &error, before))?;
        Ok(program)
    }

    /// Compiles what somebody submits: the first mistake that can be seen is refused.
    pub fn accept(name: &str, source: &str, known: &Known<'_>) -> Result<Self, CompileError> {
        let found = check(name, source, known).into_iter().find(|found| !found.warning);
        found.map_or_else(|| Self::compile(name, source), Err)
    }

    /// Mistakes that compile, in the order of their lines: to be told to whoever submits the workflow. What runs already is
    /// not looked at again.
    pub fn mistakes(&self) -> Vec<CompileError> {
        let found = check(&self.name, &self.source, &Known::NOTHING);
        found.into_iter().filter(|found| !found.warning).collect()
    }

    /// The modules that the workflow takes functions from, dotted.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(String::as_str)
    }

    /// The compiled form, ready to start with its inputs and what they have to be given as.
    pub(super) fn run(
        &self,
        inputs: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<(MontyRun, Vec<MontyObject>), MontyException> {
        let value = |value: &serde_json::Value| value::from_json(value).map_err(MontyException::runtime_error);
        let (names, mut values) = match self.entry {
            Entry::Main(_) => (vec![INPUTS.to_owned()], vec![value(&serde_json::Value::Object(inputs.clone()))?]),
            Entry::Script => {
                (inputs.keys().cloned().collect(), inputs.values().map(value).collect::<Result<Vec<_>, _>>()?)
            }
        };
        if !self.prelude.is_empty() {
            values.push(MontyObject::string(self.prelude.as_str()));
        }
        Ok((self.compiled(names)?, values))
    }

    /// The texts that places in the compiled form are counted in.
    pub(super) fn texts(&self) -> handlers::Texts<'_> {
        handlers::Texts { file: &self.prepared, prelude: &self.prelude }
    }

    fn compiled(&self, mut names: Vec<String>) -> Result<MontyRun, MontyException> {
        if !self.prelude.is_empty() {
            names.push(prelude::TEXT.to_owned());
        }
        MontyRun::new(self.prepared.clone(), &self.file, names, CompileOptions::default())
    }

    /// The line, from 1, on which the byte at `offset` stands.
    pub(super) fn line(&self, offset: u32) -> u32 {
        line_at(&self.line_starts, offset.saturating_sub(self.shift))
    }

    /// A traceback's frame as people may see it: none outside the user's text, which is where the entry call and the
    /// prelude are.
    pub(super) fn frame(&self, frame: &StackFrame) -> Option<StackFrame> {
        let before = u32::from(!self.prelude.is_empty());
        if frame.filename == "<string>" && before > 0 {
            return None;
        }
        let mut frame = frame.clone();
        if frame.filename == self.file {
            frame.start.line = frame.start.line.checked_sub(before).filter(|line| *line > 0)?;
            frame.end.line = frame.end.line.saturating_sub(before);
            if frame.start.line as usize > self.line_starts.len() {
                return None;
            }
        }
        Some(frame)
    }

    /// Whether `module` is one that the host serves to this program.
    pub(super) fn serves(&self, module: &str) -> bool {
        let below = format!("{module}.");
        let beside = || self.children.iter().any(|dotted| dotted.starts_with(&below));
        self.modules.iter().any(|known| known == module || known.starts_with(&below)) || beside()
    }

    /// Submodules and functions directly below the dotted `module`, each with whether it is a module.
    pub(super) fn members(&self, module: &str) -> BTreeMap<String, bool> {
        let prefix = format!("{module}.");
        let child = |dotted: &String| {
            let rest = dotted.strip_prefix(&prefix)?;
            Some(rest.split_once('.').map_or((rest.to_owned(), false), |(child, _)| (child.to_owned(), true)))
        };
        let mut members: BTreeMap<String, bool> = self.served.keys().chain(&self.children).filter_map(child).collect();
        for name in self.modules.iter().filter_map(child).map(|(name, _)| name) {
            members.insert(name, true);
        }
        members
    }

    /// The name of the workflow that one of its own functions is as a child; or why it cannot be one.
    pub(super) fn child(&self, function: &str) -> Result<String, String> {
        match self.functions.get(function) {
            Some(None) => Ok(format!("{}:{function}", self.file)),
            Some(Some(why)) => Err(format!("{function} cannot be a child: {why}")),
            None => Err(format!("{function} is no async def of {}", self.file)),
        }
    }

    /// Checks inputs against the entry's parameters. `inputs` is a JSON object.
    pub fn check_inputs(&self, inputs: &serde_json::Map<String, serde_json::Value>) -> Result<Json, InputError> {
        match &self.entry {
            Entry::Main(parameters) => {
                let known = |name: &str| parameters.iter().any(|p| p.name == name && p.kind != ParameterKind::Rest);
                let takes_rest = parameters.iter().any(|p| p.kind == ParameterKind::Rest);
                if let Some(name) = inputs.keys().find(|name| !known(name) && !takes_rest) {
                    let known = parameters.iter().map(|p| p.name.clone()).collect();
                    return Err(InputError::Unknown { file: self.file.clone(), name: name.clone(), known });
                }
                let required = parameters.iter().filter(|p| p.kind == ParameterKind::Required);
                if let Some(missing) = required.into_iter().find(|p| !inputs.contains_key(&p.name)) {
                    return Err(InputError::Missing { name: missing.name.clone() });
                }
            }
            Entry::Script => {
                if let Some(name) = inputs.keys().find(|name| !monty_types::is_identifier(name)) {
                    return Err(InputError::NotAName { name: name.clone() });
                }
            }
        }
        for (name, given) in inputs {
            if name == "$py" {
                return Err(InputError::NotAName { name: name.clone() });
            }
            value::from_json(given)
                .map_err(|refusal| InputError::Malformed { name: name.clone(), cause: refusal.to_string() })?;
        }
        Ok(Json::from(&serde_json::Value::Object(inputs.clone())))
    }
}
