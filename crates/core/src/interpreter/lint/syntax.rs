//! Syntax that the interpreter refuses, all of it: its own compiler stops at the first.

use ruff_python_ast::{
    Comprehension, Expr, Stmt, StmtClassDef,
    visitor::{Visitor, walk_comprehension, walk_expr, walk_stmt},
};
use ruff_text_size::{Ranged, TextLen, TextRange};

use super::{Mistake, asyncio};
use crate::interpreter::advice;

/// Everything in a body that a workflow cannot have, in the words of the compiler.
pub(super) fn refused(body: &[Stmt]) -> Vec<Mistake> {
    let mut refused = Refused(Vec::new());
    refused.visit_body(body);
    refused.0
}

/// What `async with` statements enter.
pub(super) fn entered(body: &[Stmt]) -> Vec<TextRange> {
    struct Entered(Vec<TextRange>);
    impl<'a> Visitor<'a> for Entered {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            if let Stmt::With(with) = stmt
                && with.is_async
            {
                self.0.extend(with.items.iter().map(|item| item.context_expr.range()));
            }
            walk_stmt(self, stmt);
        }

        fn visit_expr(&mut self, _: &'a Expr) {}
    }
    let mut entered = Entered(Vec::new());
    entered.visit_body(body);
    entered.0
}

struct Refused(Vec<Mistake>);

impl Refused {
    fn add(&mut self, range: TextRange, what: &str) {
        let advice = advice::for_syntax(what).unwrap_or("write it another way, or in a function of a worker");
        let message = format!("{} {what}", advice::CANNOT_HAVE);
        self.0.push(Mistake::refused(range, "NotImplementedError", message, advice));
    }

    fn class(&mut self, class: &StmtClassDef) {
        if let Some(arguments) = class.arguments.as_ref().filter(|arguments| !arguments.is_empty()) {
            let header = TextRange::new(class.start(), arguments.end());
            self.add(header, "class inheritance and metaclasses");
        }
        for stmt in &class.body {
            match stmt {
                Stmt::FunctionDef(def) => {
                    if let Some(decorator) = def.decorator_list.first() {
                        self.add(decorator.range(), "method decorators (classmethod/staticmethod/property)");
                    }
                }
                Stmt::Assign(assign) if matches!(&assign.targets[..], [Expr::Name(_)]) => {}
                Stmt::AnnAssign(assign) if matches!(&*assign.target, Expr::Name(_)) || assign.value.is_none() => {}
                Stmt::Assign(_) | Stmt::AnnAssign(_) => {
                    self.add(stmt.range(), "complex class variable targets (only `name = <expr>` is allowed)");
                }
                Stmt::Pass(_) => {}
                Stmt::Expr(alone) if matches!(&*alone.value, Expr::StringLiteral(_) | Expr::EllipsisLiteral(_)) => {}
                // It is refused as what it is.
                Stmt::Delete(_) | Stmt::TypeAlias(_) => {}
                other => {
                    let what = "class bodies containing anything other than methods and simple class variables";
                    self.add(other.range(), what);
                }
            }
        }
    }

    /// `async with`, with what to write instead of what it enters.
    fn async_with(&mut self, with: &ruff_python_ast::StmtWith) {
        let end = with.items.last().map_or(with.end(), Ranged::end);
        self.add(TextRange::new(with.start(), end), "async context managers (async with)");
        let entered = with.items.iter().filter_map(|item| match &item.context_expr {
            Expr::Call(call) => last_name(&call.func),
            other => last_name(other),
        });
        let instead = entered.filter_map(asyncio::instead).next();
        if let (Some(instead), Some(last)) = (instead, self.0.last_mut()) {
            last.advice = instead.to_owned();
        }
    }
}

fn last_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Name(name) => Some(name.id.as_str()),
        Expr::Attribute(attribute) => Some(attribute.attr.as_str()),
        _ => None,
    }
}

impl<'a> Visitor<'a> for Refused {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Delete(delete) => self.add(delete.range(), "the 'del' statement"),
            Stmt::TypeAlias(alias) => self.add(alias.range(), "type aliases"),
            Stmt::For(each) if each.is_async => {
                self.add(TextRange::new(each.start(), each.iter.end()), "async for loops");
            }
            Stmt::With(with) if with.is_async => self.async_with(with),
            Stmt::Try(attempt) if attempt.is_star => {
                let at = attempt
                    .handlers
                    .first()
                    .map_or(attempt.range(), |handler| TextRange::at(handler.start(), "except*".text_len()));
                self.add(at, "exception groups (try*/except*)");
            }
            Stmt::ImportFrom(import) if import.level > 0 => self.add(import.range(), "relative imports"),
            Stmt::ImportFrom(import) if import.names.iter().any(|alias| alias.name.as_str() == "*") => {
                self.add(import.range(), "star imports (`from ... import *`)");
            }
            Stmt::ClassDef(class) => self.class(class),
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_comprehension(&mut self, comprehension: &'a Comprehension) {
        if comprehension.is_async {
            self.add(comprehension.range(), "async comprehensions");
        }
        walk_comprehension(self, comprehension);
    }

    // Annotations are kept as text.
    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Yield(_) | Expr::YieldFrom(_) => self.add(expr.range(), "generators (yield expressions)"),
            Expr::TString(_) => self.add(expr.range(), "template strings (t-strings)"),
            _ => {}
        }
        walk_expr(self, expr);
    }
}
