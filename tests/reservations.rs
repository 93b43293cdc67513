//! Money that is set aside: taken in the step that decides, replaced by the actual cost, given back, given back by the host.

mod expiry;
mod holds;

use serde_json::{Value, json};

use crate::harness::{Answer, Host, Setup, llm};

/// Spend and held of every quota, and what is still held by reservations.
const BOOKS: &str =
    "SELECT coalesce(string_agg(scope || ' ' || period || ' ' || current_spend_usd::numeric(20,2) || ' + '
                                                || held_usd::numeric(20,2), ', ' ORDER BY scope, period), '')
                     FROM copilot_internal.cost_quotas";

async fn host() -> Host {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "10.00", "0").await;
    host
}

fn with(mut body: Value, more: Value) -> Value {
    let (Some(body_fields), Value::Object(more)) = (body.as_object_mut(), more) else { panic!("objects") };
    body_fields.extend(more);
    body
}

impl Host {
    async fn reserve(&self, request: Value) -> Answer {
        self.post("/v1/reservations", request).await
    }

    /// Reserves, which must succeed; the reservation's id.
    async fn reserved(&self, usd: &str) -> String {
        self.reserve(llm(usd)).await.expect_status(201).word("/reservationId")
    }

    async fn end(&self, id: &str, how: &str, more: Value) -> Answer {
        self.post(&format!("/v1/reservations/{id}/{how}"), with(json!({ "tenantId": "acme-corp" }), more)).await
    }

    async fn settle(&self, id: &str, usd: &str) -> Answer {
        self.end(id, "settle", json!({ "actualCostUsd": usd })).await
    }

    async fn release(&self, id: &str) -> Answer {
        self.end(id, "release", json!({})).await
    }

