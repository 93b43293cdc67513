//! The reference document of the replaced system: its SQL and its manual tests run as they stand there, on a new
//! database and on one that has the replaced system's table.

use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::store;

use crate::adoption::OLD_TABLE;
use crate::harness::{Database, Host, Setup};

const CREATE: &str = "
-- Create LLM quota
INSERT INTO copilot_internal.cost_quotas (
  scope, scope_id, resource_type, limit_usd, period
) VALUES (
  'tenant', '<TENANT_ID>', 'llm', 50.00, 'day'
);

-- Create E2B quota
INSERT INTO copilot_internal.cost_quotas (
  scope, scope_id, resource_type, limit_usd, period
) VALUES (
  'tenant', '<TENANT_ID>', 'e2b', 10.00, 'day'
);";
const LOW_E2B: &str = "UPDATE copilot_internal.cost_quotas
SET limit_usd = 0.01, current_spend_usd = 0.00
WHERE scope = 'tenant' AND resource_type = 'e2b';";
const RESET_E2B: &str = "UPDATE copilot_internal.cost_quotas
SET limit_usd = 10.00, current_spend_usd = 0.00
WHERE scope = 'tenant' AND resource_type = 'e2b';";
const LOW_LLM: &str = "UPDATE copilot_internal.cost_quotas
SET limit_usd = 0.01, current_spend_usd = 0.00
WHERE scope = 'tenant' AND resource_type = 'llm';";
const RESET_LLM: &str = "UPDATE copilot_internal.cost_quotas
SET limit_usd = 50.00, current_spend_usd = 0.00
WHERE scope = 'tenant' AND resource_type = 'llm';";
const FORCE_429: &str = "UPDATE copilot_internal.cost_quotas
SET limit_usd = 0.01
WHERE scope = 'tenant' AND resource_type = 'llm';";
const E2B_DENIALS: &str = "-- Count quota check denials
SELECT COUNT(*) as denials_last_hour
FROM application_logs
WHERE timestamp > NOW() - INTERVAL '1 hour'
  AND message LIKE '%E2B quota exceeded%'
  AND level = 'error';";
const LLM_DENIALS: &str = "-- Count quota check denials
SELECT COUNT(*) as denials_last_hour
FROM application_logs
WHERE timestamp > NOW() - INTERVAL '1 hour'
  AND message LIKE '%Chat request denied due to LLM quota exceeded%'
  AND level = 'warn';";
const APPROACHING: &str = "-- Tenants at >80% utilization
SELECT
  scope_id as tenant_id,
  resource_type,
  limit_usd,
  current_spend_usd,
  ROUND((current_spend_usd / limit_usd * 100)::numeric, 1) as utilization_percent,
  (limit_usd - current_spend_usd) as remaining_usd
FROM copilot_internal.cost_quotas
WHERE scope = 'tenant'
  AND (current_spend_usd / limit_usd) >= 0.8
  AND (current_spend_usd / limit_usd) < 1.0
ORDER BY utilization_percent DESC;";
const EXISTS: &str = "SELECT * FROM copilot_internal.cost_quotas
WHERE scope = 'tenant' AND scope_id = '<TENANT_ID>';
-- Should return 2 rows (llm + e2b)";
const PERIOD: &str = "SELECT scope_id, resource_type, period
FROM copilot_internal.cost_quotas
WHERE scope = 'tenant' AND scope_id = '<TENANT_ID>';";

/// A host on a new database, and one on a database that the replaced system has used. The monitoring queries ask
/// the database's clock, so these hosts have the machine's.
async fn hosts() -> [Host; 2] {
    let old = Database::empty().await;
    old.run(OLD_TABLE).await;
    store::migrate(&old.options()).await.expect("the migrations");
    let on = |database| Setup { clock: Clock::System, database, ..Setup::default() };
    let hosts = [on(None).start().await, on(Some(old)).start().await];
    for host in &hosts {
        host.database.run(CREATE).await;
    }
    hosts
}

