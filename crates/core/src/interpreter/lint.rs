//! Everything that can be told from a workflow's text before anything runs: what the interpreter refuses or lacks, and
//! what would not do what it looks like.

mod asyncio;
mod awaits;
mod children;
mod modules;
mod names;
pub(super) mod rights;
pub(super) mod scopes;
mod syntax;
pub(super) mod values;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ruff_python_ast::{
    ElifElseClause, ExceptHandler, Expr, ModModule, Stmt, StmtTry,
    visitor::{Visitor, walk_expr, walk_stmt},
};
use ruff_text_size::{Ranged, TextRange};

use self::{scopes::Scopes, values::Made};
use super::{children as beside, compile_error::CompileError, entry, imports::Imports, program::Known};

/// Something that will not do what it looks like.
struct Mistake {
    range: TextRange,
    kind: &'static str,
    message: String,
    advice: String,
    warning: bool,
}

impl Mistake {
    fn refused(range: TextRange, kind: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { range, kind, message: message.into(), advice: advice.into(), warning: false }
    }
}

/// Looks a file over, as far as it can be read.
pub(super) fn findings(name: &str, source: &str, known: &Known<'_>) -> Vec<CompileError> {
    let (name, function) = entry::split_name(name);
    let at = |mistake: Mistake| {
        let mut found = CompileError::at(name, source, mistake.kind, &mistake.message, mistake.range);
        found.advice = Some(mistake.advice).filter(|advice| !advice.is_empty());
        found.warning = mistake.warning;
        found
    };
    let parsed = ruff_python_parser::parse_unchecked_source(source, ruff_python_ast::PySourceType::Python);
    let unreadable = parsed
        .errors()
        .iter()
        .map(|error| Mistake::refused(error.location, "SyntaxError", error.error.to_string(), String::new()));
    let mut found: Vec<CompileError> = unreadable.map(at).collect();
    let readable = found.is_empty();
    let module = parsed.syntax();
    let mut mistakes = syntax::refused(&module.body);
    if readable {
        mistakes.extend(mistakes_of(module, function.is_some(), known));
    }
    let entered = syntax::entered(&module.body);
    // What is entered by `async with` is told with it.
    mistakes.retain(|mistake| {
        mistake.kind != "AttributeError" || !entered.iter().any(|at| at.contains_range(mistake.range))
    });
    mistakes.sort_by_key(|mistake| mistake.range.start());
    for mistake in mistakes.into_iter().map(at) {
        // One sentence for each place: what is said first is nearest to the root.
        let told = |other: &CompileError| other.line == mistake.line && (!readable || other.column == mistake.column);
        if !found.iter().any(told) {
            found.push(mistake);
        }
    }
    let mut lines = HashSet::new();
    // What follows from an error on the same line is no other error.
    found.retain(|found| readable || lines.insert(found.line));
    found
}

fn mistakes_of(module: &ModModule, has_entry: bool, known: &Known<'_>) -> Vec<Mistake> {
    let has_main = has_entry || entry::main(module).is_some();
    let skipped = skipped(module, has_main);
    let (served, _) = Imports::of(module, has_main).served(|_| 0);
    let mut lint = Lint {
        scopes: Scopes::of(module, &skipped),
        made: Made::of(module),
        served: served.into_keys().collect(),
        children: beside::functions(module),
        known,
        has_main,
        skipped,
        found: Vec::new(),
        functions: Vec::new(),
        called: HashSet::new(),
        may_lack: 0,
    };
    lint.visit_body(&module.body);
    lint.found
}

/// The tests whose blocks never run here.
pub(super) fn skipped(module: &ModModule, has_main: bool) -> Vec<TextRange> {
    struct Skipped(Vec<TextRange>, bool);
    impl<'a> Visitor<'a> for Skipped {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            if entry::never_runs(stmt, self.1) {
                self.0.push(stmt.range());
            }
            walk_stmt(self, stmt);
        }

        fn visit_expr(&mut self, _: &'a Expr) {}
    }
    let mut skipped = Skipped(Vec::new(), has_main);
    skipped.visit_body(&module.body);
    skipped.0
}

