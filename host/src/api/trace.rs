//! The span of a request: what is logged on its way says which request it was, and so does its answer.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::App;
use crate::decision::new_id;

/// The target of these spans. They are there at every level of the log: a denial at `warn` has to say whose it is.
pub const TARGET: &str = "tollgate::request";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const LONGEST_ID: usize = 128;

/// Runs the request in its span, and answers with its id.
pub async fn in_span(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let id = given(request.headers()).unwrap_or_else(|| new(&app));
    let span = tracing::error_span!(
        target: TARGET,
        "request",
        method = request.method().as_str(),
        // The pattern: a path has tenants in it, and no end of values.
        route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str),
        requestId = id.to_str().unwrap_or_default(),
        traceId = trace(request.headers()),
    );
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
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
    let text = only(headers, &TRACEPARENT)?.to_str().ok()?;
    let mut parts = text.splitn(5, '-');
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
