//! Mistakes that compile, and that can be seen before anything runs.

use std::collections::BTreeSet;

use ruff_python_ast::{
    Expr, ExprCall, ModModule, Stmt,
    visitor::{Visitor, walk_expr, walk_stmt},
};
use ruff_text_size::{Ranged, TextRange};

use super::prelude;

/// Something that will not do what it looks like.
pub(super) struct Mistake {
    pub(super) range: TextRange,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) advice: &'static str,
}

/// What the module `durable` has that does nothing unless it is awaited.
const AWAITABLES: [&str; 6] = ["race", "timeout", "settle", "map", "wait_signal", "sleep_until"];

/// What to write instead of what the interpreter's asyncio lacks.
const ASYNCIO: [(&str, &str); 14] = [
    ("create_task", "handle = durable.spawn(coroutine), then await handle"),
    ("ensure_future", "handle = durable.spawn(coroutine), then await handle"),
    ("wait_for", "await durable.timeout(awaitable, seconds)"),
    ("timeout", "await durable.timeout(awaitable, seconds)"),
    ("wait", "await durable.race(…) for the first, await durable.settle(…) for all"),
    ("as_completed", "await durable.race(…) in a loop"),
    ("TaskGroup", "await asyncio.gather(…)"),
    ("Semaphore", "await durable.map(fn, items, limit=n)"),
    ("Lock", "tasks of a workflow switch at awaits only: a plain variable will do"),
    ("Event", "a list or a plain variable, and durable.wait_signal for what comes from outside"),
    ("Queue", "a list, and durable.map(fn, items, limit=n)"),
    ("to_thread", "call a function of a worker and await it"),
    ("CancelledError", "durable.Cancelled"),
    ("TimeoutError", "durable.TaskTimeout"),
];

/// Python's own modules that neither the interpreter has nor a worker may serve under that name.
const NOT_HERE: &str = include_str!("lint/not_here.txt");

/// Looks a file over. `served` are the dotted names of functions that it imports.
pub(super) fn mistakes(module: &ModModule, served: &BTreeSet<String>) -> Vec<Mistake> {
    let mut names = Names::default();
    names.visit_body(&module.body);
    let mut lint = Lint { names, served, found: Vec::new(), functions: Vec::new() };
    lint.visit_body(&module.body);
    lint.found.sort_by_key(|mistake| mistake.range.start());
    lint.found
}

/// What names stand for in a file, as far as imports and definitions say.
#[derive(Default)]
struct Names {
    /// Coroutines that the file defines.
    coroutines: BTreeSet<String>,
    /// Local name → dotted name.
    imported: Vec<(String, String)>,
}

impl<'a> Visitor<'a> for Names {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(def) if def.is_async => drop(self.coroutines.insert(def.name.to_string())),
            Stmt::Import(import) => {
                for alias in &import.names {
                    let local = alias.asname.as_ref().unwrap_or(&alias.name).to_string();
                    self.imported.push((local, alias.name.to_string()));
                }
            }
            Stmt::ImportFrom(import) => {
                let module = import.module.as_ref().map(ToString::to_string).unwrap_or_default();
                for alias in &import.names {
                    let local = alias.asname.as_ref().unwrap_or(&alias.name).to_string();
                    self.imported.push((local, format!("{module}.{}", alias.name)));
                }
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }
}

struct Lint<'s> {
    names: Names,
    served: &'s BTreeSet<String>,
    found: Vec<Mistake>,
    /// The functions around, each with whether it is async.
    functions: Vec<bool>,
}

