//! Denials on the wire: status, headers, JSON, SSE, and the vendors' dialects. No other file knows them.

use axum::extract::FromRequestParts;
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::details::QuotaDetails;
use super::error::ApiError;
use super::input;
use crate::decision::{Denial, Request};
use crate::money::Money;
use crate::period::Period;
use crate::quota::{Quota, ResourceType};

/// In which shape the caller wants a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    dialect: Dialect,
    sse: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Tollgate,
    OpenAi,
    Anthropic,
    Problem,
}

impl Shape {
    /// From `?format=` and `Accept: text/event-stream`.
    ///
    /// # Errors
    /// An unknown format.
    pub fn new(format: Option<&str>, headers: &HeaderMap) -> Result<Self, ApiError> {
        let dialect = match format {
            None => Dialect::Tollgate,
            Some("openai") => Dialect::OpenAi,
            Some("anthropic") => Dialect::Anthropic,
            Some("problem") => Dialect::Problem,
            Some(other) => {
                return Err(ApiError::invalid("format", format!("one of openai, anthropic, problem, got {other:?}")));
            }
        };
        let accepts_sse = headers
            .get(ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.to_ascii_lowercase().contains("text/event-stream"));
        Ok(Self { dialect, sse: accepts_sse })
    }

    /// With `"stream": true`, as events whatever is accepted.
    #[must_use]
    pub fn streamed(self, stream: bool) -> Self {
        Self { sse: self.sse || stream, ..self }
    }
}

/// Where `format` is the only parameter.
impl<S: Send + Sync> FromRequestParts<S> for Shape {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let [format] = match parts.uri.query() {
            None => [None],
            Some(_) => input::query(input::pairs(&parts.uri)?, ["format"])?,
        };
        Self::new(format.as_deref(), &parts.headers)
    }
}

/// The denial's own object: these fields, in this spelling and order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DenialBody<'a> {
    error: &'static str,
    message: &'a str,
    resource_type: &'a ResourceType,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_details: Option<QuotaDetails<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    code: &'a str,
    decision_id: Uuid,
}

impl<'a> DenialBody<'a> {
    /// Of a denial of `request`, enforced or not.
    pub fn new(request: &'a Request, denial: &'a Denial) -> Self {
        Self {
            error: if denial.binding.is_some() { "quota_exceeded" } else { "policy_denied" },
            message: &denial.reason,
            resource_type: &request.resource_type,
            quota_details: denial.binding.as_ref().map(|quota| QuotaDetails::new(quota, Some(request.estimate))),
            retry_after: denial.retry_after,
            code: &denial.code,
            decision_id: request.id,
        }
    }
}

/// The answer: 429 where a quota binds, 403 where waiting does not help.
pub fn respond(request: &Request, denial: &Denial, shape: Shape) -> Response {
    let status = if denial.binding.is_some() { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::FORBIDDEN };
    let body = DenialBody::new(request, denial);
    let status_word = body.error;
    let body = match shape.dialect {
        Dialect::Tollgate => serde_json::to_string(&body),
        Dialect::OpenAi => serde_json::to_string(&openai(denial)),
        Dialect::Anthropic => serde_json::to_string(&anthropic(denial)),
        Dialect::Problem => serde_json::to_string(&problem(body, status, denial)),
    };
    let body = match body {
        Ok(body) => body,
        Err(error) => return ApiError::internal(error.to_string()).into_response(),
    };
    let content_type = match (shape.sse, shape.dialect) {
        (true, _) => "text/event-stream",
        (false, Dialect::Problem) => "application/problem+json",
        (false, _) => "application/json",
    };
    let body = if shape.sse {
        format!("event: error\ndata: {body}\n\nevent: done\ndata: {{\"status\":\"{status_word}\"}}\n\n")
    } else {
        body
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The vendors' clients retry a 429, unless they are told that it does not help.
    headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
    if let Some(seconds) = denial.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(quota) = &denial.binding {
        for (name, value) in
            [("ratelimit-policy", policy_header(quota)), ("ratelimit", limit_header(quota, denial.retry_after))]
        {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
    response
}

/// The denial's own object on one line, in whatever shape the body is.
///
/// # Errors
/// A fault of ours.
pub fn line(request: &Request, denial: &Denial) -> Result<String, ApiError> {
    serde_json::to_string(&DenialBody::new(request, denial)).map_err(|error| ApiError::internal(error.to_string()))
}

fn openai(denial: &Denial) -> Value {
    json!({"error": {
        "message": denial.reason, "type": "insufficient_quota", "param": null, "code": "insufficient_quota",
    }})
}

fn anthropic(denial: &Denial) -> Value {
    let kind = if denial.binding.is_some() { "rate_limit_error" } else { "permission_error" };
    json!({"type": "error", "error": {"type": kind, "message": denial.reason}})
}

/// RFC 9457, with our own object's fields as extensions.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    violated_policies: Option<[String; 1]>,
    #[serde(rename = "resourceType")]
    resource_type: &'a ResourceType,
    #[serde(rename = "quotaDetails", skip_serializing_if = "Option::is_none")]
    quota_details: Option<QuotaDetails<'a>>,
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    code: &'a str,
    #[serde(rename = "decisionId")]
    decision_id: Uuid,
}

fn problem<'a>(ours: DenialBody<'a>, status: StatusCode, denial: &Denial) -> Problem<'a> {
    let (r#type, title) = match denial.binding {
        Some(_) => ("https://iana.org/assignments/http-problem-types#quota-exceeded", "Quota exceeded"),
        None => ("about:blank", "Forbidden"),
    };
    Problem {
        r#type,
        title,
        status: status.as_u16(),
        detail: ours.message,
        violated_policies: denial.binding.as_ref().map(|quota| [policy_name(quota)]),
        resource_type: ours.resource_type,
        quota_details: ours.quota_details,
        retry_after: ours.retry_after,
        code: ours.code,
        decision_id: ours.decision_id,
    }
}

/// `llm-tenant-day`: stable, and without anybody's name.
fn policy_name(quota: &Quota) -> String {
    format!("{}-{}-{}", quota.key.resource_type, quota.key.scope, quota.key.period)
}

/// Structured fields have no decimals and at most 15 digits, and the draft has no unit for money: whole
/// micro-dollars, and a parameter that says so.
const UNIT: &str = "tollgate-unit=\"usd-micros\"";
const LARGEST_INTEGER: i64 = 999_999_999_999_999;

fn micros(amount: Money) -> i64 {
    (amount.nanos().max(0) / 1_000).min(LARGEST_INTEGER)
}

fn policy_header(quota: &Quota) -> String {
    let window = match quota.key.period {
        Period::Lifetime => String::new(),
        _ => {
            quota.window.end.map_or_else(String::new, |end| format!(";w={}", (end - quota.window.start).num_seconds()))
        }
    };
    format!("\"{}\";q={}{window};{UNIT}", policy_name(quota), micros(quota.limit))
}

fn limit_header(quota: &Quota, retry_after: Option<u64>) -> String {
    let reset = retry_after.map_or_else(String::new, |seconds| format!(";t={seconds}"));
    format!("\"{}\";r={}{reset};{UNIT}", policy_name(quota), micros(quota.remaining()))
}
