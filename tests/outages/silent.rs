//! A store that takes everything and answers nothing.

use serde_json::json;
use tollgate::gate::StoreFailure;

use super::Cut;
use crate::harness::{Wire, in_time, llm, llm_cost};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_silent_is_down_too_and_heals() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.switch.now(Wire::IsSilent);
    // Nobody knows yet: this request finds out, with the probe.
    let check = cut.host.check(llm("1")).await.expect_status(200);
    assert_eq!(check.at("/degraded"), json!(true));
    cut.host.cost(llm_cost("silent", "2")).await;
    cut.on().await;
    assert_eq!(cut.books().await, "2.00 + 0.00 of 1");
    assert_eq!(cut.host.check(llm("1")).await.at("/degraded"), json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_silent_store_on_the_administrators_routes_either() {
    let cut = Cut::start(StoreFailure::Open).await;
    let (_, id) = cut.reserve("1").await;
    let read = format!("/v1/reservations/{id}?tenantId=acme-corp");
    let paths = ["/v1/quotas", "/v1/tenants/acme-corp", "/v1/decisions", "/v1/alerts", "/v1/audit", &read];
    // Each has a connection that it would wait on.
    for path in paths {
        cut.host.get(path).await;
    }
    cut.switch.now(Wire::IsSilent);
    cut.is_degraded(true).await;
    for path in paths {
        let answer = in_time(path, cut.host.get(path)).await.expect_status(503);
        assert_eq!(answer.word("/error"), "store_unavailable", "{path}");
    }
    let put = cut.host.put("/v1/tenants/acme-corp", json!({ "tier": "pro" })).await.expect_status(503);
    assert_eq!(put.word("/error"), "store_unavailable");
    // What is wrong in any case is told in any case.
    cut.host.get("/v1/quotas?scope=team").await.expect_status(400);
    cut.host.get("/v1/policies").await.expect_status(200);
    cut.on().await;
    cut.host.put("/v1/tenants/acme-corp", json!({ "tier": "pro" })).await;
    assert_eq!(cut.host.get("/v1/tenants/acme-corp").await.expect_status(200).word("/tier"), "pro");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_dead_among_live_ones_costs_a_batch_and_not_its_lane() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.switch.now(Wire::IsSilentAfter("INSERT INTO copilot_internal.reservations"));
    let answer = in_time("the batch is given up", cut.host.post("/v1/reservations", llm("1"))).await;
    assert_eq!((answer.status, answer.word("/error")), (503, "overloaded".into()));
    cut.switch.now(Wire::Forwards);
    let (answer, _) = cut.reserve("1").await;
    assert_eq!(answer.at("/degraded"), json!(null), "the store was there all the time");
    assert_eq!(cut.books().await, "0.00 + 1.00 of 1");
}