impl<'a> Visitor<'a> for Lint<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Expr(alone) => self.unawaited(&alone.value),
            Stmt::FunctionDef(def) => {
                self.functions.push(def.is_async);
                walk_stmt(self, stmt);
                self.functions.pop();
                return;
            }
            Stmt::If(test) => self.unawaited(&test.test),
            Stmt::While(test) => self.unawaited(&test.test),
            Stmt::For(each) => self.unawaited(&each.iter),
            Stmt::Import(import) => {
                import.names.iter().for_each(|alias| self.import(&alias.name, alias.range()));
            }
            Stmt::ImportFrom(import) => {
                if let Some(module) = &import.module {
                    self.import(module, import.range());
                    if module.as_str() == "asyncio" {
                        import.names.iter().for_each(|alias| self.asyncio(&alias.name, alias.range()));
                    }
                }
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Attribute(attribute) if self.dotted(&attribute.value).as_deref() == Some("asyncio") => {
                self.asyncio(attribute.attr.as_str(), attribute.range());
            }
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
                let message = "await is outside an async function".to_owned();
                self.add(
                    awaited.range(),
                    "SyntaxError",
                    message,
                    "write async def, and await the function where it is called",
                );
            }
            Expr::Call(call) => {
                self.raised(call);
                self.fraction_of_time(call);
                let gather = self.dotted(&call.func).as_deref() == Some("asyncio.gather");
                if let Some(keyword) = call.arguments.keywords.first().filter(|_| gather) {
                    let message = "gather() takes no keywords in a workflow".to_owned();
                    let advice = "await durable.settle(…): exceptions come as values";
                    self.add(keyword.range(), "NotImplementedError", message, advice);
                }
            }
            _ => {}
        }
        walk_expr(self, expr);
    }
}

impl Lint<'_> {
    fn add(&mut self, range: TextRange, kind: &'static str, message: String, advice: &'static str) {
        self.found.push(Mistake { range, kind, message, advice });
    }

    /// `tasks.encode` for whatever stands for it here.
    fn dotted(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Name(name) => {
                let imported = self.names.imported.iter().rev().find(|(local, _)| local == name.id.as_str());
                Some(imported.map_or_else(|| name.id.to_string(), |(_, dotted)| dotted.clone()))
            }
            Expr::Attribute(attribute) => Some(format!("{}.{}", self.dotted(&attribute.value)?, attribute.attr)),
            _ => None,
        }
    }

    /// `timedelta(seconds=0.5)`: the interpreter's takes whole numbers only.
    fn fraction_of_time(&mut self, call: &ExprCall) {
        if self.dotted(&call.func).as_deref() != Some("datetime.timedelta") {
            return;
        }
        let values = call.arguments.args.iter().chain(call.arguments.keywords.iter().map(|keyword| &keyword.value));
        let float = |value: &&Expr| matches!(value, Expr::NumberLiteral(number) if number.value.is_float());
        if let Some(value) = values.into_iter().find(float) {
            let message = "timedelta takes whole numbers in a workflow".to_owned();
            self.add(value.range(), "TypeError", message, "use a smaller unit: timedelta(milliseconds=500)");
        }
    }

    /// A call whose result is used, or dropped, where only an awaitable can be.
    fn unawaited(&mut self, expr: &Expr) {
        let Expr::Call(call) = expr else { return };
        let Some(dotted) = self.dotted(&call.func) else { return };
        let durable = dotted.strip_prefix("durable.");
        let forgotten = self.names.coroutines.contains(&dotted)
            || self.served.contains(&dotted)
            || matches!(dotted.as_str(), "asyncio.sleep" | "asyncio.gather")
            || durable.is_some_and(|name| AWAITABLES.contains(&name) || matches!(name, "call" | "run_child"));
        if forgotten {
            let message = format!("{dotted}() is not awaited");
            self.add(
                call.range(),
                "SyntaxError",
                message,
                "write await before it, or durable.spawn(…) to let it run beside",
            );
        }
    }

    fn import(&mut self, module: &str, range: TextRange) {
        let top = module.split('.').next().unwrap_or_default();
        if NOT_HERE.lines().any(|name| name == top) && !prelude::has(top) {
            let message = format!("a workflow has no module {top}");
            self.add(range, "ModuleNotFoundError", message, "use it in a function of a worker, and await that");
        }
    }

    fn asyncio(&mut self, name: &str, range: TextRange) {
        if let Some((_, advice)) = ASYNCIO.iter().find(|(lacking, _)| *lacking == name) {
            self.add(range, "AttributeError", format!("a workflow's asyncio has no {name}"), advice);
        }
    }

    /// `ValueError(3)`: the interpreter takes one text or nothing, and anything else ends the run past every `except`.
    fn raised(&mut self, call: &ExprCall) {
        let Expr::Name(name) = &*call.func else { return };
        let is_exception = name.id.ends_with("Error") || matches!(name.id.as_str(), "Exception" | "BaseException");
        if !is_exception || !call.arguments.keywords.is_empty() {
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
