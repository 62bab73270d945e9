//! What one execution may use of what all share, and what it has used of it.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What one execution may use. A life is what lies between two `continue_as_new`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Calls that it makes in a life.
    pub calls: u64,
    /// Calls that are open at once.
    pub open: u64,
    /// Children that it starts in a life.
    pub children: u64,
    /// Executions of its tree that have not ended.
    pub tree: u64,
    /// How many parents may be above it.
    pub depth: u64,
    /// Queues that it names beside its own.
    pub queues: u64,
    /// Queues in the whole database in which calls wait and that no worker serves.
    pub unserved: u64,
    /// Lives per second, in the long run.
    pub lives: u64,
    /// Turns per second that only time has led to, in the long run.
    pub timers: u64,
    /// Bytes of its log.
    pub log: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            calls: 1_000_000,
            open: 200_000,
            children: 100_000,
            tree: 10_000,
            depth: 32,
            queues: 32,
            unserved: 1_000,
            lives: 10,
            timers: 20,
            log: 64 << 20,
        }
    }
}

/// A limit that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{seen:?} is no limit: NAME=NUMBER or NAME=none is wanted, NAME one of {}", NAMES.join(", "))]
pub struct InvalidLimit {
    seen: String,
}

/// The names of all limits.
pub const NAMES: [&str; 10] =
    ["calls", "open", "children", "tree", "depth", "queues", "unserved", "lives", "timers", "log"];

impl Quota {
    /// No limits.
    pub const NONE: Self = Self {
        calls: u64::MAX,
        open: u64::MAX,
        children: u64::MAX,
        tree: u64::MAX,
        depth: u64::MAX,
        queues: u64::MAX,
        unserved: u64::MAX,
        lives: u64::MAX,
        timers: u64::MAX,
        log: u64::MAX,
    };

    /// The same with one limit as a person writes it: `calls=5000`, `log=16MiB`, `children=none`.
    pub fn with(mut self, text: &str) -> Result<Self, InvalidLimit> {
        let invalid = || InvalidLimit { seen: text.chars().take(60).collect() };
        let (name, value) = text.trim().split_once('=').ok_or_else(invalid)?;
        let limit = match name.trim() {
            "calls" => &mut self.calls,
            "open" => &mut self.open,
            "children" => &mut self.children,
            "tree" => &mut self.tree,
            "depth" => &mut self.depth,
            "queues" => &mut self.queues,
            "unserved" => &mut self.unserved,
            "lives" => &mut self.lives,
            "timers" => &mut self.timers,
            "log" => &mut self.log,
            _ => return Err(invalid()),
        };
        *limit = number(value.trim()).ok_or_else(invalid)?;
        Ok(self)
    }
}

/// A number, perhaps of bytes; none is no limit.
fn number(text: &str) -> Option<u64> {
    if text == "none" {
        return Some(u64::MAX);
    }
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len()));
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    digits.replace('_', "").parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// How a sentence names a limit: by the option that raises it.
pub(crate) fn option(name: &str, limit: u64) -> impl fmt::Display {
    format!("(--limit {name}={limit})")
}

/// What an execution has used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Used {
    /// Calls of its present life.
    #[serde(skip_serializing_if = "is_zero")]
    pub calls: u64,
    /// Children of its present life.
    #[serde(skip_serializing_if = "is_zero")]
    pub children: u64,
    /// Queues that it has named beside its own.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub queues: BTreeSet<String>,
    /// Until when it has paid for its lives and timers: each costs its share of a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paid_until: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How far ahead of the clock an execution may be with its lives and timers before they are put off.
const CREDIT: Duration = Duration::from_secs(30);

/// The longest that one of them is put off.
const PUT_OFF: Duration = Duration::from_secs(1);

impl Used {
    /// A new life begins; answers when it may.
    pub(crate) fn begin_anew(&mut self, quota: &Quota, now: Timestamp) -> Timestamp {
        (self.calls, self.children) = (0, 0);
        self.pay(quota.lives, now)
    }

    /// A turn that only time has led to; answers before when time may not lead to the next.
    pub(crate) fn woken_by_time(&mut self, quota: &Quota, now: Timestamp) -> Timestamp {
        self.pay(quota.timers, now)
    }

    /// Pays one of so many per second.
    fn pay(&mut self, per_second: u64, now: Timestamp) -> Timestamp {
        let price = Duration::from_micros(1_000_000 / per_second.max(1));
        let paid = self.paid_until.unwrap_or(now).max(now).after(price).min(now.after(CREDIT + PUT_OFF));
        self.paid_until = Some(paid);
        now.after(paid.since(now).saturating_sub(CREDIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_as_people_write_it() {
        let quota = Quota::default();
        assert_eq!(quota.with("calls=5_000").unwrap().calls, 5000);
        assert_eq!(quota.with(" log = 16MiB").unwrap().log, 16 << 20);
        assert_eq!(quota.with("children=none").unwrap().children, u64::MAX);
        for bad in ["calls", "calls=", "calls=many", "call=5", "log=5MB", "calls=-1", "log=99999999999999GiB"] {
            let error = quota.with(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("children"), "{error}");
        }
        let mut none = quota;
        for name in NAMES {
            none = none.with(&format!("{name}=none")).unwrap();
        }
        assert_eq!(none, Quota::NONE, "every limit has a name");
    }

    #[test]
    fn who_hurries_is_put_off_to_the_pace_that_is_allowed() {
        let (quota, mut used, mut now, mut lives) = (Quota::default(), Used::default(), Timestamp(0), 0);
        while now < Timestamp(60_000_000) {
            now = used.begin_anew(&quota, now);
            lives += 1;
        }
        // What is saved up, and ten a second.
        assert!((895..=905).contains(&lives), "{lives}");
        now = now.after(Duration::from_secs(3600));
        assert_eq!(used.begin_anew(&quota, now), now, "who has waited is not put off");
    }

    #[test]
    fn many_timers_at_once_are_put_off_by_a_second_at_most() {
        let (quota, mut used, now) = (Quota::default(), Used::default(), Timestamp(7));
        let latest = (0..100_000).map(|_| used.woken_by_time(&quota, now)).max().unwrap();
        assert_eq!(latest, now.after(PUT_OFF));
    }
}
