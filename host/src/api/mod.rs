//! HTTP: parse, call the gate, render.

mod admin;
mod alerts;
mod audit;
pub mod auth;
mod authz;
pub mod bare;
mod denial;
mod details;
mod error;
mod gate;
mod hot;
mod input;
mod overrides;
mod reservations;
mod trace;

use std::future::{Future as _, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use serde_json::json;

use self::auth::Access;
use self::error::ApiError;
use crate::clock::Clock;
use crate::gate::{Gate, StoreFailure, waiting_since};
use crate::metrics::SpoolGauges;
use crate::origin::Current;
use crate::policy::Folder;
use crate::store::{Store, StoreError};

pub use self::admin::{DecisionView, QuotaView};
pub use self::alerts::AlertView;
pub use self::audit::AuditView;
pub use self::overrides::reason;
pub use self::trace::Routes;

/// A store that says nothing for so long is down, as far as metrics are concerned.
const STORE_IS_SILENT: Duration = Duration::from_secs(1);
/// Longer than the few statements of an answer take: the one connection that they are on may be dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

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
pub fn routes(app: Arc<App>) -> Routes {
    let beside_the_lanes = Router::new()
        .route("/v1/reservations/{id}", get(reservations::read))
        .route("/v1/quotas", get(admin::quotas))
        .route(
            "/v1/quotas/{scope}/{scope_id}/{resource_type}/{period}",
            put(admin::put_quota).delete(admin::delete_quota),
        )
        .route(
            "/v1/quotas/{scope}/{scope_id}/{resource_type}/{period}/override",
            post(overrides::put_override).delete(overrides::delete_override),
        )
        .route("/v1/tenants", get(admin::tenants))
        .route("/v1/tenants/{tenant_id}", get(admin::tenant).put(admin::put_tenant).delete(admin::delete_tenant))
        .route("/v1/decisions", get(admin::decisions))
        .route("/v1/decisions/{id}", get(admin::decision))
        .route("/v1/alerts", get(alerts::alerts))
        .route("/v1/audit", get(audit::audit))
        .route_layer(from_fn_with_state(app.clone(), while_the_store_is_there));
    let router = Router::new()
        .route("/v1/check", post(gate::check))
        .route("/v1/reservations", post(reservations::reserve))
        .route("/v1/reservations/{id}/settle", post(reservations::settle))
        .route("/v1/reservations/{id}/release", post(reservations::release))
        .route("/v1/reservations/{id}/extend", post(reservations::extend))
        .route("/v1/costs", post(gate::costs))
        .route("/v1/authz", get(authz::authz).post(authz::authz))
        .route("/v1/authz/", any(authz::below))
        .route("/v1/authz/{*path}", any(authz::below))
        .route("/v1/policies", get(admin::policies))
        .route("/v1/policies/reload", post(admin::reload))
        .route("/v1/policies/{name}/promote", post(admin::promote))
        .route("/v1/policies/{name}/rollback", post(admin::rollback))
        .route("/openapi.json", get(openapi))
        .route("/livez", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(beside_the_lanes)
        .fallback(|| async { ApiError::not_found("no such route") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .with_state(app.clone());
    Routes::new(app, router)
}

/// What asks the store by itself waits for none that is known to be down. It goes on in a task of its own, since a statement
/// must not be cancelled, nor by a caller who hangs up.
async fn while_the_store_is_there(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut answering = Box::pin(Current::get().during(next.run(request)));
    // Who may not ask, or asks for what there is not, is told so in any case.
    if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(answering.as_mut().poll(context))).await {
        return answer;
    }
    tokio::select! {
        biased;
        answer = tokio::spawn(answering) => {
            answer.unwrap_or_else(|error| ApiError::internal(error.to_string()).into_response())
        }
        Err(error) = app.store.health().guard(too_late()) => ApiError::from(error).into_response(),
    }
}

async fn too_late() -> Result<(), StoreError> {
    tokio::time::sleep(ANSWER_WITHIN).await;
    Err(StoreError::too_late())
}

/// For Prometheus. No tenant is in it, so it wants no token.
async fn metrics(State(app): State<Arc<App>>) -> Response {
    let store = app.store.clone();
    // In a task of its own, since a statement must not be cancelled.
    let gauges = tokio::spawn(async move { store.guard(store.gauges()).await });
    let gauges = tokio::time::timeout(STORE_IS_SILENT, gauges).await.ok().and_then(Result::ok).and_then(Result::ok);
    let spool = app.gate.outages().spool();
    let path = spool.path().to_owned();
    let since = tokio::task::spawn_blocking(move || waiting_since(&path)).await.ok().flatten();
    let waited = since.map_or(0, |since| (app.clock.now() - since).num_seconds());
    let spool = SpoolGauges {
        bytes: spool.bytes(),
        records: spool.records(),
        oldest_seconds: u64::try_from(waited).unwrap_or_default(),
    };
    let text = crate::metrics::text(gauges, spool);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Every route, for machines. `tests/openapi.rs` holds it against the router and against answers.
async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("../../../docs/openapi.json"))
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
