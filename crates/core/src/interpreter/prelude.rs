//! The modules that workflows import and the interpreter lacks: `durable`, and `uuid`. They are Python, compiled with
//! the workflow and run before its first line, and are handed out when it imports them.

use std::collections::BTreeSet;

use monty_types::{MontyObject, MontyUuid, ObjectRef, unstable};
use serde::{Deserialize, Serialize};
use unstable::MontyNode;

/// The name under which the text below reaches the program.
pub(super) const TEXT: &str = "__durable_prelude__";

/// Names that begin so are answered by the host at once.
pub(super) const HOST: &str = "__durable_";

/// The line before the first of a workflow that imports one of these modules. A line of its own: what follows may be
/// a `def`.
const PREFIX: &str = "exec(__durable_prelude__)";

/// `hasattr` and `getattr` that answer as Python's do.
const ATTRIBUTES: &str = include_str!("prelude/attributes.py");

/// The line itself. Names that hide builtins have to be assigned where the workflow's own names are.
pub(super) fn prefix(attributes: bool) -> String {
    format!("{PREFIX}{}\n", if attributes { "; hasattr, getattr = __durable_attributes__()" } else { "" })
}

/// The names of methods of builtin types.
pub(super) fn methods() -> BTreeSet<&'static str> {
    let (_, table) = ATTRIBUTES.split_once("\"\"\"\n").unwrap_or_default();
    let rows = table.split("\"\"\"").next().unwrap_or_default().lines();
    let names = rows.flat_map(|row| row.split(' ').skip(1));
    names.filter(|name| !name.starts_with(['.', '_'])).collect()
}

const MODULES: [(&str, &str); 2] =
    [("durable", include_str!("prelude/durable.py")), ("uuid", include_str!("prelude/uuid.py"))];

/// Everything that `durable` has, in the order of the alphabet.
pub(super) fn durable() -> BTreeSet<&'static str> {
    let made = |line: &'static str| Some(line.trim_start().strip_prefix("module.")?.split_once(" = ")?.0);
    MODULES[0].1.lines().filter_map(made).collect()
}

/// Whether `module` is one of these.
pub(super) fn has(module: &str) -> bool {
    MODULES.iter().any(|(name, _)| *name == module)
}

/// The text that makes what a workflow uses of these modules; empty when it uses none. `uses` is asked for dotted names.
pub(super) fn text(modules: &BTreeSet<String>, attributes: bool, uses: impl Fn(&str) -> bool) -> String {
    let used = MODULES.iter().filter(|(name, _)| modules.contains(*name));
    let made = used.map(|(module, text)| parts(text, |part| uses(&format!("{module}.{part}"))));
    made.chain(attributes.then(|| parts(ATTRIBUTES, |_| false))).collect()
}

/// A part of a module's text: `#: race < first` makes `race`, and needs `first`.
struct Part<'a> {
    name: &'a str,
    needs: Option<&'a str>,
    text: String,
}

/// The parts that are used and what they need, without comments. What stands before the first mark and after the last,
/// `#: end`, is always there.
fn parts(text: &str, used: impl Fn(&str) -> bool) -> String {
    let mut parts = vec![Part { name: "end", needs: None, text: String::new() }];
    for line in text.lines() {
        let trimmed = line.trim_start();
        if let Some(mark) = trimmed.strip_prefix("#: ") {
            let (name, needs) = mark.split_once(" < ").map_or((mark, None), |(name, needs)| (name, Some(needs)));
            parts.push(Part { name, needs, text: String::new() });
        } else if let Some(part) = parts.last_mut().filter(|_| !trimmed.is_empty() && !trimmed.starts_with('#')) {
            part.text.push_str(line);
            part.text.push('\n');
        }
    }
    let wanted = |part: &Part<'_>| {
        let needed = parts.iter().any(|other| other.needs == Some(part.name) && used(other.name));
        part.name == "end" || used(part.name) || needed
    };
    parts.iter().filter(|part| wanted(part)).map(|part| part.text.as_str()).collect()
}

/// A module that the prelude has made: an object that lives in the sandbox, known outside by its ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Module {
    name: String,
    class_name: String,
    class: MontyUuid,
    instance: MontyUuid,
}

impl Module {
    /// What the prelude registers.
    pub(super) fn read(name: &str, value: ObjectRef<'_>) -> Option<Self> {
        let MontyNode::ClassInstance { class_type, instance_id, .. } = unstable::node(value) else { return None };
        let MontyNode::ClassType(class) = unstable::node(unstable::child(value, *class_type)) else { return None };
        Some(Self { name: name.to_owned(), class_name: class.name.clone(), class: class.id, instance: *instance_id })
    }

    /// The object itself, as an import answers it.
    pub(super) fn object(&self) -> MontyObject {
        let class = MontyObject::class_type(self.class_name.clone(), self.class, false, false, []);
        MontyObject::class_instance(class, self.instance, [])
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_for_cpython_has_every_name_of_the_module() {
        let package = include_str!("../../../../python/durable/__init__.py");
        let (_, all) = package.split_once("__all__ = [").unwrap();
        let all = all.split_once(']').unwrap().0;
        assert!(durable().len() > 20, "{:?}", durable());
        for name in durable() {
            assert!(all.contains(&format!("\"{name}\",")), "python/durable has no {name}");
        }
    }
}
