//! The queue on Redis: RQ's keys and fields, our own fenced scripts for every change.
//!
//! `docs/queue.md` has the wire format; `lua/` has one script per transition.

mod batch;
mod keys;
mod knock;
mod rq;
mod server;
mod settings;

pub use rq::Serializer;
pub use settings::{ForeignQueue, InvalidRedisSettings, RedisSettings, check_queue, shown_url};

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use redis::{Cmd, Script};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::{
    batch::Batch,
    keys::Keys,
    knock::{Knocks, Waiter},
    server::Server,
};
use crate::{Bell, Enqueued, Fate, ForeignResult, Job, JobId, Lease, Presence, Queue, QueueError, Swept, Way};

macro_rules! scripts {
    ($($name:ident = $file:literal;)+) => {
        $(static $name: LazyLock<Script> = LazyLock::new(|| keys::script(include_str!(concat!("lua/", $file))));)+
    };
}

scripts! {
    ENQUEUE = "enqueue.lua";
    TAKE = "take.lua";
    END = "ack.lua";
    BEAT = "beat.lua";
    SWEEP = "sweep.lua";
    CANCEL = "cancel.lua";
    SHOW = "show.lua";
    LEAVE = "leave.lua";
}

/// Seconds that a worker is shown after its last sign of life.
const SHOWN: u64 = 180;

/// How often a lease may expire within a generation before the job is given up.
const MOST_REAPS: u64 = 10;

/// Seconds until a job that a stock worker parked and never began is taken back.
const PARKED: u64 = 60;

/// Most jobs that one sweep acts on, per queue.
const SWEPT_AT_ONCE: u64 = 1000;

/// Most jobs of one enqueue: a script may not keep the server from others for long.
const PUSHED_AT_ONCE: usize = 500;

/// The wait while `rq suspend` is in force.
const SUSPENDED: Duration = Duration::from_secs(1);

/// The wait before the bells are listened to again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Bells that a listener may be behind with.
const BELLS_KEPT: usize = 4096;

/// See [`Queue`] for what it promises. Clones share connections.
#[derive(Clone)]
pub struct RedisQueue {
    settings: Arc<RedisSettings>,
    keys: Keys,
    server: Arc<Server>,
    shared: Arc<Shared>,
}

struct Shared {
    knocks: Knocks,
    /// Started when they are first used, on the runtime that uses them.
    pushes: OnceLock<Batch<Push, Enqueued>>,
    ends: OnceLock<Batch<End, Fate>>,
    listener: OnceLock<AbortOnDropHandle<()>>,
    bells: broadcast::Sender<Bell>,
    epoch: Mutex<Option<String>>,
    foreign: Vec<String>,
    born: String,
}

/// A look that has not shown the queues to be empty, until it has.
struct Unseen<'a>(Option<&'a Waiter>);

impl Unseen<'_> {
    fn seen(mut self) {
        self.0 = None;
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.0 {
            waiter.look_again();
        }
    }
}

/// A job in its written form.
struct Push {
    job: Job,
    data: Vec<u8>,
    resume: &'static str,
}

/// What is sent to end a lease.
struct End {
    worker: String,
    queue: String,
    id: String,
    token: String,
    way: &'static str,
}