    async fn books(&self) -> String {
        self.database.value(BOOKS).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_sets_the_estimate_aside_and_settling_replaces_it_by_the_actual() {
    let host = host().await;
    let answer = host.reserve(with(llm("4.00"), json!({ "ttlSeconds": 60 }))).await.expect_status(201);
    assert!(answer.text.contains(r#""allowed":true"#) && answer.text.contains(r#""heldUsd":4.00,"#), "{}", answer.text);
    assert_eq!(answer.word("/expiresAt"), "2026-01-04T12:01:00Z");
    assert_eq!(host.books().await, "tenant day 0.00 + 4.00");
    let id = answer.word("/reservationId");
    let settled = host.settle(&id, "3.50").await.expect_status(200);
    assert!(
        settled.text.starts_with(r#"{"recordedUsd":3.50,"overrunUsd":0.00,"late":false,"duplicate":false,"quotas":["#),
        "{}",
        settled.text
    );
    assert_eq!(settled.at("/quotas/0/quotaDetails/heldUsd"), json!(0.0));
    assert_eq!(host.books().await, "tenant day 3.50 + 0.00");
    let read = host.get(&format!("/v1/reservations/{id}?tenantId=acme-corp")).await.expect_status(200);
    assert_eq!((read.word("/state"), read.at("/actualCostUsd")), ("settled".into(), json!(3.5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overrun_is_recorded_in_full_and_shown() {
    let host = host().await;
    let id = host.reserved("4.00").await;
    let settled = host.settle(&id, "14.00").await.expect_status(200);
    assert_eq!((settled.at("/recordedUsd"), settled.at("/overrunUsd")), (json!(14.0), json!(10.0)));
    assert_eq!(host.books().await, "tenant day 14.00 + 0.00");
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.alerts").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settle_that_comes_again_counts_once_and_another_amount_is_a_conflict() {
    let host = host().await;
    let id = host.reserved("4.00").await;
    host.settle(&id, "3.50").await.expect_status(200);
    assert_eq!(host.settle(&id, "3.50").await.expect_status(200).at("/duplicate"), json!(true));
    assert_eq!(host.settle(&id, "3.51").await.expect_status(409).word("/error"), "idempotency_conflict");
    assert_eq!(host.books().await, "tenant day 3.50 + 0.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_reservation_gives_the_estimate_back_once() {
    let host = host().await;
    let id = host.reserved("4.00").await;
    assert_eq!(host.release(&id).await.expect_status(200).at("/duplicate"), json!(false));
    assert_eq!(host.release(&id).await.expect_status(200).at("/duplicate"), json!(true));
    assert_eq!(host.books().await, "tenant day 0.00 + 0.00");
    assert_eq!(
        host.end(&id, "extend", json!({ "ttlSeconds": 60 })).await.expect_status(410).word("/error"),
        "reservation_ended"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_settling_release_and_extend_are_gone() {
    let host = host().await;
    let id = host.reserved("4.00").await;
    host.settle(&id, "4.00").await.expect_status(200);
    host.release(&id).await.expect_status(410);
    host.end(&id, "extend", json!({ "ttlSeconds": 60 })).await.expect_status(410);
    assert_eq!(host.books().await, "tenant day 4.00 + 0.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_or_an_unknown_reservation_is_not_found() {
    let host = host().await;
    let id = host.reserved("4.00").await;
    let path = format!("/v1/reservations/{id}/settle");
    host.post(&path, json!({ "tenantId": "globex", "actualCostUsd": 1 })).await.expect_status(404);
    host.release("00000000-0000-7000-8000-000000000000").await.expect_status(404);
    assert_eq!(host.release("no-uuid").await.expect_status(400).word("/field"), "id");
    assert_eq!(host.books().await, "tenant day 0.00 + 4.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_id_gives_the_first_admission_again_and_another_body_is_a_conflict() {
    let host = host().await;
    let request = |usd: &str| with(llm(usd), json!({ "requestId": "r-1" }));
    let first = host.reserve(request("4.00")).await.expect_status(201);
    let again = host.beside().await.reserve(request("4.00")).await.expect_status(201);
    for field in ["/reservationId", "/decisionId", "/expiresAt", "/heldUsd", "/policy"] {
        assert_eq!(again.at(field), first.at(field), "{field}");
    }
    assert_eq!(again.at("/duplicate"), json!(true));
    assert_eq!(host.reserve(request("4.01")).await.expect_status(409).word("/error"), "idempotency_conflict");
    assert_eq!(host.books().await, "tenant day 0.00 + 4.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admission_is_given_again_even_where_its_own_hold_fills_the_quota() {
    let host = host().await;
    let request = |usd: &str| with(llm(usd), json!({ "requestId": "r-1" }));
    let first = host.reserve(request("10.00")).await.expect_status(201);
    let again = host.reserve(request("10.00")).await.expect_status(201);
    assert_eq!(again.at("/reservationId"), first.at("/reservationId"));
    host.reserve(request("9.00")).await.expect_status(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_not_remembered_under_its_request_id() {
    let host = host().await;
    let request = with(llm("11.00"), json!({ "requestId": "r-1" }));
    host.reserve(request.clone()).await.expect_status(429);
    host.database.run("UPDATE copilot_internal.cost_quotas SET limit_usd = 20").await;
    host.reserve(request).await.expect_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_quota_that_denies_holds_nothing_anywhere() {
    let host = host().await;
    host.tenant("acme-corp", None, Some("eu-team")).await;
    host.database.quota("pool eu-team llm month", "3.00", "0").await;
    host.reserve(llm("3.01")).await.expect_status(429);
    assert_eq!(host.books().await, "pool month 0.00 + 0.00, tenant day 0.00 + 0.00");
    host.reserved("3.00").await;
    assert_eq!(host.books().await, "pool month 0.00 + 3.00, tenant day 0.00 + 3.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actual_is_recorded_though_somebody_has_set_what_is_held_to_nothing() {
    let host = host().await;
    let (settled, released) = (host.reserved("4.00").await, host.reserved("5.00").await);
    host.database.run("UPDATE copilot_internal.cost_quotas SET held_usd = 0").await;
    host.settle(&settled, "4.50").await.expect_status(200);
    host.release(&released).await.expect_status(200);
    assert_eq!(host.books().await, "tenant day 4.50 + 0.00");
    host.reserve(llm("5.50")).await.expect_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_changes_by_sql_counts_from_the_next_request_on() {
    let host = host().await;
    host.reserved("4.00").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET limit_usd = 5").await;
    host.reserve(llm("2.00")).await.expect_status(429);
    host.database.run("UPDATE copilot_internal.cost_quotas SET limit_usd = 20").await;
    host.reserved("10.00").await;
    host.database.quota("tenant acme-corp llm hour", "1.00", "0").await;
    assert_eq!(host.reserve(llm("2.00")).await.expect_status(429).at("/quotaDetails/period"), json!("hour"));
    host.database.run("DELETE FROM copilot_internal.cost_quotas WHERE period = 'hour'").await;
    host.reserved("2.00").await;
    host.database.run("INSERT INTO copilot_internal.tenants VALUES ('acme-corp', 'free')").await;
    assert_eq!(host.reserve(llm("2.00")).await.expect_status(403).word("/code"), "request_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quota_everything_may_be_reserved() {
    let host = Host::start().await;
    let answer = host.reserve(llm("1000000")).await.expect_status(201);
    assert_eq!(answer.at("/quotaDetails"), Value::Null);
    let id = answer.word("/reservationId");
    host.settle(&id, "5").await.expect_status(200);
    assert_eq!(host.settle(&id, "5").await.expect_status(200).at("/duplicate"), json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_enforced_a_denied_reservation_is_made_and_says_so() {
    let enforcement = tollgate::gate::Enforcement { e2b: true, others: false };
    let host = Setup { enforcement, ..Setup::default() }.start().await;
    host.database.quota("tenant acme-corp llm day", "1.00", "0").await;
    let answer = host.reserve(llm("2.00")).await.expect_status(201);
    assert_eq!((answer.at("/enforced"), answer.word("/denial/error")), (json!(false), "quota_exceeded".into()));
    host.settle(&answer.word("/reservationId"), "2.00").await.expect_status(200);
    assert_eq!(host.books().await, "tenant day 2.00 + 0.00");
}
