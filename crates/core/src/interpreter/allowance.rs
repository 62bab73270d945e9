//! What a turn may ask for: calls beyond it raise at their line.

use monty_types::{ExcType, MontyException};

use super::turn::Run;
use crate::{
    model::CallKind,
    quota::{Quota, option},
};

/// What an execution may use, and what it has used when a turn begins.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// What it may.
    pub quota: Quota,
    /// Calls that it has made in this life.
    pub calls: u64,
    /// Children that it has started in this life.
    pub children: u64,
    /// How many parents are above it.
    pub depth: u64,
}

impl Default for Allowance {
    /// Everything: for turns that are on record.
    fn default() -> Self {
        Self { quota: Quota::NONE, calls: 0, children: 0, depth: 0 }
    }
}

impl Run<'_> {
    /// The exception that a call of this kind raises because it is one too many.
    pub(super) fn too_many(&self, kind: CallKind) -> Option<MontyException> {
        let text = self.why_not(kind)?;
        Some(MontyException::new(ExcType::RuntimeError, Some(text)))
    }

    /// Why there may be no other call of this kind.
    pub(super) fn why_not(&self, kind: CallKind) -> Option<String> {
        const ANEW: &str = "durable.continue_as_new() begins anew";
        let Allowance { quota, calls, children, depth } = self.turn.limits.allowance;
        let made = u64::try_from(self.calls.len()).unwrap_or(u64::MAX);
        if calls.saturating_add(made) >= quota.calls {
            let limit = option("calls", quota.calls);
            return Some(format!("the execution has made {} calls, and may make no more {limit}: {ANEW}", quota.calls));
        }
        let open = self.pending.open.len().saturating_sub(self.pending.promises.len());
        if u64::try_from(open).unwrap_or(u64::MAX) >= quota.open {
            let limit = option("open", quota.open);
            return Some(format!("{open} calls are open, and no more may be {limit}: await some of them first"));
        }
        if kind != CallKind::Child {
            return None;
        }
        if depth >= quota.depth {
            let limit = option("depth", quota.depth);
            return Some(format!("{depth} parents are above this execution, and it may have no children {limit}"));
        }
        let started = || self.calls.iter().filter(|call| call.kind == CallKind::Child).count();
        // Counted only where it matters.
        let few = children.saturating_add(made) < quota.children;
        if few || children.saturating_add(u64::try_from(started()).unwrap_or(u64::MAX)) < quota.children {
            return None;
        }
        let limit = option("children", quota.children);
        Some(format!("the execution has started {} children, and may start no more {limit}: {ANEW}", quota.children))
    }
}

/// What the prelude's question of that name makes a call of.
pub(super) fn kind_of(question: &str) -> Option<CallKind> {
    Some(match question {
        "call" => CallKind::Function,
        "wait_signal" => CallKind::Signal,
        "callback" => CallKind::Callback,
        "start_child" => CallKind::Child,
        "signal" => CallKind::Send,
        "cancelled_ended" => CallKind::Drain,
        _ => return None,
    })
}