impl RedisQueue {
    /// A queue that connects when it is first used.
    pub fn new(settings: RedisSettings) -> Result<Self, InvalidRedisSettings> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.:{}-".contains(c);
        if settings.prefix.is_empty() || !settings.prefix.chars().all(fits) {
            return Err(InvalidRedisSettings::Prefix(settings.prefix));
        }
        for queue in &settings.foreign {
            check_queue(&queue.name)?;
        }
        let server = Arc::new(Server::new(&settings)?);
        let shared = Shared {
            knocks: Knocks::default(),
            pushes: OnceLock::new(),
            ends: OnceLock::new(),
            listener: OnceLock::new(),
            bells: broadcast::channel(BELLS_KEPT).0,
            epoch: Mutex::default(),
            foreign: settings.foreign.iter().map(|queue| queue.name.clone()).collect(),
            born: iso_now(),
        };
        Ok(Self { keys: Keys::new(&settings.prefix), settings: Arc::new(settings), server, shared: Arc::new(shared) })
    }

    /// Asks the server whether it can serve: that it is there, new enough, and writable, and that a
    /// cluster's prefix has a hash tag.
    pub async fn check(&self) -> Result<(), QueueError> {
        let shown = shown_url(&self.settings.url);
        let info: String = self.server.command(Cmd::new().arg("INFO")).await?;
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let version = field("redis_version");
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if number < (6, 2) {
            return Err(QueueError::Unavailable(format!(
                "{shown}: Redis {version} is too old: 6.2 or later is needed"
            )));
        }
        if field("cluster_enabled") == "1" && !self.settings.prefix.contains('{') {
            let prefix = &self.settings.prefix;
            return Err(QueueError::Unavailable(format!(
                "{shown} is a Redis Cluster, and the prefix {prefix:?} has no hash tag: its keys would be spread over \
                 several nodes\nhint: use --redis-prefix '{{{prefix}}}', in every process"
            )));
        }
        let policy = field("maxmemory_policy");
        if field("maxmemory") != "0" && policy != "noeviction" {
            tracing::warn!(
                redis = shown,
                policy,
                "this Redis may throw jobs away when its memory is full; they are pushed again, late: set noeviction"
            );
        }
        self.sweep().await.map(drop)
    }

    /// How many commands the server has had from clients, scripts counted as one each: round trips, when each
    /// travels alone.
    pub async fn round_trips(&self) -> Result<u64, QueueError> {
        let info: String = self.server.command(Cmd::new().arg("INFO").arg("commandstats")).await?;
        // What comes from outside; scripts use none of these.
        let ours = ["evalsha", "eval", "blmove", "blpop", "publish"];
        let calls = info.lines().filter_map(|line| {
            let (name, fields) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let count: u64 = fields.strip_prefix("calls=")?.split(',').next()?.parse().ok()?;
            ours.contains(&name).then_some(count)
        });
        Ok(calls.sum())
    }

    fn blocks_in(&self, queues: &[String]) -> Cmd {
        match queues {
            // Stock workers push there.
            [one] if one == self.results_queue() => knock::peek(&self.keys.list(one)),
            _ => knock::take_knock(&queues.iter().map(|queue| self.keys.knock(queue)).collect::<Vec<_>>()),
        }
    }

    async fn take(&self, queues: &[String], worker: &str, max: usize) -> Result<Option<Vec<Lease>>, QueueError> {
        let (token, iso) = (Uuid::new_v4().simple().to_string(), iso_now());
        let answer: redis::Value = self
            .server
            .run(&TAKE, false, |call| {
                call.key(self.keys.queues()).arg(self.keys.prefix()).arg(worker).arg(max.min(0xffff));
                call.arg(self.settings.lease.as_secs_f64()).arg(&iso).arg(&token[..28]).arg(queues);
            })
            .await?;
        if matches!(answer, redis::Value::Int(_)) {
            return Ok(None);
        }
        let strange = |error: &dyn std::fmt::Display| QueueError::Unavailable(format!("a job cannot be read: {error}"));
        type Taken = (String, String, u64, Vec<u8>, String, u64);
        let taken: Vec<Taken> = redis::from_redis_value(answer).map_err(|error| strange(&error))?;
        let leases = taken.into_iter().map(|(queue, id, generation, data, token, deliveries)| {
            let body = read_body(&data);
            Lease { job: Job { id: JobId(id), queue, generation, body }, worker: worker.to_owned(), token, deliveries }
        });
        Ok(Some(leases.collect()))
    }

    fn foreign_queue(&self, queue: &str) -> Option<&ForeignQueue> {
        self.settings.foreign.iter().find(|foreign| foreign.name == queue)
    }

    fn written(&self, job: Job) -> Push {
        match self.foreign_queue(&job.queue).map(|queue| queue.serializer) {
            None => Push { data: job.body.clone().into_bytes(), job, resume: "" },
            Some(serializer) => {
                let data = serializer.write(&job.body).unwrap_or_else(|error| {
                    // The stock worker fails it with a text that says so, and the call with it.
                    tracing::warn!(job = %job.id, %error, "a job cannot be written for a stock worker");
                    b"[\"durable.untransferable\",null,[],{}]".to_vec()
                });
                Push { data, job, resume: "[\"durable.resume\",null,[],{}]" }
            }
        }
    }

    fn pushes(&self) -> &Batch<Push, Enqueued> {
        self.shared.pushes.get_or_init(|| {
            let (server, keys, settings) = (self.server.clone(), self.keys.clone(), self.settings.clone());
            Batch::start(Arc::new(move |pushes: Vec<Push>| {
                let (server, keys, settings) = (server.clone(), keys.clone(), settings.clone());
                Box::pin(async move { push_all(&server, &keys, &settings, pushes).await })
            }))
        })
    }

    fn ends(&self) -> &Batch<End, Fate> {
        self.shared.ends.get_or_init(|| {
            let (server, keys) = (self.server.clone(), self.keys.clone());
            Batch::start(Arc::new(move |ends: Vec<End>| {
                let (server, keys) = (server.clone(), keys.clone());
                Box::pin(async move { end_all(&server, &keys, &ends).await })
            }))
        })
    }
}

