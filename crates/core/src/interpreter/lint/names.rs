//! Names that mean nothing, and modules that are not what they seem.

use ruff_python_ast::{ExprAttribute, ExprName, StmtImportFrom};
use ruff_text_size::{Ranged, TextRange};

use super::{Lint, modules};

/// How alike two names must be for one to be a slip of the other.
const ALIKE: f64 = 0.88;

/// Builtins that are misspelt easily.
const BUILTINS: [&str; 24] = [
    "print",
    "len",
    "range",
    "sorted",
    "enumerate",
    "isinstance",
    "reversed",
    "round",
    "filter",
    "zip",
    "sum",
    "min",
    "max",
    "abs",
    "any",
    "all",
    "list",
    "dict",
    "tuple",
    "str",
    "ValueError",
    "TypeError",
    "RuntimeError",
    "KeyError",
];

impl Lint<'_> {
    pub(super) fn import(&mut self, module: &str, range: TextRange) {
        let top = module.split('.').next().unwrap_or_default();
        if !modules::is_lacking(module) || !modules::is_own(top) && (self.known.module)(top) {
            return;
        }
        let missing = if modules::is_own(top) { module } else { top };
        let advice = modules::instead_of(module);
        self.add(range, "ModuleNotFoundError", format!("a workflow has no module {missing}"), advice);
    }

    pub(super) fn import_from(&mut self, import: &StmtImportFrom) {
        let Some(module) = &import.module else { return };
        self.import(module, import.range());
        if !modules::is_own(module) {
            return;
        }
        for alias in import.names.iter().filter(|alias| alias.name.as_str() != "*") {
            self.member(module, &alias.name, alias.range());
        }
    }

    /// A name of one of the interpreter's own modules.
    fn member(&mut self, module: &str, name: &str, range: TextRange) {
        let dotted = format!("{module}.{name}");
        if modules::is_system(&dotted) {
            let advice = "do it in a function of a worker, and await that";
            let message = format!("{dotted}: a workflow cannot use files or the system");
            self.add(range, "PermissionError", message, advice);
        } else if self.may_lack == 0 && !modules::is_own(&dotted) && !modules::has(module, name) {
            let message = format!("a workflow's {module} has no {name}");
            self.add(range, "AttributeError", message, modules::instead(module, name));
        }
    }

    pub(super) fn attribute(&mut self, attribute: &ExprAttribute) {
        self.method_as_value(attribute);
        match self.imported(&attribute.value) {
            Some(module) if modules::is_own(&module) => {
                self.member(&module, &attribute.attr, attribute.range());
            }
            _ => {}
        }
    }

    /// A name that is read.
    pub(super) fn name(&mut self, name: &ExprName) {
        if !name.ctx.is_load() || !self.scopes.is_free(name) || self.made.by_exec {
            return;
        }
        let id = name.id.as_str();
        if modules::is_builtin(id) || (self.known.function)(id) {
            return;
        }
        if let Some(instead) = modules::builtin_instead(id) {
            self.add(name.range, "NameError", format!("a workflow has no {id}"), instead);
            return;
        }
        let near = self.near(id);
        let did_you_mean = near.as_ref().map(|near| format!("did you mean {near}?"));
        let called = self.called.contains(&name.range);
        let message = format!("name '{id}' is not defined");
        match did_you_mean {
            // It may be an input of a script, or a function that a worker offers by its bare name.
            Some(advice) if called || !self.has_main => self.warn(name.range, message, advice),
            None if called || !self.has_main => {}
            advice => {
                let advice = advice.unwrap_or_else(|| {
                    "define it, make it a parameter of main, or import it: from tasks import name".into()
                });
                self.add(name.range, "NameError", message, advice);
            }
        }
    }

    /// The name that was meant, if one is near enough.
    fn near(&self, name: &str) -> Option<String> {
        let score = |known: &str| strsim::jaro_winkler(known, name);
        let near = self.scopes.names().chain(BUILTINS).filter(|known| *known != name && known.len() > 1);
        let best = near.map(|known| (score(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
        let least = if name.len() < 5 { ALIKE } else { ALIKE - 0.03 };
        best.filter(|(score, _)| *score > least).map(|(_, known)| known.to_owned())
    }
}
