//! When a failed call is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Failure;

/// What a function's options say about failing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How often a call is attempted at most, from 1.
    pub max_attempts: i64,
    /// The wait after the first failed attempt.
    pub initial: Duration,
    /// By how much the wait grows with each further one.
    pub factor: f64,
    /// The longest wait.
    pub max: Duration,
    /// By which part a wait is shortened or lengthened at random, so that calls that failed
    /// together do not come back together.
    pub jitter: f64,
    /// Exception types, with or without their module, that another attempt could not help against.
    #[serde(default)]
    pub non_retryable: Vec<String>,
}

impl Default for RetryPolicy {
    /// Three attempts, waiting about 1 s and 2 s between them.
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(60),
            jitter: 0.2,
            non_retryable: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// One attempt and no more.
    pub fn never() -> Self {
        Self { max_attempts: 1, ..Self::default() }
    }

    /// Whether another attempt could not help against this failure.
    pub fn is_final(&self, failure: &Failure) -> bool {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let is = |seen: &String| self.non_retryable.iter().any(|name| name == seen || *name == last(seen));
        is(&failure.kind) || failure.bases.iter().any(is)
    }

    /// The wait after `failed` attempts, with `luck` from 0 to 1; none when no attempt is left.
    pub fn wait(&self, failed: i64, luck: f64) -> Option<Duration> {
        if failed >= self.max_attempts {
            return None;
        }
        let exponent = i32::try_from(failed.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(exponent);
        let capped = seconds.min(self.max.as_secs_f64());
        let jittered = capped * (1.0 + self.jitter * (2.0 * luck - 1.0));
        Some(Duration::try_from_secs_f64(jittered.max(0.0)).unwrap_or(self.max).max(floor(failed)))
    }
}

/// The shortest wait, whatever the policy says: who has failed many times does not come back at once for ever.
fn floor(failed: i64) -> Duration {
    match failed {
        ..10 => Duration::ZERO,
        10..100 => Duration::from_millis(100),
        100.. => Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_end_with_the_last_attempt() {
        let policy = RetryPolicy {
            max_attempts: 6,
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(5),
            jitter: 0.0,
            non_retryable: Vec::new(),
        };
        let waits: Vec<Option<u64>> = (1..=6).map(|n| policy.wait(n, 0.5).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(5), Some(5), None]);
        assert_eq!(RetryPolicy::never().wait(1, 0.5), None);
        let endless = RetryPolicy { max_attempts: i64::MAX, ..policy };
        assert_eq!(endless.wait(1_000_000, 0.5), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_call_without_backoff_that_always_fails_slows_down() {
        let zero = Duration::ZERO;
        let hasty = RetryPolicy { max_attempts: i64::MAX, initial: zero, max: zero, ..RetryPolicy::default() };
        let first_hundred: Duration = (1..=100).filter_map(|failed| hasty.wait(failed, 0.0)).sum();
        assert_eq!(hasty.wait(9, 0.0), Some(zero));
        assert_eq!(first_hundred, Duration::from_secs(10));
        assert_eq!(hasty.wait(i64::MAX - 1, 0.0), Some(Duration::from_secs(1)));
        let short = Duration::from_millis(200);
        let sane = RetryPolicy { max_attempts: 50, initial: short, max: short, jitter: 0.0, ..hasty };
        assert_eq!(sane.wait(49, 0.0), Some(short), "a short backoff is kept");
    }

    #[test]
    fn jitter_stays_within_its_part() {
        let policy = RetryPolicy { jitter: 0.2, ..RetryPolicy::default() };
        assert_eq!(policy.wait(1, 0.0), Some(Duration::from_millis(800)));
        assert_eq!(policy.wait(1, 1.0), Some(Duration::from_millis(1200)));
    }
}
