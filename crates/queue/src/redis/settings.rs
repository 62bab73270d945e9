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
    /// Queues that stock RQ workers serve.
    pub foreign: Vec<ForeignQueue>,
}

/// A queue that stock RQ workers serve. They run whatever a job names, so only what is listed here gets there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignQueue {
    /// Its name.
    pub name: String,
    /// How its workers are told to read jobs.
    pub serializer: Serializer,
    /// Functions that may be called there: `module.function`, or `module.*` for all of a module's own.
    pub functions: Vec<String>,
}

impl ForeignQueue {
    /// Reads `NAME=SERIALIZER:FUNCTION,FUNCTION,NAME=…`.
    pub fn read_all(text: &str) -> Result<Vec<Self>, String> {
        let mut queues: Vec<Self> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match (part.split_once('='), queues.last_mut()) {
                (None, Some(queue)) if !queue.functions.is_empty() => queue.functions.push(pattern(part)?),
                (None, _) => queues.push(Self::read(part, "pickle")?),
                (Some((name, rest)), _) => queues.push(Self::read(name, rest)?),
            }
        }
        Ok(queues)
    }

    fn read(name: &str, rest: &str) -> Result<Self, String> {
        check_queue(name).map_err(|error| error.to_string())?;
        let (serializer, first) =
            rest.split_once(':').map_or((rest, None), |(serializer, first)| (serializer, Some(first)));
        let functions = first.map(pattern).into_iter().collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), serializer: serializer.parse()?, functions })
    }

    /// Whether a function may be called there.
    pub fn takes(&self, function: &str) -> bool {
        // `tasks.*` is no `tasks.os.system`: RQ would follow the dots to whatever the module has imported.
        let (module, _) = function.rsplit_once('.').unwrap_or_default();
        self.functions.iter().any(|allowed| {
            allowed == function || allowed.strip_suffix(".*").is_some_and(|whole| !module.is_empty() && whole == module)
        })
    }
}

fn pattern(text: &str) -> Result<String, String> {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_');
    let (module, last) = text.rsplit_once('.').unwrap_or(("", text));
    if module.split('.').all(word) && (last == "*" || word(last)) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} names no function: use module.function, or module.* for all of a module"))
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
    fn a_foreign_queue_takes_what_is_listed_and_nothing_else() {
        let queues = ForeignQueue::read_all("legacy=pickle:tasks.*,reports.build,other=json,third=json:a.b").unwrap();
        let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["legacy", "other", "third"]);
        for (function, taken) in [
            ("tasks.f", true),
            ("reports.build", true),
            ("reports.other", false),
            ("tasks", false),
            ("subprocess.getoutput", false),
            ("tasks.os.system", false),
            ("eval", false),
            ("f", false),
        ] {
            assert_eq!(queues[0].takes(function), taken, "{function}");
            assert!(!queues[1].takes(function), "nothing is listed: {function}");
        }
        for bad in ["q=yaml", "q=json:*", "q=json:eval", "q=json:", "a b=json", "q=json:tasks.f()"] {
            assert!(ForeignQueue::read_all(bad).is_err(), "{bad}");
        }
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
