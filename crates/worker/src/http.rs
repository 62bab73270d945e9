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

/// A function behind a URL.
///
/// It is sent `{"function", "args", "kwargs", "idempotency_key", "attempt"}` and an `Idempotency-Key` header. 200 with a
/// JSON body is the result. 422 or any other 4xx is a failure that another attempt could not help (but for 408, 425
/// and 429); anything else may be tried again. A failure's body may be `{"type", "message"}`.
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
        Ok(Self { url: parsed, shown, client, callbacks })
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
        let unreached = |error: reqwest::Error| {
            FunctionError::new("ConnectionError", format!("{}: {}", self.shown, chain(&error.without_url())))
        };
        let response = sent.map_err(unreached)?;
        let status = response.status();
        let text = response.text().await.map_err(unreached)?;
        if status == reqwest::StatusCode::ACCEPTED {
            let why = "answered 202, and this worker has no --callback-url for the result to come to";
            let deferred = callback.is_some().then_some(Returned::Later);
            return deferred
                .ok_or_else(|| FunctionError::new("RuntimeError", format!("{} {why}", self.shown)).not_retryable());
        }
        if status.is_success() {
            let result = if text.trim().is_empty() { "null" } else { text.as_str() };
            let result: Box<RawValue> = serde_json::from_str(result).map_err(|error| {
                let why = value::not_json(&error).of("its answer");
                FunctionError::new("TypeError", format!("{}: {why}", self.shown)).not_retryable()
            })?;
            return Ok(Json(result.get().to_owned()).into());
        }
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
