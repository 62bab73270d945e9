//! The HTTP API as a client sees it.

use std::time::Duration;

use durable_core::{
    id::ExecutionId,
    model::{Execution, ExecutionStatus, LogLine},
    shown::{Code, Page, Shown, ShownCall},
};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    args::Server,
    failure::{Coded, SYSTEM, WRONG, not_there},
};

/// The longest that one request waits for an execution's end.
const WAIT: Duration = Duration::from_secs(20);

/// How often a server that is away is tried again while an execution is waited for.
const PATIENCE: u32 = 30;

/// How much of a long list is asked for at once.
const PAGE: usize = 1000;

/// A server.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(server: &Server) -> anyhow::Result<Self> {
        let url = server.url.trim_end_matches('/').to_owned();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            let url = durable_queue::shown_url(&url);
            let message = format!("--server {url}: an address such as http://127.0.0.1:8080 is wanted");
            return Err(Coded { code: WRONG, message }.into());
        }
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
        Ok(Self { http, url, token: server.token.clone().filter(|token| !token.is_empty()) })
    }

    /// Starts an execution; the answer also tells whether it is a new one.
    pub(crate) async fn start(&self, request: &Value) -> anyhow::Result<(Value, bool)> {
        // The request names its execution, so that asking again starts no second one.
        let (status, execution) = self.ask(Method::POST, "/executions", Some(request)).await?;
        Ok((execution, status == StatusCode::CREATED))
    }

    /// The execution, at its end or after a while.
    pub(crate) async fn wait(&self, id: &str) -> anyhow::Result<Value> {
        let path = format!("/executions/{id}?wait={}s", WAIT.as_secs());
        self.patiently(&path).await
    }

    /// All calls of an execution, however long the server is away meanwhile.
    pub(crate) async fn calls(&self, id: &ExecutionId) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut after): (Vec<Value>, _) = (Vec::new(), String::new());
        loop {
            let part = self.patiently(&format!("/executions/{id}/calls?limit={PAGE}{after}")).await?;
            let part = part.as_array().cloned().unwrap_or_default();
            after = part.last().map_or_else(String::new, |last| format!("&after={}", last["id"]));
            let whole = part.len() < PAGE;
            all.extend(part);
            if whole {
                return Ok(all);
            }
        }
    }

    /// The newest executions, at most `limit`.
    pub(crate) async fn list(&self, status: Option<ExecutionStatus>, limit: usize) -> anyhow::Result<Vec<Execution>> {
        let status = status.map_or_else(String::new, |status| format!("&status={status}"));
        self.pages(&format!("/executions?limit={}{status}", limit.min(PAGE)), limit).await
    }

    /// An execution with all that is told of it.
    pub(crate) async fn shown(&self, id: &ExecutionId) -> anyhow::Result<Shown> {
        self.read(self.get(&format!("/executions/{id}")).await?)
    }

    /// All calls of an execution.
    pub(crate) async fn shown_calls(&self, id: &ExecutionId) -> anyhow::Result<Vec<ShownCall>> {
        let (mut all, mut after): (Vec<ShownCall>, _) = (Vec::new(), String::new());
        loop {
            let answer = self.get(&format!("/executions/{id}/calls?limit={PAGE}{after}")).await?;
            let mut part: Vec<ShownCall> = self.read(answer)?;
            let Some(last) = part.last().filter(|_| part.len() >= PAGE) else {
                all.append(&mut part);
                return Ok(all);
            };
            after = format!("&after={}", last.call.id);
            all.append(&mut part);
        }
    }

    /// All that an execution's workflow and functions wrote.
    pub(crate) async fn logs(&self, id: &ExecutionId) -> anyhow::Result<Vec<LogLine>> {
        self.pages(&format!("/executions/{id}/logs?limit={PAGE}"), usize::MAX).await
    }

    /// The text of a version of an execution's code.
    pub(crate) async fn code(&self, id: &ExecutionId, version: Option<i64>) -> anyhow::Result<Code> {
        let version = version.map_or_else(String::new, |version| format!("?version={version}"));
        self.read(self.get(&format!("/executions/{id}/code{version}")).await?)
    }

    async fn pages<T: DeserializeOwned>(&self, path: &str, limit: usize) -> anyhow::Result<Vec<T>> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page: Page<T> = self.read(self.get(&format!("{path}{after}")).await?)?;
            all.extend(page.items);
            match page.next.filter(|_| all.len() < limit) {
                Some(next) => after = format!("&after={next}"),
                None => {
                    all.truncate(limit);
                    return Ok(all);
                }
            }
        }
    }

    /// What an answer says.
    pub(crate) fn read<T: DeserializeOwned>(&self, answer: Value) -> anyhow::Result<T> {
        serde_json::from_value(answer).map_err(|error| {
            let message = format!("{} answers otherwise than this durable expects: {error}", self.shown_url());
            Coded { code: SYSTEM, message }.into()
        })
    }

    /// The server, without its password.
    pub(crate) fn shown_url(&self) -> String {
        durable_queue::shown_url(&self.url)
    }

    /// Asks again while the server is away: the execution goes on without it.
    async fn patiently(&self, path: &str) -> anyhow::Result<Value> {
        let mut tries = 0;
        loop {
            match self.ask(Method::GET, path, None).await {
                Ok((_, answer)) => return Ok(answer),
                Err(error) if tries < PATIENCE && is_passing(&error) => {
                    tracing::debug!(%error, "asking again");
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for something that is done once.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        Ok(self.ask(Method::POST, path, Some(body)).await?.1)
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.ask(Method::GET, path, None).await?.1)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Value)> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.url)).timeout(WAIT + Duration::from_secs(20));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let size = body.map_or(0, |body| body.to_string().len());
        let response = request.send().await.map_err(|error| self.unreached(&error, size))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreached(&error, 0))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok((status, answer));
        }
        let told = answer["error"]["message"].as_str().map_or_else(
            || {
                format!(
                    "{} answered {status}, and not as durable-orchestrator would; is --server right?",
                    self.shown_url()
                )
            },
            String::from,
        );
        if status == StatusCode::NOT_FOUND {
            return Err(not_there(told));
        }
        let code = if status.is_client_error() { WRONG } else { SYSTEM };
        Err(Coded { code, message: told }.into())
    }

    /// `size` is how much was being sent.
    fn unreached(&self, error: &reqwest::Error, size: usize) -> anyhow::Error {
        const LARGE: usize = 1 << 20;
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let url = self.shown_url();
        if size > LARGE && !error.is_connect() && !error.is_timeout() {
            let size = size >> 20;
            let message = format!(
                "the server {url} broke off while {size} MiB were being sent: {cause}\nhint: that may be more than it takes; \
                 keep large data in files or an object store, and send its name"
            );
            return Coded { code: SYSTEM, message }.into();
        }
        let message = format!(
            "cannot reach the server {url}: {cause}\nhint: start one (docker compose up, or durable-orchestrator), or name \
             another with --server or DURABLE_API_URL; durable run needs none"
        );
        Coded { code: SYSTEM, message }.into()
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Coded>().is_some_and(|coded| coded.code == SYSTEM)
}

/// What an execution's start is asked with.
pub(crate) fn start_request(
    workflow: &Value,
    inputs: &serde_json::Map<String, Value>,
    id: &ExecutionId,
    queue: &str,
) -> Value {
    json!({"workflow": workflow, "inputs": inputs, "id": id, "queue": queue})
}
