//! Which name means what, and where: Python's scopes, as far as a file's text tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruff_python_ast::{
    Comprehension, ExceptHandler, Expr, ExprName, ModModule, Parameters, Pattern, Stmt,
    visitor::{Visitor, walk_except_handler, walk_expr, walk_pattern, walk_stmt},
};
use ruff_text_size::TextRange;

/// What a name was bound by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::interpreter) enum Binding {
    /// `import tasks as t`, or `from tasks import encode`: the dotted name that it stands for.
    Import(String),
    /// A coroutine that the file defines.
    Coroutine,
    /// A plain function or a class of the file.
    Definition,
    /// Anything else, or several of these.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Function,
    Class,
    Comprehension,
}

struct Scope {
    kind: Kind,
    parent: usize,
    bound: BTreeMap<String, Binding>,
    global: BTreeSet<String>,
    nonlocal: BTreeSet<String>,
}

/// The scopes of a file. The first is the module's.
pub(in crate::interpreter) struct Scopes {
    scopes: Vec<Scope>,
    /// Where each name that is read stands: the scope that it is read in.
    reads: HashMap<TextRange, usize>,
    /// The same for names that are assigned to.
    writes: HashMap<TextRange, usize>,
    used: BTreeSet<(usize, String)>,
}

impl Scopes {
    pub(in crate::interpreter) fn of(module: &ModModule, skipped: &[TextRange]) -> Self {
        let scope = |kind, parent| Scope {
            kind,
            parent,
            bound: BTreeMap::new(),
            global: BTreeSet::new(),
            nonlocal: BTreeSet::new(),
        };
        let scopes = Self {
            scopes: vec![scope(Kind::Module, 0)],
            reads: HashMap::new(),
            writes: HashMap::new(),
            used: BTreeSet::new(),
        };
        let mut build = Build { scopes, at: 0, names: Vec::new(), skipped, new: &scope };
        build.visit_body(&module.body);
        let (mut scopes, names) = (build.scopes, build.names);
        scopes.bind_globals();
        for (name, at) in names {
            if let Some(found) = scopes.find(&name, at) {
                scopes.used.insert((found, name));
            }
        }
        scopes
    }

    /// What a name that is read stands for; none for one that the file does not bind.
    pub(in crate::interpreter) fn binding(&self, name: &ExprName) -> Option<&Binding> {
        let at = *self.reads.get(&name.range)?;
        let found = self.find(&name.id, at)?;
        self.scopes[found].bound.get(name.id.as_str())
    }

    /// `tasks.encode` for whatever stands for it here, if that was imported.
    pub(in crate::interpreter) fn imported(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Name(name) => match self.binding(name) {
                Some(Binding::Import(dotted)) => Some(dotted.clone()),
                _ => None,
            },
            Expr::Attribute(attribute) => Some(format!("{}.{}", self.imported(&attribute.value)?, attribute.attr)),
            _ => None,
        }
    }

    /// Whether a name that is read is bound nowhere in its reach. False for what was not looked at.
    pub(in crate::interpreter) fn is_free(&self, name: &ExprName) -> bool {
        self.reads.get(&name.range).is_some_and(|at| self.find(&name.id, *at).is_none())
    }

    /// Whether the name that is assigned to here is read anywhere.
    pub(in crate::interpreter) fn is_read(&self, name: &ExprName) -> bool {
        let Some(at) = self.writes.get(&name.range) else { return true };
        let found = self.find(&name.id, *at).unwrap_or(*at);
        self.scopes[found].kind == Kind::Class || self.used.contains(&(found, name.id.to_string()))
    }

    /// Every name that is bound anywhere.
    pub(in crate::interpreter) fn names(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().flat_map(|scope| scope.bound.keys()).map(String::as_str)
    }

    /// The scope in whose variables a name is found that is mentioned in scope `at`.
    fn find(&self, name: &str, at: usize) -> Option<usize> {
        let here = &self.scopes[at];
        if here.global.contains(name) {
            return self.scopes[0].bound.contains_key(name).then_some(0);
        }
        if here.bound.contains_key(name) && !here.nonlocal.contains(name) {
            return Some(at);
        }
        let mut open = at;
        while open != 0 {
            open = self.scopes[open].parent;
            let scope = &self.scopes[open];
            if scope.global.contains(name) {
                return self.scopes[0].bound.contains_key(name).then_some(0);
            }
            // The names of a class are not seen from the functions in it.
            let seen = scope.kind != Kind::Class || here.kind == Kind::Comprehension;
            if seen && !scope.nonlocal.contains(name) && scope.bound.contains_key(name) {
                return Some(open);
            }
        }
        None
    }

    /// What a function assigns to under `global` is the module's.
    fn bind_globals(&mut self) {
        let module: Vec<(String, Binding)> = self.scopes[1..]
            .iter()
            .flat_map(|scope| scope.bound.iter().filter(|(name, _)| scope.global.contains(*name)))
            .map(|(name, _)| (name.clone(), Binding::Other))
            .collect();
        for (name, binding) in module {
            self.scopes[0].bound.insert(name, binding);
        }
    }
}

