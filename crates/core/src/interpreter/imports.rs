//! What a file imports, and which names of it it uses.

use std::collections::{BTreeMap, BTreeSet};

use ruff_python_ast::{
    Expr, ModModule, Stmt,
    visitor::{Visitor, walk_expr, walk_stmt},
};
use ruff_text_size::Ranged;

use super::{entry, prelude};

/// What a file imports, and which attributes of it are mentioned.
#[derive(Default)]
pub(super) struct Imports {
    /// Local name → the dotted module it stands for.
    bound: BTreeMap<String, String>,
    /// Dotted names imported with `from`, and dotted chains used anywhere, with their offsets.
    from: BTreeMap<String, u32>,
    chains: Vec<(Vec<String>, u32)>,
    /// Names that stand alone.
    bare: BTreeSet<String>,
    modules: BTreeMap<String, u32>,
    has_main: bool,
}

impl<'a> Visitor<'a> for Imports {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Import(import) => {
                for alias in &import.names {
                    let module = alias.name.to_string();
                    self.modules.entry(module.clone()).or_insert(alias.range.start().to_u32());
                    match &alias.asname {
                        Some(name) => self.bound.insert(name.to_string(), module),
                        None => {
                            let top = module.split('.').next().unwrap_or_default().to_owned();
                            self.bound.insert(top.clone(), top)
                        }
                    };
                }
            }
            Stmt::ImportFrom(import) => {
                let module = import.module.as_ref().map(ToString::to_string).unwrap_or_default();
                self.modules.entry(module.clone()).or_insert(import.range.start().to_u32());
                for alias in &import.names {
                    let dotted = format!("{module}.{}", alias.name);
                    self.from.entry(dotted).or_insert(alias.range.start().to_u32());
                }
            }
            Stmt::If(test) if entry::never_runs(stmt, self.has_main) => {
                test.elif_else_clauses.iter().for_each(|clause| self.visit_elif_else_clause(clause));
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Some(chain) = dotted_chain(expr) {
            self.chains.push((chain, expr.range().start().to_u32()));
        } else {
            if let Expr::Name(name) = expr {
                self.bare.insert(name.id.to_string());
            }
            walk_expr(self, expr);
        }
    }
}

/// `a.b.c` as its parts; none for anything else.
fn dotted_chain(expr: &Expr) -> Option<Vec<String>> {
    match expr {
        Expr::Attribute(attribute) => {
            let mut chain = match &*attribute.value {
                Expr::Name(name) => vec![name.id.to_string()],
                inner => dotted_chain(inner)?,
            };
            chain.push(attribute.attr.to_string());
            Some(chain)
        }
        _ => None,
    }
}

/// What a file uses of the prelude's modules.
pub(super) struct Own {
    pub(super) modules: BTreeSet<String>,
    /// `durable.race` → offset of its first mention.
    pub(super) names: BTreeMap<String, u32>,
    /// `durable` itself is a value somewhere.
    whole: bool,
    /// `hasattr` or `getattr` is mentioned.
    pub(super) attributes: bool,
}

impl Own {
    /// Whether nothing has to be made before the first line.
    pub(super) fn is_empty(&self) -> bool {
        self.modules.is_empty() && !self.attributes
    }

    /// Whether a name has to be there: it is mentioned, or the module itself is handed about.
    pub(super) fn uses(&self, dotted: &str) -> bool {
        self.whole || self.names.contains_key(dotted)
    }

    /// A name that the modules do not have.
    pub(super) fn unknown(&self) -> Option<(&str, u32)> {
        let durable = prelude::durable();
        let known = |dotted: &str| match dotted.split_once('.') {
            Some(("durable", name)) => durable.contains(name),
            Some((_, name)) => matches!(name, "uuid4" | "UUID"),
            None => true,
        };
        self.names.iter().find(|(dotted, _)| !known(dotted)).map(|(dotted, at)| (dotted.as_str(), *at))
    }
}

impl Imports {
    pub(super) fn of(module: &ModModule, has_main: bool) -> Self {
        let mut imports = Self { has_main, ..Self::default() };
        imports.visit_body(&module.body);
        imports
    }

    pub(super) fn own(&self) -> Own {
        let modules: BTreeSet<String> = self.modules.keys().filter(|module| prelude::has(module)).cloned().collect();
        let chains = self.chains.iter().filter_map(|(chain, at)| {
            let module = self.bound.get(&chain[0]).filter(|module| prelude::has(module))?;
            Some((format!("{module}.{}", chain.get(1)?), *at))
        });
        let from = self.from.iter().map(|(dotted, at)| (dotted.clone(), *at));
        let mut names = BTreeMap::new();
        for (dotted, at) in from.filter(|(dotted, _)| dotted.split('.').next().is_some_and(prelude::has)).chain(chains)
        {
            names.entry(dotted).and_modify(|first: &mut u32| *first = at.min(*first)).or_insert(at);
        }
        let is_module = |name: &String| self.bound.get(name).is_some_and(|module| module == "durable");
        let whole = self.bare.iter().any(is_module);
        let attributes = self.bare.contains("hasattr") || self.bare.contains("getattr");
        Own { modules, names, whole, attributes }
    }

    /// Names and modules that the host has to serve, that is those not built into the interpreter.
    pub(super) fn served(self, line_of: impl Fn(u32) -> u32) -> (BTreeMap<String, u32>, BTreeSet<String>) {
        let builtin = monty::builtin_module_names();
        let foreign = |dotted: &str| {
            let top = dotted.split('.').next().unwrap_or_default();
            !top.is_empty() && top != "__future__" && !builtin.contains(&top) && !prelude::has(top)
        };
        let modules: BTreeSet<String> = self.modules.into_keys().filter(|module| foreign(module)).collect();
        let is_module = |dotted: &str| modules.iter().any(|m| m == dotted || m.starts_with(&format!("{dotted}.")));
        let mut served = BTreeMap::new();
        let chains = self.chains.iter().filter_map(|(chain, at)| {
            let module = self.bound.get(&chain[0])?;
            Some((
                std::iter::once(module.as_str()).chain(chain[1..].iter().map(String::as_str)).collect::<Vec<_>>(),
                *at,
            ))
        });
        // Of `pkg.tasks.encode.x` the function is the first part that is not a module.
        let functions = chains.filter_map(|(parts, at)| {
            let dotted = (1..=parts.len()).map(|n| parts[..n].join(".")).find(|dotted| !is_module(dotted))?;
            Some((dotted, at))
        });
        let from = self.from.iter().filter(|(dotted, _)| !is_module(dotted)).map(|(dotted, at)| (dotted.clone(), *at));
        for (dotted, at) in from.chain(functions) {
            if foreign(&dotted) && dotted.contains('.') {
                let line = line_of(at);
                served.entry(dotted).and_modify(|first: &mut u32| *first = line.min(*first)).or_insert(line);
            }
        }
        (served, modules)
    }
}
