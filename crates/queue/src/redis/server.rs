//! The connection to Redis, and what its refusals mean.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, Script, ScriptInvocation,
    aio::{MultiplexedConnection, PubSub},
};

use super::{InvalidRedisSettings, RedisSettings, shown_url};
use crate::QueueError;

/// How long an ordinary command may take.
const RESPONSE: Duration = Duration::from_secs(5);

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// One connection that all ordinary commands share, replaced when it breaks.
pub(super) struct Server {
    client: Client,
    pool: Pool,
    kept: Mutex<Option<MultiplexedConnection>>,
    shown: String,
}

impl Server {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, InvalidRedisSettings> {
        let shown = shown_url(&settings.url);
        let bad = |error: RedisError| InvalidRedisSettings::Url { seen: shown.clone(), cause: bare(&error) };
        let client = Client::open(settings.url.as_str()).map_err(bad)?;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(RESPONSE));
        let manager = Manager::new_with_config(settings.url.as_str(), config).map_err(bad)?;
        let pool = Pool::builder(manager).max_size(2).runtime(Runtime::Tokio1).wait_timeout(Some(CONNECT)).build();
        let pool = pool.map_err(|error| InvalidRedisSettings::Url { seen: shown.clone(), cause: error.to_string() })?;
        Ok(Self { client, pool, kept: Mutex::default(), shown })
    }

    /// Runs a script. One that is `safe` to repeat is sent again when the connection turns out to be dead.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        safe: bool,
        fill: impl Fn(&mut ScriptInvocation<'_>) + Send,
    ) -> Result<T, QueueError> {
        let mut invocation = script.prepare_invoke();
        fill(&mut invocation);
        let answer = self.invoke(&invocation).await;
        match answer {
            Err(error) if safe && is_broken(&error) => {
                self.invoke(&invocation).await.map_err(|error| self.explain(&error))
            }
            other => other.map_err(|error| self.explain(&error)),
        }
    }

    async fn invoke<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        let mut conn = self.connection().await?;
        // A script that the server does not know is loaded, and runs.
        let answer = invocation.invoke_async(&mut conn).await;
        self.note(answer)
    }

    /// Runs a command that is safe to repeat.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, QueueError> {
        let once = async || {
            let mut conn = self.connection().await?;
            let answer = command.query_async(&mut conn).await;
            self.note(answer)
        };
        match once().await {
            Err(error) if is_broken(&error) => once().await.map_err(|error| self.explain(&error)),
            other => other.map_err(|error| self.explain(&error)),
        }
    }

    /// Runs several commands that are safe to repeat in one round trip.
    pub(super) async fn pipeline<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, QueueError> {
        let once = async || {
            let mut conn = self.connection().await?;
            let answer = pipeline.query_async(&mut conn).await;
            self.note(answer)
        };
        match once().await {
            Err(error) if is_broken(&error) => once().await.map_err(|error| self.explain(&error)),
            other => other.map_err(|error| self.explain(&error)),
        }
    }

    fn note<T>(&self, answer: Result<T, RedisError>) -> Result<T, RedisError> {
        if answer.as_ref().is_err_and(is_broken) {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        answer
    }

    /// The pool asks a connection whether it lives each time it is taken out; kept outside while it
    /// works, it costs no such round trip.
    async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(kept);
        }
        let failed = |error: deadpool_redis::PoolError| match error {
            deadpool_redis::PoolError::Backend(error) => error,
            other => RedisError::from((ErrorKind::Io, "no connection", other.to_string())),
        };
        let connection: MultiplexedConnection = (*self.pool.get().await.map_err(failed)?).clone();
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    /// A connection for commands that block. Whoever uses it sees to it that no answer is awaited for ever.
    pub(super) async fn blocking(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// A connection that listens.
    pub(super) async fn listening(&self) -> Result<PubSub, RedisError> {
        let late = |_| RedisError::from((ErrorKind::Io, "the connection took too long"));
        tokio::time::timeout(CONNECT, self.client.get_async_pubsub()).await.map_err(late)?
    }

    /// What went wrong, where, and what to do.
    pub(super) fn explain(&self, error: &RedisError) -> QueueError {
        QueueError::Unavailable(format!("{}: {}{}", self.shown, bare(error), hint(error)))
    }
}

/// The text without a password: Redis repeats none, the client might.
fn bare(error: &RedisError) -> String {
    error.to_string()
}

/// Whether the connection is of no use any more.
fn is_broken(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_timeout() || error.is_connection_dropped() || error.is_io_error()
}

fn hint(error: &RedisError) -> &'static str {
    // The client writes some of the server's codes in its own case.
    let text = error.to_string().to_uppercase();
    let has = |word: &str| text.contains(word);
    if has("READONLY") || has("read only replica") {
        "\nhint: this Redis is a read-only replica; name the primary"
    } else if has("OOM") || has("MAXMEMORY") {
        "\nhint: this Redis has reached its maxmemory; jobs stay in the database and are pushed when there is room"
    } else if has("CROSSSLOT") || has("NON LOCAL KEY") || has("DO NOT HASH TO THE SAME SLOT") {
        "\nhint: this Redis is a cluster, where all keys have to share a slot: use a prefix with a hash tag, such as {rq}"
    } else if has("MOVED") || has("CLUSTERDOWN") {
        "\nhint: this node of the cluster does not hold the slot of the prefix; name the one that does"
    } else if has("WRONGPASS") || has("NOAUTH") || has("AUTHENTICATION") {
        "\nhint: put the password into the URL: redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST"
    } else if has("NOPERM") {
        "\nhint: this Redis user lacks a permission; docs/queue.md lists those that are needed"
    } else if has("MISCONF") {
        "\nhint: this Redis cannot write its data to disk and refuses changes; see its log"
    } else {
        ""
    }
}
