//! A workflow file, read once: where its lines are, what it imports, how it begins.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use monty::MontyRun;
use monty_types::{CompileOptions, MontyException, MontyObject, StackFrame};
use ruff_python_ast::{
    Expr, ModModule, Stmt, StmtFunctionDef, StmtIf,
    visitor::{Visitor, walk_expr, walk_stmt},
};
use ruff_text_size::{Ranged, TextRange, TextSize};

use super::{advice, lint, prelude, turn, value};
use crate::model::Json;

/// The name under which the entry function's arguments reach the program.
const INPUTS: &str = "__durable_inputs__";

/// Longest file name.
const MAX_NAME: usize = 255;

/// A workflow that compiles.
#[derive(Debug)]
pub struct Program {
    /// The file name shown in tracebacks.
    pub name: String,
    /// The file's text, as the user wrote it.
    pub source: String,
    /// Identifies the text: hexadecimal BLAKE3.
    pub hash: String,
    /// What is really compiled: the text with its entry call, on the same lines.
    prepared: String,
    /// The modules of the prelude that it imports, as text to be run first; empty when there are none.
    pub(super) prelude: String,
    /// Byte offset at which each line starts.
    line_starts: Vec<u32>,
    /// How it begins.
    pub entry: Entry,
    /// Dotted names of everything imported from modules that the host serves, with the line of
    /// their first mention: `tasks.encode`.
    pub served: BTreeMap<String, u32>,
    /// The modules that the host serves, dotted.
    modules: BTreeSet<String>,
}

/// How a workflow begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `async def main(…)` is called with the inputs as its arguments.
    Main(Vec<Parameter>),
    /// The file runs from top to bottom; inputs are global names, and the value of the last
    /// expression is the output.
    Script,
}

/// A parameter of `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What an input for it may be, or the kind of error.
    pub kind: ParameterKind,
}

/// What an input for a parameter may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// It has to be given.
    Required,
    /// It has a default.
    Optional,
    /// `**kwargs`: takes every other input.
    Rest,
}

/// A workflow that cannot run, with the place in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// The file name.
    pub file: String,
    /// From 1.
    pub line: Option<u32>,
    /// From 1, in characters.
    pub column: Option<u32>,
    /// `SyntaxError` or `NotImplementedError`.
    pub kind: String,
    /// What is wrong.
    pub message: String,
    /// The line, and a caret under the place.
    pub excerpt: Option<String>,
    /// What to write instead.
    pub advice: Option<&'static str>,
}

impl std::error::Error for CompileError {}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        for position in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{position}")?;
        }
        write!(f, ": {}: {}", self.kind, self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if let Some(advice) = self.advice {
            write!(f, "\nhint: {advice}")?;
        }
        Ok(())
    }
}

/// Inputs that do not fit the workflow's parameters.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A required input is not there.
    #[error("missing input {name:?}: give it with --input {name}=JSON")]
    Missing {
        /// The input that a parameter needs.
        name: String,
    },
    /// An input that nothing takes.
    #[error("{file} has no input {name:?}{}", near_hint(known))]
    Unknown {
        /// The workflow.
        file: String,
        /// The input that no parameter takes.
        name: String,
        /// The inputs that there are.
        known: Vec<String>,
    },
    /// A value in the tagged form that is none.
    #[error("input {name:?}: {cause}")]
    Malformed {
        /// The input.
        name: String,
        /// What is wrong with it.
        cause: String,
    },
    /// An input that cannot be a global name.
    #[error("input {name:?} is not a Python name")]
    NotAName {
        /// What was given.
        name: String,
    },
}

fn near_hint(known: &[String]) -> String {
    if known.is_empty() { ": its main() takes none".into() } else { format!(": it takes {}", known.join(", ")) }
}

