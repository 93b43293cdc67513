//! The application's routes for money that is set aside: reserve, read, settle, release, extend.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::App;
use super::auth::AppCaller;
use super::denial::{self, Shape};
use super::details::Instant;
use super::error::ApiError;
use super::gate::{self, DecisionBody, QuotaBody, RecordedBody};
use super::input::{self, Body, Fields, Part};
use crate::decision::{Outcome, PolicyRef, made_at};
use crate::gate::{LONGEST, Reserved, Told};
use crate::money::Money;
use crate::quota::{Quota, TenantId};
use crate::store::reservations::{End, Ended, Extended, Reservation};

/// How long money stays set aside where the caller does not say.
const TTL: TimeDelta = TimeDelta::seconds(300);

/// `POST /v1/reservations`
pub async fn reserve(
    caller: AppCaller,
    State(app): State<Arc<App>>,
    shape: Shape,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let mut fields = Fields::parse(&body)?;
    let request = gate::request(&mut fields, now)?;
    let ttl = fields.seconds("ttlSeconds")?.unwrap_or(TTL);
    let shape = shape.streamed(fields.flag("stream")?);
    fields.finish()?;
    drop(body);
    caller.may_charge(&request.tenant)?;
    let said =
        (&request.user, &request.resource_type, request.estimate.nanos(), ttl.num_seconds(), &request.attributes);
    let digest = gate::digest(&said)?;
    let response = match app.gate.reserve(request, ttl, digest.into()).await? {
        Reserved::Decided { decision, held } => match (&decision.outcome, held) {
            (Outcome::Denied(denial), _) => denial::respond(&decision.facts.request, denial, shape),
            (_, None) => return Err(ApiError::internal("allowed, and nothing was set aside")),
            (_, Some((held, expires_at))) => {
                let body = DecisionBody::new(&decision).reserved(held, expires_at);
                gate::answer(StatusCode::CREATED, &body)
            }
        },
        Reserved::Repeated(first) => {
            // Where it was promised in an outage, no policy was. By now it is in the books as any other.
            let was_asked = !first.policy_name.is_empty();
            let policy = PolicyRef { name: first.policy_name.into(), digest: first.policy_digest.into() };
            let at_most = (first.held < first.estimate).then_some(first.held);
            let body = DecisionBody::repeated(first.id, Some(&policy).filter(|_| was_asked), at_most)
                .reserved(first.held, first.expires_at);
            gate::answer(StatusCode::CREATED, &body)
        }
        Reserved::Promised(first) => {
            let body = DecisionBody::repeated(first.id, None, None).degraded().reserved(first.held, first.expires_at);
            gate::answer(StatusCode::CREATED, &body)
        }
    };
    Ok(response)
}

/// `GET /v1/reservations/{id}?tenantId=`
pub async fn read(
    caller: AppCaller,
    State(app): State<Arc<App>>,
    Part(id): Part<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let [tenant] = input::query(query, ["tenantId"])?;
    let tenant = tenant.ok_or_else(|| ApiError::invalid("tenantId", "required"))?;
    let tenant = TenantId::parse(&tenant).map_err(|fault| ApiError::invalid("tenantId", fault))?;
    caller.may_charge(&tenant)?;
    let found = app.store.reservation(&tenant, parse_id(&id)?).await?.ok_or_else(no_such)?;
    Ok(Json(ReservationView::new(found, app.clock.now())).into_response())
}

/// `POST /v1/reservations/{id}/settle`
pub async fn settle(
    caller: AppCaller,
    State(app): State<Arc<App>>,
    Part(id): Part<String>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let mut fields = Fields::parse(&body)?;
    let tenant = fields.required_text("tenantId", TenantId::parse)?;
    let actual = fields.money("actualCostUsd")?.ok_or_else(|| ApiError::invalid("actualCostUsd", "required"))?;
    fields.finish()?;
    caller.may_charge(&tenant)?;
    let ended = match app.gate.end(tenant, id, End::Settle(actual)).await? {
        Told::Done(ended) => ended,
        Told::Kept { duplicate } => return Ok(Json(RecordedBody::kept(actual, duplicate)).into_response()),
    };
    let ended = ended.ok_or_else(no_such)?;
    let Ended { before, now, late, quotas } = &ended;
    if !now && before.actual != Some(actual) {
        let recorded = before.actual.unwrap_or_default();
        return Err(ApiError::conflict(format!("the reservation was settled before, with {recorded}")));
    }
    let at = app.clock.now();
    let quotas: Vec<Quota> = quotas.iter().map(|posted| posted.row.at(at)).collect();
    Ok(Json(RecordedBody {
        recorded_usd: actual,
        overrun_usd: (actual - before.held).max(Money::ZERO),
        late: if *now { *late } else { before.late },
        duplicate: !now,
        degraded: None,
        quotas: quotas.iter().map(QuotaBody::new).collect(),
    })
    .into_response())
}

