//! The same denial in the vendors' shapes, so that their own clients raise their own quota error.

use serde_json::json;

use crate::harness::{Answer, Host, llm};

const MESSAGE: &str = "LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00";

async fn denied(format: &str) -> Answer {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    let denied = host.post(&format!("/v1/check?format={format}"), llm("2.00")).await.expect_status(429);
    assert_eq!((denied.header("retry-after"), denied.header("x-should-retry")), ("43200", "false"));
    denied
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_calls_it_insufficient_quota() {
    let denied = denied("openai").await;
    let error =
        json!({ "message": MESSAGE, "type": "insufficient_quota", "param": null, "code": "insufficient_quota" });
    assert_eq!(denied.json(), json!({ "error": error }));
    assert_eq!(denied.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_calls_it_a_rate_limit_error() {
    let denied = denied("anthropic").await;
    let error = json!({ "type": "rate_limit_error", "message": MESSAGE });
    assert_eq!(denied.json(), json!({ "type": "error", "error": error }));
    assert_eq!(denied.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_keeps_our_fields_and_their_decimals_as_extensions() {
    let denied = denied("problem").await;
    let id = denied.word("/decisionId");
    let expected = format!(
        concat!(
            r#"{{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","#,
            r#""status":429,"detail":"{message}","violated-policies":["llm-tenant-day"],"resourceType":"llm","#,
            r#""quotaDetails":{{"scope":"tenant","scopeId":"acme-corp","resourceType":"llm","limitUsd":50.00,"#,
            r#""currentSpendUsd":48.50,"heldUsd":0.00,"estimatedCostUsd":2.00,"remainingUsd":1.50,"period":"day","#,
            r#""utilizationPercent":97.0,"resetsAt":"2026-01-05T00:00:00Z"}},"retryAfter":43200,"#,
            r#""code":"limit_exceeded","decisionId":"{id}"}}"#
        ),
        message = MESSAGE,
        id = id
    );
    assert_eq!(denied.text, expected);
    assert_eq!(denied.header("content-type"), "application/problem+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_without_a_quota_has_the_vendors_403() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("free"), None).await;
    let refused = host.post("/v1/check?format=anthropic", llm("0.01")).await.expect_status(403);
    assert_eq!(refused.at("/error/type"), "permission_error");
    let refused = host.post("/v1/check?format=problem", llm("0.01")).await.expect_status(403);
    assert_eq!((refused.at("/type"), refused.at("/status")), (json!("about:blank"), json!(403)));
    assert_eq!(refused.at("/detail"), "The free tier does not include llm.");
    assert_eq!(refused.at("/violated-policies"), json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_format_is_told_which_there_are() {
    let host = Host::start().await;
    let answer = host.post("/v1/check?format=gemini", llm("2.00")).await.expect_status(400);
    assert_eq!(answer.at("/message"), r#"format: one of openai, anthropic, problem, got "gemini""#);
    assert_eq!(answer.at("/field"), "format");
}
