//! What a function is: something that takes JSON arguments and answers JSON, sooner or later.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use durable_core::{
    model::{Failure, Json},
    store::calls::AttemptOf,
};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    arguments::{Arguments, FromArguments},
    clock::AttemptClock,
    log::CallLog,
};

/// One attempt to be made.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The call and the attempt.
    pub of: AttemptOf,
    /// The name under which the function was registered.
    pub function: String,
    /// A JSON array.
    pub args: Json,
    /// A JSON object.
    pub kwargs: Json,
    /// The right to complete the call later; only for functions that ask for it.
    pub callback: Option<String>,
    /// What the workflow chose instead of the key that is made for each call.
    pub key: Option<String>,
    /// Cancelled when nobody wants the result any more: end soon, because after a while the attempt is dropped.
    pub cancelled: CancellationToken,
    /// Cancelled when the time of the attempt is over: the same.
    pub overdue: CancellationToken,
    /// The attempt's time, which begins with the function's first line.
    pub clock: AttemptClock,
    /// Whether earlier attempts of the call took down the process that they shared with others.
    pub suspect: bool,
    /// Where the function says how far it has come.
    pub progress: Reporter,
}

/// Takes what a running function says of itself; the last of it is shown with its call.
#[derive(Clone)]
pub struct Reporter(Arc<Reports>);

struct Reports {
    to: Box<dyn Fn(Json) + Send + Sync>,
    every: Duration,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    fraction: Option<f64>,
    message: Option<String>,
    /// What others say of it, instead of its own message.
    remark: Option<String>,
    last: Option<Instant>,
}

impl Reporter {
    /// Hands everything to `to`, which should return soon.
    pub fn new(to: impl Fn(Json) + Send + Sync + 'static) -> Self {
        Self::every(Duration::ZERO, to)
    }

    /// The same, but not more often.
    pub(crate) fn every(every: Duration, to: impl Fn(Json) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Reports { to: Box::new(to), every, said: Mutex::default() }))
    }

    /// How far the function has come, from 0 to 1, and what it does.
    pub fn report(&self, fraction: Option<f64>, message: Option<&str>) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        (said.fraction, said.message) = (fraction, message.map(String::from));
        if said.last.is_none_or(|last| last.elapsed() >= self.0.every) {
            self.show(&mut said);
        }
    }

    /// What is to be known of the function beside what it says itself; none when that is over.
    pub(crate) fn remark(&self, remark: Option<&str>) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.remark = remark.map(String::from);
        self.show(&mut said);
    }

    fn show(&self, said: &mut Said) {
        said.last = Some(Instant::now());
        let message = said.remark.as_ref().or(said.message.as_ref());
        (self.0.to)(Json::from(&serde_json::json!({"fraction": said.fraction, "message": message})));
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reporter")
    }
}

tokio::task_local! {
    static PRESENT: Invocation;
}

/// For Rust functions: how far this one has come, from 0 to 1, and what it does; shown with its call.
pub fn heartbeat(fraction: impl Into<Option<f64>>, message: &str) {
    let _ = PRESENT.try_with(|invocation| invocation.progress.report(fraction.into(), Some(message)));
}

/// For Rust functions: cancelled when nobody wants the result any more. A function that does not heed it is dropped at
/// its next await, five seconds later.
pub fn cancellation() -> CancellationToken {
    PRESENT.try_with(|invocation| invocation.cancelled.clone()).unwrap_or_default()
}

/// For Rust functions: the same text for every attempt of the present call, and for no other call.
pub fn idempotency_key() -> Option<String> {
    PRESENT.try_with(Invocation::idempotency_key).ok()
}

/// What a function answers.
#[derive(Debug, Clone)]
pub enum Returned {
    /// Its result.
    Now(Json),
    /// Somebody else completes the call, by the invocation's callback.
    Later,
}

impl From<Json> for Returned {
    fn from(result: Json) -> Self {
        Self::Now(result)
    }
}

impl Invocation {
    /// The same for every attempt of a call, and for no other call: hand it to whatever must not
    /// happen twice.
    pub fn idempotency_key(&self) -> String {
        self.key.clone().unwrap_or_else(|| format!("{}/{}", self.of.execution, self.of.call))
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone)]
pub struct FunctionError {
    /// The exception, as the workflow will see it.
    pub failure: Failure,
    /// Whether another attempt could help.
    pub retryable: bool,
    /// Whether the attempt was lost through another's fault: then it does not count.
    pub innocent: bool,
}

