//! Holds and windows: what is held belongs to the window, and to the quotas, that hold it.

use serde_json::json;

use super::host;

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_belongs_to_the_window_that_made_it() {
    let host = host().await;
    host.at("2026-01-04T23:59:00Z");
    let (settled, released) = (host.reserved("4.00").await, host.reserved("5.00").await);
    host.at("2026-01-05T00:00:30Z");
    // The new window has room for all of its limit.
    host.reserved("10.00").await;
    assert_eq!(host.books().await, "tenant day 0.00 + 10.00");
    host.settle(&settled, "4.50").await.expect_status(200);
    host.release(&released).await.expect_status(200);
    assert_eq!(host.books().await, "tenant day 0.00 + 10.00");
    let closed = "SELECT spend_usd::numeric(20,2) || ' + ' || held_usd::numeric(20,2) || ' of ' || admitted_count
                  FROM copilot_internal.cost_quota_periods";
    assert_eq!(host.database.value(closed).await, "4.50 + 0.00 of 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_that_have_come_since_are_charged_and_those_that_are_gone_stop_nothing() {
    let host = host().await;
    let id = host.reserved("4.00").await;
    host.database.run("DELETE FROM copilot_internal.cost_quotas").await;
    host.database.quota("tenant acme-corp llm month", "100.00", "0").await;
    let settled = host.settle(&id, "3.00").await.expect_status(200);
    assert_eq!(settled.at("/quotas/0/period"), json!("month"));
    assert_eq!(host.books().await, "tenant month 3.00 + 0.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_gets_another_period_is_held_in_its_window_from_the_next_request_on() {
    let host = host().await;
    host.reserved("4.00").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET period = 'month'").await;
    host.reserved("1.00").await;
    let window = "SELECT (window_starts[1] AT TIME ZONE 'UTC')::date::text
                  FROM copilot_internal.reservations WHERE held_usd = 1";
    assert_eq!(host.database.value(window).await, "2026-01-01");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_touches_roll_over_too() {
    let host = host().await;
    host.reserved("4.00").await;
    host.at("2026-01-05T00:00:00Z");
    let store = tollgate::store::Store::new(host.database.options());
    tollgate::worker::roll_over(&store, &host.clock).await.expect("a database that answers");
    assert_eq!(host.books().await, "tenant day 0.00 + 0.00");
    let closed =
        "SELECT spend_usd::numeric(20,2) || ' + ' || held_usd::numeric(20,2) FROM copilot_internal.cost_quota_periods";
    assert_eq!(host.database.value(closed).await, "0.00 + 4.00");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_holds_of_a_deleted_quota_come_to_is_in_its_closed_window() {
    let host = host().await;
    host.at("2026-01-04T23:59:00Z");
    let (settled, released) = (host.reserved("4.00").await, host.reserved("5.00").await);
    host.at("2026-01-05T00:00:30Z");
    host.delete("/v1/quotas/tenant/acme-corp/llm/day").await.expect_status(204);
    let closed = "SELECT (window_start AT TIME ZONE 'UTC')::date || ' ' || spend_usd::numeric(20,2) || ' + '
                         || held_usd::numeric(20,2)
                  FROM copilot_internal.cost_quota_periods";
    assert_eq!(host.database.value(closed).await, "2026-01-04 0.00 + 9.00");
    for _ in 0..2 {
        host.settle(&settled, "4.50").await.expect_status(200);
        assert_eq!(host.database.value(closed).await, "2026-01-04 4.50 + 5.00");
    }
    host.release(&released).await.expect_status(200);
    assert_eq!(host.database.value(closed).await, "2026-01-04 4.50 + 0.00");
}
