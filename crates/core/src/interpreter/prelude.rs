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

/// Stands before the first line of a workflow that imports one of these modules: no line moves.
pub(super) const PREFIX: &str = "exec(__durable_prelude__);";

const MODULES: [(&str, &str); 2] =
    [("durable", include_str!("prelude/durable.py")), ("uuid", include_str!("prelude/uuid.py"))];

/// Everything that `durable` has.
pub(super) const DURABLE: [&str; 21] = [
    "Cancelled",
    "SignalTimeout",
    "TaskError",
    "TaskTimeout",
    "call",
    "callback",
    "continue_as_new",
    "execution_id",
    "log",
    "map",
    "now",
    "race",
    "run_child",
    "set_status",
    "settle",
    "sleep_until",
    "spawn",
    "start_child",
    "timeout",
    "uuid4",
    "wait_signal",
];

/// Whether `module` is one of these.
pub(super) fn has(module: &str) -> bool {
    MODULES.iter().any(|(name, _)| *name == module)
}

/// The text that makes the modules of these names; empty when there are none.
pub(super) fn text(modules: &BTreeSet<String>) -> String {
    MODULES.iter().filter(|(name, _)| modules.contains(*name)).map(|(_, text)| *text).collect()
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
