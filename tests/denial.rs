//! Denials as the contract shows them: every field, its spelling and its decimals, and every header.

use reqwest::header::ACCEPT;
use serde_json::json;

use crate::harness::{Answer, Host, llm};

/// The contract's example on one line; `ID` is the decision's.
const EXAMPLE: &str = concat!(
    r#"{"error":"quota_exceeded","message":"LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00","#,
    r#""resourceType":"llm","quotaDetails":{"scope":"tenant","scopeId":"acme-corp","resourceType":"llm","#,
    r#""limitUsd":50.00,"currentSpendUsd":48.50,"heldUsd":0.00,"estimatedCostUsd":2.00,"remainingUsd":1.50,"#,
    r#""period":"day","utilizationPercent":97.0,"resetsAt":"2026-01-05T00:00:00Z"},"#,
    r#""retryAfter":43200,"code":"limit_exceeded","decisionId":"ID"}"#,
);

/// A host whose acme-corp has spent 48.50 of its 50.00.
async fn nearly_spent() -> Host {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    host
}

/// The headers of the example, whatever its shape.
fn assert_headers(answer: &Answer, content_type: &str) {
    for (name, value) in [
        ("content-type", content_type),
        ("retry-after", "43200"),
        ("x-should-retry", "false"),
        ("ratelimit-policy", r#""llm-tenant-day";q=50000000;w=86400;tollgate-unit="usd-micros""#),
        ("ratelimit", r#""llm-tenant-day";r=1500000;t=43200;tollgate-unit="usd-micros""#),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
}

fn sse(data: &str, status: &str) -> String {
    format!("event: error\ndata: {data}\n\nevent: done\ndata: {{\"status\":\"{status}\"}}\n\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_denial_is_429_with_exactly_the_contracts_fields_and_headers() {
    let denied = nearly_spent().await.check(llm("2.00")).await.expect_status(429);
    assert_eq!(denied.text, EXAMPLE.replace("ID", &denied.word("/decisionId")));
    assert_headers(&denied, "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_true_gets_the_same_denial_as_server_sent_events() {
    let host = nearly_spent().await;
    let mut request = llm("2.00");
    request["stream"] = json!(true);
    let denied = host.check(request).await.expect_status(429);
    let id = host.get("/v1/decisions?outcome=denied").await.word("/decisions/0/decisionId");
    assert_eq!(denied.text, sse(&EXAMPLE.replace("ID", &id), "quota_exceeded"));
    assert_headers(&denied, "text/event-stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn accept_text_event_stream_asks_for_it_as_well() {
    let host = nearly_spent().await;
    let request = || host.request("POST", "/v1/check").header(ACCEPT, "text/event-stream").json(&llm("2.00"));
    let denied = Answer::of(request()).await.expect_status(429);
    assert!(denied.text.starts_with("event: error\ndata: {\"error\":\"quota_exceeded\","), "{}", denied.text);
    assert!(denied.text.ends_with("\n\nevent: done\ndata: {\"status\":\"quota_exceeded\"}\n\n"), "{}", denied.text);
    assert_headers(&denied, "text/event-stream");
    host.database.run("DELETE FROM copilot_internal.cost_quotas").await;
    let allowed = Answer::of(request()).await.expect_status(200);
    assert_eq!((allowed.at("/allowed"), allowed.header("content-type")), (json!(true), "application/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_that_names_no_quota_is_403_and_says_nothing_of_waiting() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("free"), None).await;
    let refused = host.check(llm("0.01")).await.expect_status(403);
    let id = refused.word("/decisionId");
    let body = format!(
        r#"{{"error":"policy_denied","message":"The free tier does not include llm.","resourceType":"llm","code":"not_included","decisionId":"{id}"}}"#
    );
    assert_eq!(refused.text, body);
    for name in ["retry-after", "ratelimit", "ratelimit-policy"] {
        assert_eq!(refused.header(name), "", "{name}");
    }
    let mut request = llm("0.01");
    request["stream"] = json!(true);
    let refused = host.check(request).await.expect_status(403);
    assert!(refused.text.ends_with("data: {\"status\":\"policy_denied\"}\n\n"), "{}", refused.text);
    assert_eq!(refused.header("content-type"), "text/event-stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_above_the_tiers_maximum_is_403_too() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("free"), None).await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    let refused = host.check(llm("1.50")).await.expect_status(403);
    assert_eq!(refused.at("/message"), "LLM request too large. Maximum: $1.00, Requested: $1.50");
    assert_eq!(refused.at("/code"), "request_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_under_a_cent_are_shown_with_the_decimals_that_they_need() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "0.005", "0.0049999").await;
    let denied = host.check(llm("0.0000002")).await.expect_status(429);
    assert_eq!(denied.at("/message"), "LLM quota exceeded. Limit: $0.005, Current: $0.0049999, Requested: $0.0000002");
    assert!(
        denied.text.contains(
            r#""limitUsd":0.005,"currentSpendUsd":0.0049999,"heldUsd":0.00,"estimatedCostUsd":0.0000002,"remainingUsd":0.0000001,"#
        ),
        "{}",
        denied.text
    );
    assert!(denied.text.contains(r#""utilizationPercent":100.0,"#), "{}", denied.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overrun_shows_what_remains_below_zero() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "61.25").await;
    let denied = host.check(llm("0")).await.expect_status(429);
    assert!(
        denied.text.contains(r#""remainingUsd":-11.25,"period":"day","utilizationPercent":122.5,"#),
        "{}",
        denied.text
    );
    assert_eq!(denied.header("ratelimit"), r#""llm-tenant-day";r=0;t=43200;tollgate-unit="usd-micros""#);
}

#[tokio::test(flavor = "multi_thread")]
async fn utilization_is_rounded_to_one_decimal() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "3.00", "1.00").await;
    host.database.quota("tenant acme-corp e2b day", "3.00", "2.00").await;
    let denied = host.check(llm("9")).await;
    assert!(denied.text.contains(r#""utilizationPercent":33.3,"#), "{}", denied.text);
    let e2b = json!({ "tenantId": "acme-corp", "resourceType": "e2b", "estimatedCostUsd": 9 });
    let denied = host.check(e2b).await;
    assert!(denied.text.contains(r#""utilizationPercent":66.7,"#), "{}", denied.text);
    assert_eq!(denied.at("/message"), "E2B quota exceeded. Limit: $3.00, Current: $2.00, Requested: $9.00");
}
