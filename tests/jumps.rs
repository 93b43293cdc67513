//! A clock that jumps while the store cannot be reached: every cost is in the window of its own time, and no window of a
//! quota moves back.

use serde_json::{Value, json};
use tollgate::gate::StoreFailure;

use crate::harness::{Database, Host, Setup, Switch, Wire, llm, llm_cost, until};

/// Windows that are closed, and the open one, each with its spend and what it holds, if there is any.
const WINDOWS: &str = "
    SELECT string_agg(at || ' ' || spend || ' + ' || held, '; ' ORDER BY at) FROM (
        SELECT to_char(window_start AT TIME ZONE 'UTC', 'DD HH24') AS at, spend_usd::numeric(20,2) AS spend, held_usd::numeric(20,2) AS held
        FROM copilot_internal.cost_quota_periods
        UNION ALL SELECT to_char(period_start AT TIME ZONE 'UTC', 'DD HH24'), current_spend_usd::numeric(20,2), held_usd::numeric(20,2)
        FROM copilot_internal.cost_quotas) AS windows (at, spend, held)
    WHERE spend + held > 0";

async fn end(host: &Host, id: &str, how: &str, body: Value) {
    host.post(&format!("/v1/reservations/{id}/{how}"), body).await.expect_status(200);
}

async fn is_degraded(host: &Host, degraded: bool) {
    until("the gate knows how its store is", || async {
        host.get("/readyz").await.json()["degraded"] == json!(degraded)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_of_a_clock_that_jumped_in_an_outage_are_in_the_windows_of_their_own_times() {
    jumps_and_ends_at("2026-01-05T13:40:00Z", "04 11 12.00 + 0.00; 04 12 17.00 + 0.00; 05 13 10.00 + 0.00").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_of_a_time_that_has_not_come_for_a_clock_that_jumped_back_is_in_the_open_window() {
    jumps_and_ends_at("2026-01-04T11:40:00Z", "04 11 12.00 + 0.00; 04 12 27.00 + 0.00").await;
}

/// Forward over a window's end and by a day, back by more, and then `back`, when the store is there again.
async fn jumps_and_ends_at(back: &str, expected: &str) {
    let database = Database::migrated().await;
    let switch = Switch::new(database.options().get_socket().expect("a socket"));
    let through = Some(database.options().socket(switch.folder()));
    let setup =
        Setup { database: Some(database.clone()), through, store_failure: StoreFailure::Open, ..Setup::default() };
    let host = setup.start().await;
    host.at("2026-01-04T12:30:00Z");
    host.put("/v1/quotas/tenant/acme-corp/llm/hour", json!({ "limitUsd": 1_000 })).await.expect_status(201);
    let reserve = || async { host.post("/v1/reservations", llm("10")).await.expect_status(201).word("/reservationId") };
    let before = reserve().await;
    switch.now(Wire::Refuses);
    is_degraded(&host, true).await;
    host.cost(llm_cost("at-12", "1")).await;
    let during = reserve().await;
    // Over the window's end, and a day further.
    host.at("2026-01-05T13:30:00Z");
    host.cost(llm_cost("a-day-later", "2")).await;
    let later = reserve().await;
    // And an hour behind where it began.
    host.at("2026-01-04T11:30:00Z");
    host.cost(llm_cost("at-11", "4")).await;
    let behind = reserve().await;
    let settle = json!({ "tenantId": "acme-corp", "actualCostUsd": 8 });
    for id in [&before, &during, &later, &behind] {
        end(&host, id, "settle", settle.clone()).await;
    }
    host.at(back);
    switch.now(Wire::Forwards);
    is_degraded(&host, false).await;
    assert_eq!(database.value(WINDOWS).await, expected);
    let total = "SELECT (SELECT sum(actual_usd) FROM copilot_internal.cost_records)::numeric(20,2) || ' + '
                     || (SELECT sum(actual_usd) FROM copilot_internal.reservations)::numeric(20,2)";
    assert_eq!(database.value(total).await, "7.00 + 32.00");
    // Once the clock is right again nothing has to be mended, and the same ids are there.
    host.at("2026-01-05T13:45:00Z");
    for (cost, usd) in [("at-12", "1"), ("a-day-later", "2"), ("at-11", "4")] {
        assert_eq!(host.cost(llm_cost(cost, usd)).await.at("/duplicate"), json!(true), "{cost}");
    }
    for id in [&before, &during, &later, &behind] {
        end(&host, id, "settle", settle.clone()).await;
    }
    assert_eq!(database.value(WINDOWS).await, expected);
}