struct Build<'s, F> {
    scopes: Scopes,
    at: usize,
    /// Names that are read, each with its scope.
    names: Vec<(String, usize)>,
    skipped: &'s [TextRange],
    new: &'s F,
}

impl<F: Fn(Kind, usize) -> Scope> Build<'_, F> {
    fn bind(&mut self, name: &str, binding: Binding) {
        let bound = &mut self.scopes.scopes[self.at].bound;
        let binding = match bound.get(name) {
            Some(before) if *before != binding => Binding::Other,
            _ => binding,
        };
        bound.insert(name.to_owned(), binding);
    }

    fn inside(&mut self, kind: Kind, work: impl FnOnce(&mut Self)) {
        let outer = self.at;
        self.at = self.scopes.scopes.len();
        let scope = (self.new)(kind, outer);
        self.scopes.scopes.push(scope);
        work(self);
        self.at = outer;
    }

    fn defaults(&mut self, parameters: &Parameters) {
        let given = parameters.iter_non_variadic_params().filter_map(|parameter| parameter.default.as_deref());
        given.for_each(|default| self.visit_expr(default));
    }

    fn parameters(&mut self, parameters: &Parameters) {
        for parameter in parameters {
            self.bind(parameter.name(), Binding::Other);
        }
    }

    fn comprehension(&mut self, generators: &[Comprehension], results: &[&Expr]) {
        // The first iterable is evaluated outside.
        if let Some(first) = generators.first() {
            self.visit_expr(&first.iter);
        }
        self.inside(Kind::Comprehension, |build| {
            for (place, generator) in generators.iter().enumerate() {
                build.visit_expr(&generator.target);
                if place > 0 {
                    build.visit_expr(&generator.iter);
                }
                generator.ifs.iter().for_each(|test| build.visit_expr(test));
            }
            results.iter().for_each(|result| build.visit_expr(result));
        });
    }

    fn name(&mut self, name: &ExprName) {
        if name.ctx.is_store() {
            self.bind(&name.id, Binding::Other);
            self.scopes.writes.insert(name.range, self.at);
        } else {
            self.scopes.reads.insert(name.range, self.at);
            self.names.push((name.id.to_string(), self.at));
        }
    }

    /// `name := value` binds outside of comprehensions.
    fn walrus(&mut self, target: &Expr) {
        let inner = self.at;
        while self.scopes.scopes[self.at].kind == Kind::Comprehension {
            self.at = self.scopes.scopes[self.at].parent;
        }
        self.visit_expr(target);
        self.at = inner;
    }
}

