//! What one execution may use.

use clap::Args;
use durable_core::quota::Quota;

/// Options that say what one execution may use.
#[derive(Debug, Clone, Default, Args)]
pub struct Quotas {
    /// A limit of each execution, as NAME=NUMBER or NAME=none; may be given several times, the same in every process.
    /// calls (in a life; 1000000), open (calls at once; 200000), children (in a life; 100000), tree (executions of a tree
    /// that have not ended; 10000), depth (parents above it; 32), queues (that it names; 32), unserved (queues of the
    /// database with calls and without workers; 1000), lives (continue_as_new per second; 10), timers (turns per second that
    /// only time has led to; 20), log (bytes; 64MiB).
    #[arg(long = "limit", value_name = "NAME=NUMBER", env = "DURABLE_LIMITS", value_delimiter = ',', value_parser = limit)]
    limits: Vec<String>,
}

fn limit(text: &str) -> Result<String, String> {
    Quota::default().with(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl Quotas {
    /// The limits, with the defaults of those that were not given.
    pub fn quota(&self) -> Quota {
        self.limits.iter().fold(Quota::default(), |quota, text| quota.with(text).unwrap_or(quota))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_the_others_stay_as_they_are() {
        let quotas = Quotas { limits: vec!["calls=7".into(), "log=1MiB".into()] };
        assert_eq!(quotas.quota(), Quota { calls: 7, log: 1 << 20, ..Quota::default() });
        assert!(limit("call=7").unwrap_err().contains("no limit"));
    }
}