/// The operations of the document: nothing is said of their cost.
fn ask(resource: &str) -> Value {
    json!({ "tenantId": "<TENANT_ID>", "resourceType": resource })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quotas_of_the_document_are_created_and_found() {
    for host in hosts().await {
        let found = host.database.rows(EXISTS).await;
        assert_eq!(found.len(), 2);
        assert!(
            found.iter().all(|row| row["current_spend_usd"].starts_with("0.0") && row["period"] == "day"),
            "{found:?}"
        );
        let periods = host.database.rows(PERIOD).await;
        assert_eq!(periods.iter().map(|row| row["period"].as_str()).collect::<Vec<_>>(), ["day", "day"]);
        let allowed = host.check(ask("llm")).await.expect_status(200);
        assert!(allowed.text.contains(r#""limitUsd":50.00,"currentSpendUsd":0.00,"#), "{}", allowed.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_e2b_gate_denies_before_a_sandbox_is_created() {
    for host in hosts().await {
        host.database.run(LOW_E2B).await;
        let denied = host.check(ask("e2b")).await.expect_status(429);
        assert_eq!(denied.at("/message"), "E2B quota exceeded. Limit: $0.01, Current: $0.00, Requested: $0.03");
        // The chat itself goes on.
        host.check(ask("llm")).await.expect_status(200);
        host.get("/v1/decisions").await;
        assert_eq!(host.database.value(E2B_DENIALS).await, "1");
        assert_eq!(host.database.value(LLM_DENIALS).await, "0");
        host.database.run(RESET_E2B).await;
        host.check(ask("e2b")).await.expect_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_llm_gate_answers_429_with_the_two_events() {
    for host in hosts().await {
        host.database.run(LOW_LLM).await;
        let mut chat = ask("llm");
        chat["stream"] = json!(true);
        let denied = host.check(chat).await.expect_status(429);
        assert!(
            denied
                .text
                .starts_with("event: error\ndata: {\"error\":\"quota_exceeded\",\"message\":\"LLM quota exceeded."),
            "{}",
            denied.text
        );
        assert!(denied.text.contains(r#"","resourceType":"llm","#), "{}", denied.text);
        assert!(denied.text.ends_with("\n\nevent: done\ndata: {\"status\":\"quota_exceeded\"}\n\n"), "{}", denied.text);
        host.get("/v1/decisions").await;
        assert_eq!(host.database.value(LLM_DENIALS).await, "1");
        assert_eq!(host.database.value(E2B_DENIALS).await, "0");
        host.database.run(RESET_LLM).await;
        host.check(ask("llm")).await.expect_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_among_the_headers_of_the_stream() {
    for host in hosts().await {
        host.database.run(FORCE_429).await;
        let mut chat = ask("llm");
        chat["stream"] = json!(true);
        let denied = host.check(chat).await.expect_status(429);
        let seconds: u32 = denied.header("retry-after").parse().expect("whole seconds");
        assert!((1..=86_400).contains(&seconds), "{seconds}");
        host.database.run(RESET_LLM).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_approach_their_limits_are_found() {
    for host in hosts().await {
        for (id, resource, usd) in [("c-1", "llm", "48.50"), ("c-2", "e2b", "8.00")] {
            let cost =
                json!({ "tenantId": "<TENANT_ID>", "resourceType": resource, "costId": id, "actualCostUsd": usd });
            host.cost(cost).await;
        }
        let rows = host.database.rows(APPROACHING).await;
        let shown: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {} {}", row["tenant_id"], row["resource_type"], row["utilization_percent"]))
            .collect();
        assert_eq!(shown, ["<TENANT_ID> llm 97.0", "<TENANT_ID> e2b 80.0"]);
        assert_eq!(rows[0]["remaining_usd"], "1.500000000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_the_phase_before_hold_too() {
    // Quotas configured, a check of each, a threshold, a breach denied, spend that increments.
    for host in hosts().await {
        host.check(ask("e2b")).await.expect_status(200);
        let cost = |id: &str, usd: &str| json!({ "tenantId": "<TENANT_ID>", "resourceType": "e2b", "costId": id, "actualCostUsd": usd });
        host.cost(cost("c-1", "8.00")).await;
        let thresholds = "SELECT string_agg(threshold::text, ' ' ORDER BY threshold) FROM copilot_internal.alerts";
        assert_eq!(host.database.value(thresholds).await, "80");
        host.cost(cost("c-2", "2.00")).await;
        assert_eq!(host.database.value(thresholds).await, "80 90 100");
        host.check(ask("e2b")).await.expect_status(429);
        let spend = "SELECT current_spend_usd FROM copilot_internal.cost_quotas WHERE resource_type = 'e2b'";
        assert_eq!(host.database.value(spend).await, "10.000000000");
    }
}
