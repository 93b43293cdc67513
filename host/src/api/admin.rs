//! The administrator's routes: quotas, tenants, policies, decisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::App;
use super::auth::AdminCaller;
use super::details::{Instant, Percent};
use super::error::ApiError;
use super::input::{self, Body, Fields, Part};
use crate::money::Money;
use crate::origin::Current;
use crate::period::Period;
use crate::policy::folder::ChangeError;
use crate::policy::{Folder, Generation, PolicyError};
use crate::quota::{PoolId, QuotaKey, ResourceType, Scope, TenantId, Tier};
use crate::store::decisions::{DecisionFilter, StoredDecision};
use crate::store::quotas::{ListedQuota, QuotaFilter, QuotaRule};
use crate::store::tenants::TenantRow;

/// A quota as administrators see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaView {
    scope: Scope,
    scope_id: String,
    resource_type: ResourceType,
    period: Period,
    limit_usd: Money,
    hard_limit_usd: Option<Money>,
    thresholds: Vec<i16>,
    current_spend_usd: Money,
    held_usd: Money,
    remaining_usd: Money,
    utilization_percent: Percent,
    admitted_count: u64,
    window_start: Instant,
    resets_at: Option<Instant>,
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    temporary: Option<OverrideView>,
}

/// A limit that ends by itself.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OverrideView {
    limit_usd: Money,
    until: Instant,
    reason: Option<String>,
    then_limit_usd: Money,
}

impl QuotaView {
    /// The quota in the window that is open at `now`.
    pub fn new(listed: &ListedQuota, now: DateTime<Utc>) -> Self {
        let quota = listed.row.at(now);
        Self {
            remaining_usd: quota.remaining(),
            utilization_percent: Percent(quota.utilization_permille()),
            scope: quota.key.scope,
            scope_id: quota.key.scope_id.to_string(),
            resource_type: quota.key.resource_type,
            period: quota.key.period,
            limit_usd: quota.limit,
            hard_limit_usd: quota.hard_limit,
            thresholds: listed.thresholds.clone(),
            current_spend_usd: quota.spend,
            held_usd: quota.held,
            admitted_count: quota.admitted,
            window_start: Instant(quota.window.start),
            resets_at: quota.window.end.map(Instant),
            temporary: listed.row.temporary_at(now).map(|temporary| OverrideView {
                limit_usd: temporary.limit,
                until: Instant(temporary.until),
                reason: listed.override_reason.clone(),
                then_limit_usd: listed.row.limit,
            }),
        }
    }
}

/// Reads a quota's key from the four parts of its path.
///
/// # Errors
/// A part is none of its kind.
pub fn quota_key(
    (scope, scope_id, resource_type, period): (String, String, String, String),
) -> Result<QuotaKey, ApiError> {
    let scope: Scope = scope.parse().map_err(|fault| ApiError::invalid("scope", fault))?;
    scope.check_id(&scope_id).map_err(|fault| ApiError::invalid("scopeId", fault))?;
    Ok(QuotaKey {
        scope,
        scope_id: scope_id.into(),
        resource_type: ResourceType::parse(&resource_type).map_err(|fault| ApiError::invalid("resourceType", fault))?,
        period: period.parse().map_err(|fault| ApiError::invalid("period", fault))?,
    })
}

/// `GET /v1/quotas`
pub async fn quotas(
    _: AdminCaller,
    State(app): State<Arc<App>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let [scope, scope_id, resource_type] = input::query(query, ["scope", "scopeId", "resourceType"])?;
    if let Some(scope) = &scope {
        scope.parse::<Scope>().map_err(|fault| ApiError::invalid("scope", fault))?;
    }
    let filter =
        QuotaFilter { scope: scope.as_deref(), scope_id: scope_id.as_deref(), resource_type: resource_type.as_deref() };
    let now = app.clock.now();
    let quotas: Vec<QuotaView> =
        app.store.quotas(filter).await?.iter().map(|quota| QuotaView::new(quota, now)).collect();
    Ok(Json(BTreeMap::from([("quotas", quotas)])).into_response())
}

/// `PUT /v1/quotas/{scope}/{scopeId}/{resourceType}/{period}`
pub async fn put_quota(
    caller: AdminCaller,
    State(app): State<Arc<App>>,
    Part(path): Part<(String, String, String, String)>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let key = quota_key(path)?;
    let mut fields = Fields::parse(&body)?;
    let rule = QuotaRule {
        limit: fields.limit("limitUsd")?.ok_or_else(|| ApiError::invalid("limitUsd", "required"))?,
        hard_limit: fields.limit("hardLimitUsd")?,
        thresholds: fields.thresholds("thresholds")?,
    };
    fields.finish()?;
    let now = app.clock.now();
    let is_new = app.store.set_quota(&key, &rule, caller.change(None, now)).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(view(&app, &key, now).await?)).into_response())
}

