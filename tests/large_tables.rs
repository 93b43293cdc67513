//! A request reads a few rows by their index, however many the tables have.

use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;

use crate::harness::{Host, until};

/// Tenants `from` to `to`, each with a row and three quotas.
fn registered(from: u32, to: u32) -> String {
    format!(
        "INSERT INTO copilot_internal.tenants (tenant_id, tier)
         SELECT 't-' || n, 'standard' FROM generate_series({from}, {to}) AS n;
         INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, period, limit_usd)
         SELECT 'tenant', 't-' || n, 'llm', period, 1000
         FROM generate_series({from}, {to}) AS n, unnest(ARRAY['day', 'week', 'month']) AS period;"
    )
}

/// Nobody has counted these yet: who plans a statement before they come takes the table for empty.
const RESERVED: &str = "
    INSERT INTO copilot_internal.reservations
        (id, tenant_id, resource_type, body, estimate_usd, held_usd, quota_ids, window_starts, policy_name, policy_digest,
         created_at, expires_at)
    SELECT gen_random_uuid(), 't-1', 'llm', 'none', 0, 0, '{}', '{}', 'standard', 'none',
           '2026-01-04T12:00:00Z', '2026-01-05T12:00:00Z'
    FROM generate_series(1, 5000)";

/// What connections have read, as far as they have told: each tells about once a second, while it is used.
async fn fetched(host: &Host, table: &str) -> i64 {
    let sql =
        format!("SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read FROM pg_stat_user_tables WHERE relname = '{table}'");
    host.database.value(&sql).await.parse().expect("a count")
}

/// So many that joins of another kind would read them all, and look cheaper for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_reads_does_not_grow_with_the_tables() {
    let host = Host::start().await;
    host.database.run(&format!("{} ANALYZE", registered(1, 3000))).await;
    reads_a_few_rows(&host, RESERVED).await;
}

/// As above, from few: statements are planned for those, and nobody has counted the rest yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_planned_for_small_tables_reads_no_more_of_large_ones() {
    let host = Host::start().await;
    host.database.run(&format!("{} ANALYZE", registered(2900, 3000))).await;
    reads_a_few_rows(&host, &(registered(1, 2899) + RESERVED)).await;
}

/// Asks once, adds rows, and asks on.
async fn reads_a_few_rows(host: &Host, added: &str) {
    let asked = AtomicI64::new(0);
    // Of each kind one.
    let ask = async || {
        let request = json!({ "tenantId": "t-2999", "resourceType": "llm", "estimatedCostUsd": "0.001" });
        host.check(request.clone()).await.expect_status(200);
        let id = host.post("/v1/reservations", request).await.expect_status(201).word("/reservationId");
        let actual = json!({ "tenantId": "t-2999", "actualCostUsd": "0.001" });
        host.post(&format!("/v1/reservations/{id}/settle"), actual).await.expect_status(200);
        let n = asked.fetch_add(4, Ordering::Relaxed);
        let cost = json!({
            "tenantId": "t-2999", "resourceType": "llm", "costId": format!("c-{n}"), "actualCostUsd": "0.001"
        });
        host.cost(cost).await.expect_status(200);
    };
    ask().await;
    host.database.run(added).await;
    let tables = ["tenants", "cost_quotas", "reservations"];
    let mut before = [0; 3];
    for (table, rows) in tables.into_iter().zip(&mut before) {
        *rows = fetched(host, table).await;
    }
    let told = async || {
        ask().await;
        let updated = "SELECT (n_tup_upd >= 540)::text FROM pg_stat_user_tables WHERE relname = 'cost_quotas'";
        fetched(host, "tenants").await - before[0] >= 120 && host.database.value(updated).await == "true"
    };
    until("the connections have told what they read", told).await;
    let asked = asked.load(Ordering::Relaxed);
    let tenants = fetched(host, "tenants").await - before[0];
    assert!(tenants <= 2 * asked, "{tenants} rows of tenants for {asked} requests");
    // Sixty of each that changes them, at least; a worker may read the table now and then.
    let quotas = fetched(host, "cost_quotas").await - before[1];
    assert!(quotas < 20 * 9_000, "{quotas} rows of cost_quotas for {asked} requests");
    let reservations = fetched(host, "reservations").await - before[2];
    assert!(reservations < 20 * 5_000, "{reservations} rows of reservations for {asked} requests");
}

/// Four weeks of allowed checks of many tenants, with a denial and a failure in the oldest: what a list skips, it reads.
const DECIDED: &str = "
    SELECT copilot_internal.make_day_of_decisions(date '2025-12-01' + n) FROM generate_series(0, 34) AS n;
    INSERT INTO copilot_internal.decisions
        (id, decided_at, tenant_id, resource_type, estimate_usd, outcome, code, policy_name, policy_digest, facts)
    SELECT gen_random_uuid(), timestamptz '2025-12-01 12:00Z' + n * interval '1 minute', 't-' || n % 500, 'llm', 0.05,
           CASE n WHEN 0 THEN 'denied' WHEN 1 THEN 'failed' ELSE 'allowed' END,
           CASE n WHEN 0 THEN 'no' WHEN 1 THEN 'trap' END, 'standard', 'sha256:x', '{\"quotas\": []}'
    FROM generate_series(0, 40000) AS n;
    INSERT INTO copilot_internal.decisions
        (id, decided_at, tenant_id, resource_type, estimate_usd, outcome, code, policy_name, policy_digest, facts)
    SELECT gen_random_uuid(), timestamptz '2025-12-15 12:00Z' + n * interval '1 second',
           CASE WHEN n % 2 = 0 THEN 'much' ELSE 'poor' END, 'llm', 0.05,
           CASE WHEN n = 0 OR n % 2 = 1 THEN 'denied' ELSE 'allowed' END,
           CASE WHEN n = 0 OR n % 2 = 1 THEN 'no' END, 'standard', 'sha256:x', '{\"quotas\": []}'
    FROM generate_series(0, 40000) AS n;
    ANALYZE copilot_internal.decisions";

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_decisions_reads_what_it_shows_and_not_the_whole_log() {
    let host = Host::start().await;
    host.database.run(DECIDED).await;
    let read = async || {
        let sql = "SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) FROM pg_stat_user_tables
                   WHERE relname LIKE 'decisions%'";
        host.database.value(sql).await.parse::<i64>().expect("a count")
    };
    let lists = [
        ("outcome=failed", 1),
        ("outcome=denied&limit=5", 5),
        ("tenantId=much&outcome=denied", 1),
        ("tenantId=t-7", 80),
        ("tenantId=t-0&outcome=denied", 1),
        ("since=2025-12-29T06:00:00Z&limit=1000", 41),
        ("limit=10", 10),
    ];
    // Every connection has planned each, as often as it takes for a plan to be kept.
    for (query, shown) in lists.repeat(8) {
        let answer = host.get(&format!("/v1/decisions?{query}")).await.expect_status(200);
        assert_eq!(answer.at("/decisions").as_array().map(Vec::len), Some(shown), "{query}");
    }
    // A connection that ends tells all that it has read.
    let hosts = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tollgate'";
    let before = host.database.value(&format!("SELECT string_agg(pid::text, ', ') {hosts}")).await;
    host.database.run(&format!("SELECT pg_terminate_backend(pid) {hosts}")).await;
    let gone = format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ({before})");
    until("the connections have ended", || async { host.database.value(&gone).await == "t" }).await;
    let sum = lists.iter().map(|(_, shown)| i64::try_from(*shown).expect("a few")).sum::<i64>() * 8;
    let told = read().await;
    assert!((sum..20 * sum).contains(&told), "{told} read for {sum} shown");
}
