//! Values that the interpreter lacks or takes another way.

use std::collections::{BTreeMap, BTreeSet};

use ruff_python_ast::{
    Expr, ExprAttribute, ExprCall, ModModule, Stmt,
    visitor::{Visitor, walk_expr, walk_stmt},
};
use ruff_text_size::Ranged;

use super::{Lint, children, modules};
use crate::interpreter::prelude;

/// What names of a file hold, where every assignment says the same.
pub(in crate::interpreter) struct Made {
    /// Names that only ever hold generator expressions, which are lists here.
    generators: BTreeSet<String>,
    /// Names that only ever hold values of builtin types.
    values: BTreeSet<String>,
    /// Methods of the file's own classes.
    own_methods: BTreeSet<String>,
    /// Texts by the name that holds them.
    pub(in crate::interpreter) texts: BTreeMap<String, String>,
    /// Names may come from nowhere: the file runs texts.
    pub(super) by_exec: bool,
    methods: BTreeSet<&'static str>,
}

impl Made {
    pub(in crate::interpreter) fn of(module: &ModModule) -> Self {
        let mut read = Read::default();
        read.visit_body(&module.body);
        let only = |kept: &BTreeMap<String, usize>| {
            let only = kept.iter().filter(|(name, count)| read.bound.get(*name) == Some(*count));
            only.map(|(name, _)| name.clone()).collect()
        };
        let texts = read.texts.iter().filter(|(name, _)| read.bound.get(*name) == Some(&1));
        Self {
            generators: only(&read.generators),
            values: only(&read.values),
            own_methods: read.own_methods,
            texts: texts.map(|(name, text)| (name.clone(), text.clone())).collect(),
            by_exec: read.by_exec,
            methods: prelude::methods(),
        }
    }

    /// Whether an expression gives a value of a builtin type for sure.
    fn is_value(&self, expr: &Expr) -> bool {
        is_display(expr) || matches!(expr, Expr::Name(name) if self.values.contains(name.id.as_str()))
    }

    fn is_generator(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Generator(_) => true,
            Expr::Name(name) => self.generators.contains(name.id.as_str()),
            _ => false,
        }
    }

    /// Whether `name` is a method of some builtin type and of no class of the file.
    fn is_method(&self, name: &str) -> bool {
        self.methods.contains(name) && !self.own_methods.contains(name)
    }
}

#[derive(Default)]
struct Read {
    bound: BTreeMap<String, usize>,
    generators: BTreeMap<String, usize>,
    values: BTreeMap<String, usize>,
    own_methods: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    by_exec: bool,
}

impl Read {
    fn bind(&mut self, name: &str) {
        *self.bound.entry(name.to_owned()).or_default() += 1;
    }

    fn assigned(&mut self, target: &Expr, value: &Expr) {
        let Expr::Name(name) = target else { return };
        let kept = match value {
            Expr::Generator(_) => &mut self.generators,
            value if is_display(value) => &mut self.values,
            _ => return,
        };
        *kept.entry(name.id.to_string()).or_default() += 1;
        if let Expr::StringLiteral(text) = value {
            self.texts.insert(name.id.to_string(), text.value.to_str().to_owned());
        }
    }
}

impl<'a> Visitor<'a> for Read {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Assign(assign) => assign.targets.iter().for_each(|target| self.assigned(target, &assign.value)),
            Stmt::AnnAssign(assign) => {
                if let Some(value) = &assign.value {
                    self.assigned(&assign.target, value);
                }
            }
            Stmt::AugAssign(assign) => {
                if let Expr::Name(name) = &*assign.target {
                    self.values.remove(name.id.as_str());
                    self.texts.remove(name.id.as_str());
                }
            }
            Stmt::FunctionDef(def) => {
                self.bind(&def.name);
                for parameter in &*def.parameters {
                    self.bind(parameter.name());
                }
            }
            Stmt::ClassDef(def) => {
                self.bind(&def.name);
                let methods = def.body.iter().filter_map(|stmt| match stmt {
                    Stmt::FunctionDef(method) => Some(method.name.to_string()),
                    Stmt::AnnAssign(field) => field.target.as_name_expr().map(|name| name.id.to_string()),
                    _ => None,
                });
                self.own_methods.extend(methods);
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(name) if name.ctx.is_store() => self.bind(&name.id),
            Expr::Lambda(lambda) => {
                for parameter in lambda.parameters.iter().flat_map(|parameters| parameters.iter()) {
                    self.bind(parameter.name());
                }
            }
            Expr::Call(call) => {
                self.by_exec |= matches!(&*call.func, Expr::Name(name) if matches!(name.id.as_str(), "exec" | "eval"));
            }
            Expr::Attribute(attribute) if attribute.ctx.is_store() => {
                self.own_methods.insert(attribute.attr.to_string());
            }
            _ => {}
        }
        walk_expr(self, expr);
    }
}

/// Whether a text shows that a value is of a builtin type.
fn is_display(expr: &Expr) -> bool {
    match expr {
        Expr::Dict(_) | Expr::List(_) | Expr::Set(_) | Expr::Tuple(_) => true,
        Expr::DictComp(_) | Expr::ListComp(_) | Expr::SetComp(_) => true,
        Expr::StringLiteral(_) | Expr::FString(_) | Expr::BytesLiteral(_) => true,
        Expr::Call(call) => match &*call.func {
            Expr::Name(name) => matches!(name.id.as_str(), "dict" | "list" | "set" | "str" | "sorted"),
            _ => false,
        },
        _ => false,
    }
}

