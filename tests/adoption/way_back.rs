//! The way back to the replaced system, as the runbook tells it.

use std::fs;

use tollgate::store;

use super::{ACME, GLOBEX, REPLACED_SYSTEM, adopted, before_adoption};
use crate::harness::guests::repository;
use crate::harness::page::blocks;
use crate::harness::{Database, Row, llm_cost};

const RULES: &str = "SELECT pg_get_constraintdef(oid) AS rule FROM pg_constraint
                     WHERE conrelid = 'copilot_internal.cost_quotas'::regclass ORDER BY 1";
/// Amounts may be wider than they were.
const COLUMNS: &str = "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns
                       WHERE table_schema = 'copilot_internal' ORDER BY 1";
const TABLES: &str =
    "SELECT relname FROM pg_class WHERE relnamespace = 'copilot_internal'::regnamespace AND relkind = 'r'";

/// Runs the statements of the runbook's last part; what each block says.
async fn go_back(database: &Database) -> Vec<Vec<Row>> {
    let page = fs::read_to_string(repository().join("docs/operations/RUNBOOKS.md")).expect("the page");
    let (_, way_back) = page.split_once("**Back to the replaced system**").expect("the last part");
    let mut said = Vec::new();
    for block in blocks(way_back).iter().filter(|block| block.language == "sql") {
        said.push(database.rows(&block.text).await);
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_gives_the_old_table_back_its_shape_and_a_gate_can_take_it_over_again() {
    let before = before_adoption(REPLACED_SYSTEM).await;
    let host = adopted(REPLACED_SYSTEM).await;
    let database = host.database.clone();
    let user = "33333333-3333-3333-3333-333333333333";
    let same_rule_later = format!("tenant {ACME} llm month");
    for key in ["tenant acme-corp llm day", "pool eu llm day", &format!("tenant {GLOBEX} gpu day"), &same_rule_later] {
        database.quota(key, "7", "0").await;
    }
    database.quota(&format!("tenant {GLOBEX} llm lifetime"), "7", "0").await;
    database.quota(&format!("user {ACME}/{user} e2b hour"), "3", "0.5").await;
    host.cost(llm_cost("c-1", "1")).await;
    drop(host);

    let said = go_back(&database).await;
    let stays = said[0].iter().map(|row| format!("{} {} {}", row["scope_id"], row["resource_type"], row["period"]));
    let mut stays: Vec<_> = stays.collect();
    stays.sort();
    assert_eq!(
        stays,
        [
            &format!("{ACME} llm month"),
            &format!("{GLOBEX} gpu day"),
            &format!("{GLOBEX} llm lifetime"),
            "acme-corp llm day",
            "eu llm day"
        ]
    );
    for question in [RULES, COLUMNS, TABLES] {
        assert_eq!(database.rows(question).await, before.rows(question).await);
    }
    let quotas = "SELECT string_agg(concat_ws(' ', scope, scope_id, resource_type, limit_usd::real, current_spend_usd::real,
                      warning_threshold, period_end - date_trunc(period, now(), 'UTC') > interval '0'), ', ' ORDER BY limit_usd)
                  FROM copilot_internal.cost_quotas";
    assert_eq!(
        database.value(quotas).await,
        format!(
            "user {user} e2b 3 0.5 0.80 t, tenant {ACME} e2b 10 0 0.90 t, tenant {GLOBEX} llm 20 0 0.80 t, \
             tenant {ACME} llm 50 48.5 0.50 t, platform e2b 1000 12 0.80 t, platform llm 5000 12 0.80 t"
        )
    );
    // As the replaced system writes.
    let twice = format!(
        "INSERT INTO copilot_internal.cost_quotas (scope, scope_id, limit_usd, period, period_start, period_end)
         VALUES ('tenant', '{ACME}', 1, 'hour', now(), now())"
    );
    assert!(database.refuses(&twice).await.contains("unique_quota_scope"));
    assert_eq!(database.value("SELECT count(*) FROM tollgate_books.cost_records").await, "1");
    assert_eq!(said[2].len(), 2, "the policies: {:?}", said[2]);
    assert_eq!(said[3].len(), 6);

    database.run(&format!("DELETE FROM copilot_internal.cost_quotas WHERE scope_id = '{user}'")).await;
    store::migrate(&database.options()).await.expect("the migrations");
    let known = "SELECT count(*) FROM copilot_internal.cost_quotas WHERE scope IN ('tenant', 'global')";
    assert_eq!(database.value(known).await, "5");
}
