//! Who may call: tokens, and the rules for a gate without tokens.

use serde_json::json;
use tollgate::api::auth::{Access, Token, Transport};
use tollgate::config::Listen;
use tollgate::quota::TenantId;

use crate::harness::{Answer, Host, Scratch, Setup, llm, llm_cost};

/// `app` may charge anybody, `acme` only acme-corp.
async fn with_tokens(admin: bool) -> Host {
    let acme = TenantId::parse("acme-corp").expect("a name");
    let access = Access {
        app: vec![Token::new("app".into(), "app-secret", vec![]), Token::new("acme".into(), "acme-secret", vec![acme])],
        admin: admin.then(|| Token::new("admin".into(), "admin-secret", vec![])),
        transport: Transport::Network,
    };
    Setup { access, ..Setup::default() }.start().await
}

async fn check(host: &Host, authorization: Option<&str>, tenant: &str) -> Answer {
    let request = host.request("POST", "/v1/check").json(&json!({ "tenantId": tenant, "resourceType": "llm" }));
    Answer::of(authorization.iter().fold(request, |request, value| request.header("authorization", *value))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn application_routes_want_an_app_token_once_one_is_configured() {
    let host = with_tokens(true).await;
    for wrong in [
        None,
        Some("app-secret"),
        Some("Basic app-secret"),
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer app-secre"),
        Some("Bearer app-secret2"),
        Some("Bearer admin-secret"),
    ] {
        let answer = check(&host, wrong, "acme-corp").await.expect_status(401);
        assert_eq!(
            (answer.at("/error"), answer.header("www-authenticate")),
            (json!("unauthorized"), "Bearer"),
            "{wrong:?}"
        );
        assert!(!answer.text.contains("secret"), "{}", answer.text);
    }
    for right in ["Bearer app-secret", "bearer app-secret"] {
        check(&host, Some(right), "acme-corp").await.expect_status(200);
    }
    let cost = || host.request("POST", "/v1/costs").json(&llm_cost("c-1", "1"));
    Answer::of(cost()).await.expect_status(401);
    Answer::of(cost().bearer_auth("app-secret")).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_bound_to_tenants_charges_no_others() {
    let host = with_tokens(true).await;
    check(&host, Some("Bearer acme-secret"), "acme-corp").await.expect_status(200);
    let refused = check(&host, Some("Bearer acme-secret"), "globex").await.expect_status(403);
    let message = r#"the token \"acme\" is not for the tenant \"globex\""#;
    assert_eq!(refused.text, format!(r#"{{"error":"forbidden","message":"{message}"}}"#));
    let cost = json!({ "tenantId": "globex", "resourceType": "llm", "costId": "c-1", "actualCostUsd": 1 });
    Answer::of(host.request("POST", "/v1/costs").bearer_auth("acme-secret").json(&cost)).await.expect_status(403);
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.cost_records").await, "0");
    check(&host, Some("Bearer app-secret"), "globex").await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_routes_want_the_admin_token() {
    let routes = [
        ("GET", "/v1/quotas"),
        ("DELETE", "/v1/quotas/tenant/a/llm/day"),
        ("GET", "/v1/tenants"),
        ("GET", "/v1/policies"),
        ("POST", "/v1/policies/reload"),
        ("GET", "/v1/decisions"),
        ("DELETE", "/v1/tenants/a"),
    ];
    let host = with_tokens(true).await;
    for (method, path) in routes {
        Answer::of(host.request(method, path)).await.expect_status(401);
        Answer::of(host.request(method, path).bearer_auth("app-secret")).await.expect_status(401);
    }
    Answer::of(host.request("GET", "/v1/quotas").bearer_auth("admin-secret")).await.expect_status(200);
    let host = with_tokens(false).await;
    for (method, path) in routes {
        let answer = Answer::of(host.request(method, path).bearer_auth("app-secret")).await.expect_status(403);
        assert_eq!(answer.at("/error"), "forbidden", "{method} {path}");
        assert!(answer.word("/message").contains("TOLLGATE_ADMIN_TOKEN"), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_needs_no_token() {
    let host = with_tokens(true).await;
    host.get("/livez").await.expect_status(200);
    host.get("/readyz").await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_a_page_that_has_rebound_its_name_gets_nothing() {
    let host = Host::start().await;
    for name in ["evil.example", "localhost.evil.example", "10.0.0.1:8080"] {
        for (method, path) in [("GET", "/v1/quotas"), ("POST", "/v1/check")] {
            let request = host.request(method, path).header("host", name).json(&llm("1"));
            let answer = Answer::of(request).await.expect_status(403);
            assert_eq!(answer.at("/error"), "forbidden");
        }
    }
    for name in ["localhost", "localhost:8080", "[::1]:8080"] {
        Answer::of(host.request("POST", "/v1/check").header("host", name).json(&llm("1"))).await.expect_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_a_body_must_say_that_it_is_json() {
    let host = Host::start().await;
    for wrong in
        ["text/plain", "application/x-www-form-urlencoded", "text/plain; application/json", "application/jsonx"]
    {
        for (method, path) in [("POST", "/v1/check"), ("POST", "/v1/costs"), ("PUT", "/v1/tenants/acme-corp")] {
            let request = host.request(method, path).header("content-type", wrong).body("{}");
            let answer = Answer::of(request).await.expect_status(400);
            assert_eq!(answer.at("/message"), "content-type: application/json", "{method} {path} {wrong}");
        }
    }
    Answer::of(host.request("POST", "/v1/check").body(llm("1").to_string())).await.expect_status(400);
    // A page can post without a body; its browser then says whose page it is.
    let reload = || host.request("POST", "/v1/policies/reload");
    Answer::of(reload().header("origin", "http://evil.example")).await.expect_status(400);
    Answer::of(reload()).await.expect_status(200);
    let request = host.request("POST", "/v1/check").header("content-type", "Application/JSON; charset=utf-8");
    Answer::of(request.body(llm("1").to_string())).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_whoever_may_open_it_and_replaces_a_dead_one() {
    let folder = Scratch::new();
    let path = folder.join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let access = Access { app: vec![], admin: None, transport: Transport::Unix };
    let host = Setup { access, listen: Listen::Unix(path), ..Setup::default() }.start().await;
    host.check(llm("1")).await.expect_status(200);
    let strange = host.request("POST", "/v1/check").header("host", "anything").body(llm("1").to_string());
    Answer::of(strange).await.expect_status(200);
    host.get("/v1/quotas").await.expect_status(200);
}
