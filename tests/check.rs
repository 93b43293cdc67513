//! `POST /v1/check`, allowed: no row, no limit; the tightest quota; no money moves.

use serde_json::json;

use crate::harness::{Answer, Host, llm};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quota_everything_is_allowed_and_quota_details_are_null() {
    let host = Host::start().await;
    let answer = host.check(llm("1000000000")).await.expect_status(200);
    let (id, digest) = (answer.word("/decisionId"), answer.word("/policy/digest"));
    assert_eq!(
        answer.text,
        format!(
            r#"{{"allowed":true,"decisionId":"{id}","policy":{{"name":"standard","digest":"{digest}"}},"quotaDetails":null}}"#
        )
    );
    assert_eq!((digest.len(), &digest[..7]), (71, "sha256:"));
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_is_allowed_to_the_last_nano_dollar_and_not_one_more() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    host.check(llm("1.5")).await.expect_status(200);
    host.check(llm("1.500000001")).await.expect_status(429);
    host.check(llm("0")).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_answer_shows_the_quota_with_the_least_remaining() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "10.00").await;
    host.database.quota("tenant acme-corp llm month", "100.00", "97.50").await;
    host.database.quota("global * llm hour", "30.00", "0").await;
    let answer = host.check(llm("0.25")).await.expect_status(200);
    let details = answer.text.split_once(r#""quotaDetails":"#).map(|(_, rest)| rest);
    assert_eq!(
        details,
        Some(
            r#"{"scope":"tenant","scopeId":"acme-corp","resourceType":"llm","limitUsd":100.00,"currentSpendUsd":97.50,"heldUsd":0.00,"estimatedCostUsd":0.25,"remainingUsd":2.50,"period":"month","utilizationPercent":97.5,"resetsAt":"2026-02-01T00:00:00Z"}}"#
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_estimate_may_be_left_out_for_llm_and_e2b_and_nothing_else() {
    let host = Host::start().await;
    for resource in ["llm", "e2b", "gpu"] {
        host.database.quota(&format!("tenant acme-corp {resource} day"), "0.04", "0").await;
    }
    let check = |resource: &'static str| host.check(json!({ "tenantId": "acme-corp", "resourceType": resource }));
    let llm = check("llm").await.expect_status(429);
    assert!(llm.text.contains(r#""estimatedCostUsd":0.05,"#), "{}", llm.text);
    let e2b = check("e2b").await.expect_status(200);
    assert!(e2b.text.contains(r#""estimatedCostUsd":0.03,"#), "{}", e2b.text);
    let gpu = check("gpu").await.expect_status(400);
    assert_eq!(gpu.at("/field"), "estimatedCostUsd");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_changes_no_money_and_counts_nothing() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "1.00").await;
    let rows = "SELECT current_spend_usd, held_usd, admitted_count, updated_at, xmin FROM copilot_internal.cost_quotas";
    let before = host.database.rows(rows).await;
    for usd in ["1.00", "49.00", "50.00"] {
        host.check(llm(usd)).await;
    }
    assert_eq!(host.database.rows(rows).await, before);
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.cost_records").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_writes_counts_from_the_next_request_on() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "1.00", "0").await;
    host.check(llm("2.00")).await.expect_status(429);
    host.database.run("UPDATE copilot_internal.cost_quotas SET limit_usd = 2.00").await;
    host.check(llm("2.00")).await.expect_status(200);
    host.database.run("UPDATE copilot_internal.cost_quotas SET current_spend_usd = 0.01").await;
    host.check(llm("2.00")).await.expect_status(429);
    host.database.run("DELETE FROM copilot_internal.cost_quotas").await;
    host.check(llm("2.00")).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_money_counts_and_is_named_in_the_message() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET held_usd = 1.00").await;
    host.check(llm("0.50")).await.expect_status(200);
    let denied = host.check(llm("2.00")).await.expect_status(429);
    assert_eq!(
        denied.at("/message"),
        "LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00, Reserved: $1.00"
    );
    assert!(denied.text.contains(r#""heldUsd":1.00,"estimatedCostUsd":2.00,"remainingUsd":0.50,"#), "{}", denied.text);
    let only_held = host.check(llm("1.00")).await.expect_status(429);
    assert_eq!(only_held.at("/code"), "capacity_held");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_checks_at_once_are_answered_each_on_its_own_quotas() {
    let host = Host::start().await;
    host.database.quota("tenant poor llm day", "1.00", "0").await;
    let checks = (0..60).map(|n| {
        let tenant = if n % 2 == 0 { "poor" } else { "rich" };
        let request = host.request("POST", "/v1/check");
        let body =
            json!({ "tenantId": tenant, "userId": format!("u-{n}"), "resourceType": "llm", "estimatedCostUsd": 2 });
        let request = request.json(&body);
        tokio::spawn(async move { (tenant, Answer::of(request).await) })
    });
    for check in checks.collect::<Vec<_>>() {
        let (tenant, answer) = check.await.expect("no panic");
        answer.expect_status(if tenant == "poor" { 429 } else { 200 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_is_in_nobody_elses_way() {
    let host = Host::start().await;
    host.put("/v1/quotas/tenant/acme-corp/llm/day", json!({ "limitUsd": 100 })).await.expect_status(201);
    host.database.holds_what_cannot_be_read().await;
    let globex = json!({ "tenantId": "globex", "resourceType": "llm", "estimatedCostUsd": 1 });
    for path in ["/v1/check", "/v1/reservations"] {
        for _ in 0..3 {
            host.post(path, llm("1")).await.expect_status(503);
            let answer = host.post(path, globex.clone()).await;
            assert!([200, 201].contains(&answer.status), "{path}: {answer:?}");
        }
    }
    host.database.run("UPDATE copilot_internal.cost_quotas SET override_until = '2026-01-05'").await;
    host.post("/v1/reservations", llm("1")).await.expect_status(201);
}
