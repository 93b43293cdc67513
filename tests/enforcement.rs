//! Enforcement switched off: denials become notes, and spend is still recorded.

use chrono::TimeDelta;
use serde_json::{Value, json};
use tollgate::gate::Enforcement;

use crate::harness::{Host, Setup, llm, llm_cost};

async fn host(e2b: bool, others: bool) -> Host {
    let host = Setup { enforcement: Enforcement { e2b, others }, ..Setup::default() }.start().await;
    for resource in ["llm", "e2b", "gpu"] {
        host.database.quota(&format!("tenant acme-corp {resource} day"), "1.00", "0").await;
    }
    host
}

fn ask(resource: &str) -> Value {
    json!({ "tenantId": "acme-corp", "resourceType": resource, "estimatedCostUsd": "2.00" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_that_is_not_enforced_is_allowed_and_shown() {
    let host = host(true, false).await;
    let answer = host.check(llm("2.00")).await.expect_status(200);
    let (id, digest) = (answer.word("/decisionId"), answer.word("/policy/digest"));
    let details = concat!(
        r#"{"scope":"tenant","scopeId":"acme-corp","resourceType":"llm","limitUsd":1.00,"currentSpendUsd":0.00,"#,
        r#""heldUsd":0.00,"estimatedCostUsd":2.00,"remainingUsd":1.00,"period":"day","utilizationPercent":0.0,"#,
        r#""resetsAt":"2026-01-05T00:00:00Z"}"#
    );
    let message = "LLM quota exceeded. Limit: $1.00, Current: $0.00, Requested: $2.00";
    let denial = format!(
        r#"{{"error":"quota_exceeded","message":"{message}","resourceType":"llm","quotaDetails":{details},"retryAfter":43200,"code":"limit_exceeded","decisionId":"{id}"}}"#
    );
    assert_eq!(
        answer.text,
        format!(
            r#"{{"allowed":true,"enforced":false,"decisionId":"{id}","policy":{{"name":"standard","digest":"{digest}"}},"quotaDetails":{details},"denial":{denial}}}"#
        )
    );
    assert_eq!((answer.header("retry-after"), answer.header("x-should-retry")), ("", ""));
    let stored = host.get(&format!("/v1/decisions/{id}")).await.expect_status(200);
    assert_eq!((stored.at("/outcome"), stored.at("/code")), (json!("unenforced"), json!("limit_exceeded")));
    assert_eq!(host.database.value("SELECT count(*) FROM application_logs").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservations_denial_that_is_not_enforced_is_as_true_as_one_that_is() {
    let host = host(true, false).await;
    let reserve = async |usd: &str| {
        let mut body = llm(usd);
        body["ttlSeconds"] = json!(300);
        host.post("/v1/reservations", body).await.expect_status(201)
    };
    assert_eq!(reserve("0.80").await.at("/denial"), json!(null));
    let denied = reserve("0.50").await;
    assert_eq!((denied.word("/denial/code"), denied.at("/denial/retryAfter")), ("capacity_held".into(), json!(300)));
    // What has expired stands in nobody's way.
    host.clock.advance(TimeDelta::seconds(300));
    assert_eq!(reserve("1.00").await.at("/denial"), json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_says_nothing_of_enforcement() {
    let answer = host(false, false).await.check(llm("0.50")).await.expect_status(200);
    assert_eq!((answer.at("/enforced"), answer.at("/denial")), (json!(null), json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_variable_is_for_e2b_and_the_other_for_every_other_type() {
    for (e2b, others) in [(true, false), (false, true), (false, false), (true, true)] {
        let host = host(e2b, others).await;
        for (resource, enforced) in [("llm", others), ("gpu", others), ("e2b", e2b)] {
            host.check(ask(resource)).await.expect_status(if enforced { 429 } else { 200 });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spend_is_recorded_and_thresholds_are_crossed_all_the_same() {
    let host = host(false, false).await;
    host.cost(llm_cost("c-1", "3.00")).await;
    let spend = "SELECT current_spend_usd FROM copilot_internal.cost_quotas WHERE resource_type = 'llm'";
    assert_eq!(host.database.value(spend).await, "3.000000000");
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.alerts").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_limits_and_403s_are_not_enforced_either() {
    let host = host(false, false).await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 0.50").await;
    assert_eq!(host.check(llm("0.75")).await.expect_status(200).at("/denial/code"), "hard_limit_exceeded");
    host.tenant("acme-corp", Some("free"), None).await;
    let answer = host.check(llm("2.00")).await.expect_status(200);
    assert_eq!((answer.at("/enforced"), answer.at("/denial/error")), (json!(false), json!("policy_denied")));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_row_can_count_is_held_where_nothing_is_enforced() {
    let host = host(true, false).await;
    for usd in ["1000000000", "1000000000", "0.05"] {
        host.post("/v1/reservations", llm(usd)).await.expect_status(201);
    }
    let held = "SELECT held_usd::bigint FROM copilot_internal.cost_quotas WHERE resource_type = 'llm'";
    assert_eq!(host.database.value(held).await, "1000000000");
}
