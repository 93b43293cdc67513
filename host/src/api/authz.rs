//! `/v1/authz`: a check by headers, for proxies that ask before they pass a request on: nginx `auth_request`, Traefik
//! `ForwardAuth`, Envoy's `ext_authz` over HTTP.
//!
//! Who is charged stands in headers that the proxy sets; for what and how much, in headers or in the query, which the
//! proxy's configuration fixes. nginx passes only 401 and 403 on: with `deny=403` a denial has that status, and what it
//! would have been in headers.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;

use super::App;
use super::auth::AppCaller;
use super::denial::{self, Shape};
use super::error::ApiError;
use super::gate::allowed;
use super::input;
use crate::decision::{Outcome, Request, new_id};
use crate::money::Money;
use crate::quota::{ResourceType, TenantId, UserId};

const TENANT: &str = "x-tollgate-tenant";
const USER: &str = "x-tollgate-user";
const RESOURCE_TYPE: &str = "x-tollgate-resource-type";
const ESTIMATE: &str = "x-tollgate-estimated-cost-usd";
const DECISION_ID: HeaderName = HeaderName::from_static("x-tollgate-decision-id");
/// The denial's own object on one line, in ASCII; and the status that it would have had.
const DENIAL: HeaderName = HeaderName::from_static("x-tollgate-denial");
const STATUS: HeaderName = HeaderName::from_static("x-tollgate-status");

/// `GET` or `POST /v1/authz`
pub async fn authz(
    caller: AppCaller,
    State(app): State<Arc<App>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = input::query(query, ["resourceType", "estimatedCostUsd", "deny", "format"])?;
    decide(caller, &app, parameters, &headers).await
}

/// Any method below `/v1/authz/`: Envoy appends the path and the query of the request that it asks about. They are its
/// caller's, so they say nothing here.
pub async fn below(caller: AppCaller, State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    decide(caller, &app, [const { None }; 4], &headers).await
}

async fn decide(
    caller: AppCaller,
    app: &App,
    [resource_type, estimate, deny, format]: [Option<String>; 4],
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let hides_429 = match deny.as_deref() {
        None => false,
        Some("403") => true,
        Some(other) => return Err(ApiError::invalid("deny", format!("403, or left out, got {other:?}"))),
    };
    let shape = Shape::new(format.as_deref(), headers)?;
    let tenant = header(headers, TENANT, TenantId::parse)?.ok_or_else(|| ApiError::invalid(TENANT, "required"))?;
    let in_header = header(headers, RESOURCE_TYPE, ResourceType::parse)?;
    let resource_type = match resource_type {
        Some(text) => Some(ResourceType::parse(&text).map_err(|fault| ApiError::invalid("resourceType", fault))?),
        None => in_header,
    };
    let resource_type = resource_type.map_or_else(|| ResourceType::parse(ResourceType::LLM), Ok);
    let resource_type = resource_type.map_err(ApiError::internal)?;
    let money = |text: &str| Money::parse(text).map_err(|fault| fault.to_string());
    let in_header = header(headers, ESTIMATE, money)?;
    let estimate = match estimate {
        Some(text) => Some(money(&text).map_err(|fault| ApiError::invalid("estimatedCostUsd", fault))?),
        None => in_header,
    };
    let request = Request {
        id: new_id(now),
        at: now,
        tenant,
        user: header(headers, USER, UserId::parse)?,
        estimate: super::gate::estimate(estimate, &resource_type)?,
        resource_type,
        request_id: None,
        attributes: Vec::new(),
    };
    caller.may_charge(&request.tenant)?;
    let decision = app.gate.check(request).await?;
    let request = &decision.facts.request;
    let mut response = match &decision.outcome {
        Outcome::Denied(denied) => {
            let mut response = denial::respond(request, denied, shape);
            let line = ascii(&denial::line(request, denied)?);
            let status = HeaderValue::from(response.status().as_u16());
            response.headers_mut().insert(STATUS, status);
            response.headers_mut().insert(DENIAL, line);
            if hides_429 {
                *response.status_mut() = StatusCode::FORBIDDEN;
            }
            response
        }
        Outcome::Allowed | Outcome::Unenforced(_) => allowed(&decision),
    };
    response.headers_mut().insert(DECISION_ID, ascii(&request.id.to_string()));
    Ok(response)
}

fn header<T>(
    headers: &HeaderMap,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::invalid(name, "given twice"));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| ApiError::invalid(name, "text in UTF-8"))?;
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).map_err(|fault| ApiError::invalid(name, fault))
}

/// A header's value: what is beyond ASCII is escaped as JSON does.
fn ascii(line: &str) -> HeaderValue {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(line.len());
    for letter in line.chars() {
        if letter.is_ascii() && !letter.is_ascii_control() {
            text.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            let _ = write!(text, "\\u{unit:04x}");
        }
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headers_value_is_ascii_and_still_the_same_json() {
        let line = serde_json::to_string("Zürich 🚀\n").expect("a line");
        let value = ascii(&line);
        let text = value.to_str().expect("ASCII");
        assert_eq!(text, r#""Z\u00fcrich \ud83d\ude80\n""#);
        assert_eq!(serde_json::from_str::<String>(text).expect("JSON"), "Zürich 🚀\n");
    }
}
