//! What a workflow may do: which functions it may call, in which queues, and which deployed workflows it may start. Said
//! where an execution is started or a workflow deployed; inherited by children, never widened.

use std::fmt::Write;

use durable_queue::check_queue;
use serde::{Deserialize, Serialize};

use crate::id::check_name;

/// Most names in one list, and most bytes of all lists of an execution: they are read with each claim.
const MOST_NAMES: usize = 100;
const MOST_BYTES: usize = 8 << 10;

/// Names that are shown in a sentence.
const SHOWN: usize = 8;

/// What one start or deployment allows. Without a list, everything of that kind; an empty one allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allow {
    /// Functions: `module.function`, `module.*` for a module's own (no `module.other.function`), or `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<Vec<String>>,
    /// Queues beside that in which the execution is started: names, or beginnings with a `*`. One that stock workers serve
    /// is reached by its whole name only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<String>>,
    /// Deployed workflows: names, or beginnings with a `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Vec<String>>,
}

/// A list that is none: a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAllow(String);

impl Allow {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses what names nothing.
    pub fn check(&self) -> Result<(), InvalidAllow> {
        let lists = [("functions", &self.functions), ("queues", &self.queues), ("children", &self.children)];
        for (what, list) in lists {
            let Some(list) = list else { continue };
            if list.len() > MOST_NAMES {
                let seen = list.len();
                return Err(InvalidAllow(format!("allow.{what}: {seen} names, and at most {MOST_NAMES} are taken")));
            }
            for name in list {
                let wrong = match what {
                    "functions" => wrong_function(name),
                    "queues" => wrong_queue(name),
                    _ => wrong_child(name),
                };
                if let Some(why) = wrong {
                    return Err(InvalidAllow(format!("allow.{what}: {why}")));
                }
            }
        }
        Ok(())
    }
}

fn wrong_function(name: &str) -> Option<String> {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_');
    let (module, last) = name.rsplit_once('.').map_or((None, name), |(module, last)| (Some(module), last));
    let fits = module.is_none_or(|module| module.split('.').all(word)) && (last == "*" || word(last));
    (!fits || check_name("the function", name).is_err()).then(|| {
        let name: String = name.chars().take(60).collect();
        format!("{name:?} names no function: use module.function, module.* for all of a module's own, or * for all")
    })
}

fn wrong_queue(name: &str) -> Option<String> {
    let stem = name.strip_suffix('*').unwrap_or(name);
    match check_queue(stem) {
        _ if name == "*" => None,
        Ok(()) => None,
        Err(error) => Some(format!("{error}, or a beginning of a name with *")),
    }
}

fn wrong_child(name: &str) -> Option<String> {
    let wrong = check_name("the workflow", name).err().map(|error| error.to_string());
    let inside = name.strip_suffix('*').unwrap_or(name).contains('*');
    wrong.or_else(|| inside.then(|| format!("{name:?}: a * stands at the end of a name")))
}

/// All that was said of what an execution may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Each of these has to allow it.
    #[serde(default)]
    lists: Vec<Allow>,
    /// Queues that its start or its deployment named as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    named: Vec<String>,
}

static EVERYTHING: Allowed = Allowed { lists: Vec::new(), named: Vec::new() };

