//! The two routes that most requests take, found without the router, which looks up, copies and boxes for each request.
//! Whatever else it knows of them, such as what other methods get, it goes on telling.

use std::pin::Pin;
use std::sync::Arc;

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::response::Response;

use super::{App, gate, reservations};

/// An answer that is being made.
pub(super) type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

type Handle = fn(Request, Arc<App>) -> Answering;

/// The handler of `request` and its route, where it is one of them.
pub(super) fn handler(request: &Request) -> Option<(&'static str, Handle)> {
    if request.method() != Method::POST {
        return None;
    }
    match request.uri().path() {
        "/v1/check" => Some(("/v1/check", |request, app| gate::check.call(request, app))),
        "/v1/reservations" => Some(("/v1/reservations", |request, app| reservations::reserve.call(request, app))),
        _ => None,
    }
}
