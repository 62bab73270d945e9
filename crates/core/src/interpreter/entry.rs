//! How a workflow begins, and what it may be given.

use ruff_python_ast::{
    Expr, ModModule, Stmt, StmtFunctionDef, StmtIf,
    visitor::{Visitor, walk_expr, walk_stmt},
};
use ruff_text_size::Ranged;

use super::{imports::Own, prelude};

/// The name under which the entry function's arguments reach the program.
pub(super) const INPUTS: &str = "__durable_inputs__";

/// How a workflow begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `async def main(…)`, or the function that the name says, is called with the inputs as its arguments.
    Main(Vec<Parameter>),
    /// The file runs from top to bottom; inputs are global names, and the value of the last
    /// expression is the output.
    Script,
}

/// A parameter of the function that it begins with.
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

/// Chooses the entry and gives the text to compile: with an entry function, the `__main__` guard is
/// switched off in place (it serves CPython) and the call is added as a last line.
pub(super) fn prepare(
    source: &str,
    (module, begins): (&ModModule, Option<&StmtFunctionDef>),
    own: &Own,
) -> (Entry, String) {
    let (entry, text) = with_entry(source, (module, begins), own.uses("durable.spawn"));
    if own.is_empty() { (entry, text) } else { (entry, format!("{}{text}", prelude::prefix(own.attributes))) }
}

fn with_entry(source: &str, (module, begins): (&ModModule, Option<&StmtFunctionDef>), spawns: bool) -> (Entry, String) {
    let Some(main) = begins else {
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
    let call = format!("{}(**{INPUTS})", main.name);
    text.push_str(&match (main.is_async, spawns) {
        (true, true) => format!("await __durable_run__({call})\n"),
        (true, false) => format!("await {call}\n"),
        (false, _) => format!("{call}\n"),
    });
    (Entry::Main(parameters(main)), text)
}

/// A workflow's name as its file's and the function that it begins with, where that is another than `main`:
/// `report.py:resize`.
pub fn split_name(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((file, function)) if monty_types::is_identifier(function) => (file, Some(function)),
        _ => (name, None),
    }
}

/// The function that the inputs are given to.
pub(super) fn main(module: &ModModule) -> Option<&StmtFunctionDef> {
    let main = module.body.iter().find_map(|stmt| match stmt {
        Stmt::FunctionDef(def) if def.name.as_str() == "main" && def.decorator_list.is_empty() => Some(def),
        _ => None,
    });
    main.filter(|main| takes_names(main) && !runs_by_itself(module))
}

/// What does not run here: the block for plain Python where there is a `main`, and what is for type checkers.
pub(super) fn never_runs(stmt: &Stmt, has_main: bool) -> bool {
    let for_types = |test: &StmtIf| match &*test.test {
        Expr::Name(name) => name.id.as_str() == "TYPE_CHECKING",
        Expr::Attribute(attribute) => attribute.attr.as_str() == "TYPE_CHECKING",
        _ => false,
    };
    has_main && main_guard(stmt).is_some() || matches!(stmt, Stmt::If(test) if for_types(test))
}

pub(super) fn takes_names(main: &StmtFunctionDef) -> bool {
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
pub(super) fn runs_by_itself(module: &ModModule) -> bool {
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

pub(super) fn main_guard(stmt: &Stmt) -> Option<&StmtIf> {
    let Stmt::If(guard) = stmt else { return None };
    let Expr::Compare(compare) = &*guard.test else { return None };
    let is_name = |expr: &Expr| matches!(expr, Expr::Name(name) if name.id.as_str() == "__name__");
    let is_main = |expr: &Expr| matches!(expr, Expr::StringLiteral(text) if text.value.to_str() == "__main__");
    let [left, right] = &compare.operands[..] else { return None };
    (is_name(left) && is_main(right) || is_main(left) && is_name(right)).then_some(guard)
}
