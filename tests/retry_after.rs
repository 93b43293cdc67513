//! When to come back: whole seconds, rounded up, to the binding quota's next window.

use serde_json::json;

use crate::harness::{Host, instant, llm};

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_counts_to_the_next_window_of_each_period() {
    let host = Host::start().await;
    for period in ["hour", "day", "week", "month"] {
        host.database.quota(&format!("tenant {period} llm {period}"), "0.01", "0").await;
    }
    for (now, period, resets_at) in [
        ("2026-01-04T12:00:00Z", "hour", "2026-01-04T13:00:00Z"),
        ("2026-01-04T12:59:59Z", "hour", "2026-01-04T13:00:00Z"),
        ("2026-01-04T23:30:00Z", "hour", "2026-01-05T00:00:00Z"),
        ("2026-01-04T00:00:00Z", "day", "2026-01-05T00:00:00Z"),
        ("2026-01-04T23:59:59Z", "day", "2026-01-05T00:00:00Z"),
        ("2026-12-31T23:59:59Z", "day", "2027-01-01T00:00:00Z"),
        ("2028-02-28T18:00:00Z", "day", "2028-02-29T00:00:00Z"),
        ("2028-02-29T18:00:00Z", "day", "2028-03-01T00:00:00Z"),
        // Weeks start on Monday: a Sunday's last second, a Monday's first.
        ("2026-01-04T23:59:59Z", "week", "2026-01-05T00:00:00Z"),
        ("2026-01-05T00:00:00Z", "week", "2026-01-12T00:00:00Z"),
        ("2025-12-31T12:00:00Z", "week", "2026-01-05T00:00:00Z"),
        ("2028-02-29T12:00:00Z", "week", "2028-03-06T00:00:00Z"),
        ("2026-01-31T23:00:00Z", "month", "2026-02-01T00:00:00Z"),
        ("2026-02-28T12:00:00Z", "month", "2026-03-01T00:00:00Z"),
        ("2028-02-28T12:00:00Z", "month", "2028-03-01T00:00:00Z"),
        ("2028-02-29T12:00:00Z", "month", "2028-03-01T00:00:00Z"),
        ("2026-04-30T12:00:00Z", "month", "2026-05-01T00:00:00Z"),
        ("2026-12-31T23:59:59Z", "month", "2027-01-01T00:00:00Z"),
    ] {
        host.at(now);
        let seconds = (instant(resets_at) - instant(now)).num_seconds();
        let request = json!({ "tenantId": period, "resourceType": "llm", "estimatedCostUsd": 1 });
        let denied = host.check(request).await.expect_status(429);
        assert_eq!(denied.at("/retryAfter"), seconds, "{period} at {now}");
        assert_eq!(denied.header("retry-after"), seconds.to_string(), "{period} at {now}");
        assert_eq!(denied.at("/quotaDetails/resetsAt"), resets_at, "{period} at {now}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_second_are_rounded_up() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "0.01", "0").await;
    for (now, seconds) in
        [("2026-01-04T23:59:58.001Z", 2), ("2026-01-04T23:59:59.000Z", 1), ("2026-01-04T23:59:59.999Z", 1)]
    {
        host.at(now);
        assert_eq!(host.check(llm("1")).await.at("/retryAfter"), seconds, "{now}");
    }
    host.at("2026-01-05T00:00:00Z");
    assert_eq!(host.check(llm("1")).await.at("/retryAfter"), 86400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_quota_never_says_when_to_come_back() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm lifetime", "0.01", "0").await;
    let denied = host.check(llm("1")).await.expect_status(429);
    assert_eq!((denied.header("retry-after"), denied.at("/retryAfter")), ("", json!(null)));
    assert!(!denied.text.contains("retryAfter"), "{}", denied.text);
    assert!(denied.text.contains(r#""resetsAt":null"#), "{}", denied.text);
    assert_eq!(denied.header("ratelimit-policy"), r#""llm-tenant-lifetime";q=10000;tollgate-unit="usd-micros""#);
    assert_eq!(denied.header("ratelimit"), r#""llm-tenant-lifetime";r=10000;tollgate-unit="usd-micros""#);
    assert_eq!(denied.header("x-should-retry"), "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_quotas_that_deny_the_one_that_resets_last_binds() {
    let host = Host::start().await;
    // The month has room: only those that deny can bind.
    host.database.quota("tenant acme-corp llm hour", "1.00", "0.90").await;
    host.database.quota("tenant acme-corp llm day", "10.00", "9.95").await;
    host.database.quota("tenant acme-corp llm month", "500.00", "10.00").await;
    let denied = host.check(llm("0.20")).await.expect_status(429);
    assert_eq!((denied.at("/quotaDetails/period"), denied.at("/retryAfter")), (json!("day"), json!(43200)));
    // Less remains in the hour, but it does not help to wait for it alone.
    host.database.run("UPDATE copilot_internal.cost_quotas SET current_spend_usd = 1.00 WHERE period = 'hour'").await;
    let denied = host.check(llm("0.20")).await.expect_status(429);
    assert_eq!(denied.at("/quotaDetails/period"), "day");
    let hour_only = host.check(llm("0.04")).await.expect_status(429);
    assert_eq!((hour_only.at("/quotaDetails/period"), hour_only.at("/retryAfter")), (json!("hour"), json!(3600)));
    host.database.quota("global * llm lifetime", "0.01", "0").await;
    let for_ever = host.check(llm("0.20")).await.expect_status(429);
    assert_eq!((for_ever.at("/quotaDetails/scope"), for_ever.header("retry-after")), (json!("global"), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn held_money_is_not_waited_for_where_a_hard_limit_is_spent() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm month", "10.00", "0").await;
    host.database.quota("tenant acme-corp llm day", "100.00", "5.00").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 6.00 WHERE period = 'day'").await;
    host.post("/v1/reservations", llm("1.00")).await.expect_status(201);
    for path in ["/v1/reservations", "/v1/check"] {
        // The month would have room again when that has expired, and the day not before tomorrow.
        let denied = host.post(path, llm("9.50")).await.expect_status(429);
        assert_eq!((denied.at("/code"), denied.at("/quotaDetails/period")), (json!("limit_exceeded"), json!("month")));
        assert_eq!(
            denied.at("/retryAfter"),
            (instant("2026-02-01T00:00:00Z") - instant("2026-01-04T12:00:00Z")).num_seconds()
        );
        // Here only held money is in the way of both.
        let denied = host.post(path, llm("0.50")).await.expect_status(429);
        assert_eq!((denied.at("/code"), denied.at("/quotaDetails/period")), (json!("capacity_held"), json!("day")));
    }
}