impl Program {
    /// Compiles and reads a workflow. Runs nothing.
    pub fn compile(name: &str, source: &str) -> Result<Self, CompileError> {
        turn::on_big_stack(|| Self::compile_here(name, source))
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
        let line_starts = line_starts(source);
        // First, because it also bounds the nesting that the reading below recurses into.
        MontyRun::new(source.to_owned(), name, Vec::new(), CompileOptions::default())
            .map_err(|error| CompileError::new(name, source, &error, 0))?;
        let module = ruff_python_parser::parse_module(source)
            .map_err(|error| CompileError::at(name, source, "SyntaxError", &error.error.to_string(), error.location))?
            .into_syntax();
        let mut imports = Imports::default();
        imports.visit_body(&module.body);
        let own = imports.own();
        if let Some((unknown, at)) = own.unknown() {
            return Err(CompileError::unknown(name, source, unknown, at));
        }
        let (entry, prepared) = prepare(source, &module, &own);
        if own.names.contains_key("durable.spawn") && entry == Entry::Script {
            let at = own.names.get("durable.spawn").copied().unwrap_or(0);
            return Err(CompileError::at_offset(
                name,
                source,
                "spawn() needs an async def main() that the file ends with",
                at,
            ));
        }
        let prelude = prelude::text(&own.modules, |dotted| own.uses(dotted));
        let line_of = |offset: u32| line_at(&line_starts, offset);
        let (served, modules) = imports.served(line_of);
        let program = Self {
            name: name.to_owned(),
            hash: blake3::hash(source.as_bytes()).to_hex().to_string(),
            source: source.to_owned(),
            prepared,
            prelude,
            line_starts,
            entry,
            served,
            modules,
        };
        let before = u32::from(!program.prelude.is_empty());
        let compiled = program.compiled(vec![INPUTS.to_owned()]);
        compiled.map_err(|error| CompileError::new(name, source, &error, before))?;
        Ok(program)
    }