async fn push_all(
    server: &Server,
    keys: &Keys,
    settings: &RedisSettings,
    pushes: Vec<Push>,
) -> Result<Vec<Enqueued>, QueueError> {
    let iso = iso_now();
    let mut answers = Vec::with_capacity(pushes.len());
    for chunk in pushes.chunks(PUSHED_AT_ONCE) {
        let said: Vec<String> = server
            .run(&ENQUEUE, true, |call| {
                call.key(keys.queues()).arg(keys.prefix()).arg(settings.capacity).arg(&iso);
                for Push { job, data, resume } in chunk {
                    call.arg(&job.queue).arg(&job.id.0).arg(job.generation).arg(data.as_slice());
                    call.arg(function_of(&job.body)).arg(3600).arg(*resume);
                }
            })
            .await?;
        answers.extend(said.iter().map(|word| match word.as_str() {
            "queued" => Enqueued::Queued,
            "full" => Enqueued::Full,
            _ => Enqueued::Duplicate,
        }));
    }
    Ok(answers)
}

async fn end_all(server: &Server, keys: &Keys, ends: &[End]) -> Result<Vec<Fate>, QueueError> {
    let held: Vec<u8> = server
        .run(&END, true, |call| {
            let worker = ends.first().map_or("", |end| end.worker.as_str());
            call.key(keys.queues()).arg(keys.prefix()).arg(worker);
            let iso = iso_now();
            for end in ends {
                call.arg(&end.queue).arg(&end.id).arg(&end.token).arg(end.way).arg(&iso);
            }
        })
        .await?;
    Ok(held.into_iter().map(|held| if held == 1 { Fate::Done } else { Fate::Lost }).collect())
}

/// The function's name, for people: what stands between the first two quotes.
fn function_of(body: &str) -> &str {
    body.split('"').nth(1).unwrap_or_default()
}

/// Stock producers compress; we do not. What cannot be read is refused by whoever runs it, and so is what inflates to more
/// than any job of theirs has to hold.
fn read_body(data: &[u8]) -> String {
    match data.first() {
        Some(0x78) => rq::inflated(data).unwrap_or_default(),
        _ => String::from_utf8_lossy(data).into_owned(),
    }
}

