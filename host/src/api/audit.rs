//! `GET /v1/audit`: who changed what, with before and after.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;

use super::App;
use super::auth::AdminCaller;
use super::details::Instant;
use super::error::ApiError;
use super::input;
use crate::store::audit::{AuditFilter, AuditRow};

/// One change.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditView {
    audit_id: i64,
    at: Instant,
    actor: String,
    action: String,
    subject: String,
    tenant_id: Option<String>,
    reason: Option<String>,
    before: Option<Box<RawValue>>,
    after: Option<Box<RawValue>>,
}

impl From<AuditRow> for AuditView {
    fn from(row: AuditRow) -> Self {
        let json = |text: Option<String>| text.and_then(|text| RawValue::from_string(text).ok());
        Self {
            audit_id: row.id,
            at: Instant(row.at),
            actor: row.actor,
            action: row.action,
            subject: row.subject,
            tenant_id: row.tenant_id,
            reason: row.reason,
            before: json(row.before),
            after: json(row.after),
        }
    }
}

/// `GET /v1/audit`
pub async fn audit(
    _: AdminCaller,
    State(app): State<Arc<App>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let [tenant_id, action, since, limit] = input::query(query, ["tenantId", "action", "since", "limit"])?;
    let filter = AuditFilter {
        tenant_id,
        action,
        since: since.as_deref().map(input::instant).transpose().map_err(|fault| ApiError::invalid("since", fault))?,
        limit: input::limit(limit)?,
    };
    let changes: Vec<AuditView> = app.store.audit(&filter).await?.into_iter().map(AuditView::from).collect();
    Ok(Json(BTreeMap::from([("audit", changes)])).into_response())
}
