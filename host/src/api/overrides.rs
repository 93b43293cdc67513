//! Overrides: a limit that ends by itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::App;
use super::admin::{quota_key, view};
use super::auth::AdminCaller;
use super::error::ApiError;
use super::input::{Body, Fields, Part};
use crate::quota::{QuotaKey, TemporaryLimit};
use crate::store::audit::Change;
use crate::store::overrides::Overridden;

/// `POST /v1/quotas/{scope}/{scopeId}/{resourceType}/{period}/override`
pub async fn put_override(
    caller: AdminCaller,
    State(app): State<Arc<App>>,
    Part(path): Part<(String, String, String, String)>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let key = quota_key(path)?;
    let mut fields = Fields::parse(&body)?;
    let temporary = TemporaryLimit {
        limit: fields.limit("limitUsd")?.ok_or_else(|| ApiError::invalid("limitUsd", "required"))?,
        until: fields.instant("until")?.ok_or_else(|| ApiError::invalid("until", "required"))?,
    };
    let reason = fields.required_text("reason", reason)?;
    fields.finish()?;
    let now = app.clock.now();
    if temporary.until <= now {
        return Err(ApiError::invalid("until", "an instant that is still to come"));
    }
    change(&app, &key, Some(temporary), caller.change(Some(&reason), now)).await
}

/// `DELETE /v1/quotas/{scope}/{scopeId}/{resourceType}/{period}/override`
pub async fn delete_override(
    caller: AdminCaller,
    State(app): State<Arc<App>>,
    Part(path): Part<(String, String, String, String)>,
) -> Result<Response, ApiError> {
    change(&app, &quota_key(path)?, None, caller.change(None, app.clock.now())).await
}

async fn change(
    app: &App,
    key: &QuotaKey,
    temporary: Option<TemporaryLimit>,
    by: Change<'_>,
) -> Result<Response, ApiError> {
    match app.store.override_quota(key, temporary, by).await? {
        Overridden::Yes => Ok(Json(view(app, key, by.at).await?).into_response()),
        Overridden::NoQuota => Err(ApiError::not_found("no such quota: an override changes one that is there")),
        Overridden::AboveHardLimit(hard_limit) => Err(ApiError::invalid(
            "limitUsd",
            format!("at most the quota's hard limit, {hard_limit}, which holds whatever the limit is"),
        )),
    }
}

/// Why: for whoever reads the audit table.
///
/// # Errors
/// A sentence that completes "`reason`: …".
pub fn reason(text: &str) -> Result<String, String> {
    match text.trim().chars().count() {
        1..=500 if !text.chars().any(char::is_control) => Ok(text.trim().to_owned()),
        length => Err(format!("1 to 500 characters, no control characters, got {length} characters")),
    }
}
