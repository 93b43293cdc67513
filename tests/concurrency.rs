//! Money that is right in both directions while many ask at once, through one host and through several.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Answer, Host, llm};

/// No quota ever has more spent and held than its limit: the database itself stops the statement that tries.
const ARMED: &str = "ALTER TABLE copilot_internal.cost_quotas
                     ADD CONSTRAINT armed CHECK (current_spend_usd + held_usd <= limit_usd)";

/// Quotas whose counters are not the sums of the rows that made them; there must be none.
const DISAGREEING: &str = "
    SELECT count(*) FROM copilot_internal.cost_quotas q
    WHERE q.held_usd <> coalesce((
              SELECT sum(r.held_usd) FROM copilot_internal.reservations r
              WHERE r.state = 'held' AND (q.id, q.period_start) IN (SELECT * FROM unnest(r.quota_ids, r.window_starts))), 0)
       OR q.current_spend_usd <> coalesce((
              SELECT sum(r.actual_usd) FROM copilot_internal.reservations r
              WHERE r.state = 'settled' AND (q.id, q.period_start) IN (SELECT * FROM unnest(r.quota_ids, r.window_starts))), 0)";

const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";

async fn all(requests: impl Iterator<Item = reqwest::RequestBuilder>) -> Vec<Answer> {
    let mut sends: JoinSet<Answer> = requests.map(Answer::of).collect();
    let mut answers = Vec::new();
    while let Some(answer) = sends.join_next().await {
        answers.push(answer.expect("no panic"));
    }
    answers
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

fn ids(answers: &[Answer]) -> Vec<String> {
    let made = answers.iter().filter(|answer| answer.status == 201);
    let mut ids: Vec<String> = made.map(|answer| answer.word("/reservationId")).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn settle(host: &Host, tenant: &str, id: &str, usd: &str) -> reqwest::RequestBuilder {
    host.request("POST", &format!("/v1/reservations/{id}/settle"))
        .json(&json!({ "tenantId": tenant, "actualCostUsd": usd }))
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_as_many_pass_as_fit_and_when_all_has_ended_as_many_pass_again() {
    let host = Host::start().await;
    host.database.run(ARMED).await;
    host.database.quota("tenant acme-corp llm day", "10.00", "0").await;
    for round in 0..3 {
        let answers = all((0..60).map(|_| host.request("POST", "/v1/reservations").json(&llm("0.50")))).await;
        assert_eq!((count(&answers, 201), count(&answers, 429)), (20, 40), "round {round}");
        let releases = ids(&answers).into_iter().map(|id| {
            let path = format!("/v1/reservations/{id}/release");
            host.request("POST", &path).json(&json!({ "tenantId": "acme-corp" }))
        });
        assert_eq!(count(&all(releases).await, 200), 20, "round {round}");
        assert_eq!(host.database.value("SELECT held_usd FROM copilot_internal.cost_quotas").await, "0.000000000");
    }
}

/// Several hosts on one database: every request is sent twice, to two hosts, and asks for three quotas.
async fn hosts_share_a_pool(hosts: usize, tenants: usize) {
    let first = Host::start().await;
    first.database.run(ARMED).await;
    first.database.quota("pool eu-team llm month", "20.00", "0").await;
    for tenant in 0..tenants {
        first.database.quota(&format!("tenant t-{tenant} llm day"), "20.00", "0").await;
        first.database.quota(&format!("tenant t-{tenant} llm hour"), "20.00", "0").await;
        first.tenant(&format!("t-{tenant}"), None, Some("eu-team")).await;
    }
    let mut others = Vec::new();
    for _ in 1..hosts {
        others.push(first.beside().await);
    }
    let hosts: Vec<&Host> = std::iter::once(&first).chain(&others).collect();
    let body = |n: usize| -> Value {
        json!({ "tenantId": format!("t-{}", n % tenants), "resourceType": "llm", "estimatedCostUsd": "0.25", "requestId": format!("r-{n}") })
    };
    let requests = (0..120).flat_map(|n| {
        [n, n + 1].map(|host| hosts[host % hosts.len()].request("POST", "/v1/reservations").json(&body(n)))
    });
    let answers = all(requests).await;
    let ids = ids(&answers);
    assert_eq!(
        count(&answers, 201) + count(&answers, 429),
        240,
        "{:?}",
        answers.iter().find(|a| ![201, 429].contains(&a.status))
    );
    // The pool is filled to the cent: 80 × 0.25.
    assert_eq!(ids.len(), 80);
    let pool = "SELECT held_usd::numeric(20,2) FROM copilot_internal.cost_quotas WHERE scope = 'pool'";
    assert_eq!(first.database.value(pool).await, "20.00");
    assert_eq!(first.database.value(DISAGREEING).await, "0");
    let owners = first.database.rows("SELECT id, tenant_id FROM copilot_internal.reservations").await;
    let settles = owners.iter().enumerate().flat_map(|(n, row)| {
        [n, n + 1].map(|host| settle(hosts[host % hosts.len()], &row["tenant_id"], &row["id"], "0.25"))
    });
    let settled = all(settles).await;
    assert_eq!(count(&settled, 200), 160);
    assert_eq!(settled.iter().filter(|answer| answer.at("/duplicate") == json!(false)).count(), 80);
    assert_eq!(first.database.value(DISAGREEING).await, "0");
    let fired =
        "SELECT string_agg(threshold::text, ', ' ORDER BY threshold) FROM copilot_internal.alerts WHERE scope = 'pool'";
    assert_eq!(first.database.value(fired).await, "80, 90, 100");
    assert_eq!(first.database.value(DEADLOCKS).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_fill_a_hot_tenants_pool_to_the_cent() {
    hosts_share_a_pool(2, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hosts_and_many_tenants_fill_their_pool_to_the_cent() {
    hosts_share_a_pool(4, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_end_in_mid_flight_lose_nothing() {
    let host = Host::start().await;
    let beside = host.beside().await;
    host.database.quota("tenant acme-corp llm hour", "1000.00", "0").await;
    host.database.quota("global * llm day", "1000.00", "0").await;
    host.at("2026-01-04T23:50:00Z");
    let mut work = JoinSet::new();
    for n in 0..40_usize {
        let hosts = [&host, &beside];
        let (maker, ender) = (hosts[n % 2], hosts[(n / 2) % 2]);
        let reserve = maker.request("POST", "/v1/reservations").json(&llm("1.00"));
        let made = Answer::of(reserve).await.expect_status(201).word("/reservationId");
        work.spawn(Answer::of(settle(ender, "acme-corp", &made, "1.50")));
        if n == 15 {
            host.at("2026-01-05T00:00:00Z");
        }
        if n == 30 {
            host.at("2026-01-05T01:00:00Z");
        }
    }
    for answer in work.join_all().await {
        answer.expect_status(200);
    }
    let totals = "SELECT sum(spend)::numeric(20,2) || ' + ' || sum(held)::numeric(20,2) || ' of ' || sum(admitted) FROM (
                      SELECT current_spend_usd AS spend, held_usd AS held, admitted_count AS admitted FROM copilot_internal.cost_quotas WHERE scope = '%'
                      UNION ALL
                      SELECT spend_usd, held_usd, admitted_count FROM copilot_internal.cost_quota_periods WHERE scope = '%') AS every_window";
    for scope in ["tenant", "global"] {
        assert_eq!(host.database.value(&totals.replace('%', scope)).await, "60.00 + 0.00 of 40", "{scope}");
    }
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.cost_quota_periods").await, "3");
}
