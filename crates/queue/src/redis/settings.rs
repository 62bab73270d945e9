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
    #[error("{0:?} cannot name a queue: use letters, digits and _ . -")]
    QueueName(String),
}

/// A URL without its password; one that is malformed is not believed to have it in its place.
pub fn shown_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let Some((login, host)) = rest.rsplit_once('@') else {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        let plain = port.bytes().all(|byte| byte.is_ascii_digit()) || authority.ends_with(']');
        return if plain { url.to_owned() } else { url.replace(port, "***") };
    };
    match login.split_once(':') {
        _ if scheme.is_empty() => format!("***@{host}"),
        Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
        None => url.to_owned(),
    }
}

/// Refuses names that RQ's keys or command lines could not hold.
pub fn check_queue(name: &str) -> Result<(), InvalidRedisSettings> {
    let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if fits { Ok(()) } else { Err(InvalidRedisSettings::QueueName(name.to_owned())) }
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
        assert_eq!(shown_url("redis://[::1]:6379"), "redis://[::1]:6379");
        for bad in ["rediss//:secret@h", "redis:/me:secret@h", "me:secret@h", "redis://:secret", "redis://h:secret/0"] {
            assert!(!shown_url(bad).contains("secret"), "{bad}");
            let error = RedisQueue::new(RedisSettings::new(bad)).err().unwrap().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let error = RedisQueue::new(RedisSettings::new("http://me:secret@host")).err().unwrap().to_string();
        assert!(!error.contains("secret") && error.contains("names no Redis"), "{error}");
    }

    #[test]
    fn names_are_checked() {
        assert!(check_queue("gpu-1.fast_lane").is_ok());
        for bad in ["", "a,b", "a:b", "a b", "ä"] {
            assert!(check_queue(bad).is_err(), "{bad}");
        }
        let settings = RedisSettings { prefix: "r q".into(), ..RedisSettings::new("redis://h") };
        assert!(RedisQueue::new(settings).is_err());
    }
}