    /// Mistakes that compile, in the order of their lines: to be told to whoever submits the workflow. What runs already is
    /// not looked at again.
    pub fn mistakes(&self) -> Vec<CompileError> {
        turn::on_big_stack(|| {
            let Ok(module) = ruff_python_parser::parse_module(&self.source) else { return Vec::new() };
            let served = self.served.keys().cloned().collect();
            let found = lint::mistakes(module.syntax(), &served).into_iter();
            found
                .map(|mistake| {
                    let (name, range) = (&self.name, mistake.range);
                    let mut error = CompileError::at(name, &self.source, mistake.kind, &mistake.message, range);
                    error.advice = Some(mistake.advice);
                    error
                })
                .collect()
        })
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

    fn compiled(&self, mut names: Vec<String>) -> Result<MontyRun, MontyException> {
        if !self.prelude.is_empty() {
            names.push(prelude::TEXT.to_owned());
        }
        MontyRun::new(self.prepared.clone(), &self.name, names, CompileOptions::default())
    }

    /// How far the text is shifted by the line that stands before it: in bytes.
    fn shift(&self) -> u32 {
        if self.prelude.is_empty() { 0 } else { u32::try_from(prelude::PREFIX.len()).unwrap_or(0) }
    }

    /// The line, from 1, on which the byte at `offset` stands.
    pub(super) fn line(&self, offset: u32) -> u32 {
        line_at(&self.line_starts, offset.saturating_sub(self.shift()))
    }

    /// A traceback's frame as people may see it: none outside the user's text, which is where the entry call and the
    /// prelude are.
    pub(super) fn frame(&self, frame: &StackFrame) -> Option<StackFrame> {
        let before = u32::from(!self.prelude.is_empty());
        if frame.filename == "<string>" && before > 0 {
            return None;
        }
        let mut frame = frame.clone();
        if frame.filename == self.name {
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
        self.modules.iter().any(|known| known == module || known.starts_with(&format!("{module}.")))
    }

    /// Submodules and functions directly below the dotted `module`, each with whether it is a module.
    pub(super) fn members(&self, module: &str) -> BTreeMap<String, bool> {
        let prefix = format!("{module}.");
        let child = |dotted: &String| {
            let rest = dotted.strip_prefix(&prefix)?;
            Some(rest.split_once('.').map_or((rest.to_owned(), false), |(child, _)| (child.to_owned(), true)))
        };
        let mut members: BTreeMap<String, bool> = self.served.keys().filter_map(child).collect();
        for name in self.modules.iter().filter_map(child).map(|(name, _)| name) {
            members.insert(name, true);
        }
        members
    }

    /// Checks inputs against the entry's parameters. `inputs` is a JSON object.
    pub fn check_inputs(&self, inputs: &serde_json::Map<String, serde_json::Value>) -> Result<Json, InputError> {
        match &self.entry {
            Entry::Main(parameters) => {
                let known = |name: &str| parameters.iter().any(|p| p.name == name && p.kind != ParameterKind::Rest);
                let takes_rest = parameters.iter().any(|p| p.kind == ParameterKind::Rest);
                if let Some(name) = inputs.keys().find(|name| !known(name) && !takes_rest) {
                    let known = parameters.iter().map(|p| p.name.clone()).collect();
                    return Err(InputError::Unknown { file: self.name.clone(), name: name.clone(), known });
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

impl CompileError {
    /// The interpreter's own refusal; `before` lines stand before the user's.
    fn new(file: &str, source: &str, error: &MontyException, before: u32) -> Self {
        let frame = error.traceback().last();
        let mut found = Self::bare(file, &error.exc_type().to_string(), error.message().unwrap_or_default());
        if let Some(frame) = frame.filter(|frame| frame.start.line > before) {
            found.place(
                source,
                frame.start.line - before,
                frame.start.column,
                frame.end.column.max(frame.start.column + 1),
            );
        }
        found
    }

    fn at(file: &str, source: &str, kind: &str, message: &str, range: TextRange) -> Self {
        let starts = line_starts(source);
        let offset = range.start().to_u32();
        let line = line_at(&starts, offset);
        let start = starts.get(line as usize - 1).copied().unwrap_or(0);
        let before = source.get(start as usize..offset as usize).unwrap_or_default();
        let column = u32::try_from(before.chars().count()).unwrap_or(0) + 1;
        let mut found = Self::bare(file, kind, message);
        let text = source.get(range.start().to_usize()..range.end().to_usize()).unwrap_or_default();
        let width = text.lines().next().map_or(1, |line| line.chars().count().max(1));
        found.place(source, line, column, column + u32::try_from(width).unwrap_or(1));
        found
    }

    fn at_offset(file: &str, source: &str, message: &str, offset: u32) -> Self {
        let range = TextRange::empty(offset.into());
        Self::at(file, source, "ImportError", message, range)
    }

    fn unknown(file: &str, source: &str, dotted: &str, offset: u32) -> Self {
        let (module, name) = dotted.split_once('.').unwrap_or((dotted, ""));
        let durable = prelude::durable();
        let near = durable
            .iter()
            .map(|known| (strsim::jaro_winkler(known, name), *known))
            .filter(|(score, _)| *score > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match (module, name, near) {
            ("durable", "sleep", _) => "await asyncio.sleep(seconds), which is durable".into(),
            ("durable", _, Some((_, near))) => format!("did you mean {near}?"),
            ("durable", _, None) => format!("it has {}", durable.into_iter().collect::<Vec<_>>().join(", ")),
            _ => "it has uuid4 and UUID".into(),
        };
        Self::at_offset(file, source, &format!("{module} has no {name:?} in a workflow: {hint}"), offset)
    }

    fn bare(file: &str, kind: &str, message: &str) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            kind: kind.to_owned(),
            message: message.to_owned(),
            excerpt: None,
            advice: advice::for_syntax(message),
        }
    }

    fn place(&mut self, source: &str, line: u32, column: u32, end: u32) {
        self.line = Some(line);
        self.column = Some(column);
        let text = source.lines().nth(line as usize - 1);
        // A file that ends too early is shown where it ends.
        let (text, column, end) = match text.or(source.lines().last()) {
            Some(last) if text.is_none() => {
                let after = u32::try_from(last.chars().count()).unwrap_or(0) + 1;
                (last, after, after + 1)
            }
            Some(text) => (text, column.max(1), end),
            None => return,
        };
        let room = u32::try_from(text.chars().count()).unwrap_or(u32::MAX).saturating_sub(column) + 1;
        let carets = "^".repeat(end.saturating_sub(column).clamp(1, room.max(1)) as usize);
        self.excerpt = Some(format!("    {text}\n    {}{carets}", " ".repeat(column as usize - 1)));
    }
}

fn line_starts(source: &str) -> Vec<u32> {
    let after = source.bytes().zip(1u32..).filter(|(byte, _)| *byte == b'\n').map(|(_, next)| next);
    std::iter::once(0).chain(after).filter(|start| *start == 0 || (*start as usize) < source.len()).collect()
}

fn line_at(starts: &[u32], offset: u32) -> u32 {
    u32::try_from(starts.partition_point(|start| *start <= offset)).unwrap_or(u32::MAX).max(1)
}

/// Chooses the entry and gives the text to compile: with an entry function, the `__main__` guard is
/// switched off in place (it serves CPython) and the call is added as a last line.
fn prepare(source: &str, module: &ModModule, own: &Own) -> (Entry, String) {
    let (entry, text) = with_entry(source, module, own.uses("durable.spawn"));
    if own.modules.is_empty() { (entry, text) } else { (entry, format!("{}{text}", prelude::PREFIX)) }
}

fn with_entry(source: &str, module: &ModModule, spawns: bool) -> (Entry, String) {
    let main = module.body.iter().find_map(|stmt| match stmt {
        Stmt::FunctionDef(def) if def.name.as_str() == "main" && def.decorator_list.is_empty() => Some(def),
        _ => None,
    });
    let Some(main) = main.filter(|main| takes_names(main) && !runs_by_itself(module)) else {
        return (Entry::Script, source.to_owned());
    };
    let mut text = source.to_owned();
    for guard in module.body.iter().filter_map(main_guard) {
        let range = guard.test.range();
        let (start, end) = (range.start().to_usize(), range.end().to_usize());
        text.replace_range(start..end, &format!("{:width$}", "False", width = end - start));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let call = format!("main(**{INPUTS})");
    text.push_str(&match (main.is_async, spawns) {
        (true, true) => format!("await __durable_run__({call})\n"),
        (true, false) => format!("await {call}\n"),
        (false, _) => format!("{call}\n"),
    });
    (Entry::Main(parameters(main)), text)
}

fn takes_names(main: &StmtFunctionDef) -> bool {
    main.parameters.posonlyargs.is_empty() && main.parameters.vararg.is_none()
}

fn parameters(main: &StmtFunctionDef) -> Vec<Parameter> {
    let named = main.parameters.args.iter().chain(&main.parameters.kwonlyargs).map(|parameter| Parameter {
        name: parameter.parameter.name.to_string(),
        kind: if parameter.default.is_some() { ParameterKind::Optional } else { ParameterKind::Required },
    });
    let rest = main.parameters.kwarg.iter().map(|p| Parameter { name: p.name.to_string(), kind: ParameterKind::Rest });
    named.chain(rest).collect()
}

/// A file that awaits or runs something at its top level, outside a guard, is a script.
fn runs_by_itself(module: &ModModule) -> bool {
    #[derive(Default)]
    struct Runs(bool);
    impl<'a> Visitor<'a> for Runs {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            if !matches!(stmt, Stmt::FunctionDef(_) | Stmt::ClassDef(_)) && main_guard(stmt).is_none() {
                walk_stmt(self, stmt);
            }
        }

        fn visit_expr(&mut self, expr: &'a Expr) {
            let runs = match expr {
                Expr::Await(_) => true,
                Expr::Call(call) => match &*call.func {
                    Expr::Attribute(attribute) => attribute.attr.as_str() == "run",
                    Expr::Name(name) => matches!(name.id.as_str(), "main" | "run"),
                    _ => false,
                },
                _ => false,
            };
            self.0 |= runs;
            walk_expr(self, expr);
        }
    }
    let mut runs = Runs::default();
    runs.visit_body(&module.body);
    runs.0
}

fn main_guard(stmt: &Stmt) -> Option<&StmtIf> {
    let Stmt::If(guard) = stmt else { return None };
    let Expr::Compare(compare) = &*guard.test else { return None };
    let is_name = |expr: &Expr| matches!(expr, Expr::Name(name) if name.id.as_str() == "__name__");
    let is_main = |expr: &Expr| matches!(expr, Expr::StringLiteral(text) if text.value.to_str() == "__main__");
    let [left, right] = &compare.operands[..] else { return None };
    (is_name(left) && is_main(right) || is_main(left) && is_name(right)).then_some(guard)
}

/// What a file imports, and which attributes of it are mentioned.
#[derive(Default)]
struct Imports {
    /// Local name → the dotted module it stands for.
    bound: BTreeMap<String, String>,
    /// Dotted names imported with `from`, and dotted chains used anywhere, with their offsets.
    from: BTreeMap<String, u32>,
    chains: Vec<(Vec<String>, u32)>,
    /// Names that stand alone.
    bare: BTreeSet<String>,
    modules: BTreeMap<String, u32>,
}

impl<'a> Visitor<'a> for Imports {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Import(import) => {
                for alias in &import.names {
                    let module = alias.name.to_string();
                    self.modules.entry(module.clone()).or_insert(alias.range.start().to_u32());
                    match &alias.asname {
                        Some(name) => self.bound.insert(name.to_string(), module),
                        None => {
                            let top = module.split('.').next().unwrap_or_default().to_owned();
                            self.bound.insert(top.clone(), top)
                        }
                    };
                }
            }
            Stmt::ImportFrom(import) => {
                let module = import.module.as_ref().map(ToString::to_string).unwrap_or_default();
                self.modules.entry(module.clone()).or_insert(import.range.start().to_u32());
                for alias in &import.names {
                    let dotted = format!("{module}.{}", alias.name);
                    self.from.entry(dotted).or_insert(alias.range.start().to_u32());
                }
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Some(chain) = dotted_chain(expr) {
            self.chains.push((chain, expr.range().start().to_u32()));
        } else {
            if let Expr::Name(name) = expr {
                self.bare.insert(name.id.to_string());
            }
            walk_expr(self, expr);
        }
    }
}

/// `a.b.c` as its parts; none for anything else.
fn dotted_chain(expr: &Expr) -> Option<Vec<String>> {
    match expr {
        Expr::Attribute(attribute) => {
            let mut chain = match &*attribute.value {
                Expr::Name(name) => vec![name.id.to_string()],
                inner => dotted_chain(inner)?,
            };
            chain.push(attribute.attr.to_string());
            Some(chain)
        }
        _ => None,
    }
}

/// What a file uses of the prelude's modules.
struct Own {
    modules: BTreeSet<String>,
    /// `durable.race` → offset of its first mention.
    names: BTreeMap<String, u32>,
    /// `durable` itself is a value somewhere.
    whole: bool,
}

impl Own {
    /// Whether a name has to be there: it is mentioned, or the module itself is handed about.
    fn uses(&self, dotted: &str) -> bool {
        self.whole || self.names.contains_key(dotted)
    }

    /// A name that the modules do not have.
    fn unknown(&self) -> Option<(&str, u32)> {
        let durable = prelude::durable();
        let known = |dotted: &str| match dotted.split_once('.') {
            Some(("durable", name)) => durable.contains(name),
            Some((_, name)) => matches!(name, "uuid4" | "UUID"),
            None => true,
        };
        self.names.iter().find(|(dotted, _)| !known(dotted)).map(|(dotted, at)| (dotted.as_str(), *at))
    }
}

impl Imports {
    fn own(&self) -> Own {
        let modules: BTreeSet<String> = self.modules.keys().filter(|module| prelude::has(module)).cloned().collect();
        let chains = self.chains.iter().filter_map(|(chain, at)| {
            let module = self.bound.get(&chain[0]).filter(|module| prelude::has(module))?;
            Some((format!("{module}.{}", chain.get(1)?), *at))
        });
        let from = self.from.iter().map(|(dotted, at)| (dotted.clone(), *at));
        let mut names = BTreeMap::new();
        for (dotted, at) in from.filter(|(dotted, _)| dotted.split('.').next().is_some_and(prelude::has)).chain(chains)
        {
            names.entry(dotted).and_modify(|first: &mut u32| *first = at.min(*first)).or_insert(at);
        }
        let is_module = |name: &String| self.bound.get(name).is_some_and(|module| module == "durable");
        let whole = self.bare.iter().any(is_module);
        Own { modules, names, whole }
    }

    /// Names and modules that the host has to serve, that is those not built into the interpreter.
    fn served(self, line_of: impl Fn(u32) -> u32) -> (BTreeMap<String, u32>, BTreeSet<String>) {
        let builtin = monty::builtin_module_names();
        let foreign = |dotted: &str| {
            let top = dotted.split('.').next().unwrap_or_default();
            !top.is_empty() && top != "__future__" && !builtin.contains(&top) && !prelude::has(top)
        };
        let modules: BTreeSet<String> = self.modules.into_keys().filter(|module| foreign(module)).collect();
        let is_module = |dotted: &str| modules.iter().any(|m| m == dotted || m.starts_with(&format!("{dotted}.")));
        let mut served = BTreeMap::new();
        let chains = self.chains.iter().filter_map(|(chain, at)| {
            let module = self.bound.get(&chain[0])?;
            Some((
                std::iter::once(module.as_str()).chain(chain[1..].iter().map(String::as_str)).collect::<Vec<_>>(),
                *at,
            ))
        });
        // Of `pkg.tasks.encode.x` the function is the first part that is not a module.
        let functions = chains.filter_map(|(parts, at)| {
            let dotted = (1..=parts.len()).map(|n| parts[..n].join(".")).find(|dotted| !is_module(dotted))?;
            Some((dotted, at))
        });
        let from = self.from.iter().filter(|(dotted, _)| !is_module(dotted)).map(|(dotted, at)| (dotted.clone(), *at));
        for (dotted, at) in from.chain(functions) {
            if foreign(&dotted) && dotted.contains('.') {
                let line = line_of(at);
                served.entry(dotted).and_modify(|first: &mut u32| *first = line.min(*first)).or_insert(line);
            }
        }
        (served, modules)
    }
}
