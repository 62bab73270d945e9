//! What children run: functions of a workflow's file, and files beside it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ruff_python_ast::{
    Expr, ExprCall, ModModule, Stmt, StmtFunctionDef,
    visitor::{Visitor, walk_expr, walk_stmt},
};
use ruff_text_size::{Ranged, TextRange};

use super::{
    entry, lint,
    lint::{scopes::Scopes, values::Made},
    prelude,
};
use crate::id::ExecutionId;

/// The functions of a file by their names; with a sentence for each that cannot be an execution of its own.
pub(super) fn functions(module: &ModModule) -> BTreeMap<String, Option<String>> {
    struct Defs<'a>(Vec<&'a StmtFunctionDef>);
    impl<'a> Visitor<'a> for Defs<'a> {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            if let Stmt::FunctionDef(def) = stmt {
                self.0.push(def);
            }
            walk_stmt(self, stmt);
        }

        fn visit_expr(&mut self, _: &'a Expr) {}
    }
    let mut defs = Defs(Vec::new());
    defs.visit_body(&module.body);
    let is_script = entry::runs_by_itself(module);
    let at_top = |def: &StmtFunctionDef| module.body.iter().any(|stmt| stmt.range() == def.range());
    let judged = defs.0.iter().map(|def| {
        let namesakes = defs.0.iter().filter(|other| other.name.as_str() == def.name.as_str()).count();
        (def.name.to_string(), why_not(def, at_top(def), namesakes > 1, is_script).map(str::to_owned))
    });
    judged.collect()
}

fn why_not(def: &StmtFunctionDef, at_top: bool, has_namesakes: bool, is_script: bool) -> Option<&'static str> {
    if has_namesakes {
        Some("the file has several functions of that name: give it one of its own")
    } else if !at_top {
        Some(
            "it is defined inside something: define it at the top level of the file, and hand over what it needs as inputs",
        )
    } else if !def.is_async {
        Some("it is no async def: write async def, or call it itself")
    } else if !def.decorator_list.is_empty() {
        Some("it has a decorator: a child begins with a plain async def")
    } else if !entry::takes_names(def) {
        Some("a child's inputs are given by name: leave / and *args out of its parameters")
    } else if is_script {
        Some("its file runs something at the top level, which the child would run too: put that into async def main()")
    } else {
        None
    }
}

/// The function of that name, as the beginning of an execution.
pub(super) fn entry<'a>(module: &'a ModModule, file: &str, name: &str) -> Result<&'a StmtFunctionDef, String> {
    let def = module.body.iter().find_map(|stmt| match stmt {
        Stmt::FunctionDef(def) if def.name.as_str() == name => Some(def),
        _ => None,
    });
    match (functions(module).remove(name).flatten(), def) {
        (Some(why), _) => Err(format!("{file}: {name} cannot begin an execution: {why}")),
        (None, Some(def)) => Ok(def),
        (None, None) => Err(format!("{file} has no async def {name} at its top level")),
    }
}

/// The id that a workflow chooses for a child. What stands for a client's key is not its to take.
pub(super) fn chosen_id(text: &str) -> Result<ExecutionId, String> {
    let id: ExecutionId = text.parse().map_err(|error| format!("{error}"))?;
    if id.is_of_key() {
        return Err(format!(
            "id={text:?}: ids that begin with key- stand for the idempotency keys of clients: choose another beginning"
        ));
    }
    Ok(id)
}

/// A file beside, as a call that starts a child names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beside {
    /// Its path, counted from the folder of the workflow: `child.py`.
    pub(super) file: String,
    /// The function that the child begins with, if one is named.
    pub(super) function: Option<String>,
    /// Where it is named.
    pub(super) range: TextRange,
}

impl Beside {
    /// What a text names: `child.py`, or `child.py:resize`. None if it names no file.
    pub(super) fn read(text: &str, range: TextRange) -> Option<Self> {
        let (file, function) = entry::split_name(text);
        let function = function.map(str::to_owned);
        file.ends_with(".py").then(|| Self { file: file.to_owned(), function, range })
    }

    /// What `child.resize` stands for.
    pub(super) fn imported(dotted: &str, range: TextRange) -> Option<Self> {
        let (module, function) = dotted.rsplit_once('.')?;
        is_foreign(module).then(|| Self { file: file_of(module), function: Some(function.to_owned()), range })
    }
}

/// The file of a module, counted from the folder of the workflow.
pub(super) fn file_of(module: &str) -> String {
    format!("{}.py", module.replace('.', "/"))
}

/// Whether a path names a file in the folder of the workflow, or below it.
pub fn is_beside(file: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':']);
    file.ends_with(".py") && file.len() <= 255 && !file.chars().any(char::is_control) && file.split('/').all(plain)
}

fn is_foreign(module: &str) -> bool {
    let top = module.split('.').next().unwrap_or_default();
    !top.is_empty() && top != "__future__" && !monty::builtin_module_names().contains(&top) && !prelude::has(top)
}

