//! The administrator's view of alerts: what was crossed, and how its messages are on their way.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::App;
use super::auth::AdminCaller;
use super::details::Instant;
use super::error::ApiError;
use super::input;
use crate::money::Money;
use crate::quota::Scope;
use crate::store::alerts::{Alert, AlertFilter, Delivery};

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
    summary: Option<Box<RawValue>>,
    deliveries: Vec<DeliveryView>,
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
            summary: alert.detail.and_then(|detail| RawValue::from_string(detail).ok()),
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