struct Lint<'s> {
    scopes: Scopes,
    made: Made,
    /// Dotted names of the functions that it imports.
    served: BTreeSet<String>,
    /// The file's functions, each with why it cannot be a child.
    children: BTreeMap<String, Option<String>>,
    known: &'s Known<'s>,
    has_main: bool,
    skipped: Vec<TextRange>,
    found: Vec<Mistake>,
    /// The functions around, each with whether it is async.
    functions: Vec<bool>,
    /// Names and attributes that are called, or handed over to be called.
    called: HashSet<TextRange>,
    /// How many blocks are around that go another way where a module lacks a name.
    may_lack: usize,
}

impl<'a> Visitor<'a> for Lint<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Expr(alone) => self.alone(&alone.value),
            Stmt::Assign(assign) => self.kept(assign),
            Stmt::FunctionDef(def) => {
                self.functions.push(def.is_async);
                walk_stmt(self, stmt);
                self.functions.pop();
                return;
            }
            Stmt::If(test) => {
                self.unawaited(&test.test);
                if self.skipped.contains(&test.range) {
                    test.elif_else_clauses.iter().for_each(|clause: &ElifElseClause| {
                        self.visit_elif_else_clause(clause);
                    });
                    return;
                }
            }
            Stmt::While(test) => self.unawaited(&test.test),
            Stmt::For(each) => self.unawaited(&each.iter),
            Stmt::Import(import) => {
                import.names.iter().for_each(|alias| self.import(&alias.name, alias.range()));
            }
            Stmt::ImportFrom(import) if import.level == 0 => self.import_from(import),
            Stmt::Try(attempt) if has_another_way(attempt) => {
                self.may_lack += 1;
                self.visit_body(&attempt.body);
                self.may_lack -= 1;
                attempt.handlers.iter().for_each(|handler| self.visit_except_handler(handler));
                self.visit_body(&attempt.orelse);
                self.visit_body(&attempt.finalbody);
                return;
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    // Annotations are not evaluated.
    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(name) => self.name(name),
            Expr::Attribute(attribute) => self.attribute(attribute),
            Expr::BinOp(operation) => {
                self.unawaited(&operation.left);
                self.unawaited(&operation.right);
            }
            Expr::Compare(compared) => {
                compared.operands.iter().for_each(|operand| self.unawaited(operand));
            }
            Expr::FString(text) => {
                text.value.elements().filter_map(|element| element.as_interpolation()).for_each(|part| {
                    self.unawaited(&part.expression);
                });
            }
            Expr::Await(awaited) if self.functions.last() == Some(&false) => {
                let advice = "write async def, and await the function where it is called";
                self.add(awaited.range(), "SyntaxError", "await is outside an async function", advice);
            }
            Expr::Lambda(_) => {
                self.functions.push(false);
                walk_expr(self, expr);
                self.functions.pop();
                return;
            }
            Expr::Call(call) => self.call(call),
            _ => {}
        }
        walk_expr(self, expr);
    }
}

impl Lint<'_> {
    fn add(&mut self, range: TextRange, kind: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        self.found.push(Mistake::refused(range, kind, message, advice));
    }

    fn warn(&mut self, range: TextRange, message: impl Into<String>, advice: impl Into<String>) {
        self.add(range, "Warning", message, advice);
        if let Some(last) = self.found.last_mut() {
            last.warning = true;
        }
    }

    /// `tasks.encode` for whatever stands for it here, if that was imported.
    fn imported(&self, expr: &Expr) -> Option<String> {
        self.scopes.imported(expr)
    }

    /// Whether an expression is one of the names that Python has without an import.
    fn is_builtin(&self, expr: &Expr, names: &[&str]) -> bool {
        matches!(expr, Expr::Name(name) if names.contains(&name.id.as_str()) && self.scopes.is_free(name))
    }
}

/// Whether a failed import in a block is caught.
fn has_another_way(attempt: &StmtTry) -> bool {
    let catches = |expr: &Expr| {
        let names = ["ImportError", "ModuleNotFoundError", "AttributeError", "Exception", "BaseException"];
        matches!(expr, Expr::Name(name) if names.contains(&name.id.as_str()))
    };
    attempt.handlers.iter().any(|handler| {
        let ExceptHandler::ExceptHandler(handler) = handler;
        match handler.type_.as_deref() {
            None => true,
            Some(Expr::Tuple(several)) => several.elts.iter().any(catches),
            Some(one) => catches(one),
        }
    })
}