/// The quota as it stands after a change.
///
/// # Errors
/// The store does not answer, or the quota is gone.
pub async fn view(app: &App, key: &QuotaKey, now: DateTime<Utc>) -> Result<QuotaView, ApiError> {
    let filter = QuotaFilter {
        scope: Some(key.scope.as_str()),
        scope_id: Some(&key.scope_id),
        resource_type: Some(key.resource_type.as_str()),
    };
    let written = app.store.quotas(filter).await?.into_iter().find(|quota| quota.row.key == *key);
    let written = written.ok_or_else(|| ApiError::not_found("the quota was deleted in the meantime"))?;
    Ok(QuotaView::new(&written, now))
}

/// `DELETE /v1/quotas/{scope}/{scopeId}/{resourceType}/{period}`
pub async fn delete_quota(
    caller: AdminCaller,
    State(app): State<Arc<App>>,
    Part(path): Part<(String, String, String, String)>,
) -> Result<Response, ApiError> {
    if app.store.delete_quota(&quota_key(path)?, caller.change(None, app.clock.now())).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(ApiError::not_found("no such quota"))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TenantView {
    tenant_id: String,
    tier: Option<String>,
    pool: Option<String>,
    created_at: Instant,
    updated_at: Instant,
}

impl From<TenantRow> for TenantView {
    fn from(row: TenantRow) -> Self {
        let TenantRow { tenant_id, tier, pool, created_at, updated_at } = row;
        Self { tenant_id, tier, pool, created_at: Instant(created_at), updated_at: Instant(updated_at) }
    }
}

fn tenant_id(text: &str) -> Result<TenantId, ApiError> {
    TenantId::parse(text).map_err(|fault| ApiError::invalid("tenantId", fault))
}

/// `GET /v1/tenants`
pub async fn tenants(_: AdminCaller, State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let tenants: Vec<TenantView> = app.store.tenants().await?.into_iter().map(TenantView::from).collect();
    Ok(Json(BTreeMap::from([("tenants", tenants)])).into_response())
}

/// `GET /v1/tenants/{tenantId}`
pub async fn tenant(_: AdminCaller, State(app): State<Arc<App>>, Part(id): Part<String>) -> Result<Response, ApiError> {
    let row = app.store.tenant(&tenant_id(&id)?).await?;
    let row =
        row.ok_or_else(|| ApiError::not_found("no such tenant; one without a row is served by the standard policy"))?;
    Ok(Json(TenantView::from(row)).into_response())
}

/// `PUT /v1/tenants/{tenantId}`
pub async fn put_tenant(
    caller: AdminCaller,
    State(app): State<Arc<App>>,
    Part(id): Part<String>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let tenant = tenant_id(&id)?;
    let mut fields = Fields::parse(&body)?;
    let (tier, pool) = (fields.text("tier", Tier::parse)?, fields.text("pool", PoolId::parse)?);
    fields.finish()?;
    let change = caller.change(None, app.clock.now());
    let is_new = app.store.set_tenant(&tenant, tier.as_ref(), pool.as_ref(), change).await?;
    let row = app.store.tenant(&tenant).await?;
    let row = row.ok_or_else(|| ApiError::not_found("the tenant was deleted in the meantime"))?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TenantView::from(row))).into_response())
}

/// `DELETE /v1/tenants/{tenantId}`
pub async fn delete_tenant(
    caller: AdminCaller,
    State(app): State<Arc<App>>,
    Part(id): Part<String>,
) -> Result<Response, ApiError> {
    if app.store.delete_tenant(&tenant_id(&id)?, caller.change(None, app.clock.now())).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(ApiError::not_found("no such tenant"))
}

/// `GET /v1/policies`
pub async fn policies(_: AdminCaller, State(app): State<Arc<App>>) -> Response {
    Json(policies_body(&app.policies.generation())).into_response()
}

