//! The names of the keys: RQ's, and a few of our own under `dw:`. Scripts spell them in `lua/keys.lua`.

use redis::Script;

/// What the scripts share: the names of the keys, the clock.
const PRELUDE: &str = include_str!("lua/keys.lua");

/// A script with the shared names before it.
pub(super) fn script(code: &str) -> Script {
    Script::new(&format!("{PRELUDE}{code}"))
}

/// Names under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The prefix, for scripts.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Set: the keys of all queues.
    pub(super) fn queues(&self) -> String {
        format!("{}:queues", self.prefix)
    }

    /// List: ids of the jobs that wait.
    pub(super) fn list(&self, queue: &str) -> String {
        format!("{}:queue:{queue}", self.prefix)
    }

    /// List: one entry while a worker should look at the queue.
    pub(super) fn knock(&self, queue: &str) -> String {
        format!("{}:dw:knock:{queue}", self.prefix)
    }

    /// Hash: a job.
    pub(super) fn job(&self, id: &str) -> String {
        format!("{}:job:{id}", self.prefix)
    }

    /// Stream: what stock workers made of a job.
    pub(super) fn results(&self, id: &str) -> String {
        format!("{}:results:{id}", self.prefix)
    }

    /// Channel: what other processes would find out later by themselves.
    pub(super) fn bell(&self) -> String {
        format!("{}:dw:bell", self.prefix)
    }
}
