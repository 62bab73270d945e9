//! The `try` statements of a file, and the statements that raise.

use ruff_python_ast::{
    ExceptHandler, Expr, Stmt,
    visitor::{Visitor, walk_except_handler, walk_stmt},
};
use ruff_text_size::{Ranged, TextRange, TextSize};

use super::{compile_error::line_starts, program::Program, traceback::Frame};

/// How an exception belongs to one before it.
pub(super) enum Why {
    /// `raise … from error`.
    Cause,
    /// It was raised while the other was handled.
    Context,
}

/// A block that runs while an exception is handled.
#[derive(Clone)]
pub(super) struct Handler {
    block: TextRange,
    /// What it handles the exceptions of.
    body: Vec<TextRange>,
    /// The name that the exception has in it.
    pub(super) name: Option<String>,
    /// The function that it stands in.
    function: TextRange,
}

struct Raise {
    stmt: TextRange,
    /// What it raises was made elsewhere.
    is_variable: bool,
    /// `from None`, or from what; none without `from`.
    cause: Option<Option<String>>,
}

pub(super) struct Tries<'a> {
    program: &'a Program,
    starts: Vec<u32>,
    handlers: Vec<Handler>,
    raises: Vec<Raise>,
    functions: Vec<TextRange>,
}

impl<'a> Tries<'a> {
    pub(super) fn of(program: &'a Program) -> Self {
        let starts = line_starts(&program.source);
        let mut tries = Self { program, starts, handlers: Vec::new(), raises: Vec::new(), functions: Vec::new() };
        tries.functions.push(TextRange::up_to(TextSize::of(program.source.as_str())));
        if let Ok(module) = ruff_python_parser::parse_module(&program.source) {
            let whole = TextRange::up_to(TextSize::of(program.source.as_str()));
            let mut read = Read { tries: &mut tries, functions: vec![whole] };
            read.visit_body(&module.syntax().body);
        }
        tries
    }

    fn offset(&self, (line, column): (u32, u32)) -> Option<TextSize> {
        let start = *self.starts.get(line.checked_sub(1)? as usize)? as usize;
        let text = self.program.source.get(start..)?;
        let bytes: usize = text.chars().take(column.checked_sub(1)? as usize).map(char::len_utf8).sum();
        TextSize::try_from(start + bytes).ok()
    }

    fn raise_at(&self, frame: &Frame) -> Option<&Raise> {
        let at = self.offset(frame.start)?;
        self.raises.iter().filter(|raise| raise.stmt.contains(at)).min_by_key(|raise| raise.stmt.len())
    }

    pub(super) fn raises_variable(&self, frame: &Frame) -> bool {
        self.raise_at(frame).is_some_and(|raise| raise.is_variable)
    }

    /// What the statement there says of the cause: nothing, None, or a name.
    pub(super) fn cause(&self, frame: &Frame) -> Option<Option<String>> {
        self.raise_at(frame)?.cause.clone()
    }

    /// The innermost block around a frame, in its own function, that runs while an exception is handled.
    pub(super) fn handler_around(&self, frame: &Frame) -> Option<Handler> {
        let at = self.offset(frame.start)?;
        let function = self.function_at(at)?;
        let around = self.handlers.iter().filter(|handler| handler.function == function && handler.block.contains(at));
        around.min_by_key(|handler| handler.block.len()).cloned()
    }

    /// Whether a frame stands in the block that a handler is for.
    pub(super) fn is_in_body(&self, handler: &Handler, frame: &Frame) -> bool {
        let Some(at) = self.offset(frame.start) else { return false };
        self.function_at(at) == Some(handler.function) && handler.body.iter().any(|body| body.contains(at))
    }

    fn function_at(&self, at: TextSize) -> Option<TextRange> {
        self.functions.iter().filter(|function| function.contains(at)).min_by_key(|function| function.len()).copied()
    }
}

/// Whether anything in a file sees exceptions on their way.
pub(super) fn has_handlers(body: &[Stmt]) -> bool {
    struct Any(bool);
    impl<'a> Visitor<'a> for Any {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            self.0 |= matches!(stmt, Stmt::Try(_) | Stmt::With(_));
            walk_stmt(self, stmt);
        }
    }
    let mut any = Any(false);
    any.visit_body(body);
    any.0
}

/// Whether anything is awaited while an exception is handled.
pub(super) fn awaits_in_handlers(body: &[Stmt]) -> bool {
    #[derive(Default)]
    struct Awaits {
        handlers: usize,
        found: bool,
    }
    impl<'a> Visitor<'a> for Awaits {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            let Stmt::Try(attempt) = stmt else { return walk_stmt(self, stmt) };
            self.visit_body(&attempt.body);
            self.visit_body(&attempt.orelse);
            attempt.handlers.iter().for_each(|handler| self.visit_except_handler(handler));
            self.handlers += 1;
            self.visit_body(&attempt.finalbody);
            self.handlers -= 1;
        }

        fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
            self.handlers += 1;
            walk_except_handler(self, handler);
            self.handlers -= 1;
        }

        fn visit_expr(&mut self, expr: &'a Expr) {
            self.found |= self.handlers > 0 && matches!(expr, Expr::Await(_));
            ruff_python_ast::visitor::walk_expr(self, expr);
        }
    }
    let mut awaits = Awaits::default();
    awaits.visit_body(body);
    awaits.found
}

struct Read<'t, 'a> {
    tries: &'t mut Tries<'a>,
    functions: Vec<TextRange>,
}

impl Read<'_, '_> {
    fn handler(&mut self, block: TextRange, body: Vec<TextRange>, name: Option<String>) {
        let function = self.functions.last().copied().unwrap_or_default();
        self.tries.handlers.push(Handler { block, body, name, function });
    }
}

fn range_of(body: &[Stmt]) -> Option<TextRange> {
    Some(TextRange::new(body.first()?.start(), body.last()?.end()))
}

impl<'a> Visitor<'a> for Read<'_, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(def) => {
                self.functions.push(def.range);
                self.tries.functions.push(def.range);
                walk_stmt(self, stmt);
                self.functions.pop();
                return;
            }
            Stmt::Try(attempt) => {
                let body: Vec<TextRange> = range_of(&attempt.body).into_iter().collect();
                for ExceptHandler::ExceptHandler(handler) in &attempt.handlers {
                    let name = handler.name.as_ref().map(ToString::to_string);
                    self.handler(handler.range, body.clone(), name);
                }
                let mut all = body;
                all.extend(attempt.handlers.iter().map(Ranged::range));
                all.extend(range_of(&attempt.orelse));
                if let Some(last) = range_of(&attempt.finalbody) {
                    self.handler(last, all, None);
                }
            }
            Stmt::Raise(raise) => {
                if let Some(raised) = &raise.exc {
                    let is_variable = match &**raised {
                        Expr::Call(_) => false,
                        Expr::Name(name) => name.id.parse::<monty_types::ExcType>().is_err(),
                        _ => true,
                    };
                    let cause = raise.cause.as_ref().map(|cause| match &**cause {
                        Expr::NoneLiteral(_) => None,
                        Expr::Name(name) => Some(name.id.to_string()),
                        _ => Some(String::new()),
                    });
                    self.tries.raises.push(Raise { stmt: raise.range, is_variable, cause });
                }
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Expr::Lambda(lambda) = expr {
            self.tries.functions.push(lambda.range);
        }
        ruff_python_ast::visitor::walk_expr(self, expr);
    }
}
