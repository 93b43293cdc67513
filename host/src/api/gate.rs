//! The application's routes: check, and costs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::App;
use super::auth::AppCaller;
use super::denial::{self, DenialBody, Shape};
use super::details::{Instant, QuotaDetails};
use super::error::ApiError;
use super::input::{Body, Fields};
use crate::decision::{Decision, Outcome, PolicyRef, Request, new_id};
use crate::gate::Told;
use crate::money::Money;
use crate::quota::{Quota, ResourceType, Scope, TenantId, UserId};
use crate::store::costs::Cost;

/// What an operation of these types is expected to cost where the caller does not say.
const LLM_ESTIMATE: Money = Money::from_nanos(50_000_000);
const E2B_ESTIMATE: Money = Money::from_nanos(30_000_000);
/// How far a caller's clock may be ahead.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// `POST /v1/check`
pub async fn check(
    caller: AppCaller,
    State(app): State<Arc<App>>,
    shape: Shape,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let mut fields = Fields::parse(&body)?;
    let request = request(&mut fields, now)?;
    let shape = shape.streamed(fields.flag("stream")?);
    fields.finish()?;
    // The connection reads on while this waits: into the same memory, if nobody has it any more.
    drop(body);
    caller.may_charge(&request.tenant)?;
    let decision = app.gate.check(request).await?;
    Ok(match &decision.outcome {
        Outcome::Denied(denial) => denial::respond(&decision.facts.request, denial, shape),
        Outcome::Allowed | Outcome::Unenforced(_) => allowed(&decision),
    })
}

/// Reads what `check` and `reserve` have in common.
///
/// # Errors
/// A field is missing or none of its kind.
pub fn request(fields: &mut Fields<'_>, now: DateTime<Utc>) -> Result<Request, ApiError> {
    let tenant = fields.required_text("tenantId", TenantId::parse)?;
    let user = fields.text("userId", UserId::parse)?;
    let resource_type = fields.required_text("resourceType", ResourceType::parse)?;
    let estimate = estimate(fields.money("estimatedCostUsd")?, &resource_type)?;
    Ok(Request {
        id: new_id(now),
        at: now,
        tenant,
        user,
        resource_type,
        estimate,
        request_id: fields.id("requestId")?,
        attributes: fields.pairs("attributes")?,
    })
}

/// What is expected to be spent, where the caller says nothing too.
///
/// # Errors
/// The resource type has no default.
pub fn estimate(given: Option<Money>, resource_type: &ResourceType) -> Result<Money, ApiError> {
    match (given, resource_type.as_str()) {
        (Some(estimate), _) => Ok(estimate),
        (None, ResourceType::LLM) => Ok(LLM_ESTIMATE),
        (None, ResourceType::E2B) => Ok(E2B_ESTIMATE),
        (None, other) => {
            Err(ApiError::invalid("estimatedCostUsd", format!("required for the resource type {other:?}")))
        }
    }
}

/// An allowed decision as an answer.
pub fn allowed(decision: &Decision) -> Response {
    answer(StatusCode::OK, &DecisionBody::new(decision))
}

/// An answer that is made often: written in one go.
pub fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    const USUAL: usize = 768;
    let mut text = Vec::with_capacity(USUAL);
    if let Err(error) = serde_json::to_writer(&mut text, body) {
        return ApiError::internal(error.to_string()).into_response();
    }
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An allowed decision.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionBody<'a> {
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced: Option<bool>,
    decision_id: Uuid,
    policy: Option<&'a PolicyRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most_usd: Option<Money>,
    quota_details: Option<QuotaDetails<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denial: Option<DenialBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_usd: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Instant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
}

impl<'a> DecisionBody<'a> {
    /// Of a decision that the caller may act on.
    pub fn new(decision: &'a Decision) -> Self {
        let request = &decision.facts.request;
        let denial = decision.denial();
        Self {
            allowed: true,
            enforced: denial.map(|_| false),
            decision_id: request.id,
            policy: Some(&decision.policy).filter(|_| !decision.degraded),
            degraded: decision.degraded.then_some(true),
            at_most_usd: decision.at_most,
            quota_details: decision.tightest().map(|quota| QuotaDetails::new(quota, Some(request.estimate))),
            denial: denial.map(|denial| DenialBody::new(request, denial)),
            reservation_id: None,
            held_usd: None,
            expires_at: None,
            duplicate: None,
        }
    }

    /// Of the first admission of a request that came again; its quotas have moved on since. Without a policy where it was
    /// promised in an outage.
    pub fn repeated(decision_id: Uuid, policy: Option<&'a PolicyRef>, at_most_usd: Option<Money>) -> Self {
        Self {
            allowed: true,
            enforced: None,
            decision_id,
            policy,
            degraded: None,
            at_most_usd,
            quota_details: None,
            denial: None,
            reservation_id: None,
            held_usd: None,
            expires_at: None,
            duplicate: Some(true),
        }
    }