impl Allowed {
    /// Whatever the server offers.
    pub fn everything() -> &'static Self {
        &EVERYTHING
    }

    /// What a start allows of a workflow, and the deployment that it starts, if it starts one.
    pub fn of(start: Option<Allow>, deployment: Option<Allow>) -> Result<Self, InvalidAllow> {
        let mut allowed = Self::default();
        for list in [start, deployment].into_iter().flatten().filter(|list| !list.is_empty()) {
            list.check()?;
            let whole = list.queues.iter().flatten().filter(|name| !name.ends_with('*'));
            allowed.named.extend(whole.cloned());
            allowed.add(list)?;
        }
        Ok(allowed)
    }

    /// What a child may that runs a deployment: nothing that its parent may not.
    pub fn narrowed(&self, deployment: Option<&Allow>) -> Result<Self, InvalidAllow> {
        let mut allowed = self.clone();
        if let Some(list) = deployment.filter(|list| !list.is_empty()) {
            allowed.add(list.clone())?;
        }
        Ok(allowed)
    }

    fn add(&mut self, list: Allow) -> Result<(), InvalidAllow> {
        if !self.lists.contains(&list) {
            self.lists.push(list);
        }
        let bytes = self.column().map_or(0, |text| text.len());
        if bytes > MOST_BYTES {
            return Err(InvalidAllow(format!(
                "allow: the lists have {bytes} bytes together, and at most {MOST_BYTES} are kept with an execution"
            )));
        }
        Ok(())
    }

    /// The form of the database column: null where nothing was said.
    pub fn column(&self) -> Option<String> {
        if self.lists.is_empty() { None } else { serde_json::to_string(self).ok() }
    }

    /// The lists, each of which has to allow it.
    pub fn lists(&self) -> &[Allow] {
        &self.lists
    }

    /// Why a function may not be called, if it may not.
    pub fn function(&self, name: &str) -> Result<(), String> {
        let (module, _) = name.rsplit_once('.').unwrap_or_default();
        let takes = |given: &str| {
            given == "*"
                || given == name
                || given.strip_suffix(".*").is_some_and(|whole| !module.is_empty() && whole == module)
        };
        self.look(|list| list.functions.as_deref(), takes).map_err(|list| {
            format!("{name} may not be called: this execution may call {} (--allow-function)", only(list, "function"))
        })
    }

    /// Why a call may not be made in a queue, if it may not. That in which the execution was started, it may.
    pub fn queue(&self, name: &str, own: &str) -> Result<(), String> {
        if name == own {
            return Ok(());
        }
        self.look(|list| list.queues.as_deref(), |given| fits(given, name)).map_err(|list| {
            let others = only(list, "other queue");
            format!("nothing may be called in the queue {name}: this execution uses {own} and {others} (--allow-queue)")
        })
    }

    /// Whether a queue that stock workers serve was named for the execution.
    pub fn names_queue(&self, name: &str) -> bool {
        self.named.iter().any(|named| named == name)
    }

    /// Why a deployed workflow may not be started as a child, if it may not.
    pub fn child(&self, name: &str) -> Result<(), String> {
        self.look(|list| list.children.as_deref(), |given| fits(given, name)).map_err(|list| {
            format!(
                "the workflow {name} may not be started: this execution may start {} (--allow-child)",
                only(list, "deployed workflow")
            )
        })
    }

    /// The first list of that kind that does not take it.
    fn look<'a>(
        &'a self,
        of: impl Fn(&'a Allow) -> Option<&'a [String]>,
        takes: impl Fn(&str) -> bool,
    ) -> Result<(), &'a [String]> {
        match self.lists.iter().filter_map(of).find(|list| !list.iter().any(|given| takes(given))) {
            Some(list) => Err(list),
            None => Ok(()),
        }
    }
}

/// Whether a name is the given one, or begins as it does before its `*`.
fn fits(given: &str, name: &str) -> bool {
    given == name || given.strip_suffix('*').is_some_and(|beginning| name.starts_with(beginning))
}

/// A list in words.
fn only(list: &[String], what: &str) -> String {
    if list.is_empty() {
        return format!("no {what}");
    }
    let mut text = list[..list.len().min(SHOWN)].join(", ");
    if list.len() > SHOWN {
        let _ = write!(text, " and {} more", list.len() - SHOWN);
    }
    text
}

/// What an execution may do, as a turn asks it.
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    /// What was said.
    pub allowed: &'a Allowed,
    /// The queue in which it was started.
    pub queue: &'a str,
}

