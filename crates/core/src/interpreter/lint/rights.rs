//! What a workflow would do that it may not, as far as its text tells.

use std::collections::BTreeSet;

use ruff_python_ast::{
    Expr, ExprCall,
    visitor::{Visitor, walk_expr},
};
use ruff_text_size::{Ranged, TextRange};

use super::{scopes::Scopes, skipped, values::Made};
use crate::{
    allow::Rights,
    interpreter::{
        children::{source, text_of, workflow},
        compile_error::CompileError,
        entry,
        imports::Imports,
    },
};

/// The calls of a file that would raise PermissionError, in the order of its text. None for a file that cannot be read.
pub(in crate::interpreter) fn forbidden(name: &str, text: &str, rights: Rights<'_>) -> Vec<CompileError> {
    let (name, function) = entry::split_name(name);
    let Ok(parsed) = ruff_python_parser::parse_module(text) else { return Vec::new() };
    let module = parsed.into_syntax();
    let has_main = function.is_some() || entry::main(&module).is_some();
    let (served, _) = Imports::of(&module, has_main).served(|_| 0);
    let mut look = Look {
        scopes: Scopes::of(&module, &skipped(&module, has_main)),
        made: Made::of(&module),
        served: served.into_keys().collect(),
        rights,
        found: Vec::new(),
    };
    look.visit_body(&module.body);
    let mut found = look.found;
    found.sort_by_key(|(range, _)| range.start());
    let at = |(range, why): (TextRange, String)| CompileError::at(name, text, "PermissionError", &why, range);
    found.into_iter().map(at).collect()
}

struct Look<'a> {
    scopes: Scopes,
    made: Made,
    served: BTreeSet<String>,
    rights: Rights<'a>,
    found: Vec<(TextRange, String)>,
}

impl Look<'_> {
    fn note(&mut self, range: TextRange, asked: Result<(), String>) {
        self.found.extend(asked.err().map(|why| (range, why)));
    }

    /// A function that is called, or handed over to be.
    fn function(&mut self, given: &Expr) {
        let imported = self.scopes.imported(given).filter(|dotted| self.served.contains(dotted));
        let named = || text_of(given, &self.made.texts).map(str::to_owned);
        if let Some(name) = imported.or_else(named) {
            self.note(given.range(), self.rights.allowed.function(&name));
        }
    }

    fn durable_call(&mut self, call: &ExprCall) {
        if let Some(function) = call.arguments.args.first() {
            self.function(function);
        }
        let queue = call.arguments.keywords.iter().find(|keyword| keyword.arg.as_deref() == Some("queue"));
        if let Some(name) = queue.and_then(|queue| text_of(&queue.value, &self.made.texts)) {
            let Rights { allowed, queue: own } = self.rights;
            let asked = allowed.queue(name, own);
            self.note(queue.map_or(call.range(), Ranged::range), asked);
        }
    }

    fn child(&mut self, call: &ExprCall) {
        let given = workflow(call).filter(|_| source(call).is_none());
        let Some((given, name)) = given.and_then(|given| Some((given, text_of(given, &self.made.texts)?))) else {
            return;
        };
        if !entry::split_name(name).0.ends_with(".py") {
            let asked = self.rights.allowed.child(name);
            self.note(given.range(), asked);
        }
    }
}

impl<'a> Visitor<'a> for Look<'_> {
    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Expr::Call(call) = expr {
            match self.scopes.imported(&call.func).as_deref() {
                Some("durable.call") => self.durable_call(call),
                Some("durable.map") => call.arguments.args.first().into_iter().for_each(|given| self.function(given)),
                Some("durable.start_child" | "durable.run_child") => self.child(call),
                Some(_) => self.function(&call.func),
                None => {}
            }
        }
        walk_expr(self, expr);
    }
}