/// `POST /v1/reservations/{id}/release`
pub async fn release(
    caller: AppCaller,
    State(app): State<Arc<App>>,
    Part(id): Part<String>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let mut fields = Fields::parse(&body)?;
    let tenant = fields.required_text("tenantId", TenantId::parse)?;
    fields.finish()?;
    caller.may_charge(&tenant)?;
    let ended = match app.gate.end(tenant, id, End::Release).await? {
        Told::Done(ended) => ended,
        Told::Kept { duplicate } => {
            return Ok(Json(Released { amount: None, duplicate, degraded: Some(true) }).into_response());
        }
    };
    let ended = ended.ok_or_else(no_such)?;
    if !ended.now && ended.before.state != "released" {
        return Err(ApiError::reservation_ended(state(&ended.before, app.clock.now())));
    }
    Ok(Json(Released { amount: Some(ended.before.held), duplicate: !ended.now, degraded: None }).into_response())
}

/// `POST /v1/reservations/{id}/extend`
pub async fn extend(
    caller: AppCaller,
    State(app): State<Arc<App>>,
    Part(id): Part<String>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let (id, now) = (parse_id(&id)?, app.clock.now());
    let mut fields = Fields::parse(&body)?;
    let tenant = fields.required_text("tenantId", TenantId::parse)?;
    let ttl = fields.seconds("ttlSeconds")?.ok_or_else(|| ApiError::invalid("ttlSeconds", "required"))?;
    fields.finish()?;
    caller.may_charge(&tenant)?;
    // Its id says when it was made.
    let until = made_at(id).map_or(now + ttl, |made| (now + ttl).min(made + LONGEST));
    match app.gate.extend(&tenant, id, until, now).await? {
        Told::Done(Some(Extended { reservation, is_held: true })) => {
            Ok(Json(ReservationView::new(reservation, now)).into_response())
        }
        Told::Done(Some(ended)) => Err(ApiError::reservation_ended(state(&ended.reservation, now))),
        Told::Done(None) => Err(no_such()),
        Told::Kept { .. } => {
            let body = ExtendedView { reservation_id: id, expires_at: Instant(until), degraded: true };
            Ok(Json(body).into_response())
        }
    }
}

fn parse_id(text: &str) -> Result<Uuid, ApiError> {
    text.parse().map_err(|_| ApiError::invalid("id", format!("a reservation's id (a UUID), got {text:?}")))
}

fn no_such() -> ApiError {
    ApiError::not_found("the tenant has no such reservation")
}

/// One whose time is over has expired, even before the host has given its money back.
fn state(reservation: &Reservation, now: DateTime<Utc>) -> &str {
    if reservation.state == "held" && reservation.expires_at <= now { "expired" } else { &reservation.state }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Released {
    /// Not known while the store cannot be reached.
    #[serde(rename = "releasedUsd")]
    amount: Option<Money>,
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<bool>,
}

/// A reservation that will live on when the store is back.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtendedView {
    reservation_id: Uuid,
    expires_at: Instant,
    degraded: bool,
}

/// A reservation as its owner sees it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReservationView {
    reservation_id: Uuid,
    tenant_id: String,
    user_id: Option<String>,
    resource_type: String,
    request_id: Option<String>,
    state: String,
    estimated_cost_usd: Money,
    held_usd: Money,
    actual_cost_usd: Option<Money>,
    late: bool,
    created_at: Instant,
    expires_at: Instant,
}

impl ReservationView {
    fn new(reservation: Reservation, now: DateTime<Utc>) -> Self {
        let state = state(&reservation, now).to_owned();
        Self {
            held_usd: if state == "held" { reservation.held } else { Money::ZERO },
            state,
            reservation_id: reservation.id,
            tenant_id: reservation.tenant_id,
            user_id: reservation.user_id,
            resource_type: reservation.resource_type,
            request_id: reservation.request_id,
            estimated_cost_usd: reservation.estimate,
            actual_cost_usd: reservation.actual,
            late: reservation.late,
            created_at: Instant(reservation.created_at),
            expires_at: Instant(reservation.expires_at),
        }
    }
}
