//! What `bench` measures the gate against: a handler that reads a JSON body and answers one, and does nothing else.

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
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let handler = |Json(request): Json<Value>| async move {
        Json(json!({ "allowed": true, "tenantId": request["tenantId"], "resourceType": request["resourceType"] }))
    };
    let router = Router::new().route("/v1/check", post(handler));
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}
