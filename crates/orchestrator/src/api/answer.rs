//! Errors as clients see them: `{"error": {"type", "message"}}` and the status that belongs to it.

use axum::{
    Json,
    body::Bytes,
    extract::{
        FromRequest, Request,
        rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
};
use durable_core::{interpreter::CompileError, orchestrator::OrchestrationError, store::StoreError};
use serde::de::DeserializeOwned;
use serde_json::json;

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

    fn too_large() -> Self {
        let message = format!(
            "the request is larger than {} MiB: keep large data in files or an object store, and send its name",
            super::MAX_BODY >> 20
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "a token is needed: Authorization: Bearer TOKEN (durable-start: --token or DURABLE_API_TOKEN)";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), error = self.message, "a request failed");
        }
        (self.status, Json(json!({"error": {"type": self.kind, "message": self.message}}))).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_passing() => Self::unavailable(error),
            StoreError::Refused(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", error),
            error => Self::internal(error),
        }
    }
}

impl ApiError {
    fn internal(error: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error)
    }
}

impl From<OrchestrationError> for ApiError {
    fn from(error: OrchestrationError) -> Self {
        match error {
            OrchestrationError::Store(error) => error.into(),
            OrchestrationError::Queue(error) => Self::unavailable(error),
            OrchestrationError::NotFound(_) => Self::not_found(error),
            OrchestrationError::IdTaken(_)
            | OrchestrationError::OtherInputs(_)
            | OrchestrationError::Ended { .. }
            | OrchestrationError::NotFailed { .. }
            | OrchestrationError::NoState { .. }
            | OrchestrationError::Parted { .. }
            | OrchestrationError::Busy(_)
            | OrchestrationError::Exists { .. } => Self::conflict(error),
            OrchestrationError::Name(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_name", error),
            OrchestrationError::Input(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_inputs", error),
            OrchestrationError::Advance { .. } | OrchestrationError::Compile { .. } => Self::internal(error),
        }
    }
}

impl From<CompileError> for ApiError {
    fn from(error: CompileError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_workflow", error)
    }
}

/// A request's JSON; what is wrong with it is told in our form.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(rejection.into()),
        }
    }
}

/// What a request asks for beside its address; a request without a body asks for nothing.
pub(crate) struct Wish<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Wish<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(ApiError::from)?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        let wish: Option<T> = Json::from_bytes(&bytes)?.0;
        Ok(Self(wish.unwrap_or_default()))
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Self::too_large()
        } else {
            Self::bad(rejection.body_text())
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::too_large();
        }
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