impl FunctionError {
    /// A failure of the type `kind`, which the workflow catches by that name if Python has it.
    pub fn new(kind: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { failure: Failure::new(kind, message.to_string()), retryable: true, innocent: false }
    }

    /// The same, when another attempt could not help.
    #[must_use]
    pub fn not_retryable(mut self) -> Self {
        self.retryable = false;
        self
    }
}

impl<E: std::error::Error> From<E> for FunctionError {
    /// Any Rust error arrives as a `RuntimeError` with its text and those of its causes.
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        Self::new("RuntimeError", text)
    }
}

/// Something that can be called. When the returned future is dropped, the attempt is given up and
/// whatever it holds must be freed.
#[async_trait::async_trait]
pub trait Function: Send + Sync + 'static {
    /// Makes one attempt.
    async fn call(&self, invocation: Invocation, log: &CallLog) -> Result<Returned, FunctionError>;

    /// Whether it may answer [`Returned::Later`], and so needs a callback.
    fn may_defer(&self) -> bool {
        false
    }

    /// Whether it starts the attempt's clock itself, and ends by itself soon after it was told that its time is over or
    /// that nobody wants its result. Others are dropped then.
    fn minds_its_time(&self) -> bool {
        false
    }

    /// Whether a cancelled attempt may have something to clean up, even when its worker is about to end.
    fn cleans_up(&self) -> bool {
        false
    }
}

/// A Rust closure of up to six parameters that returns a future of a result. Implemented for those;
/// not meant to be implemented elsewhere.
pub trait Handler<P>: Send + Sync + 'static {
    /// Reads the parameters and starts the future.
    fn start(
        &self,
        arguments: &mut Arguments,
    ) -> Result<impl Future<Output = Result<Value, FunctionError>> + Send + 'static, FunctionError>;
}

macro_rules! handler {
    ($($parameter:ident)*) => {
        impl<F, Fut, R, Error, $($parameter,)*> Handler<($($parameter,)*)> for F
        where
            F: Fn($($parameter),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<R, Error>> + Send + 'static,
            R: Serialize,
            Error: Into<FunctionError>,
            $($parameter: FromArguments,)*
        {
            #[expect(clippy::allow_attributes, reason = "a closure without parameters reads none")]
            fn start(
                &self,
                #[allow(unused_variables)] arguments: &mut Arguments,
            ) -> Result<impl Future<Output = Result<Value, FunctionError>> + Send + 'static, FunctionError> {
                $(#[allow(non_snake_case)] let $parameter = $parameter::take(arguments)?;)*
                arguments.nothing_left()?;
                let future = self($($parameter),*);
                Ok(async move {
                    let result = future.await.map_err(Into::into)?;
                    serde_json::to_value(result).map_err(|error| {
                        FunctionError::new("TypeError", format!("the result cannot be sent: {error}")).not_retryable()
                    })
                })
            }
        }
    };
}

handler!();
handler!(A);
handler!(A B);
handler!(A B C);
handler!(A B C D);
handler!(A B C D E);
handler!(A B C D E G);

/// A Rust closure as a [`Function`].
pub(crate) struct RustFunction<H, P> {
    pub(crate) handler: H,
    pub(crate) parameters: Vec<String>,
    pub(crate) _marker: std::marker::PhantomData<fn(P)>,
}

#[async_trait::async_trait]
impl<H: Handler<P>, P: 'static> Function for RustFunction<H, P> {
    async fn call(&self, invocation: Invocation, _: &CallLog) -> Result<Returned, FunctionError> {
        let mut arguments = Arguments::new(&invocation, &self.parameters)?;
        let future = self.handler.start(&mut arguments)?;
        // On a task of its own, whose panic ends nothing else; aborted when this future is dropped.
        let function = invocation.function.clone();
        let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(PRESENT.scope(invocation, future)));
        match task.await {
            Ok(result) => result.map(|value| Json::from(&value).into()),
            Err(error) => Err(FunctionError::new("RuntimeError", panic_text(&function, error))),
        }
    }
}

fn panic_text(function: &str, error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return format!("{function} was aborted") };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("with no message");
    format!("{function} panicked: {text}")
}
