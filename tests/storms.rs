//! Many callers at once, of several hosts: what fits passes, what does not costs nothing, and the same request is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Answer, Host, Setup, llm};

const ARMED: &str = "ALTER TABLE copilot_internal.cost_quotas
                     ADD CONSTRAINT armed CHECK (current_spend_usd + held_usd <= limit_usd)";

async fn all(requests: impl Iterator<Item = reqwest::RequestBuilder>) -> Vec<Answer> {
    let sends: JoinSet<Answer> = requests.map(Answer::of).collect();
    sends.join_all().await
}

fn reserve(host: &Host, body: &Value) -> reqwest::RequestBuilder {
    host.request("POST", "/v1/reservations").json(body)
}

async fn end(host: &Host, id: &str, how: &str, usd: Option<&str>) {
    let mut body = json!({ "tenantId": "acme-corp" });
    if let Some(usd) = usd {
        body["actualCostUsd"] = usd.into();
    }
    host.post(&format!("/v1/reservations/{id}/{how}"), body).await.expect_status(200);
}

/// Callers who reserve, and at once settle or release, until they are denied so often that nothing fits any more.
#[tokio::test(flavor = "multi_thread")]
async fn while_money_comes_and_goes_the_limit_is_filled_to_the_cent_and_never_passed() {
    let host = Arc::new(Host::start().await);
    let beside = Arc::new(host.beside().await);
    host.database.run(ARMED).await;
    host.database.quota("tenant acme-corp llm day", "20.00", "0").await;
    host.database.quota("global * llm month", "25.00", "0").await;
    let settled = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..24_usize {
        let hosts = [host.clone(), beside.clone()];
        let settled = settled.clone();
        callers.spawn(async move {
            for n in 0..12_usize {
                let (maker, ender) = (&hosts[caller % 2], &hosts[(caller + n) % 2]);
                let made = Answer::of(reserve(maker, &llm("0.50"))).await;
                assert!([201, 429].contains(&made.status), "{made:?}");
                if made.status == 429 {
                    continue;
                }
                let id = made.word("/reservationId");
                match (caller + n) % 4 {
                    0 => end(ender, &id, "settle", Some("0.50")).await,
                    1 => end(ender, &id, "settle", Some("0.25")).await,
                    _ => end(ender, &id, "release", None).await,
                }
                let quarters = [2, 1, 0, 0][(caller + n) % 4];
                settled.fetch_add(quarters, Ordering::SeqCst);
            }
        });
    }
    callers.join_all().await;
    let quarters = settled.load(Ordering::SeqCst);
    let books = "SELECT string_agg((current_spend_usd * 4)::int || ' + ' || held_usd::numeric(20,2), ', ')
                 FROM copilot_internal.cost_quotas";
    assert_eq!(host.database.value(books).await, format!("{quarters} + 0.00, {quarters} + 0.00"));
    // All has ended: exactly what is left fits, whoever asks.
    let left = (80 - quarters) / 2;
    let hosts = [&host, &beside];
    let answers = all((0..left + 30).map(|n| reserve(hosts[n % 2], &llm("0.50")))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), left);
    assert_eq!(answers.iter().filter(|answer| answer.status == 429).count(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_denials_neither_writes_nor_locks_a_row_and_ends_with_the_raised_limit() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "10.00", "9.75").await;
    host.database.quota("global * llm month", "1000.00", "0").await;
    host.post("/v1/reservations", llm("0.25")).await.expect_status(201);
    // Where a row lies, who wrote it and who locked it last.
    let rows = "SELECT string_agg(ctid || ' ' || xmin || ' ' || xmax, ', ' ORDER BY ctid) FROM copilot_internal.";
    let tables = ["cost_quotas", "reservations", "tenants", "cost_records", "cost_quota_periods"];
    let state = async || {
        let mut state = Vec::new();
        for table in tables {
            state.push(host.database.value(&format!("{rows}{table}")).await);
        }
        state
    };
    let before = state().await;
    for path in ["/v1/reservations", "/v1/check"] {
        let answers = all((0..400).map(|_| host.request("POST", path).json(&llm("0.50")))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 429).count(), 400, "{path}");
    }
    assert_eq!(state().await, before);
    host.database.run("UPDATE copilot_internal.cost_quotas SET limit_usd = 10.50 WHERE scope = 'tenant'").await;
    host.post("/v1/reservations", llm("0.50")).await.expect_status(201);
    host.at("2026-01-05T00:00:00Z");
    host.post("/v1/reservations", llm("10.50")).await.expect_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_requests_through_two_hosts_are_one_each_even_where_no_quota_is_shared() {
    let host = Host::start().await;
    let beside = host.beside().await;
    let hosts = [&host, &beside];
    let body = |n: usize| {
        let mut body = llm("1.00");
        body["requestId"] = json!(format!("r-{n}"));
        body
    };
    let answers = all((0..100).map(|n| reserve(hosts[n % 2], &body(n / 2)))).await;
    let failed: Vec<_> = answers.iter().filter(|answer| answer.status != 201).collect();
    assert!(failed.is_empty(), "{} failed, such as {:?}", failed.len(), failed[0]);
    let mut ids: Vec<_> = answers.iter().map(|answer| answer.word("/reservationId")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 50);
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.reservations").await, "50");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_tables_refuse_takes_nobody_of_its_batch_with_it() {
    let enforcement = tollgate::gate::Enforcement { e2b: true, others: false };
    let host = Setup { enforcement, ..Setup::default() }.start().await;
    host.database.quota("tenant acme-corp llm day", "10.00", "0").await;
    let refuses = "ALTER TABLE copilot_internal.reservations ADD CONSTRAINT no_cent CHECK (held_usd <> 0.01)";
    host.database.run(refuses).await;
    let body = |n: usize| {
        if n.is_multiple_of(8) { llm("0.01") } else { json!({ "tenantId": format!("t-{n}"), "resourceType": "llm" }) }
    };
    let answers = all((0..200).map(|n| reserve(&host, &body(n)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 175);
    assert_eq!(answers.iter().filter(|answer| answer.status == 400).count(), 25);
}