/// `POST /v1/policies/reload`: 200 where every file of the folder serves, 422 where one was refused.
pub async fn reload(_: AdminCaller, State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let (policies, now, origin) = (app.policies.clone(), app.clock.now(), Current::get());
    let generation = tokio::task::spawn_blocking(move || origin.run(|| policies.reload(now)))
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let status = if generation.refused() == 0 { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok((status, Json(policies_body(&generation))).into_response())
}

/// `POST /v1/policies/{name}/promote`: 200 where the candidate serves, 409 where there is none that could.
pub async fn promote(
    _: AdminCaller,
    State(app): State<Arc<App>>,
    Part(name): Part<String>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    change(app, name, body, Folder::promote).await
}

/// `POST /v1/policies/{name}/rollback`: 200 where the previous version serves again, 409 where there is none that could.
pub async fn rollback(
    _: AdminCaller,
    State(app): State<Arc<App>>,
    Part(name): Part<String>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    change(app, name, body, Folder::rollback).await
}

type Change = fn(&Folder, &str, Option<&str>, DateTime<Utc>) -> Result<Arc<Generation>, ChangeError>;

async fn change(app: Arc<App>, name: String, body: Bytes, change: Change) -> Result<Response, ApiError> {
    Tier::parse(&name).map_err(|fault| ApiError::invalid("name", fault))?;
    let digest = if body.is_empty() {
        None
    } else {
        let mut fields = Fields::parse(&body)?;
        let digest = fields.text("digest", |text| Ok::<_, String>(text.to_owned()))?;
        fields.finish()?;
        digest
    };
    let (policies, now, origin) = (app.policies.clone(), app.clock.now(), Current::get());
    let change = move || origin.run(|| change(&policies, &name, digest.as_deref(), now));
    let generation = tokio::task::spawn_blocking(change)
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?
        .map_err(|error| match error {
            ChangeError::Failed(fault) => ApiError::internal(fault),
            ChangeError::Conflict(_) | ChangeError::Refused { .. } => ApiError::policy_conflict(error.to_string()),
        })?;
    Ok(Json(policies_body(&generation)).into_response())
}

fn policies_body(generation: &Generation) -> serde_json::Value {
    let fault = |error: &PolicyError| json!({ "kind": error.kind(), "message": error.to_string() });
    let policies = generation.statuses().into_iter().map(|status| {
        let serving = status.serving.as_ref();
        json!({
            "name": status.name,
            "digest": serving.map(|serving| &serving.digest),
            "since": serving.map(|serving| Instant(serving.since)),
            "version": serving.map(|serving| &serving.version),
            "summary": serving.map(|serving| &serving.summary),
            "lastError": status.last_error.as_ref().map(fault),
            "candidate": status.candidate.map(|candidate| json!({
                "digest": candidate.digest,
                "since": candidate.since.map(Instant),
                "compared": candidate.compared,
                "disagreed": candidate.disagreed,
                "dropped": candidate.dropped,
                "lastError": candidate.last_error.as_ref().map(fault),
            })),
        })
    });
    json!({ "policies": policies.collect::<Vec<_>>() })
}

/// A stored decision as administrators see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionView {
    decision_id: Uuid,
    decided_at: Instant,
    tenant_id: String,
    user_id: Option<String>,
    resource_type: String,
    estimated_cost_usd: Money,
    request_id: Option<String>,
    outcome: String,
    code: Option<String>,
    reason: Option<String>,
    policy: serde_json::Value,
    facts: Option<Box<RawValue>>,
}

impl From<StoredDecision> for DecisionView {
    fn from(stored: StoredDecision) -> Self {
        Self {
            decision_id: stored.id,
            decided_at: Instant(stored.decided_at),
            tenant_id: stored.tenant_id,
            user_id: stored.user_id,
            resource_type: stored.resource_type,
            estimated_cost_usd: Money::from_nanos(stored.estimate_nanos),
            request_id: stored.request_id,
            outcome: stored.outcome,
            code: stored.code,
            reason: stored.reason,
            policy: json!({ "name": stored.policy_name, "digest": stored.policy_digest }),
            facts: RawValue::from_string(stored.facts).ok(),
        }
    }
}

/// `GET /v1/decisions`
pub async fn decisions(
    _: AdminCaller,
    State(app): State<Arc<App>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    const OUTCOMES: [&str; 4] = ["allowed", "denied", "unenforced", "failed"];
    let [tenant_id, outcome, since, limit] = input::query(query, ["tenantId", "outcome", "since", "limit"])?;
    if let Some(outcome) = outcome.as_deref().filter(|outcome| !OUTCOMES.contains(outcome)) {
        return Err(ApiError::invalid("outcome", format!("one of {}, got {outcome:?}", OUTCOMES.join(", "))));
    }
    let filter = DecisionFilter {
        tenant_id,
        outcome,
        since: since.as_deref().map(input::instant).transpose().map_err(|fault| ApiError::invalid("since", fault))?,
        limit: input::limit(limit)?,
    };
    // What was answered can be read back.
    app.gate.flush().await;
    let decisions: Vec<DecisionView> =
        app.store.decisions(&filter).await?.into_iter().map(DecisionView::from).collect();
    Ok(Json(BTreeMap::from([("decisions", decisions)])).into_response())
}

/// `GET /v1/decisions/{id}`
pub async fn decision(
    _: AdminCaller,
    State(app): State<Arc<App>>,
    Part(id): Part<String>,
) -> Result<Response, ApiError> {
    let id: Uuid = id.parse().map_err(|_| ApiError::invalid("id", format!("a decision's id (a UUID), got {id:?}")))?;
    app.gate.flush().await;
    let stored = app.store.decision(id).await?;
    let stored =
        stored.ok_or_else(|| ApiError::not_found("no such decision; allowed checks are stored up to a rate"))?;
    Ok(Json(DecisionView::from(stored)).into_response())
}
