//! Functions that are URLs: a POST with the arguments as JSON, answered with the result.

use std::time::Duration;

use durable_core::{
    interpreter::value,
    model::{Failure, Json},
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    function::{Function, FunctionError, Invocation, Returned},
    log::CallLog,
};

/// Most bytes of an answer that is no result, for people to read.
const SHOWN: usize = 500;

/// Most bytes of an answer that is no result, for us to read.
const NO_RESULT: usize = 64 << 10;

/// Most bytes of a result, unless the worker is told otherwise.
pub(crate) const ANSWER_LIMIT: usize = 32 << 20;

/// A function behind a URL.
///
/// It is sent `{"function", "args", "kwargs", "idempotency_key", "attempt"}` and an `Idempotency-Key` header. 200 with a
/// JSON body is the result. 422 or any other 4xx is a failure that another attempt could not help (but for 408, 425
/// and 429); anything else may be tried again. A failure's body may be `{"type", "message"}`.
///
/// Of a result, at most 32 MiB are taken unless the worker is told otherwise; of anything else, 64 KiB are read.
///
/// Where callbacks are possible, the request has a `callback_url` too. 202 then means that the result comes later,
/// as `POST {callback_url}/complete` with `{"result": …}`, or `POST {callback_url}/fail` with `{"type", "message"}`.
pub struct HttpFunction {
    url: reqwest::Url,
    /// The same without its password, for people.
    shown: reqwest::Url,
    client: reqwest::Client,
    /// Where the orchestrator's API is, as the function sees it.
    callbacks: Option<String>,
    /// Most bytes of a result.
    limit: usize,
}

impl HttpFunction {
    /// A function at this `http:` or `https:` address.
    pub fn new(url: &str, callbacks: Option<&str>) -> Result<Self, String> {
        let parsed: reqwest::Url = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(format!("{url:?} is not an http or https URL"));
        }
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            // Arguments are for the address that was named.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("durable-monty/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no HTTP client: {error}"))?;
        let callbacks = callbacks.map(|url| url.trim_end_matches('/').to_owned());
        let mut shown = parsed.clone();
        if shown.password().is_some() {
            // A URL with a host takes one.
            let _ = shown.set_password(Some("***"));
        }
        Ok(Self { url: parsed, shown, client, callbacks, limit: ANSWER_LIMIT })
    }

    /// The same with results of at most so many bytes.
    #[must_use]
    pub fn answering_at_most(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// A result's text. Not more of it is held than it may have.
    async fn result(&self, mut response: reqwest::Response) -> Result<String, FunctionError> {
        let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
        if announced.is_some_and(|length| length > self.limit) {
            return Err(self.too_large(announced));
        }
        let mut bytes = Vec::with_capacity(announced.unwrap_or_default());
        while let Some(part) = response.chunk().await.map_err(|error| self.unreached(error))? {
            if bytes.len() + part.len() > self.limit {
                return Err(self.too_large(None));
            }
            bytes.extend_from_slice(&part);
        }
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            FunctionError::new("TypeError", format!("{}: its answer is not UTF-8 (byte {at})", self.shown))
                .not_retryable()
        })
    }

    /// The beginning of what is no result.
    async fn beginning(&self, mut response: reqwest::Response) -> Result<String, FunctionError> {
        let mut bytes = Vec::new();
        while bytes.len() < NO_RESULT
            && let Some(part) = response.chunk().await.map_err(|error| self.unreached(error))?
        {
            let room = NO_RESULT - bytes.len();
            bytes.extend_from_slice(&part[..part.len().min(room)]);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn too_large(&self, announced: Option<usize>) -> FunctionError {
        let seen = announced.map_or_else(|| "more bytes".to_owned(), |length| format!("{length} bytes"));
        let most = self.limit;
        let why = format!(
            "{}: its answer has {seen}, and at most {most} are taken (durable-worker --http-answer-limit): keep large data in \
             files or an object store, and answer its name",
            self.shown
        );
        FunctionError::new("ValueError", why).not_retryable()
    }

    fn unreached(&self, error: reqwest::Error) -> FunctionError {
        FunctionError::new("ConnectionError", format!("{}: {}", self.shown, chain(&error.without_url())))
    }
}

#[async_trait::async_trait]
impl Function for HttpFunction {
    async fn call(&self, invocation: Invocation, _: &CallLog) -> Result<Returned, FunctionError> {
        let key = invocation.idempotency_key();
        let raw = |json: &Json| RawValue::from_string(json.0.clone());
        let mut body = json!({"function": invocation.function, "args": raw(&invocation.args)?,
                          "kwargs": raw(&invocation.kwargs)?, "idempotency_key": key, "attempt": invocation.of.number});
        let callback = self.callbacks.as_ref().zip(invocation.callback.as_ref());
        if let Some((api, token)) = callback {
            body["callback_url"] = json!(format!("{api}/callbacks/{token}"));
        }
        let sent = self.client.post(self.url.clone()).header("Idempotency-Key", &key).json(&body).send().await;
        let response = sent.map_err(|error| self.unreached(error))?;
        let status = response.status();
        if status == reqwest::StatusCode::ACCEPTED {
            let why = "answered 202, and this worker has no --callback-url for the result to come to";
            let deferred = callback.is_some().then_some(Returned::Later);
            return deferred
                .ok_or_else(|| FunctionError::new("RuntimeError", format!("{} {why}", self.shown)).not_retryable());
        }
        if status.is_success() {
            let text = self.result(response).await?;
            let result = if text.trim().is_empty() { "null" } else { text.as_str() };
            let result: Box<RawValue> = serde_json::from_str(result).map_err(|error| {
                let why = value::not_json(&error).of("its answer");
                FunctionError::new("TypeError", format!("{}: {why}", self.shown)).not_retryable()
            })?;
            return Ok(Json(result.get().to_owned()).into());
        }
        let text = self.beginning(response).await?;
        let error = FunctionError { failure: failure(&self.shown, status, &text), retryable: true, innocent: false };
        let again = matches!(status.as_u16(), 408 | 425 | 429) || !status.is_client_error();
        Err(if again { error } else { error.not_retryable() })
    }

    fn may_defer(&self) -> bool {
        self.callbacks.is_some()
    }
}

fn failure(url: &reqwest::Url, status: reqwest::StatusCode, text: &str) -> Failure {
    if let Ok(Value::Object(told)) = serde_json::from_str(text)
        && let (Some(kind), Some(message)) = (told.get("type").and_then(Value::as_str), told.get("message"))
    {
        return Failure::new(kind, message.as_str().map_or_else(|| message.to_string(), str::to_owned));
    }
    let end = text.floor_char_boundary(SHOWN);
    Failure::new("RuntimeError", format!("{url} answered {status}: {}", &text[..end]))
}

/// An error with its causes: the innermost says why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