/// What a call hands over as the child's workflow.
pub(super) fn workflow(call: &ExprCall) -> Option<&Expr> {
    let by_name = || call.arguments.keywords.iter().find(|keyword| keyword.arg.as_deref() == Some("workflow"));
    call.arguments.args.first().or_else(|| by_name().map(|keyword| &keyword.value))
}

/// What a call hands over as the child's text.
pub(super) fn source(call: &ExprCall) -> Option<&Expr> {
    let by_name = call.arguments.keywords.iter().find(|keyword| keyword.arg.as_deref() == Some("source"));
    let source = call.arguments.args.get(3).or_else(|| by_name.map(|keyword| &keyword.value));
    source.filter(|given| !given.is_none_literal_expr())
}

/// A text that is handed over, as far as the file tells it.
pub(super) fn text_of<'a>(given: &'a Expr, texts: &'a BTreeMap<String, String>) -> Option<&'a str> {
    match given {
        Expr::StringLiteral(text) => Some(text.value.to_str()),
        Expr::Name(name) => texts.get(name.id.as_str()).map(String::as_str),
        _ => None,
    }
}

/// What the children of a file run that is not in it.
#[derive(Debug, Default)]
pub(super) struct Children {
    /// The files beside that are named, in the order of the text.
    pub(super) beside: Vec<Beside>,
    /// Dotted names that are imported to be children and nothing else.
    pub(super) only: BTreeSet<String>,
    /// Workflows that stand in it as texts.
    pub(super) texts: Vec<String>,
}

impl Children {
    pub(super) fn of(module: &ModModule, has_entry: bool) -> Self {
        let scopes = Scopes::of(module, &lint::skipped(module, has_entry));
        let made = Made::of(module);
        let mut find = Find {
            scopes: &scopes,
            texts: &made.texts,
            found: Self::default(),
            handed: HashSet::new(),
            mentions: BTreeMap::new(),
        };
        find.visit_body(&module.body);
        let (mentions, mut found) = (find.mentions, find.found);
        let only = mentions.into_iter().filter(|(_, (all, as_child))| all == as_child);
        found.only = only.map(|(dotted, _)| dotted).collect();
        found
    }
}

struct Find<'s> {
    scopes: &'s Scopes,
    texts: &'s BTreeMap<String, String>,
    found: Children,
    /// Where something is handed over as a child's workflow.
    handed: HashSet<TextRange>,
    /// How often an imported name is mentioned, and how often as a child's workflow.
    mentions: BTreeMap<String, (usize, usize)>,
}

impl Find<'_> {
    fn starts(&mut self, call: &ExprCall) {
        let given = source(call).and_then(|given| text_of(given, self.texts));
        self.found.texts.extend(given.map(str::to_owned));
        let Some(workflow) = workflow(call).filter(|_| source(call).is_none()) else { return };
        self.handed.insert(workflow.range());
        if let Some(text) = text_of(workflow, self.texts) {
            self.found.beside.extend(Beside::read(text, workflow.range()));
        }
    }

    /// Notes a mention of `child.main`; answers whether it is one.
    fn mention(&mut self, expr: &Expr) -> bool {
        let Some(dotted) = self.scopes.imported(expr).filter(|dotted| dotted.contains('.')) else { return false };
        let as_child = self.handed.contains(&expr.range());
        if as_child {
            self.found.beside.extend(Beside::imported(&dotted, expr.range()));
        }
        let count = self.mentions.entry(dotted).or_default();
        *count = (count.0 + 1, count.1 + usize::from(as_child));
        true
    }
}

impl<'a> Visitor<'a> for Find<'_> {
    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Expr::Call(call) = expr
            && matches!(self.scopes.imported(&call.func).as_deref(), Some("durable.start_child" | "durable.run_child"))
        {
            self.starts(call);
        }
        if !(matches!(expr, Expr::Name(_) | Expr::Attribute(_)) && self.mention(expr)) {
            walk_expr(self, expr);
        }
    }
}

/// The files that a workflow's children need, and theirs, with their texts: of what can be read. `read` is asked for paths
/// counted from the folder of the workflow.
pub fn bundle(name: &str, source: &str, read: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut open = vec![source.to_owned()];
    let own = entry::split_name(name).0;
    while let Some(text) = open.pop() {
        for Beside { file, .. } in beside(&text) {
            if file == own && is_beside(&file) && !files.contains_key(&file) {
                files.insert(file, source.to_owned());
            } else if is_beside(&file)
                && !files.contains_key(&file)
                && let Some(found) = read(&file)
            {
                open.push(found.clone());
                files.insert(file, found);
            }
        }
    }
    files
}

/// The files that the children of a text need, also of those whose text stands in it.
pub(super) fn beside(source: &str) -> Vec<Beside> {
    let Ok(parsed) = ruff_python_parser::parse_module(source) else { return Vec::new() };
    let module = parsed.into_syntax();
    let Children { beside: mut found, texts, .. } = Children::of(&module, entry::main(&module).is_some());
    found.extend(texts.iter().flat_map(|text| beside(text)));
    found
}
