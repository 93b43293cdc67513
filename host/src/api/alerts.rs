//! The administrator's view of alerts: what was crossed, and how its messages are on their way.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use super::App;
use super::auth::AdminCaller;
use super::details::Instant;
use super::error::ApiError;
use super::input;
use crate::money::Money;
use crate::quota::Scope;
use crate::store::alerts::{Alert, AlertFilter, Delivery};
use crate::store::outlook::Spent;

/// What a delivery can be.
pub const STATES: [&str; 3] = ["due", "sent", "failed"];
/// Alerts in one answer.
pub const MOST: i64 = 1_000;

/// An alert with its deliveries.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertView {
    id: Uuid,
    kind: String,
    scope: String,
    scope_id: String,
    resource_type: String,
    period: String,
    window_start: Instant,
    threshold: i16,
    limit_usd: Money,
    spend_usd: Money,
    created_at: Instant,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<SummaryView>,
    deliveries: Vec<DeliveryView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SummaryView {
    spend_usd: Money,
    before_usd: Money,
    most: Vec<SpentByView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpentByView {
    scope_id: String,
    resource_type: String,
    spend_usd: Money,
    before_usd: Money,
}

impl From<Spent> for SummaryView {
    fn from(spent: Spent) -> Self {
        let most = spent.most.into_iter().map(|by| SpentByView {
            scope_id: by.scope_id,
            resource_type: by.resource_type,
            spend_usd: Money::from_nanos(by.nanos),
            before_usd: Money::from_nanos(by.before_nanos),
        });
        let most = most.collect();
        let [spend_usd, before_usd] = [spent.nanos, spent.before_nanos].map(Money::from_nanos);
        Self { spend_usd, before_usd, most }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryView {
    channel: String,
    action: String,
    state: String,
    attempts: i32,
    due_at: Option<Instant>,
    sent_at: Option<Instant>,
    last_error: Option<String>,
}

impl AlertView {
    /// Everything that is known of it.
    pub fn new((alert, deliveries): (Alert, Vec<Delivery>)) -> Self {
        Self {
            id: alert.id,
            kind: alert.kind,
            scope: alert.scope,
            scope_id: alert.scope_id,
            resource_type: alert.resource_type,
            period: alert.period,
            window_start: Instant(alert.window_start),
            threshold: alert.threshold,
            limit_usd: alert.limit,
            spend_usd: alert.spend,
            created_at: Instant(alert.created_at),
            summary: alert.detail.as_deref().and_then(Spent::read).map(SummaryView::from),
            deliveries: deliveries.into_iter().map(DeliveryView::new).collect(),
        }
    }
}

impl DeliveryView {
    fn new(delivery: Delivery) -> Self {
        Self {
            due_at: (delivery.state == "due").then_some(Instant(delivery.due_at)),
            channel: delivery.channel,
            action: delivery.action,
            state: delivery.state,
            attempts: delivery.attempts,
            sent_at: delivery.sent_at.map(Instant),
            last_error: delivery.last_error,
        }
    }
}

/// `GET /v1/alerts`
pub async fn alerts(
    _: AdminCaller,
    State(app): State<Arc<App>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let [scope, scope_id, state, since, limit] = input::query(query, ["scope", "scopeId", "state", "since", "limit"])?;
    if let Some(scope) = &scope {
        scope.parse::<Scope>().map_err(|fault| ApiError::invalid("scope", fault))?;
    }
    if let Some(state) = state.as_deref().filter(|state| !STATES.contains(state)) {
        return Err(ApiError::invalid("state", format!("one of {}, got {state:?}", STATES.join(", "))));
    }
    let limit = match limit {
        None => 100,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MOST).contains(limit))
            .ok_or_else(|| ApiError::invalid("limit", format!("1 to {MOST}, got {text:?}")))?,
    };
    let since = since.as_deref().map(input::instant).transpose().map_err(|fault| ApiError::invalid("since", fault))?;
    let filter = AlertFilter { scope, scope_id, state, since, limit };
    let alerts: Vec<AlertView> = app.store.alerts(&filter).await?.into_iter().map(AlertView::new).collect();
    Ok(Json(BTreeMap::from([("alerts", alerts)])).into_response())
}
