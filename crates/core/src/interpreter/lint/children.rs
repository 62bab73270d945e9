//! What children run: the file's own functions, files beside it, and workflows that stand as texts in it.

use std::collections::BTreeMap;

use ruff_python_ast::{Expr, ExprCall};
use ruff_text_size::Ranged;

use super::{Lint, Mistake, scopes::Binding};
use crate::interpreter::{
    children::{Beside, entry, file_of, is_beside, source, text_of, workflow},
    program::{Known, check_file},
};

impl Lint<'_> {
    /// What cannot be a child, at the place where it is handed over.
    pub(super) fn child(&mut self, call: &ExprCall) {
        let Some(given) = workflow(call) else { return };
        let range = given.range();
        if source(call).is_some() {
            if text_of(given, &self.made.texts).is_none() && matches!(given, Expr::Lambda(_) | Expr::Call(_)) {
                self.add(range, "TypeError", "source= goes with a name, a text", "leave source= out, or give a name");
            }
            return;
        }
        if let Some(text) = text_of(given, &self.made.texts) {
            if let Some(beside) = Beside::read(text, range) {
                self.beside(&beside);
            }
            return;
        }
        match (given, self.imported(given)) {
            (_, Some(dotted)) => match Beside::imported(&dotted, range) {
                Some(beside) => self.beside(&beside),
                None => {
                    let message = format!("{dotted} is no workflow");
                    let advice =
                        format!("hand over one of its functions, {dotted}.main, or a name: {:?}", file_of(&dotted));
                    self.add(range, "TypeError", message, advice);
                }
            },
            (Expr::Name(name), None) => self.own_function(name),
            (Expr::Lambda(_), None) => {
                let advice = "define an async def at the top level of the file, and hand over that";
                self.add(range, "TypeError", "a lambda cannot be a child", advice);
            }
            (Expr::Call(made), None) => self.called_already(made),
            _ => {}
        }
    }

    fn own_function(&mut self, name: &ruff_python_ast::ExprName) {
        let is_function = matches!(self.scopes.binding(name), Some(Binding::Coroutine | Binding::Definition));
        let why = self.children.get(name.id.as_str()).cloned().flatten().filter(|_| is_function);
        if let Some((reason, advice)) = why.as_deref().and_then(|why| why.split_once(": ")) {
            let message = format!("{} cannot be a child: {reason}", name.id);
            self.add(name.range, "TypeError", message, advice.to_owned());
        }
    }

    /// `run_child(square(3))`.
    fn called_already(&mut self, call: &ExprCall) {
        if let Expr::Name(name) = &*call.func
            && self.scopes.binding(name) == Some(&Binding::Coroutine)
        {
            let message = format!("{}(…) is a coroutine, no workflow", name.id);
            let advice = format!("hand over the function, and its inputs by name: run_child({}, {{…}})", name.id);
            self.add(call.range(), "TypeError", message, advice);
        }
    }

    fn beside(&mut self, beside: &Beside) {
        let Beside { file, function, range } = beside;
        if !is_beside(file) {
            let advice = "name it from the folder of the workflow: \"child.py\", or \"jobs/child.py\"";
            self.add(*range, "ValueError", format!("{file:?} is no file beside the workflow"), advice);
            return;
        }
        let Some(text) = (self.known.file)(file) else {
            let advice = "put the file there; or give the name of a deployed workflow, or a text with source=";
            self.add(*range, "FileNotFoundError", format!("there is no {file} beside the workflow"), advice);
            return;
        };
        let Some(function) = function else { return };
        let Ok(parsed) = ruff_python_parser::parse_module(&text) else { return };
        if let Err(why) = entry(&parsed.into_syntax(), file, function) {
            self.add(*range, "TypeError", why, "a child begins with a plain async def at the top level of its file");
        }
    }
}

/// What is wrong with the text that a child is started from, at the place where it is handed over.
pub(super) fn mistakes(call: &ExprCall, texts: &BTreeMap<String, String>, known: &Known<'_>) -> Vec<Mistake> {
    let Some(given) = source(call) else { return Vec::new() };
    let text = text_of(given, texts);
    let name = match call.arguments.args.first() {
        Some(Expr::StringLiteral(name)) => name.value.to_str(),
        _ => "child.py",
    };
    let found = text.map(|text| check_file(name, text, known)).unwrap_or_default();
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
