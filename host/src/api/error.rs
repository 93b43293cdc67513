//! Errors as answers: `{"error": …, "message": …, "field": …}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::gate::GateError;
use crate::store::StoreError;

/// An answer that is no decision.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    error: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<uuid::Uuid>,
}

impl ApiError {
    fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, body: Body { error, message: message.into(), field: None, decision_id: None } }
    }

    /// 400: `fault` says what would be right for `field`.
    pub fn invalid(field: &str, fault: impl std::fmt::Display) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_request", format!("{field}: {fault}"));
        error.body.field = Some(field.to_owned());
        error
    }

    /// 400 for a request as a whole.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 403 where it is no policy that refuses.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "this route does not know that method")
    }

    /// 409: the same id with another body.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "idempotency_conflict", message)
    }

    /// 409: the policy folder is not such that this can be done.
    pub fn policy_conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "policy_conflict", message)
    }

    /// 410.
    pub fn reservation_ended(state: &str) -> Self {
        Self::new(StatusCode::GONE, "reservation_ended", format!("the reservation is {state}"))
    }

    /// 413.
    pub fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "a body of at most 64 KiB")
    }

    /// 503: the store cannot be reached.
    fn down() -> Self {
        let message = "the store cannot be reached; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
    }

    /// 503: it took too long.
    pub fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
    }

    /// 500: a fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest of it is not read, so the connection is of no more use: who knows that sends nothing more on it.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<&StoreError> for ApiError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Conflict(message) => Self::conflict(message),
            // A constraint that the door did not know of: the caller's values, in the database's words.
            StoreError::Refused(message) => Self::invalid_request(message),
            StoreError::Unreachable(_) => Self::down(),
            StoreError::Slow(_) => {
                tracing::error!(reason = %error, "Store slow");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "the store does not answer in time; try again")
            }
            StoreError::Migrate(_)
            | StoreError::InTheWay(_)
            | StoreError::NotTakenOver(..)
            | StoreError::Database(_) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::error!(reason = cause, "Store failed");
                Self::down()
            }
        }
    }
}

impl From<GateError> for ApiError {
    fn from(error: GateError) -> Self {
        match error {
            GateError::Overloaded | GateError::TooManyWait => Self::overloaded(error.to_string()),
            GateError::Ended(how) => Self::reservation_ended(how),
            GateError::Down => Self::down(),
            GateError::SpoolFull | GateError::Spool(_) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "spool_full", error.to_string())
            }
            GateError::Store(error) => Self::from(&*error),
            GateError::Policy { decision_id, .. } => {
                let mut answer = Self::new(StatusCode::SERVICE_UNAVAILABLE, "policy_failed", error.to_string());
                answer.body.decision_id = Some(decision_id);
                answer
            }
        }
    }
}
