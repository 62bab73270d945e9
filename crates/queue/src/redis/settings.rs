//! Which Redis, and how it is used.

use std::time::Duration;

use super::Serializer;

/// Which Redis, and how it is used.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://…`, or `rediss://…` for TLS.
    pub url: String,
    /// Put before every key. On a cluster it has to hold a hash tag: `{rq}`.
    pub prefix: String,
    /// How long a holder may stay silent. RQ's own tools judge leases by their clocks: not below 60 s
    /// where they are used.
    pub lease: Duration,
    /// How many jobs may wait per queue; the rest stays with the dispatcher.
    pub capacity: usize,
    /// Queues that stock RQ workers serve, with their serialisers.
    pub foreign: Vec<(String, Serializer)>,
}

impl RedisSettings {
    /// The defaults for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "rq".into(),
            lease: Duration::from_secs(60),
            capacity: 10_000,
            foreign: Vec::new(),
        }
    }
}

/// Settings that make no sense.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRedisSettings {
    /// Not the URL of a Redis.
    #[error("{seen:?} names no Redis ({cause}): use redis://HOST:PORT, with rediss:// for TLS")]
    Url {
        /// What was seen, without the password.
        seen: String,
        /// Why not.
        cause: String,
    },
    /// Not a prefix.
    #[error("{0:?} cannot be a key prefix: use letters, digits and _ . : {{ }} -")]
    Prefix(String),
    /// Not a queue.
    #[error("{0:?} cannot name a queue: use 1 to 200 letters, digits and _ . -")]
    QueueName(String),
}

/// A URL without its password.
pub fn shown_url(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (login, host) = rest.rsplit_once('@')?;
        let user = login.split_once(':').map_or(login, |(user, _)| user);
        Some(if login.contains(':') {
            format!("{scheme}://{user}:***@{host}")
        } else {
            format!("{scheme}://{login}@{host}")
        })
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

/// Longest name of a queue: databases index it.
const LONGEST_NAME: usize = 200;

/// Refuses names that RQ's keys or command lines could not hold.
pub fn check_queue(name: &str) -> Result<(), InvalidRedisSettings> {
    let short = (1..=LONGEST_NAME).contains(&name.len());
    let fits = short && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if fits { Ok(()) } else { Err(InvalidRedisSettings::QueueName(name.chars().take(60).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RedisQueue;

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(shown_url("redis://:secret@host:6379/0"), "redis://:***@host:6379/0");
        assert_eq!(shown_url("redis://me:s3:c@ret@host"), "redis://me:***@host");
        assert_eq!(shown_url("redis://host"), "redis://host");
        let error = RedisQueue::new(RedisSettings::new("http://me:secret@host")).err().unwrap().to_string();
        assert!(!error.contains("secret") && error.contains("names no Redis"), "{error}");
    }

    #[test]
    fn names_are_checked() {
        assert!(check_queue("gpu-1.fast_lane").is_ok());
        for bad in ["", "a,b", "a:b", "a b", "ä", "a\0b", &"x".repeat(201)] {
            assert!(check_queue(bad).is_err(), "{bad}");
        }
        let settings = RedisSettings { prefix: "r q".into(), ..RedisSettings::new("redis://h") };
        assert!(RedisQueue::new(settings).is_err());
    }
}
