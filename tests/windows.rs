//! Windows: a function of time. The old window's total is kept, and late costs still find it.

use serde_json::json;

use crate::harness::{Host, llm, llm_cost};

const PERIODS: &str = "SELECT window_start AT TIME ZONE 'UTC' AS start, spend_usd AS spend, admitted_count AS admitted, limit_usd AS limit
                       FROM copilot_internal.cost_quota_periods ORDER BY window_start";
const OPEN: &str =
    "SELECT (period_start AT TIME ZONE 'UTC') || ' ' || current_spend_usd || ' ' || held_usd || ' ' || admitted_count
                    FROM copilot_internal.cost_quotas";

#[tokio::test(flavor = "multi_thread")]
async fn a_new_window_starts_with_nothing_spent_and_the_old_total_is_kept() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.cost(llm_cost("c-1", "49.50")).await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET held_usd = 0.25").await;
    host.check(llm("1.00")).await.expect_status(429);
    host.at("2026-01-05T00:00:00Z");
    let allowed = host.check(llm("50.00")).await.expect_status(200);
    assert!(allowed.text.contains(r#""currentSpendUsd":0.00,"heldUsd":0.00,"#), "{}", allowed.text);
    host.cost(llm_cost("c-2", "2.00")).await;
    assert_eq!(host.database.value(OPEN).await, "2026-01-05 00:00:00 2.000000000 0.000000000 1");
    let closed = host.database.rows(PERIODS).await;
    let closed: Vec<&str> = closed.iter().flat_map(|row| row.values().map(String::as_str)).collect();
    assert_eq!(closed, ["1", "50.000000000", "49.500000000", "2026-01-04 00:00:00"]);
    assert_eq!(host.database.value("SELECT held_usd FROM copilot_internal.cost_quota_periods").await, "0.250000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_is_charged_to_the_window_in_which_it_occurred() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.cost(llm_cost("c-1", "1.00")).await;
    host.at("2026-01-05T09:00:00Z");
    host.cost(llm_cost("c-2", "2.00")).await;
    let mut late = llm_cost("c-3", "4.00");
    late["occurredAt"] = json!("2026-01-05T00:59:59+01:00");
    let answer = host.cost(late.clone()).await;
    assert_eq!((answer.at("/late"), answer.at("/duplicate")), (json!(true), json!(false)));
    assert!(answer.text.contains(r#""currentSpendUsd":2.00,"#), "{}", answer.text);
    late["costId"] = json!("c-4");
    late["occurredAt"] = json!("2026-01-01T12:00:00Z");
    host.cost(late).await;
    assert_eq!(host.database.value(OPEN).await, "2026-01-05 00:00:00 2.000000000 0.000000000 1");
    let closed: Vec<String> = host
        .database
        .rows(PERIODS)
        .await
        .iter()
        .map(|row| format!("{} {} {}", row["start"], row["spend"], row["admitted"]))
        .collect();
    assert_eq!(closed, ["2026-01-01 00:00:00 4.000000000 1", "2026-01-04 00:00:00 5.000000000 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_can_be_late_for_one_quota_and_in_time_for_another() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.database.quota("tenant acme-corp llm month", "50.00", "0").await;
    host.at("2026-01-05T09:00:00Z");
    let mut late = llm_cost("c-1", "4.00");
    late["occurredAt"] = json!("2026-01-04T12:00:00Z");
    let answer = host.cost(late).await;
    assert_eq!(answer.at("/late"), true);
    let spends =
        "SELECT string_agg(period || ' ' || current_spend_usd, ', ' ORDER BY period) FROM copilot_internal.cost_quotas";
    assert_eq!(host.database.value(spends).await, "day 0.000000000, month 4.000000000");
    let closed = "SELECT period || ' ' || spend_usd FROM copilot_internal.cost_quota_periods";
    assert_eq!(host.database.value(closed).await, "day 4.000000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_never_moves_back_for_a_host_whose_clock_is_behind() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.at("2026-01-05T00:00:01Z");
    host.cost(llm_cost("c-1", "49.00")).await;
    host.at("2026-01-04T23:59:59Z");
    let denied = host.check(llm("2.00")).await.expect_status(429);
    assert_eq!(
        (denied.at("/quotaDetails/resetsAt"), denied.at("/retryAfter")),
        (json!("2026-01-06T00:00:00Z"), json!(86401))
    );
    // What happened before midnight belongs there, whoever's clock says so.
    host.cost(llm_cost("c-2", "3.00")).await;
    assert_eq!(host.database.value(OPEN).await, "2026-01-05 00:00:00 49.000000000 0.000000000 1");
    assert_eq!(host.database.rows(PERIODS).await[0]["spend"], "3.000000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_period_start_is_the_current_window_with_its_spend() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "49.00").await;
    host.check(llm("2.00")).await.expect_status(429);
    host.at("2027-06-01T00:00:00Z");
    host.check(llm("2.00")).await.expect_status(429);
    host.cost(llm_cost("c-1", "0.50")).await;
    assert_eq!(host.database.value(OPEN).await, "2027-06-01 00:00:00 49.500000000 0.000000000 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_quota_has_one_window() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm lifetime", "50.00", "0").await;
    host.cost(llm_cost("c-1", "49.00")).await;
    host.at("2036-01-01T00:00:00Z");
    host.check(llm("2.00")).await.expect_status(429);
    host.cost(llm_cost("c-2", "0.50")).await;
    assert_eq!(host.database.value(OPEN).await, "1970-01-01 00:00:00 49.500000000 0.000000000 2");
    assert_eq!(host.database.rows(PERIODS).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_windows_total_reaches_the_policy() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("enterprise"), None).await;
    host.database.quota("tenant acme-corp llm day", "100.00", "0").await;
    host.check(llm("105.00")).await.expect_status(429);
    host.cost(llm_cost("c-1", "49.99")).await;
    // Less than half was spent: 10 percent more today, before and after the row is rolled over.
    host.at("2026-01-05T12:00:00Z");
    host.check(llm("110.00")).await.expect_status(200);
    host.check(llm("110.01")).await.expect_status(429);
    host.cost(llm_cost("c-2", "60.00")).await;
    host.check(llm("50.00")).await.expect_status(200);
    // More than half was spent.
    host.at("2026-01-06T12:00:00Z");
    host.check(llm("100.01")).await.expect_status(429);
    // A day without any spend was quiet, once a row tells that it was there.
    host.cost(llm_cost("c-3", "0")).await;
    host.at("2026-01-07T12:00:00Z");
    host.check(llm("110.00")).await.expect_status(200);
    let facts = host.get("/v1/decisions?limit=1").await;
    assert!(facts.text.contains(r#""previousSpendUsd":0.00"#), "{}", facts.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_quotas_closed_windows_stay_in_the_books() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.cost(llm_cost("c-1", "2.00")).await;
    host.at("2026-01-05T12:00:00Z");
    host.cost(llm_cost("c-2", "3.00")).await;
    host.delete("/v1/quotas/tenant/acme-corp/llm/day").await.expect_status(204);
    assert_eq!(host.database.rows(PERIODS).await[0]["spend"], "2.000000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_over_stays_in_the_books_of_a_quota_that_is_deleted_before_anybody_touched_it() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.cost(llm_cost("c-1", "2.00")).await;
    host.at("2026-01-05T00:00:00Z");
    host.delete("/v1/quotas/tenant/acme-corp/llm/day").await.expect_status(204);
    assert_eq!(host.database.rows(PERIODS).await[0]["spend"], "2.000000000");
}