    /// Said without the store.
    #[must_use]
    pub fn degraded(self) -> Self {
        Self { degraded: Some(true), ..self }
    }

    /// With the money that was set aside; the reservation has its decision's id.
    #[must_use]
    pub fn reserved(self, held: Money, expires_at: DateTime<Utc>) -> Self {
        Self {
            reservation_id: Some(self.decision_id),
            held_usd: Some(held),
            expires_at: Some(Instant(expires_at)),
            ..self
        }
    }
}

/// `POST /v1/costs`
pub async fn costs(caller: AppCaller, State(app): State<Arc<App>>, Body(body): Body) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let cost = cost(Fields::parse(&body)?, now)?;
    caller.may_charge(&cost.tenant)?;
    let actual = cost.actual;
    let recorded = match app.gate.record_cost(cost).await? {
        Told::Done(recorded) => recorded,
        Told::Kept { duplicate } => return Ok(Json(RecordedBody::kept(actual, duplicate)).into_response()),
    };
    let quotas: Vec<Quota> = recorded.quotas.iter().map(|posted| posted.row.at(now)).collect();
    Ok(Json(RecordedBody {
        recorded_usd: recorded.amount,
        overrun_usd: Money::ZERO,
        late: recorded.late,
        duplicate: recorded.duplicate,
        degraded: None,
        quotas: quotas.iter().map(QuotaBody::new).collect(),
    })
    .into_response())
}

fn cost(mut fields: Fields<'_>, now: DateTime<Utc>) -> Result<Cost, ApiError> {
    let tenant = fields.required_text("tenantId", TenantId::parse)?;
    let user = fields.text("userId", UserId::parse)?;
    let resource_type = fields.required_text("resourceType", ResourceType::parse)?;
    let cost_id = fields.id("costId")?.ok_or_else(|| ApiError::invalid("costId", "required"))?;
    let actual = fields.money("actualCostUsd")?.ok_or_else(|| ApiError::invalid("actualCostUsd", "required"))?;
    let occurred_at = fields.instant("occurredAt")?;
    let attributes = fields.pairs("attributes")?;
    fields.finish()?;
    if occurred_at.is_some_and(|at| at > now + CLOCK_SKEW) {
        return Err(ApiError::invalid("occurredAt", "not in the future"));
    }
    if occurred_at.is_some_and(|at| at < DateTime::UNIX_EPOCH) {
        return Err(ApiError::invalid("occurredAt", "1970-01-01T00:00:00Z or later"));
    }
    let attributes = serde_json::to_string(&attributes.into_iter().collect::<std::collections::BTreeMap<_, _>>())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let body = digest(&(user.as_ref(), &resource_type, actual.nanos(), occurred_at, &attributes))?;
    Ok(Cost {
        id: new_id(now),
        tenant,
        user,
        resource_type,
        cost_id,
        actual,
        occurred_at: occurred_at.unwrap_or(now).min(now),
        recorded_at: now,
        attributes,
        body,
    })
}

/// Of what a body says: two that say the same are the same, however they are written.
///
/// # Errors
/// A fault of ours.
pub fn digest(said: &impl Serialize) -> Result<String, ApiError> {
    let said = serde_json::to_string(said).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(crate::policy::engine::digest(said.as_bytes()))
}

/// What is in the books now, after a cost or a settle.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedBody<'a> {
    /// The actual cost, in full.
    pub recorded_usd: Money,
    /// What it is above the money that was set aside.
    pub overrun_usd: Money,
    /// It came after release or expiry, or for a window that is closed.
    pub late: bool,
    /// It was recorded before.
    pub duplicate: bool,
    /// It is not in the books yet: the store cannot be reached, and it is kept on this host's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<bool>,
    /// The quotas that it charges.
    pub quotas: Vec<QuotaBody<'a>>,
}

impl RecordedBody<'_> {
    /// Of a cost that will be in the books when the store is back.
    pub fn kept(actual: Money, duplicate: bool) -> Self {
        Self {
            recorded_usd: actual,
            overrun_usd: Money::ZERO,
            late: false,
            duplicate,
            degraded: Some(true),
            quotas: Vec::new(),
        }
    }
}

/// One quota of an answer that has several.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaBody<'a> {
    scope: Scope,
    scope_id: &'a str,
    period: crate::period::Period,
    quota_details: QuotaDetails<'a>,
}

impl<'a> QuotaBody<'a> {
    /// The quota in its open window.
    pub fn new(quota: &'a Quota) -> Self {
        Self {
            scope: quota.key.scope,
            scope_id: &quota.key.scope_id,
            period: quota.key.period,
            quota_details: QuotaDetails::new(quota, None),
        }
    }
}
