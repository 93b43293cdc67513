//! What ends a reservation that another host may have promised, and what such a promise is afterwards.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use tokio::task::JoinSet;
use tollgate::gate::StoreFailure;
use tollgate::spool::MOST_WAITING;
use uuid::Uuid;

use super::Cut;
use crate::harness::{Answer, Host, NOON, Wire, instant, until};

/// An id as a host gives to what it promises at `at`.
fn promised(at: DateTime<Utc>, n: usize) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).expect("after 1970");
    let mut more = [0; 10];
    more[2..].copy_from_slice(&n.to_be_bytes());
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &more).into_uuid();
    uuid::Builder::from_custom_bytes(id.into_bytes()).into_uuid()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_no_host_can_have_promised_is_not_found_and_nothing_of_it_is_kept() {
    let host = Host::start().await;
    let (now, longest, ahead) = (instant(NOON), TimeDelta::hours(25), TimeDelta::minutes(1));
    let nobodys = [
        "00000000-0000-8000-8000-000000000000".parse().expect("an id"),
        promised(now - longest - TimeDelta::milliseconds(1), 0),
        promised(now + ahead + TimeDelta::milliseconds(1), 0),
    ];
    let bodies = [
        ("settle", json!({ "tenantId": "acme-corp", "actualCostUsd": 1 })),
        ("release", json!({ "tenantId": "acme-corp" })),
        ("extend", json!({ "tenantId": "acme-corp", "ttlSeconds": 60 })),
    ];
    for id in nobodys {
        for (how, body) in &bodies {
            let answer = host.post(&format!("/v1/reservations/{id}/{how}"), body.clone()).await.expect_status(404);
            assert_eq!(answer.word("/error"), "not_found", "{how} {id}");
        }
    }
    // What is over is prolonged by nobody.
    let over = promised(now - TimeDelta::minutes(24 * 60 + 30), 0);
    let extend = json!({ "tenantId": "acme-corp", "ttlSeconds": 60 });
    host.post(&format!("/v1/reservations/{over}/extend"), extend).await.expect_status(404);
    assert!(host.get("/metrics").await.text.contains("\ntollgate_spool_records 0\n"));
    for (n, at) in [now - longest, now, now + ahead].into_iter().enumerate() {
        let (how, body) = &bodies[n % 2];
        let path = format!("/v1/reservations/{}/{how}", promised(at, 0));
        let kept = host.post(&path, body.clone()).await.expect_status(200);
        assert_eq!(kept.at("/degraded"), json!(true), "{how} {at}");
    }
    assert!(host.get("/metrics").await.text.contains("\ntollgate_spool_records 3\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_settles_wait_for_promises_and_no_more_and_an_outage_finds_its_room() {
    let cut = Cut::start(StoreFailure::Open).await;
    let settle = |n: usize| {
        let path = format!("/v1/reservations/{}/settle", promised(instant(NOON), n));
        Answer::of(cut.host.request("POST", &path).json(&json!({ "tenantId": "acme-corp", "actualCostUsd": 1 })))
    };
    for first in (0..MOST_WAITING).step_by(50) {
        if first == MOST_WAITING / 2 {
            // An operation ends once, and is prolonged again and again.
            let path = format!("/v1/reservations/{}/extend", promised(instant(NOON), 0));
            let body = json!({ "tenantId": "acme-corp", "ttlSeconds": 3600 });
            cut.host.post(&path, body).await.expect_status(503);
        }
        let some: JoinSet<Answer> = (first..first + 50).map(settle).collect();
        for answer in some.join_all().await {
            assert_eq!(answer.expect_status(200).at("/degraded"), json!(true));
        }
    }
    let refused = settle(MOST_WAITING).await.expect_status(503);
    assert_eq!(refused.word("/error"), "overloaded");
    cut.off(Wire::Refuses).await;
    settle(MOST_WAITING).await.expect_status(200);
    let (_, id) = cut.reserve("10").await;
    cut.end(&id, "settle", json!({ "actualCostUsd": 9 })).await.expect_status(200);
    cut.on().await;
    assert_eq!(cut.books().await, "9.00 + 0.00 of 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_settles_what_one_has_promised_and_it_is_in_the_books_when_that_one_is_back() {
    let cut = Cut::start(StoreFailure::Open).await;
    let other = cut.host.beside().await;
    cut.off(Wire::Refuses).await;
    let (_, id) = cut.reserve("10").await;
    let settle = json!({ "tenantId": "acme-corp", "actualCostUsd": 4 });
    for _ in 0..2 {
        let kept = other.post(&format!("/v1/reservations/{id}/settle"), settle.clone()).await.expect_status(200);
        assert_eq!(kept.at("/degraded"), json!(true));
    }
    assert_eq!(cut.books().await, "0.00 + 0.00 of 0");
    cut.on().await;
    until("it is in the books", || async { cut.books().await == "4.00 + 0.00 of 1" }).await;
    let again = other.post(&format!("/v1/reservations/{id}/settle"), settle).await.expect_status(200);
    assert_eq!(again.at("/duplicate"), json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_prolongs_what_one_has_promised_and_its_books_say_so_when_that_one_is_back() {
    let cut = Cut::start(StoreFailure::Open).await;
    let other = cut.host.beside().await;
    cut.off(Wire::Refuses).await;
    let (_, id) = cut.reserve("10").await;
    let path = format!("/v1/reservations/{id}/extend");
    let extended = other.post(&path, json!({ "tenantId": "acme-corp", "ttlSeconds": 3600 })).await.expect_status(200);
    assert_eq!((extended.at("/degraded"), extended.word("/expiresAt")), (json!(true), "2026-01-04T13:00:00Z".into()));
    // What the one has promised would be over by now.
    cut.host.at("2026-01-04T12:45:00Z");
    cut.on().await;
    let expires = "SELECT state = 'held' AND expires_at = '2026-01-04T13:00:00Z' FROM copilot_internal.reservations";
    until("it lives longer", || async { cut.database.value(expires).await == "t" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_reservation_that_nobody_knows_waits_for_a_day_and_is_then_set_aside() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.off(Wire::Refuses).await;
    let nobody = "00000000-0000-7000-8000-000000000000";
    cut.end(nobody, "settle", json!({ "actualCostUsd": 1 })).await.expect_status(200);
    cut.on().await;
    let spool = || std::fs::read_dir(cut.host.spool.path()).expect("a folder").flatten();
    let bytes = || spool().map(|file| file.metadata().map_or(0, |file| file.len())).sum::<u64>();
    let is_aside = || spool().any(|file| file.path().extension().is_some_and(|extension| extension == "rejected"));
    assert!(bytes() > 0 && !is_aside());
    cut.host.at("2026-01-05T14:00:00Z");
    until("it is set aside", || async { is_aside() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_promises_no_more_than_a_day_of_life_in_an_outage_too() {
    let cut = Cut::start(StoreFailure::Open).await;
    let (_, before) = cut.reserve("1").await;
    cut.off(Wire::Refuses).await;
    let (_, during) = cut.reserve("2").await;
    for (now, ttl, until) in [
        ("2026-01-04T12:00:32Z", 60, "2026-01-04T12:01:32Z"),
        ("2026-01-04T12:00:32Z", 86_400, "2026-01-05T12:00:00Z"),
        ("2026-01-05T11:59:59Z", 60, "2026-01-05T12:00:00Z"),
    ] {
        cut.host.at(now);
        for id in [&before, &during] {
            let extended = cut.end(id, "extend", json!({ "ttlSeconds": ttl })).await.expect_status(200);
            assert_eq!(extended.word("/expiresAt"), until, "{now} + {ttl}");
        }
    }
    cut.host.at("2026-01-05T12:00:00Z");
    for id in [&before, &during] {
        let over = cut.end(id, "extend", json!({ "ttlSeconds": 60 })).await.expect_status(410);
        assert_eq!(over.word("/error"), "reservation_ended");
    }
    cut.on().await;
    // What it was told is what the books say.
    for id in [before, during] {
        let read = cut.host.get(&format!("/v1/reservations/{id}?tenantId=acme-corp")).await.expect_status(200);
        assert_eq!(read.word("/expiresAt"), "2026-01-05T12:00:00Z");
    }
}