impl<'a, F: Fn(Kind, usize) -> Scope> Visitor<'a> for Build<'_, F> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(def) => {
                def.decorator_list.iter().for_each(|decorator| self.visit_expr(&decorator.expression));
                self.defaults(&def.parameters);
                self.bind(&def.name, if def.is_async { Binding::Coroutine } else { Binding::Definition });
                self.inside(Kind::Function, |build| {
                    build.parameters(&def.parameters);
                    build.visit_body(&def.body);
                });
            }
            Stmt::ClassDef(def) => {
                def.decorator_list.iter().for_each(|decorator| self.visit_expr(&decorator.expression));
                if let Some(arguments) = &def.arguments {
                    self.visit_arguments(arguments);
                }
                self.bind(&def.name, Binding::Definition);
                self.inside(Kind::Class, |build| build.visit_body(&def.body));
            }
            Stmt::Import(import) => {
                for alias in &import.names {
                    let top = alias.name.split('.').next().unwrap_or_default();
                    match &alias.asname {
                        Some(local) => self.bind(local, Binding::Import(alias.name.to_string())),
                        None => self.bind(top, Binding::Import(top.to_owned())),
                    }
                }
            }
            Stmt::ImportFrom(import) => {
                let module = import.module.as_ref().map(ToString::to_string).unwrap_or_default();
                for alias in &import.names {
                    let local = alias.asname.as_ref().unwrap_or(&alias.name);
                    self.bind(local, Binding::Import(format!("{module}.{}", alias.name)));
                }
            }
            Stmt::Global(global) => {
                let names = global.names.iter().map(ToString::to_string);
                self.scopes.scopes[self.at].global.extend(names);
            }
            Stmt::Nonlocal(nonlocal) => {
                let names = nonlocal.names.iter().map(ToString::to_string);
                self.scopes.scopes[self.at].nonlocal.extend(names);
            }
            // Annotations are not evaluated.
            Stmt::AnnAssign(assign) => {
                assign.value.iter().for_each(|value| self.visit_expr(value));
                self.visit_expr(&assign.target);
            }
            // It is read before it is written.
            Stmt::AugAssign(assign) => {
                if let Expr::Name(name) = &*assign.target {
                    self.scopes.reads.insert(name.range, self.at);
                    self.names.push((name.id.to_string(), self.at));
                    self.bind(&name.id, Binding::Other);
                } else {
                    self.visit_expr(&assign.target);
                }
                self.visit_expr(&assign.value);
            }
            Stmt::If(test) if self.skipped.contains(&test.range) => {
                test.elif_else_clauses.iter().for_each(|clause| self.visit_elif_else_clause(clause));
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(caught) = handler;
        if let Some(name) = &caught.name {
            self.bind(name, Binding::Other);
        }
        walk_except_handler(self, handler);
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        let captured = match pattern {
            Pattern::MatchAs(pattern) => pattern.name.as_ref(),
            Pattern::MatchStar(pattern) => pattern.name.as_ref(),
            Pattern::MatchMapping(pattern) => pattern.rest.as_ref(),
            _ => None,
        };
        if let Some(name) = captured {
            self.bind(name, Binding::Other);
        }
        walk_pattern(self, pattern);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(name) => self.name(name),
            Expr::Named(named) => {
                self.visit_expr(&named.value);
                self.walrus(&named.target);
            }
            Expr::Lambda(lambda) => {
                if let Some(parameters) = &lambda.parameters {
                    self.defaults(parameters);
                }
                self.inside(Kind::Function, |build| {
                    if let Some(parameters) = &lambda.parameters {
                        build.parameters(parameters);
                    }
                    build.visit_expr(&lambda.body);
                });
            }
            Expr::ListComp(made) => self.comprehension(&made.generators, &[&made.elt]),
            Expr::SetComp(made) => self.comprehension(&made.generators, &[&made.elt]),
            Expr::Generator(made) => self.comprehension(&made.generators, &[&made.elt]),
            Expr::DictComp(made) => {
                let results: Vec<&Expr> = made.key.iter().chain(std::iter::once(&made.value)).map(|e| &**e).collect();
                self.comprehension(&made.generators, &results);
            }
            _ => walk_expr(self, expr),
        }
    }
}
