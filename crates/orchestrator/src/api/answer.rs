//! Errors as clients see them: `{"error": {"type", "message"}}` and the status that belongs to it.

use std::{
    fmt::Display,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use durable_core::{interpreter::CompileError, orchestrator::OrchestrationError, store::StoreError};
use serde_json::json;

use super::body::Sender;

/// Why a request was not done. Nothing was changed by it.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl ApiError {
    #[expect(clippy::needless_pass_by_value, reason = "errors are handed over, texts too")]
    fn new(status: StatusCode, kind: &'static str, message: impl ToString) -> Self {
        Self { status, kind, message: message.to_string() }
    }

    pub(crate) fn bad(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn not_found(message: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn not_allowed(message: impl ToString) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    pub(crate) fn conflict(message: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    pub(crate) fn unprocessable(message: impl ToString) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_value", message)
    }

    pub(crate) fn unavailable(message: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(crate) fn forbidden(message: impl ToString) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(crate) fn too_large(most: usize, sender: Sender) -> Self {
        let most = if most < 1 << 20 { format!("{} KiB", most >> 10) } else { format!("{} MiB", most >> 20) };
        let more = match sender {
            Sender::Client => "",
            Sender::Callback => " (durable-orchestrator --callback-limit)",
        };
        let message = format!(
            "the request is larger than {most}{more}: keep large data in files or an object store, and send its name"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(crate) fn slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the rest of the request did not come in time")
    }

    pub(crate) fn no_json() -> Self {
        let message =
            "say that the body is JSON: Content-Type: application/json; without a body, that or X-Requested-With";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "a token is needed: Authorization: Bearer TOKEN (durable-start: --token or DURABLE_API_TOKEN)";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::debug!(status = self.status.as_u16(), error = self.message, "a request failed");
        }
        let said = Json(json!({"error": {"type": self.kind, "message": self.message}}));
        let mut answer = (self.status, said).into_response();
        if self.status == StatusCode::REQUEST_TIMEOUT {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(_) => {
                let sentence = "the database cannot keep what the request holds";
                Self::hidden(StatusCode::UNPROCESSABLE_ENTITY, "refused", sentence, &error)
            }
            error if error.is_passing() || matches!(error, StoreError::WriterGone) => {
                Self::away("the database", &error)
            }
            error => Self::broken(&error),
        }
    }
}

impl ApiError {
    /// What a server says is for those who run it, not for its clients: names of hosts, users and tables.
    fn hidden(status: StatusCode, kind: &'static str, sentence: &str, cause: &dyn Display) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("{:x}", since.as_micros());
        tracing::warn!(error.id = id, %cause, "{sentence}");
        Self::new(status, kind, format!("{sentence} (error {id}: its cause is in the orchestrator's log)"))
    }

    fn away(what: &str, cause: &dyn Display) -> Self {
        let sentence = format!("{what} is unavailable: try again later");
        Self::hidden(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &sentence, cause)
    }

    /// Something that should not have happened.
    pub(crate) fn broken(cause: &dyn Display) -> Self {
        Self::hidden(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request could not be done", cause)
    }
}

impl From<OrchestrationError> for ApiError {
    fn from(error: OrchestrationError) -> Self {
        match error {
            OrchestrationError::Store(error) => error.into(),
            OrchestrationError::Queue(error) => Self::away("the queue", &error),
            OrchestrationError::NotFound(_) => Self::not_found(error),
            OrchestrationError::IdTaken(_)
            | OrchestrationError::OtherInputs(_)
            | OrchestrationError::OtherRights(_)
            | OrchestrationError::Ended { .. }
            | OrchestrationError::NotFailed { .. }
            | OrchestrationError::NoState { .. }
            | OrchestrationError::Parted { .. }
            | OrchestrationError::Busy(_)
            | OrchestrationError::Exists { .. } => Self::conflict(error),
            OrchestrationError::Name(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_name", error),
            OrchestrationError::Input(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_inputs", error),
            OrchestrationError::Advance { .. } | OrchestrationError::Compile { .. } => Self::broken(&error),
        }
    }
}

impl From<CompileError> for ApiError {
    fn from(error: CompileError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_workflow", error)
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let text = rejection.body_text();
        if text.contains("recursion limit exceeded") {
            let most = durable_core::interpreter::value::MAX_DEPTH;
            return Self::unprocessable(format!("the request is nested too deeply: at most {most} levels are taken"));
        }
        Self::new(rejection.status(), "bad_request", text)
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}
