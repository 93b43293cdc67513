//! A request reads a few rows by their index, however many the tables have.

use serde_json::json;

use crate::harness::{Host, until};

/// So many that joins of another kind would read them all, and look cheaper for it.
const REGISTERED: &str = "
    INSERT INTO copilot_internal.tenants (tenant_id, tier) SELECT 't-' || n, 'standard' FROM generate_series(1, 3000) AS n;
    INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, period, limit_usd)
    SELECT 'tenant', 't-' || n, 'llm', period, 1000
    FROM generate_series(1, 3000) AS n, unnest(ARRAY['day', 'week', 'month']) AS period;
    ANALYZE";

/// What connections have read by index, as far as they have told: each tells about once a second, while it is used.
async fn fetched(host: &Host, table: &str) -> i64 {
    let sql = format!("SELECT coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = '{table}'");
    host.database.value(&sql).await.parse().expect("a count")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_reads_does_not_grow_with_the_tables() {
    let host = Host::start().await;
    host.database.run(REGISTERED).await;
    let before = (fetched(&host, "tenants").await, fetched(&host, "cost_quotas").await);
    let request = json!({ "tenantId": "t-2999", "resourceType": "llm", "estimatedCostUsd": "0.001" });
    let asked = std::sync::atomic::AtomicI64::new(0);
    let told = async || {
        host.check(request.clone()).await.expect_status(200);
        let id = host.post("/v1/reservations", request.clone()).await.expect_status(201).word("/reservationId");
        let actual = json!({ "tenantId": "t-2999", "actualCostUsd": "0.001" });
        host.post(&format!("/v1/reservations/{id}/settle"), actual).await.expect_status(200);
        let n = asked.fetch_add(4, std::sync::atomic::Ordering::Relaxed);
        let cost = json!({
            "tenantId": "t-2999", "resourceType": "llm", "costId": format!("c-{n}"), "actualCostUsd": "0.001"
        });
        host.cost(cost).await.expect_status(200);
        let updated = "SELECT (n_tup_upd >= 540)::text FROM pg_stat_user_tables WHERE relname = 'cost_quotas'";
        fetched(&host, "tenants").await - before.0 >= 120 && host.database.value(updated).await == "true"
    };
    until("the connections have told what they read", told).await;
    let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
    let tenants = fetched(&host, "tenants").await - before.0;
    assert!(tenants <= 2 * asked, "{tenants} rows of tenants for {asked} requests");
    // Sixty of each that changes them, at least; a worker may read the table now and then.
    let quotas = fetched(&host, "cost_quotas").await - before.1;
    assert!(quotas < 20 * 9_000, "{quotas} rows of cost_quotas for {asked} requests");
}
