//! A row that somebody has locked for long: it fails those who need it, and keeps nobody else waiting.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;

use super::{WAITING, execute};
use crate::harness::{Answer, Host, llm, llm_cost, until};

/// Somebody has the row of `acme-corp`, for whom and for others all kinds of operations are sent: at first while one of his
/// waits for it already, and then again. Tells, for each of the two rounds, who was refused.
async fn refused_beside_a_locked_row(host: &Host) -> Vec<BTreeSet<String>> {
    let of = |tenant: &str, mut body: Value| {
        body["tenantId"] = json!(tenant);
        body
    };
    // Some of them have his lane.
    let others: Vec<String> = (0..8).map(|n| format!("t-{n}")).collect();
    let tenants: Vec<&str> = others.iter().map(String::as_str).chain(["acme-corp"]).collect();
    let mut held = Vec::new();
    for tenant in &tenants {
        let answer = host.post("/v1/reservations", of(tenant, llm("1"))).await.expect_status(201);
        held.push((*tenant, answer.word("/reservationId")));
    }
    let mut holder = host.database.options().connect().await.expect("a connection");
    // As clients do that wrap each statement in a savepoint.
    let change = "UPDATE copilot_internal.cost_quotas SET limit_usd = 40 WHERE scope = 'tenant'";
    execute(&mut holder, &format!("BEGIN; SAVEPOINT s; {change}; RELEASE s")).await;
    let mut rounds = Vec::new();
    for round in 0..2 {
        let send = |path: String, body| tokio::spawn(Answer::of(host.request("POST", &path).json(&body)));
        let first = (round == 0).then(|| send("/v1/costs".into(), of("acme-corp", llm_cost("first", "1"))));
        if first.is_some() {
            until("somebody waits for the row", || async { host.database.value(WAITING).await == "t" }).await;
        }
        // These are the next batch of their lanes.
        let mut answers = Vec::new();
        for (tenant, id) in &held {
            answers.push((*tenant, send("/v1/reservations".into(), of(tenant, llm("1")))));
            answers.push((*tenant, send("/v1/costs".into(), of(tenant, llm_cost(&format!("c-{round}"), "1")))));
            let settle = of(tenant, json!({ "actualCostUsd": 1 }));
            answers.push((*tenant, send(format!("/v1/reservations/{id}/settle"), settle)));
        }
        let mut refused = BTreeSet::new();
        for (tenant, answer) in answers {
            let answer = answer.await.expect("no panic");
            match answer.status {
                503 => drop(refused.insert(tenant.to_owned())),
                status => assert!(tenant != "acme-corp" && [200, 201].contains(&status), "{tenant}: {answer:?}"),
            }
        }
        if let Some(first) = first {
            first.await.expect("no panic").expect_status(503);
        }
        rounds.push(refused);
    }
    execute(&mut holder, "ROLLBACK").await;
    holder.close().await.expect("a closed connection");
    host.post("/v1/costs", llm_cost("last", "1")).await.expect_status(200);
    rounds
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_row_in_vain_keeps_nobody_else_of_his_lane_waiting() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50", "0").await;
    let his = BTreeSet::from(["acme-corp".to_owned()]);
    assert_eq!(refused_beside_a_locked_row(&host).await, [his.clone(), his]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_row_in_vain_keeps_nobody_waiting_for_what_they_share() {
    let host = Host::start().await;
    // Locked before his own row, so that whoever waits for that has it meanwhile.
    host.database.run(
        "INSERT INTO copilot_internal.cost_quotas (id, scope, scope_id, resource_type, period, limit_usd, period_start)
         VALUES ('00000000-0000-0000-0000-000000000001', 'global', '*', 'llm', 'day', 1000, '2026-01-04 00:00Z'),
                ('00000000-0000-0000-0000-000000000002', 'tenant', 'acme-corp', 'llm', 'day', 50, '2026-01-04 00:00Z')",
    )
    .await;
    let rounds = refused_beside_a_locked_row(&host).await;
    assert_eq!(rounds[1], BTreeSet::from(["acme-corp".to_owned()]), "{rounds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_money_that_somebody_has_locked_delays_no_denial_for_long_and_fails_none() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "10", "0").await;
    host.post("/v1/reservations", llm("8")).await.expect_status(201);
    let mut holder = host.database.options().connect().await.expect("a connection");
    execute(&mut holder, "BEGIN; UPDATE copilot_internal.cost_quotas SET updated_at = now()").await;
    host.clock.advance(TimeDelta::seconds(301));
    for _ in 0..2 {
        let denied = host.check(llm("5")).await.expect_status(429);
        assert_eq!((denied.word("/code"), denied.at("/retryAfter")), ("capacity_held".into(), json!(1)));
    }
    execute(&mut holder, "ROLLBACK").await;
    holder.close().await.expect("a closed connection");
    let frees = "SELECT held_usd = 0 FROM copilot_internal.cost_quotas";
    until("it comes back", || async { host.database.value(frees).await == "t" }).await;
    host.post("/v1/reservations", llm("5")).await.expect_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_money_that_somebody_has_locked_keeps_nobody_elses_however_much_it_is() {
    let host = Host::start().await;
    for tenant in ["acme-corp", "globex"] {
        host.database.quota(&format!("tenant {tenant} llm day"), "50", "0").await;
        let mut body = llm("1");
        body["tenantId"] = json!(tenant);
        host.post("/v1/reservations", body).await.expect_status(201);
    }
    // More of his, and older, than are given back at once.
    let more = "INSERT INTO copilot_internal.reservations
                    (id, tenant_id, resource_type, body, estimate_usd, held_usd, quota_ids, window_starts, policy_name,
                     policy_digest, created_at, expires_at)
                SELECT gen_random_uuid(), tenant_id, resource_type, body, 0, 0, quota_ids, window_starts, '', '', created_at,
                       expires_at - interval '1 second'
                FROM copilot_internal.reservations, generate_series(1, 300) WHERE tenant_id = 'acme-corp'";
    host.database.run(more).await;
    let mut holder = host.database.options().connect().await.expect("a connection");
    execute(&mut holder, "BEGIN; UPDATE copilot_internal.cost_quotas SET limit_usd = 40 WHERE scope_id = 'acme-corp'")
        .await;
    host.clock.advance(TimeDelta::seconds(301));
    let held = "SELECT string_agg(scope_id || ' ' || held_usd::numeric(20,2), ', ' ORDER BY scope_id)
                FROM copilot_internal.cost_quotas";
    until("his alone is held", || async { host.database.value(held).await == "acme-corp 1.00, globex 0.00" }).await;
    execute(&mut holder, "ROLLBACK").await;
    holder.close().await.expect("a closed connection");
    until("nothing is held", || async { host.database.value(held).await == "acme-corp 0.00, globex 0.00" }).await;
}