/// The time as RQ writes it.
fn iso_now() -> String {
    chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[async_trait::async_trait]
impl Queue for RedisQueue {
    async fn enqueue(&self, jobs: Vec<Job>) -> Result<Vec<Enqueued>, QueueError> {
        self.pushes().send(jobs.into_iter().map(|job| self.written(job)).collect()).await
    }

    async fn pop(&self, queues: &[String], worker: &str, max: usize, wait: Duration) -> Result<Vec<Lease>, QueueError> {
        if max == 0 || wait.is_zero() {
            return Ok(self.take(queues, worker, max).await?.unwrap_or_default());
        }
        let deadline = Instant::now() + wait;
        let waiter = self.shared.knocks.waiter(&self.server, queues, || self.blocks_in(queues));
        loop {
            // Registered before looking, so that a knock between the look and the wait is not missed.
            let arrived = waiter.arrived().notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if waiter.should_look() {
                // Should this fail, or be dropped, the next pop looks again.
                let unseen = Unseen(Some(&waiter));
                match self.take(queues, worker, max).await? {
                    Some(leases) => {
                        // Fewer than there was room for: nothing is left, and whatever comes will knock.
                        if leases.len() < max {
                            unseen.seen();
                        }
                        if !leases.is_empty() {
                            return Ok(leases);
                        }
                    }
                    None if Instant::now() < deadline => {
                        tokio::time::sleep(SUSPENDED.min(wait)).await;
                        continue;
                    }
                    None => return Ok(Vec::new()),
                }
            }
            waiter.want();
            if tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn beat(&self, leases: &[Lease]) -> Result<Vec<Lease>, QueueError> {
        let held: Vec<u8> = self
            .server
            .run(&BEAT, true, |call| {
                call.key(self.keys.queues()).arg(self.keys.prefix()).arg(self.settings.lease.as_secs_f64());
                for lease in leases {
                    call.arg(&lease.job.queue).arg(&lease.job.id.0).arg(&lease.token);
                }
            })
            .await?;
        Ok(leases.iter().zip(held).filter(|(_, held)| *held == 0).map(|(lease, _)| lease.clone()).collect())
    }

    async fn end(&self, lease: &Lease, way: Way) -> Result<Fate, QueueError> {
        let way = match way {
            Way::Done => "done",
            Way::Front => "front",
            Way::Back => "back",
            Way::Refused => "refused",
        };
        let Lease { job, worker, token, .. } = lease.clone();
        let fates = self.ends().send(vec![End { worker, queue: job.queue, id: job.id.0, token, way }]).await?;
        Ok(fates.into_iter().next().unwrap_or(Fate::Lost))
    }

    async fn sweep(&self) -> Result<Swept, QueueError> {
        let new = Uuid::new_v4().simple().to_string();
        let (epoch, fresh, put_back, given_up): (String, u8, usize, usize) = self
            .server
            .run(&SWEEP, true, |call| {
                call.key(self.keys.queues()).arg(self.keys.prefix()).arg(SWEPT_AT_ONCE).arg(MOST_REAPS).arg(PARKED);
                call.arg(&new).arg(&self.shared.foreign);
            })
            .await?;
        let mut last = self.shared.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = last.as_ref().is_some_and(|last| *last != epoch);
        *last = Some(epoch);
        Ok(Swept { put_back, given_up, lost_everything: fresh == 1 || changed })
    }

    async fn cancel(&self, queue: &str, id: &JobId) -> Result<bool, QueueError> {
        let fill = |call: &mut redis::ScriptInvocation<'_>| {
            call.key(self.keys.queues()).arg(self.keys.prefix()).arg(queue).arg(&id.0);
        };
        self.server.run::<u8>(&CANCEL, false, fill).await.map(|removed| removed == 1)
    }

    async fn depth(&self, queue: &str) -> Result<usize, QueueError> {
        self.server.command(Cmd::new().arg("LLEN").arg(self.keys.list(queue))).await
    }

    fn capacity(&self) -> usize {
        self.settings.capacity
    }

    async fn show(&self, worker: &Presence) -> Result<(), QueueError> {
        let state = if worker.busy { "busy" } else { "idle" };
        self.server
            .run(&SHOW, true, |call| {
                call.key(self.keys.queues()).arg(self.keys.prefix()).arg(&worker.name).arg(SHOWN);
                call.arg(worker.queues.join(",")).arg("birth").arg(&self.shared.born);
                call.arg("last_heartbeat").arg(iso_now()).arg("state").arg(state).arg("pid").arg(worker.pid);
                call.arg("hostname").arg(&worker.host).arg("version").arg(env!("CARGO_PKG_VERSION"));
                call.arg("python_version").arg("durable-monty");
            })
            .await
    }

    async fn leave(&self, worker: &Presence) -> Result<(), QueueError> {
        self.server
            .run(&LEAVE, true, |call| {
                call.key(self.keys.queues()).arg(self.keys.prefix()).arg(&worker.name).arg(worker.queues.join(","));
            })
            .await
    }

    async fn ring(&self, bell: Bell) -> Result<(), QueueError> {
        let text = match bell {
            Bell::Sooner => "sooner".to_owned(),
            Bell::Ended(name) => format!("ended {name}"),
            Bell::Cancelled(name) => format!("cancelled {name}"),
        };
        self.server.command(Cmd::new().arg("PUBLISH").arg(self.keys.bell()).arg(text)).await
    }

    fn bells(&self) -> broadcast::Receiver<Bell> {
        let receiver = self.shared.bells.subscribe();
        self.shared.listener.get_or_init(|| {
            let listens = listen(self.server.clone(), self.keys.bell(), self.shared.bells.clone());
            AbortOnDropHandle::new(tokio::spawn(listens))
        });
        receiver
    }

    fn foreign(&self) -> &[String] {
        &self.shared.foreign
    }

    fn takes(&self, queue: &str, function: &str) -> bool {
        self.foreign_queue(queue).is_none_or(|foreign| foreign.takes(function))
    }

    async fn foreign_result(&self, lease: &Lease) -> Result<Option<ForeignResult>, QueueError> {
        let Some(id) = lease.job.id.0.strip_prefix("resume-") else { return Ok(None) };
        let mut pipeline = redis::pipe();
        type Found = ((Option<String>, Option<u64>), Vec<(String, HashMap<String, Vec<u8>>)>);
        pipeline.cmd("HMGET").arg(self.keys.job(id)).arg("status").arg("dw_gen");
        pipeline.cmd("XREVRANGE").arg(self.keys.results(id)).arg("+").arg("-").arg("COUNT").arg(1);
        let ((status, generation), entries): Found = self.server.pipeline(&pipeline).await?;
        let (Some(status), Some(generation)) = (status, generation) else { return Ok(None) };
        let result = rq::result(&status, entries.first().map(|(_, fields)| fields));
        Ok(Some(ForeignResult { id: JobId(id.to_owned()), generation, result }))
    }

    fn apart(&self) -> Arc<dyn Queue> {
        match Self::new((*self.settings).clone()) {
            Ok(apart) => Arc::new(apart),
            // The same settings were good a moment ago.
            Err(_) => Arc::new(self.clone()),
        }
    }
}

/// Passes on what is published, for as long as anybody may listen.
async fn listen(server: Arc<Server>, channel: String, bells: broadcast::Sender<Bell>) {
    loop {
        match server.listening().await {
            Ok(mut connection) => match connection.subscribe(&channel).await {
                Ok(()) => {
                    let mut messages = connection.on_message();
                    while let Some(message) = messages.next().await {
                        let text: String = message.get_payload().unwrap_or_default();
                        let bell = match text.split_once(' ') {
                            Some(("ended", name)) => Bell::Ended(name.to_owned()),
                            Some(("cancelled", name)) => Bell::Cancelled(name.to_owned()),
                            _ => Bell::Sooner,
                        };
                        let _ = bells.send(bell);
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot listen for bells"),
            },
            Err(error) => tracing::debug!(%error, "cannot listen for bells"),
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}