impl Lint<'_> {
    pub(super) fn call(&mut self, call: &ExprCall) {
        self.called.insert(call.func.range());
        self.raised(call);
        let first = call.arguments.args.first();
        if self.is_builtin(&call.func, &["next"]) && first.is_some_and(|first| self.made.is_generator(first)) {
            let message = "a generator expression is a list in a workflow: next() cannot take from it";
            self.add(call.range(), "TypeError", message, "next(iter(…), default)");
        }
        if self.is_builtin(&call.func, &["open"]) {
            let message = "open(): a workflow cannot use files or the system";
            self.add(call.range(), "PermissionError", message, "do it in a function of a worker, and await that");
        }
        self.handed_over(call);
        let Some(dotted) = self.imported(&call.func) else { return };
        match dotted.as_str() {
            "asyncio.gather" => self.gather(call),
            "datetime.timedelta" => self.fraction_of_time(call),
            "time.sleep" => {
                let message = "time.sleep() would block the workflow";
                self.add(call.range(), "RuntimeError", message, "await asyncio.sleep(seconds), which is durable");
            }
            // The first argument is a function: it may be one that a worker offers by its bare name.
            "durable.call" | "durable.map" => self.called.extend(first.map(Ranged::range)),
            "durable.start_child" | "durable.run_child" => {
                let found = children::mistakes(call, &self.made.texts, self.known);
                self.found.extend(found);
                self.child(call);
            }
            _ => {}
        }
    }

    /// Where a function is wanted, a method of a builtin type cannot be handed over.
    fn handed_over(&mut self, call: &ExprCall) {
        let takes = self.is_builtin(&call.func, &["map", "filter"])
            || matches!(self.imported(&call.func).as_deref(), Some("functools.reduce" | "functools.partial"));
        let first = call.arguments.args.first().filter(|_| takes);
        let named = |name: Option<&str>| matches!(name, Some("key" | "default_factory"));
        let keywords = call.arguments.keywords.iter();
        let by_name = keywords.filter(|keyword| named(keyword.arg.as_deref())).map(|keyword| &keyword.value);
        let methods: Vec<&ExprAttribute> =
            first.into_iter().chain(by_name).filter_map(Expr::as_attribute_expr).collect();
        for method in methods {
            if self.made.is_method(&method.attr) && self.imported(&method.value).is_none() {
                self.method(method);
                // It is not told twice.
                self.called.insert(method.range());
            }
        }
    }

    /// `d.get` without a call, where `d` is known to be no object of the file's own.
    pub(super) fn method_as_value(&mut self, attribute: &ExprAttribute) {
        if !attribute.ctx.is_load() || self.called.contains(&attribute.range()) || !self.made.is_method(&attribute.attr)
        {
            return;
        }
        let types = ["str", "bytes", "int", "float", "list", "tuple", "dict", "set", "frozenset"];
        if self.is_builtin(&attribute.value, &types) || self.made.is_value(&attribute.value) {
            self.method(attribute);
        }
    }

    fn method(&mut self, attribute: &ExprAttribute) {
        let message = format!("the method {} is no value in a workflow: it can only be called", attribute.attr);
        let types = ["str", "bytes", "int", "float", "list", "tuple", "dict", "set", "frozenset"];
        let call = match &*attribute.value {
            Expr::Name(name) if types.contains(&name.id.as_str()) => format!("item.{}()", attribute.attr),
            Expr::Name(name) => format!("{}.{}(item)", name.id, attribute.attr),
            _ => format!("….{}(item)", attribute.attr),
        };
        self.add(attribute.range(), "AttributeError", message, format!("a lambda that calls it: lambda item: {call}"));
    }

    /// `timedelta(seconds=0.5)`: the interpreter's takes whole numbers only.
    fn fraction_of_time(&mut self, call: &ExprCall) {
        let values = call.arguments.args.iter().chain(call.arguments.keywords.iter().map(|keyword| &keyword.value));
        let float = |value: &&Expr| matches!(value, Expr::NumberLiteral(number) if number.value.is_float());
        if let Some(value) = values.into_iter().find(float) {
            let message = "timedelta takes whole numbers in a workflow";
            self.add(value.range(), "TypeError", message, "use a smaller unit: timedelta(milliseconds=500)");
        }
    }

    /// `ValueError(3)`: the interpreter takes one text or nothing, and anything else ends the run past every `except`.
    fn raised(&mut self, call: &ExprCall) {
        let Expr::Name(name) = &*call.func else { return };
        let is_exception = name.id.ends_with("Error") || matches!(name.id.as_str(), "Exception" | "BaseException");
        if !is_exception || !call.arguments.keywords.is_empty() || !modules::is_builtin(&name.id) {
            return;
        }
        let wrong = match &call.arguments.args[..] {
            [] => false,
            [one] => matches!(
                one,
                Expr::NumberLiteral(_)
                    | Expr::BooleanLiteral(_)
                    | Expr::NoneLiteral(_)
                    | Expr::BytesLiteral(_)
                    | Expr::Dict(_)
                    | Expr::List(_)
                    | Expr::Tuple(_)
                    | Expr::Set(_)
            ),
            _ => true,
        };
        if wrong {
            let message = format!("{} takes one text in a workflow", name.id);
            self.add(call.range(), "TypeError", message, "put everything into one text, such as f\"{code}: {detail}\"");
        }
    }
}
