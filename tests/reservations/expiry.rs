//! Money that is held for a time, and what comes after it.

use chrono::TimeDelta;
use serde_json::json;
use tokio::task::JoinSet;

use super::{host, with};
use crate::harness::{Answer, Host, llm};

#[tokio::test(flavor = "multi_thread")]
async fn only_held_money_in_the_way_says_when_the_first_of_it_comes_back() {
    let host = host().await;
    host.reserve(with(llm("5.00"), json!({ "ttlSeconds": 600 }))).await.expect_status(201);
    host.reserve(with(llm("4.00"), json!({ "ttlSeconds": 90 }))).await.expect_status(201);
    for path in ["/v1/reservations", "/v1/check"] {
        let denial = host.post(path, llm("2.00")).await.expect_status(429);
        assert_eq!(denial.word("/code"), "capacity_held", "{path}");
        assert_eq!((denial.at("/retryAfter"), denial.header("retry-after")), (json!(90), "90"), "{path}");
        let message = "LLM quota exceeded. Limit: $10.00, Current: $0.00, Requested: $2.00, Reserved: $9.00";
        assert_eq!(denial.word("/message"), message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_another_window_holds_is_not_waited_for() {
    let host = host().await;
    host.at("2026-01-04T23:59:00Z");
    host.reserve(with(llm("5.00"), json!({ "ttlSeconds": 600 }))).await.expect_status(201);
    host.at("2026-01-05T00:01:00Z");
    host.reserve(with(llm("9.00"), json!({ "ttlSeconds": 3600 }))).await.expect_status(201);
    let denial = host.reserve(llm("2.00")).await.expect_status(429);
    assert_eq!((denial.word("/code"), denial.at("/retryAfter")), ("capacity_held".into(), json!(3600)));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_money_stands_in_nobodys_way() {
    for path in ["/v1/reservations", "/v1/check"] {
        let host = host().await;
        host.reserve(with(llm("10.00"), json!({ "ttlSeconds": 90 }))).await.expect_status(201);
        host.clock.advance(TimeDelta::seconds(90));
        let answer = host.post(path, llm("10.00")).await;
        assert!(answer.json()["allowed"] == json!(true), "{path}: {}", answer.text);
        let states = "SELECT string_agg(state, ', ' ORDER BY created_at) FROM copilot_internal.reservations";
        assert!(host.database.value(states).await.starts_with("expired"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_money_stands_in_nobodys_way_however_much_of_others_expired_before() {
    for path in ["/v1/reservations", "/v1/check"] {
        let host = host().await;
        host.reserve(with(llm("10.00"), json!({ "ttlSeconds": 90 }))).await.expect_status(201);
        let others = "INSERT INTO copilot_internal.reservations
                          (id, tenant_id, resource_type, body, estimate_usd, held_usd, quota_ids, window_starts, policy_name,
                           policy_digest, created_at, expires_at)
                      SELECT gen_random_uuid(), 'globex', 'llm', '', 0, 0, '{}', '{}', '', '', created_at,
                             created_at + interval '1 second'
                      FROM copilot_internal.reservations, generate_series(1, 1200)";
        host.database.run(others).await;
        host.clock.advance(TimeDelta::seconds(90));
        let answer = host.post(path, llm("10.00")).await;
        assert!(answer.json()["allowed"] == json!(true), "{path}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_money_of_several_quotas_stands_in_nobodys_way() {
    for path in ["/v1/reservations", "/v1/check"] {
        let host = Host::start().await;
        host.database.quota("tenant acme-corp llm hour", "10.00", "0").await;
        host.database.quota("user acme-corp/jane llm day", "10.00", "0").await;
        let janes = |usd| with(llm(usd), json!({ "userId": "jane" }));
        // One fills the user's day, and the other the tenant's hour: giving back either leaves the other.
        host.at("2026-01-04T12:59:30Z");
        host.reserve(with(janes("10.00"), json!({ "ttlSeconds": 90 }))).await.expect_status(201);
        host.at("2026-01-04T13:00:00Z");
        host.reserve(with(llm("10.00"), json!({ "ttlSeconds": 60 }))).await.expect_status(201);
        host.at("2026-01-04T13:01:00Z");
        let answer = host.post(path, janes("10.00")).await;
        assert!(answer.json()["allowed"] == json!(true), "{path}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_money_stands_in_the_way_of_none_of_those_who_come_together() {
    for path in ["/v1/reservations", "/v1/check"] {
        let host = Host::start().await;
        let other = host.beside().await;
        let tenants: Vec<String> = (0..32).map(|n| format!("tenant-{n}")).collect();
        let ask = |tenant: &str| with(llm("10.00"), json!({ "tenantId": tenant }));
        for (n, tenant) in tenants.iter().enumerate() {
            // What is of one pool shares a batch.
            host.tenant(tenant, None, Some("eu-team")).await;
            host.database.quota(&format!("tenant {tenant} llm day"), "10.00", "0").await;
            // Half of them this host knows already when all come, and half it has to read.
            [&host, &other][n % 2].reserve(ask(tenant)).await.expect_status(201);
        }
        host.clock.advance(TimeDelta::seconds(300));
        let all = tenants.iter().map(|tenant| Answer::of(host.request("POST", path).json(&ask(tenant))));
        for answer in all.collect::<JoinSet<_>>().join_all().await {
            assert!(answer.json()["allowed"] == json!(true), "{path}: {}", answer.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_cannot_expire_keeps_nobody_elses_money() {
    let host = host().await;
    host.tenant("globex", None, Some("eu-team")).await;
    host.tenant("acme-corp", None, Some("eu-team")).await;
    host.database.quota("pool eu-team llm month", "10.00", "0").await;
    let bad = with(llm("1.00"), json!({ "tenantId": "globex", "ttlSeconds": 60 }));
    let bad = host.reserve(bad).await.expect_status(201).word("/reservationId");
    host.reserve(with(llm("9.00"), json!({ "ttlSeconds": 90 }))).await.expect_status(201);
    let refuse = format!(
        "ALTER TABLE copilot_internal.reservations ADD CONSTRAINT not_this_one CHECK (id <> '{bad}' OR state <> 'expired')"
    );
    host.database.run(&refuse).await;
    host.clock.advance(TimeDelta::seconds(90));
    host.check(llm("9.00")).await.expect_status(200);
    host.reserve(llm("9.00")).await.expect_status(201);
    assert_eq!(host.check(llm("0.50")).await.expect_status(429).at("/code"), "capacity_held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_settle_is_recorded_once_in_full() {
    let host = host().await;
    let (expired, released) = (host.reserved("4.00").await, host.reserved("5.00").await);
    host.release(&released).await.expect_status(200);
    host.clock.advance(TimeDelta::seconds(301));
    for (id, usd) in [(&expired, "4.50"), (&released, "1.00")] {
        let first = host.settle(id, usd).await.expect_status(200);
        assert_eq!((first.at("/late"), first.at("/duplicate")), (json!(true), json!(false)), "{id}");
        let again = host.settle(id, usd).await.expect_status(200);
        assert_eq!((again.at("/late"), again.at("/duplicate")), (json!(true), json!(true)), "{id}");
    }
    assert_eq!(host.books().await, "tenant day 5.50 + 0.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_reservation_that_the_host_has_not_yet_expired_is_over_all_the_same() {
    let host = host().await;
    let id = host.reserved("4.00").await;
    host.clock.advance(TimeDelta::seconds(300));
    host.release(&id).await.expect_status(410);
    host.end(&id, "extend", json!({ "ttlSeconds": 60 })).await.expect_status(410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_lives_a_day_at_most_extensions_included() {
    let host = host().await;
    let id = host.reserved("4.00").await;
    host.clock.advance(TimeDelta::seconds(200));
    let extended = host.end(&id, "extend", json!({ "ttlSeconds": 600 })).await.expect_status(200);
    assert_eq!(extended.word("/expiresAt"), "2026-01-04T12:13:20Z");
    let extended = host.end(&id, "extend", json!({ "ttlSeconds": 86400 })).await.expect_status(200);
    assert_eq!(extended.word("/expiresAt"), "2026-01-05T12:00:00Z");
    assert_eq!(
        host.end(&id, "extend", json!({ "ttlSeconds": 0 })).await.expect_status(400).word("/field"),
        "ttlSeconds"
    );
}
