//! What `bench` measures the gate against: a handler that reads a JSON body and answers one, and does nothing else;
//! and, where it is compiled in, one that asks a rate limiter in memory.

use std::io;
use std::net::SocketAddr;

use axum::routing::post;
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Serves until the runtime ends.
///
/// # Errors
/// There is no free port on loopback.
pub async fn serve() -> io::Result<SocketAddr> {
    let handler = |Json(request): Json<Value>| async move {
        Json(json!({ "allowed": true, "tenantId": request["tenantId"], "resourceType": request["resourceType"] }))
    };
    spawn(Router::new().route("/v1/check", post(handler))).await
}

/// Serves until the runtime ends: the limitador crate, its counters in memory, one for each tenant.
///
/// # Errors
/// There is no free port on loopback.
#[cfg(feature = "limitador")]
pub async fn serve_limitador() -> io::Result<SocketAddr> {
    use limitador::RateLimiter;
    use limitador::limit::{Context, Limit};

    let limiter = std::sync::Arc::new(RateLimiter::new(100_000));
    let by_tenant = "tenantId".try_into().map_err(|_| io::Error::other("not a variable of limitador"))?;
    limiter.add_limit(Limit::new("llm", u64::from(u32::MAX), 86_400, Vec::new(), vec![by_tenant]));
    let handler = move |Json(request): Json<Value>| {
        let limiter = limiter.clone();
        async move {
            let tenant = request["tenantId"].as_str().unwrap_or_default().to_owned();
            let context = Context::from(std::collections::HashMap::from([("tenantId".to_owned(), tenant)]));
            let checked = limiter.check_rate_limited_and_update(&"llm".into(), &context, 1);
            let allowed = checked.is_ok_and(|checked| !checked.limited);
            Json(
                json!({ "allowed": allowed, "tenantId": request["tenantId"], "resourceType": request["resourceType"] }),
            )
        }
    };
    spawn(Router::new().route("/v1/check", post(handler))).await
}

async fn spawn(router: Router) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}
