//! Routes, methods, parameters and sizes.

use serde_json::json;
use sqlx::ConnectOptions as _;

use crate::harness::{Answer, Host, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_route_is_404_and_a_wrong_method_405() {
    let host = Host::start().await;
    for path in ["/", "/v1", "/v1/nothing", "/v1/check/", "/v1/quotas/tenant/acme-corp/llm", "/v2/check"] {
        let answer = host.get(path).await.expect_status(404);
        assert_eq!(answer.text, r#"{"error":"not_found","message":"no such route"}"#, "{path}");
    }
    for (method, path) in [
        ("GET", "/v1/check"),
        ("PUT", "/v1/costs"),
        ("POST", "/v1/quotas"),
        ("POST", "/v1/tenants/acme-corp"),
        ("GET", "/v1/policies/reload"),
        ("DELETE", "/v1/decisions"),
    ] {
        let answer = Answer::of(host.request(method, path)).await.expect_status(405);
        assert_eq!(answer.at("/error"), "invalid_request", "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_parameters_are_refused_with_their_nearest_neighbour() {
    let host = Host::start().await;
    for (path, field, fragment) in [
        ("/v1/quotas?scopeid=acme-corp", "scopeid", r#"unknown parameter, did you mean "scopeId"?"#),
        ("/v1/quotas?scope=tenant&scope=user", "scope", "given twice"),
        ("/v1/quotas?scope=team", "scope", r#"one of tenant, user, pool, global, got "team""#),
        ("/v1/decisions?outcome=refused", "outcome", "one of allowed, denied, unenforced, failed, got \"refused\""),
        ("/v1/decisions?limit=0", "limit", "1 to 1000"),
        ("/v1/decisions?limit=ten", "limit", "1 to 1000"),
        ("/v1/decisions?since=yesterday", "since", "an instant such as 2026-01-04T12:00:00Z"),
        ("/v1/decisions?tenant=acme-corp", "tenant", r#"did you mean "tenantId"?"#),
        ("/v1/decisions/42", "id", "a decision's id (a UUID), got \"42\""),
    ] {
        let answer = host.get(path).await.expect_status(400);
        assert_eq!((answer.at("/error"), answer.at("/field")), (json!("invalid_request"), json!(field)), "{path}");
        assert!(answer.word("/message").contains(fragment), "{path}: {}", answer.text);
    }
    let answer = host.post("/v1/check?fromat=openai", json!({})).await.expect_status(400);
    assert_eq!(answer.at("/message"), r#"fromat: unknown parameter, did you mean "format"?"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_have_64_kib_and_no_byte_more() {
    let host = Host::start().await;
    let padded = |size: usize| {
        let body = r#"{"tenantId":"acme-corp","resourceType":"llm"}"#;
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    host.post_text("/v1/check", &padded(64 << 10)).await.expect_status(200);
    for path in ["/v1/check", "/v1/costs"] {
        let answer = host.post_text(path, &padded((64 << 10) + 1)).await.expect_status(413);
        assert_eq!(answer.text, r#"{"error":"too_large","message":"a body of at most 64 KiB"}"#);
        assert_eq!(answer.header("connection"), "close");
    }
    let put = host.request("PUT", "/v1/tenants/acme-corp").header("content-type", "application/json");
    Answer::of(put.body(padded(1 << 20))).await.expect_status(413);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_alive_and_ready() {
    let host = Host::start().await;
    assert_eq!(host.get("/livez").await.expect_status(200).json(), json!({ "status": "ok" }));
    let ready = host.get("/readyz").await.expect_status(200);
    assert_eq!(ready.json(), json!({ "status": "ready", "degraded": false }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_cancels_nothing_that_has_begun() {
    let host = Host::start().await;
    let path = "/v1/tenants/acme-corp";
    host.put(path, json!({ "tier": "free" })).await.expect_status(201);
    let mut holder = host.database.options().connect().await.expect("a connection");
    let lock = "BEGIN; SELECT FROM copilot_internal.tenants FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut holder).await.expect("a lock");
    let caller = tokio::spawn(Answer::of(host.request("PUT", path).json(&json!({ "tier": "pro" }))));
    let waiting = "SELECT count(*) > 0 FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("the change waits for the lock", || async { host.database.value(waiting).await == "t" }).await;
    caller.abort();
    // Behind these questions the host has seen that nobody listens any more.
    for _ in 0..20 {
        host.get("/livez").await;
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.expect("no more lock");
    until("it is changed", || async { host.get(path).await.word("/tier") == "pro" }).await;
}
