//! Thresholds fire exactly once per (quota, window, threshold, limit), across all hosts.

use serde_json::json;

use crate::harness::{Answer, Host, llm_cost};

const ALERTS: &str =
    "SELECT coalesce(string_agg(threshold || '% of ' || limit_usd::numeric(20,2) || ' at ' || spend_usd::numeric(20,2)
                                                 || ' on ' || (window_start AT TIME ZONE 'UTC')::date, ', '
                                                 ORDER BY window_start, limit_usd DESC, threshold), '')
                      FROM copilot_internal.alerts";

async fn host() -> Host {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "10.00", "0").await;
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_fires_when_it_is_reached_and_once() {
    let host = host().await;
    for (id, usd, alerts) in [
        ("c-1", "7.99", ""),
        ("c-2", "0.01", "80% of 10.00 at 8.00 on 2026-01-04"),
        ("c-3", "0.99", "80% of 10.00 at 8.00 on 2026-01-04"),
        (
            "c-4",
            "5.00",
            "80% of 10.00 at 8.00 on 2026-01-04, 90% of 10.00 at 13.99 on 2026-01-04, 100% of 10.00 at 13.99 on 2026-01-04",
        ),
    ] {
        host.cost(llm_cost(id, usd)).await;
        assert_eq!(host.database.value(ALERTS).await, alerts, "{id}");
    }
    host.cost(llm_cost("c-4", "5.00")).await;
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.alerts").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_costs_at_once_through_two_hosts_fire_each_threshold_once() {
    let host = host().await;
    let beside = host.beside().await;
    host.database.quota("global * llm month", "20.00", "0").await;
    let sends: Vec<_> = (0..100)
        .map(|n| {
            let cost = llm_cost(&format!("c-{n}"), "0.20");
            tokio::spawn(Answer::of([&host, &beside][n % 2].request("POST", "/v1/costs").json(&cost)))
        })
        .collect();
    for send in sends {
        send.await.expect("no panic").expect_status(200);
    }
    let fired =
        "SELECT string_agg(scope || ' ' || threshold, ', ' ORDER BY scope, threshold) FROM copilot_internal.alerts";
    assert_eq!(host.database.value(fired).await, "global 80, global 90, global 100, tenant 80, tenant 90, tenant 100");
    let too_early = "SELECT count(*) FROM copilot_internal.alerts WHERE spend_usd * 100 < limit_usd * threshold";
    assert_eq!(host.database.value(too_early).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_window_fires_again() {
    let host = host().await;
    host.cost(llm_cost("c-1", "8.00")).await;
    host.at("2026-01-05T00:00:00Z");
    host.cost(llm_cost("c-2", "8.50")).await;
    assert_eq!(
        host.database.value(ALERTS).await,
        "80% of 10.00 at 8.00 on 2026-01-04, 80% of 10.00 at 8.50 on 2026-01-05"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_limit_fires_again_and_a_lowered_one_at_once() {
    let host = host().await;
    host.cost(llm_cost("c-1", "8.00")).await;
    let put = |usd: &'static str| host.put("/v1/quotas/tenant/acme-corp/llm/day", json!({ "limitUsd": usd }));
    // Raised: nothing is crossed yet.
    put("20.00").await.expect_status(200);
    assert_eq!(host.database.value(ALERTS).await, "80% of 10.00 at 8.00 on 2026-01-04");
    host.cost(llm_cost("c-2", "8.00")).await;
    assert_eq!(
        host.database.value(ALERTS).await,
        "80% of 20.00 at 16.00 on 2026-01-04, 80% of 10.00 at 8.00 on 2026-01-04"
    );
    put("17.00").await.expect_status(200);
    assert_eq!(
        host.database.value(ALERTS).await,
        "80% of 20.00 at 16.00 on 2026-01-04, 80% of 17.00 at 16.00 on 2026-01-04, \
         90% of 17.00 at 16.00 on 2026-01-04, 80% of 10.00 at 8.00 on 2026-01-04"
    );
    put("17.00").await.expect_status(200);
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.alerts").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_limit_does_not_alert_for_a_window_that_is_over() {
    let host = host().await;
    host.cost(llm_cost("c-1", "7.00")).await;
    host.at("2026-01-05T12:00:00Z");
    host.put("/v1/quotas/tenant/acme-corp/llm/day", json!({ "limitUsd": "1.00" })).await.expect_status(200);
    assert_eq!(host.database.value(ALERTS).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_cost_alerts_nobody() {
    let host = host().await;
    host.at("2026-01-05T12:00:00Z");
    let mut late = llm_cost("c-1", "50.00");
    late["occurredAt"] = json!("2026-01-04T12:00:00Z");
    host.cost(late).await;
    assert_eq!(host.database.value(ALERTS).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn thresholds_are_the_quotas_own() {
    let host = host().await;
    let rule = json!({ "limitUsd": "10.00", "thresholds": [150, 25, 25] });
    let answer = host.put("/v1/quotas/tenant/acme-corp/llm/day", rule).await.expect_status(200);
    assert_eq!(answer.at("/thresholds"), json!([25, 150]));
    host.cost(llm_cost("c-1", "2.50")).await;
    host.cost(llm_cost("c-2", "12.50")).await;
    assert_eq!(
        host.database.value(ALERTS).await,
        "25% of 10.00 at 2.50 on 2026-01-04, 150% of 10.00 at 15.00 on 2026-01-04"
    );
    // What is left out stays; an empty list is none.
    host.put("/v1/quotas/tenant/acme-corp/llm/day", json!({ "limitUsd": "11.00" })).await.expect_status(200);
    let rule = json!({ "limitUsd": "12.00", "thresholds": [] });
    host.put("/v1/quotas/tenant/acme-corp/llm/day", rule).await.expect_status(200);
    host.cost(llm_cost("c-3", "12.50")).await;
    let fired = "SELECT string_agg(threshold || ' of ' || limit_usd::numeric(20,2), ', ' ORDER BY limit_usd, threshold) FROM copilot_internal.alerts";
    assert_eq!(host.database.value(fired).await, "25 of 10.00, 150 of 10.00, 25 of 11.00");
}
