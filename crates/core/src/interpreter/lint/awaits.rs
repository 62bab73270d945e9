//! What is made and never awaited.

use ruff_python_ast::{Expr, ExprCall, StmtAssign};
use ruff_text_size::Ranged;

use super::{Lint, scopes::Binding};

/// What the module `durable` has that does nothing unless it is awaited.
const AWAITABLES: [&str; 8] = ["race", "timeout", "settle", "map", "wait_signal", "sleep_until", "call", "run_child"];

impl Lint<'_> {
    /// A call that gives something to await: under the name that people know it by.
    fn awaitable(&self, expr: &Expr) -> Option<String> {
        let Expr::Call(call) = expr else { return None };
        if let Expr::Name(name) = &*call.func
            && self.scopes.binding(name) == Some(&Binding::Coroutine)
        {
            return Some(name.id.to_string());
        }
        let dotted = self.imported(&call.func)?;
        let is_durable = dotted.strip_prefix("durable.").is_some_and(|name| AWAITABLES.contains(&name));
        let is_asyncio = matches!(dotted.as_str(), "asyncio.sleep" | "asyncio.gather");
        (is_durable || is_asyncio || self.served.contains(&dotted)).then_some(dotted)
    }

    /// A call whose result is used, or dropped, where only an awaitable can be.
    pub(super) fn unawaited(&mut self, expr: &Expr) {
        if let Some(name) = self.awaitable(expr) {
            let advice = "write await before it, or durable.spawn(…) to let it run beside";
            self.add(expr.range(), "SyntaxError", format!("{name}() is not awaited"), advice);
        }
    }

    /// An expression that is a statement: nobody has its value.
    pub(super) fn alone(&mut self, expr: &Expr) {
        self.unawaited(expr);
        if self.makes_callback(expr) {
            let advice = "token, answer = durable.callback(), hand the token over, then await answer";
            self.warn(expr.range(), "a callback is made and dropped: nobody can complete it", advice);
        }
    }

    /// `answer = wait_signal("x")`, and `answer` is read nowhere.
    pub(super) fn kept(&mut self, assign: &StmtAssign) {
        let [target] = &assign.targets[..] else { return };
        match target {
            Expr::Name(name) if !self.scopes.is_read(name) => {
                if let Some(made) = self.awaitable(&assign.value) {
                    let is_wait = made == "durable.wait_signal";
                    // A name such as _ says that the result is not wanted, and a call goes out when it is made.
                    if is_wait || !name.id.starts_with('_') {
                        let message = format!("{made}() is made and dropped: {} is never awaited", name.id);
                        self.warn(assign.value.range(), message, "write await before it, or leave it out");
                    }
                }
            }
            Expr::Tuple(both) if self.makes_callback(&assign.value) => {
                if let [_, Expr::Name(answer)] = &both.elts[..]
                    && !self.scopes.is_read(answer)
                {
                    let message = format!("a callback is made and dropped: {} is never awaited", answer.id);
                    self.warn(
                        answer.range(),
                        message,
                        format!("await {} to have what it is completed with", answer.id),
                    );
                }
            }
            _ => {}
        }
    }

    fn makes_callback(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::Call(call) if self.imported(&call.func).as_deref() == Some("durable.callback"))
    }

    pub(super) fn gather(&mut self, call: &ExprCall) {
        if let Some(keyword) = call.arguments.keywords.first() {
            let message = "gather() takes no keywords in a workflow";
            let advice = "await durable.settle(…): exceptions come as values";
            self.add(keyword.range(), "NotImplementedError", message, advice);
        }
    }
}
