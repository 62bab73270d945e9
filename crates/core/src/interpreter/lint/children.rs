//! Workflows that stand as texts in another.

use std::collections::BTreeMap;

use ruff_python_ast::{Expr, ExprCall};
use ruff_text_size::Ranged;

use super::Mistake;
use crate::interpreter::program::{Known, check};

/// What is wrong with the text that a child is started from, at the place where it is handed over.
pub(super) fn mistakes(call: &ExprCall, texts: &BTreeMap<String, String>, known: &Known<'_>) -> Vec<Mistake> {
    let given = call.arguments.keywords.iter().find(|keyword| keyword.arg.as_deref() == Some("source"));
    let Some(given) = given.map(|keyword| &keyword.value) else { return Vec::new() };
    let text = match given {
        Expr::StringLiteral(text) => Some(text.value.to_str()),
        Expr::Name(name) => texts.get(name.id.as_str()).map(String::as_str),
        _ => None,
    };
    let name = match call.arguments.args.first() {
        Some(Expr::StringLiteral(name)) => name.value.to_str(),
        _ => "child.py",
    };
    let found = text.map(|text| check(name, text, known)).unwrap_or_default();
    found
        .into_iter()
        .map(|found| {
            let line = found.line.map_or_else(String::new, |line| format!(", line {line}"));
            let excerpt = found.excerpt.as_ref().and_then(|excerpt| excerpt.lines().next()).unwrap_or_default();
            let message =
                format!("in the text of {name}{line}: {}: {} ({})", found.kind, found.message, excerpt.trim());
            let warning = found.warning;
            Mistake {
                warning,
                ..Mistake::refused(given.range(), "SyntaxError", message, found.advice.unwrap_or_default())
            }
        })
        .collect()
}
