//! HTTP: parse, call the gate, render.

mod admin;
pub mod auth;
pub mod bare;
mod denial;
mod details;
mod error;
mod gate;
mod input;
mod reservations;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::json;

use self::auth::Access;
use self::error::ApiError;
use crate::clock::Clock;
use crate::gate::{Gate, StoreFailure};
use crate::policy::Folder;
use crate::store::Store;

pub use self::admin::{DecisionView, QuotaView};

const LARGEST_BODY: usize = 64 << 10;

/// Everything that a request can touch.
pub struct App {
    /// Decides.
    pub gate: Arc<Gate>,
    /// For the administrator's routes.
    pub store: Store,
    /// For the administrator's routes.
    pub policies: Arc<Folder>,
    /// Read once per request.
    pub clock: Clock,
    /// Who may call.
    pub access: Access,
}

/// The routes over `app`.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/check", post(gate::check))
        .route("/v1/reservations", post(reservations::reserve))
        .route("/v1/reservations/{id}", get(reservations::read))
        .route("/v1/reservations/{id}/settle", post(reservations::settle))
        .route("/v1/reservations/{id}/release", post(reservations::release))
        .route("/v1/reservations/{id}/extend", post(reservations::extend))
        .route("/v1/costs", post(gate::costs))
        .route("/v1/quotas", get(admin::quotas))
        .route(
            "/v1/quotas/{scope}/{scope_id}/{resource_type}/{period}",
            put(admin::put_quota).delete(admin::delete_quota),
        )
        .route("/v1/tenants", get(admin::tenants))
        .route("/v1/tenants/{tenant_id}", get(admin::tenant).put(admin::put_tenant).delete(admin::delete_tenant))
        .route("/v1/policies", get(admin::policies))
        .route("/v1/policies/reload", post(admin::reload))
        .route("/v1/policies/{name}/promote", post(admin::promote))
        .route("/v1/policies/{name}/rollback", post(admin::rollback))
        .route("/v1/decisions", get(admin::decisions))
        .route("/v1/decisions/{id}", get(admin::decision))
        .route("/livez", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/readyz", get(ready))
        .fallback(|| async { ApiError::not_found("no such route") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(app)
}

/// Whether it can answer as its mode says.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let degraded = app.store.health().is_down();
    if degraded && app.gate.outages().mode() == StoreFailure::Closed {
        let body = json!({ "status": "store_unavailable", "degraded": true });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    Json(json!({ "status": "ready", "degraded": degraded })).into_response()
}
