//! Whose a line of the log is: what is logged for a request says which one it was, and so does its answer.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::Response;
use tower_service::Service;

use super::{App, hot};
use crate::decision::new_id;
use crate::origin::{Current, Origin};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const LONGEST_ID: usize = 128;

/// The routes, and what every request and answer has. Around all of them: a layer in each would be copied for every
/// request.
#[derive(Clone)]
pub struct Routes {
    app: Arc<App>,
    router: Router,
}

impl Routes {
    pub(super) fn new(app: Arc<App>, router: Router) -> Self {
        Self { app, router }
    }
}

impl Service<Request> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // As the router, always.
        Poll::Ready(Ok(()))
    }

    /// Does what is asked for as what is done for this request, and answers with its id.
    fn call(&mut self, request: Request) -> Self::Future {
        let id = given(request.headers()).unwrap_or_else(|| new(&self.app));
        let current = Current::of(Origin {
            method: method(request.method()),
            request_id: id.to_str().unwrap_or_default().to_owned(),
            trace_id: trace(request.headers()).map(str::to_owned),
            ..Origin::default()
        });
        let answering = if let Some((route, handler)) = hot::handler(&request) {
            current.is_for(route);
            handler(request, self.app.clone())
        } else {
            let routed = self.router.call(request);
            Box::pin(async move { routed.await.unwrap_or_else(|never| match never {}) })
        };
        let answer = current.during(answering);
        Box::pin(async move {
            let mut response = answer.await;
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(response)
        })
    }
}

/// Learns the route of the request that this is a part of.
pub fn learn_route(parts: &Parts) {
    if let Some(route) = parts.extensions.get::<MatchedPath>() {
        Current::get().is_for(route.as_str().to_owned());
    }
}

fn method(method: &Method) -> Cow<'static, str> {
    match method.as_str() {
        "GET" => Cow::Borrowed("GET"),
        "POST" => Cow::Borrowed("POST"),
        other => Cow::Owned(other.to_owned()),
    }
}

/// The caller's own id, where it gives one and only one that can stand in a log and in a header.
fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = only(headers, &REQUEST_ID)?;
    let is_sane = (1..=LONGEST_ID).contains(&id.len()) && id.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte));
    is_sane.then(|| id.clone())
}

fn new(app: &App) -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = new_id(app.clock.now()).hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The trace that the request is part of: W3C Trace Context, `version-trace-parent-flags` in lower-case hexadecimal.
/// Later versions may add to that; `ff` is none, and zeros name no trace and no parent.
fn trace(headers: &HeaderMap) -> Option<&str> {
    let mut parts = only(headers, &TRACEPARENT)?.to_str().ok()?.splitn(5, '-');
    let mut part = |length: usize| {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|part| part.len() == length && part.bytes().all(is_hex))
    };
    let is_named = |part: &&str| part.bytes().any(|byte| byte != b'0');
    let version = part(2).filter(|version| *version != "ff")?;
    let trace = part(32).filter(is_named)?;
    part(16).filter(is_named)?;
    part(2)?;
    (version != "00" || parts.next().is_none()).then_some(trace)
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}
