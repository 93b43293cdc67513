//! `POST /v1/costs`: what an operation really cost, in full and once.

use serde_json::{Value, json};

use crate::harness::{Host, llm, llm_cost};

const SPENDS: &str = "SELECT scope, period, current_spend_usd AS spend, admitted_count AS admitted
                      FROM copilot_internal.cost_quotas ORDER BY scope, period";

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_is_recorded_and_charged_to_every_quota_that_applies() {
    let host = Host::start().await;
    host.tenant("acme-corp", None, Some("eu-team")).await;
    let keys = [
        "tenant acme-corp llm day",
        "tenant acme-corp llm month",
        "user acme-corp/u-42 llm day",
        "pool eu-team llm day",
    ];
    for key in keys.into_iter().chain(["global * llm hour"]) {
        host.database.quota(key, "50.00", "0").await;
    }
    for other in ["tenant globex llm day", "user acme-corp/u-43 llm day", "tenant acme-corp e2b day"] {
        host.database.quota(other, "50.00", "0").await;
    }
    let mut cost = llm_cost("c-1", "0.123456789");
    cost["userId"] = json!("u-42");
    cost["attributes"] = json!({ "model": "large" });
    let answer = host.cost(cost).await;
    assert!(
        answer
            .text
            .starts_with(r#"{"recordedUsd":0.123456789,"overrunUsd":0.00,"late":false,"duplicate":false,"quotas":["#)
    );
    let charged: Vec<String> = (0..5)
        .map(|n| {
            format!("{} {}", answer.word(&format!("/quotas/{n}/scope")), answer.word(&format!("/quotas/{n}/period")))
        })
        .collect();
    assert_eq!(charged, ["tenant day", "tenant month", "user day", "pool day", "global hour"]);
    assert_eq!(answer.at("/quotas/5"), Value::Null);
    let total = "SELECT count(*) || ' ' || sum(current_spend_usd) || ' ' || sum(admitted_count) FROM copilot_internal.cost_quotas WHERE current_spend_usd > 0";
    assert_eq!(host.database.value(total).await, "5 0.617283945 5");
    let records = host.database.rows("SELECT tenant_id, user_id, actual_usd, occurred_at = recorded_at AS now, attributes FROM copilot_internal.cost_records").await;
    let record: Vec<&str> = records[0].values().map(String::as_str).collect();
    assert_eq!(record, ["0.123456789", r#"{"model": "large"}"#, "t", "acme-corp", "u-42"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_charged_quota_is_shown_with_its_details_and_no_estimate() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "46.50").await;
    let answer = host.cost(llm_cost("c-1", "2.00")).await;
    assert_eq!(
        answer.text,
        concat!(
            r#"{"recordedUsd":2.00,"overrunUsd":0.00,"late":false,"duplicate":false,"quotas":[{"scope":"tenant","scopeId":"acme-corp","#,
            r#""period":"day","quotaDetails":{"scope":"tenant","scopeId":"acme-corp","resourceType":"llm","limitUsd":50.00,"#,
            r#""currentSpendUsd":48.50,"heldUsd":0.00,"remainingUsd":1.50,"period":"day","utilizationPercent":97.0,"#,
            r#""resetsAt":"2026-01-05T00:00:00Z"}}]}"#
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_above_the_limit_is_recorded_in_full() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "1.00", "0.90").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 1.00").await;
    let answer = host.cost(llm_cost("c-1", "75.25")).await;
    assert!(
        answer.text.contains(r#""currentSpendUsd":76.15,"heldUsd":0.00,"remainingUsd":-75.15,"#),
        "{}",
        answer.text
    );
    host.check(llm("0.01")).await.expect_status(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_without_any_quota_is_recorded_too() {
    let host = Host::start().await;
    let answer = host.cost(llm_cost("c-1", "0")).await;
    assert_eq!(answer.text, r#"{"recordedUsd":0.00,"overrunUsd":0.00,"late":false,"duplicate":false,"quotas":[]}"#);
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.cost_records").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_cost_again_is_a_duplicate_and_charges_nothing() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    let first = host.cost(llm_cost("c-1", "2.00")).await;
    // The same thing said in other words: a number for a text, another order, nulls.
    let said = r#"{"userId":null,"costId":"c-1","actualCostUsd":2.0,"resourceType":"llm","tenantId":"acme-corp","attributes":{}}"#;
    let second = host.post_text("/v1/costs", said).await.expect_status(200);
    assert_eq!(second.text, first.text.replace(r#""duplicate":false"#, r#""duplicate":true"#));
    assert_eq!(host.database.value("SELECT current_spend_usd FROM copilot_internal.cost_quotas").await, "2.000000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_another_body_is_a_conflict_and_charges_nothing() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.cost(llm_cost("c-1", "2.00")).await;
    for (field, value) in [
        ("actualCostUsd", json!("2.000000001")),
        ("userId", json!("u-42")),
        ("resourceType", json!("e2b")),
        ("occurredAt", json!("2026-01-04T11:00:00Z")),
        ("attributes", json!({ "model": "large" })),
    ] {
        let mut other = llm_cost("c-1", "2.00");
        other[field] = value;
        let answer = host.post("/v1/costs", other).await.expect_status(409);
        assert_eq!(
            answer.text,
            r#"{"error":"idempotency_conflict","message":"costId \"c-1\" was recorded with another body"}"#
        );
    }
    assert_eq!(host.database.value("SELECT current_spend_usd FROM copilot_internal.cost_quotas").await, "2.000000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_may_use_the_same_id() {
    let host = Host::start().await;
    host.cost(llm_cost("c-1", "2.00")).await;
    let other = json!({ "tenantId": "globex", "resourceType": "llm", "costId": "c-1", "actualCostUsd": "3.00" });
    assert_eq!(host.cost(other).await.at("/duplicate"), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_cost_sent_many_times_at_once_through_two_hosts_counts_once() {
    let host = Host::start().await;
    let beside = host.beside().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    let sends: Vec<_> = (0..24)
        .map(|n| {
            let request = [&host, &beside][n % 2].request("POST", "/v1/costs").json(&llm_cost("c-1", "2.00"));
            tokio::spawn(crate::harness::Answer::of(request))
        })
        .collect();
    let mut firsts = 0;
    for send in sends {
        let answer = send.await.expect("no panic").expect_status(200);
        firsts += usize::from(answer.at("/duplicate") == false);
        assert!(answer.text.starts_with(r#"{"recordedUsd":2.00,"#), "{}", answer.text);
    }
    assert_eq!(firsts, 1);
    let quota = &host.database.rows(SPENDS).await[0];
    assert_eq!((quota["spend"].as_str(), quota["admitted"].as_str()), ("2.000000000", "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_the_sums_of_the_books_after_many_costs_at_once_through_two_hosts() {
    let host = Host::start().await;
    let beside = host.beside().await;
    host.tenant("acme-corp", None, Some("eu-team")).await;
    host.tenant("globex", None, Some("eu-team")).await;
    for key in ["tenant acme-corp llm day", "tenant globex llm day", "pool eu-team llm month", "global * llm lifetime"]
    {
        host.database.quota(key, "50.00", "0").await;
    }
    let sends: Vec<_> = (0..200)
        .map(|n| {
            let tenant = if n % 3 == 0 { "globex" } else { "acme-corp" };
            let cost = json!({ "tenantId": tenant, "resourceType": "llm", "costId": format!("c-{n}"), "actualCostUsd": format!("0.{n:03}") });
            tokio::spawn(crate::harness::Answer::of([&host, &beside][n % 2].request("POST", "/v1/costs").json(&cost)))
        })
        .collect();
    for send in sends {
        send.await.expect("no panic").expect_status(200);
    }
    let differing = "
        SELECT q.scope, q.scope_id FROM copilot_internal.cost_quotas q
        LEFT JOIN copilot_internal.cost_records r ON q.scope <> 'tenant' OR r.tenant_id = q.scope_id
        GROUP BY q.id HAVING sum(r.actual_usd) <> q.current_spend_usd OR count(*) <> q.admitted_count";
    assert_eq!(host.database.rows(differing).await, []);
    assert_eq!(host.database.value("SELECT sum(actual_usd) FROM copilot_internal.cost_records").await, "19.900000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_is_recorded_in_full_beyond_what_a_quota_can_count() {
    let host = Host::start().await;
    host.database.quota("global * llm month", "1000000000", "0").await;
    host.database.quota("tenant acme-corp llm day", "1000000000", "0").await;
    // Somebody has mistaken a unit.
    let mut mistaken = llm_cost("c", "600000000");
    mistaken["tenantId"] = json!("globex");
    for id in ["c-1", "c-2"] {
        mistaken["costId"] = json!(id);
        host.cost(mistaken.clone()).await;
    }
    host.cost(llm_cost("c-1", "3.00")).await;
    let spends = "SELECT string_agg(scope || ' ' || current_spend_usd::numeric(20,2), ', ' ORDER BY scope)
                  FROM copilot_internal.cost_quotas";
    assert_eq!(host.database.value(spends).await, "global 1000000000.00, tenant 3.00");
    let recorded = "SELECT sum(actual_usd)::numeric(20,2) FROM copilot_internal.cost_records";
    assert_eq!(host.database.value(recorded).await, "1200000003.00");
    assert_eq!(host.check(llm("0.01")).await.expect_status(429).at("/quotaDetails/scope"), json!("global"));
    // And so it is with its closed window.
    host.at("2026-02-01T00:00:00Z");
    let mut late = llm_cost("c-2", "5.00");
    late["occurredAt"] = json!("2026-01-04T12:00:00Z");
    for id in ["c-2", "c-3"] {
        late["costId"] = json!(id);
        host.cost(late.clone()).await;
    }
    let closed = "SELECT string_agg(scope || ' ' || spend_usd::numeric(20,2), ', ' ORDER BY scope)
                  FROM copilot_internal.cost_quota_periods";
    assert_eq!(host.database.value(closed).await, "global 1000000000.00, tenant 13.00");
}