impl Rights<'_> {
    /// Everything that is offered, from the queue `default`.
    pub fn all() -> Self {
        Self { allowed: Allowed::everything(), queue: "default" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn allowed(allow: Allow) -> Allowed {
        Allowed::of(Some(allow), None).unwrap()
    }

    #[test]
    fn without_a_list_everything_may_be_done() {
        let all = Allowed::of(Some(Allow::default()), None).unwrap();
        assert!(all.function("os.system").is_ok() && all.queue("gpu", "default").is_ok() && all.child("pay").is_ok());
        assert_eq!((all.column(), all.names_queue("gpu")), (None, false));
    }

    #[test]
    fn only_what_is_listed_may_be_called() {
        let some = allowed(Allow { functions: list(&["tasks.*", "mail.send", "bare"]), ..Allow::default() });
        for (name, may) in [
            ("tasks.f", true),
            ("tasks.os.system", false),
            ("tasks", false),
            ("tasksx.f", false),
            ("mail.send", true),
            ("mail.delete", false),
            ("bare", true),
            ("eval", false),
        ] {
            assert_eq!(some.function(name).is_ok(), may, "{name}");
        }
        let why = some.function("mail.delete").unwrap_err();
        assert!(why.contains("mail.delete") && why.contains("tasks.*, mail.send, bare"), "{why}");
        assert!(why.contains("--allow-function"), "{why}");
        let none = allowed(Allow { functions: list(&[]), ..Allow::default() });
        assert!(none.function("tasks.f").unwrap_err().contains("no function"));
        assert!(allowed(Allow { functions: list(&["*"]), ..Allow::default() }).function("a.b.c").is_ok());
    }

    #[test]
    fn the_own_queue_is_always_there_and_others_as_listed() {
        let some = allowed(Allow { queues: list(&["gpu-*", "legacy"]), ..Allow::default() });
        for (name, may) in [("default", true), ("gpu-1", true), ("gpu", false), ("legacy", true), ("legacy2", false)] {
            assert_eq!(some.queue(name, "default").is_ok(), may, "{name}");
        }
        // A beginning names no queue of stock workers.
        assert!(some.names_queue("legacy") && !some.names_queue("gpu-1"));
    }

    #[test]
    fn a_child_may_do_nothing_that_its_parent_may_not() {
        let deployment = Allow { functions: list(&["bank.*"]), queues: list(&["legacy"]), children: None };
        let parent = allowed(Allow { functions: list(&["tasks.*", "bank.look"]), ..Allow::default() });
        let child = parent.narrowed(Some(&deployment)).unwrap();
        assert!(child.function("bank.look").is_ok());
        assert!(child.function("bank.pay").is_err() && child.function("tasks.f").is_err());
        // Its parent did not name it, so it is not reached where stock workers serve it.
        assert!(child.queue("legacy", "default").is_ok() && !child.names_queue("legacy"));
        // Once more is not more.
        assert_eq!(child.narrowed(Some(&deployment)).unwrap(), child);
        let started = Allowed::of(None, Some(deployment)).unwrap();
        assert!(started.names_queue("legacy") && started.function("bank.pay").is_ok());
        let kept: Allowed = serde_json::from_str(&child.column().unwrap()).unwrap();
        assert_eq!(kept, child);
    }

    #[test]
    fn what_names_nothing_is_refused_with_a_sentence() {
        for bad in ["", "a b", "tasks.f()", "a..b", ".*", "a.*.b", "ta*"] {
            let error = Allowed::of(Some(Allow { functions: list(&[bad]), ..Allow::default() }), None).unwrap_err();
            assert!(error.to_string().contains("names no function"), "{error}");
        }
        for bad in ["a b", "", "a*b"] {
            assert!(Allow { queues: list(&[bad]), ..Allow::default() }.check().is_err(), "{bad}");
        }
        for bad in ["", "a\0", "a*b"] {
            assert!(Allow { children: list(&[bad]), ..Allow::default() }.check().is_err(), "{bad}");
        }
        let many = Allow { children: Some(vec!["x".into(); 101]), ..Allow::default() };
        assert!(many.check().unwrap_err().to_string().contains("101 names"));
        let long: Vec<String> = (0..100).map(|n| format!("{n}{}", "x".repeat(150))).collect();
        let error = Allowed::of(Some(Allow { children: Some(long), ..Allow::default() }), None).unwrap_err();
        assert!(error.to_string().contains("bytes together"), "{error}");
    }
}
