//! Which database and which Redis, and how long rights last.

use std::{sync::Arc, time::Duration};

use clap::Args;
use durable_core::{
    orchestrator::{History, Settings},
    store::{DatabaseUrl, Db, StoreError, meter},
    time::{SetClock, SystemClock, parse_duration},
};
use durable_queue::{ForeignQueue, RedisQueue, RedisSettings};

use super::{Quotas, wrong};

/// How often the clock is set by the database's.
const SET_CLOCK: Duration = Duration::from_secs(60);

/// A difference of clocks that people should know of.
const SKEW: i64 = 1_000_000;

async fn set(clock: &SetClock, db: &Db) -> Result<(), StoreError> {
    if let Some(now) = db.read(meter::now).await? {
        let behind = clock.set(now);
        if behind.abs() > SKEW {
            #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
            let seconds = behind as f64 / 1e6;
            tracing::warn!(
                behind_s = seconds,
                "this machine's clock differs from the database's, which is gone by; set it right, for the sake of logs"
            );
        }
    }
    Ok(())
}

/// Options that name the servers.
#[derive(Debug, Clone, Args)]
pub struct Servers {
    /// The database: postgres://USER@HOST/NAME, or sqlite://PATH when everything runs on one machine.
    #[arg(long, alias = "db", value_name = "URL", env = "DURABLE_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The Redis: redis://HOST:PORT, with rediss:// for TLS.
    #[arg(
        long,
        value_name = "URL",
        env = "DURABLE_REDIS_URL",
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true
    )]
    pub redis_url: String,
    /// Put before every Redis key; the same in every process. A cluster needs a hash tag: {rq}.
    #[arg(long, value_name = "PREFIX", env = "DURABLE_REDIS_PREFIX", default_value = "rq")]
    pub redis_prefix: String,
    /// How many jobs may wait in each Redis queue; the rest waits in the database.
    #[arg(long, value_name = "N", env = "DURABLE_QUEUE_CAPACITY", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_capacity: u32,
    /// A queue that stock RQ workers serve, with their serialiser (json or pickle) and the functions that may be called
    /// there, such as legacy=pickle:tasks.*,reports.build (nothing without a list); the same in every process.
    #[arg(long = "rq-queue", value_name = "NAME=SERIALIZER:FUNCTION,…", env = "DURABLE_RQ_QUEUES")]
    pub rq_queues: Vec<String>,
    /// Bring the database's schema up to date first.
    #[arg(long)]
    pub migrate: bool,
    /// How long rights last.
    #[command(flatten)]
    pub timing: Timing,
}

/// Options that say how long rights last.
#[derive(Debug, Clone, Args)]
pub struct Timing {
    /// How long a running call's worker may be silent before another takes the call over.
    #[arg(long, value_name = "TIME", env = "DURABLE_LEASE", default_value = "30s", value_parser = duration)]
    pub lease: Duration,
    /// How long an execution may be held for one turn before another process takes it over.
    #[arg(long, value_name = "TIME", env = "DURABLE_CLAIM", default_value = "60s", value_parser = duration)]
    pub claim: Duration,
    /// When a call that no worker has begun is pushed to its queue again.
    #[arg(long, value_name = "TIME", env = "DURABLE_PUSH_AGAIN", default_value = "60s", value_parser = duration)]
    pub push_again: Duration,
    /// Which states of executions are kept: none of those that have ended, the last one (they can be retried), or that of
    /// every pause (they can be forked anywhere).
    #[arg(long, value_name = "WHICH", env = "DURABLE_HISTORY", default_value = "last", value_parser = history)]
    pub history: History,
    /// How long earlier states are kept.
    #[arg(long, value_name = "TIME", env = "DURABLE_KEEP_HISTORY", default_value = "7d", value_parser = duration)]
    pub keep_history: Duration,
    /// Delete executions so long after they have ended, with all that belongs to them; otherwise they are kept.
    #[arg(long, value_name = "TIME", env = "DURABLE_KEEP_ENDED", value_parser = duration)]
    pub keep_ended: Option<Duration>,
    /// What one execution may use.
    #[command(flatten)]
    pub quotas: Quotas,
}

fn history(text: &str) -> Result<History, String> {
    match text {
        "none" => Ok(History::None),
        "last" => Ok(History::Last),
        "all" => Ok(History::All),
        _ => Err("none, last or all is wanted".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).ok_or("a time such as 500ms, 30s or 5m is wanted")?;
    if time < Duration::from_millis(100) { Err("at least 100ms is wanted".into()) } else { Ok(time) }
}

impl Timing {
    /// The engine's settings.
    pub fn settings(&self) -> Settings {
        let defaults = Settings::default();
        Settings {
            lease: self.lease,
            claim: self.claim,
            push_again: self.push_again,
            history: self.history,
            keep_history: self.keep_history,
            keep_ended: self.keep_ended,
            quota: self.quotas.quota(),
            start: defaults.start.min(self.claim),
            look: defaults.look.min(self.claim),
            ..defaults
        }
    }
}

impl Servers {
    /// Opens both; an error names the one that is wrong, and why, without its password.
    pub async fn open(&self) -> anyhow::Result<(Db, RedisQueue)> {
        let queue = self.queue()?;
        let db = self.database().await?;
        queue.check().await?;
        Ok((db, queue))
    }

    /// The database's URL.
    pub fn url(&self) -> anyhow::Result<DatabaseUrl> {
        let url = self.database_url.as_deref().ok_or_else(|| {
            wrong("no database is named\nhint: give --database-url postgres://USER@HOST/NAME, or set DURABLE_DATABASE_URL")
        })?;
        Ok(url.parse()?)
    }

    /// Opens the database, whose schema has to be up to date unless it may be migrated.
    pub async fn database(&self) -> anyhow::Result<Db> {
        let (url, migrate) = (self.url()?, self.migrate);
        let open = move || if migrate { Db::open(&url) } else { Db::open_migrated(&url) };
        Ok(tokio::task::spawn_blocking(open).await??)
    }

    /// A clock that goes by the database's: machines may differ, and all leases are judged by one clock.
    pub async fn clock(&self, db: &Db) -> anyhow::Result<Arc<SetClock>> {
        let clock = Arc::new(SetClock::new(Arc::new(SystemClock)));
        set(&clock, db).await?;
        let (db, weak) = (db.clone(), Arc::downgrade(&clock));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SET_CLOCK).await;
                let Some(clock) = weak.upgrade() else { return };
                if let Err(error) = set(&clock, &db).await {
                    tracing::debug!(%error, "the clock could not be set");
                }
            }
        });
        Ok(clock)
    }

    fn queue(&self) -> anyhow::Result<RedisQueue> {
        let foreign = self
            .rq_queues
            .iter()
            .map(|text| ForeignQueue::read_all(text).map_err(|error| wrong(format!("--rq-queue {text}: {error}"))));
        let foreign: Vec<Vec<ForeignQueue>> = foreign.collect::<anyhow::Result<_>>()?;
        let settings = RedisSettings {
            prefix: self.redis_prefix.clone(),
            capacity: self.queue_capacity as usize,
            foreign: foreign.concat(),
            // RQ's tools judge leases by the clocks of their machines: twice as long does no harm, because
            // the database's lease decides.
            lease: 2 * self.timing.lease,
            ..RedisSettings::new(self.redis_url.clone())
        };
        RedisQueue::new(settings).map_err(|error| wrong(error.to_string()))
    }
}
