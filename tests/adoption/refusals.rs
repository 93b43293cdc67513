//! What cannot be taken over is named, with what to do, and nothing is changed.

use sqlx::{ConnectOptions as _, Connection as _};
use tollgate::store;

use super::{ACME, GLOBEX, OLD_TABLE, REPLACED_SYSTEM, before_adoption, refused};
use crate::harness::{Database, until};

/// A table without the rules of the replaced system.
const FREE_TABLE: &str = "
CREATE SCHEMA copilot_internal;
CREATE TABLE copilot_internal.cost_quotas (
    scope text, scope_id text, resource_type text, limit_usd numeric, period text, current_spend_usd numeric);";

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_row_that_breaks_a_rule_is_named_with_what_to_do() {
    for (row, named, advice) in [
        (
            "'user', 'u-42', 'llm', 5, 'day', 0",
            "user u-42 llm day (a user is written tenant/user here)",
            "tollgate quota set user TENANT/USER",
        ),
        (
            "'team', 'a', 'llm', 5, 'day', 0",
            "team a llm day (its scope is unknown)",
            "scopes are tenant, user, pool and platform",
        ),
        ("'tenant', NULL, 'llm', 5, 'day', 0", "tenant - llm day (it has no scope id)", "say whose quota it is"),
        ("'tenant', '*', 'llm', 5, 'day', 0", "tenant * llm day (it has no scope id)", "say whose quota it is"),
        ("'tenant', 'a', 'llm', 5, 'daily', 0", "tenant a llm daily (its period is unknown)", "periods are hour, day"),
        ("'tenant', 'a', 'LLM', 5, 'day', 0", "tenant a LLM day (its resource type is no word)", "a resource type is"),
        ("'tenant', 'a', 'llm', 5, 'day', -0.5", "tenant a llm day (its spend is -0.5)", "correct current_spend_usd"),
        ("'tenant', 'a', 'llm', 5, 'day', 1000000001", "(its spend is 1000000001)", "correct current_spend_usd"),
        ("'tenant', 'a', 'llm', 5, 'day', 'NaN'", "(its spend is NaN)", "correct current_spend_usd"),
        ("'tenant', 'a', 'llm', 0, 'day', 0", "tenant a llm day (its limit is 0)", "write the smallest amount"),
        ("'tenant', 'a', 'llm', 0.0000000001, 'day', 0", "(its limit is 0.0000000001)", "write the smallest amount"),
        ("'platform', NULL, 'llm', NULL, 'day', 0", "platform - llm day (its limit is null)", "a limit is above 0"),
        (
            "'user', 'u', 'LLM', 'NaN', 'x', 'NaN'",
            "user u LLM x (a user is written tenant/user here, its resource type is no word, its period is unknown, its limit is NaN, its spend is NaN)",
            "; then start again",
        ),
    ] {
        let database = before_adoption(&format!(
            "{FREE_TABLE} INSERT INTO copilot_internal.cost_quotas VALUES ('tenant', 'good', 'llm', 5, 'day', 0), ({row});"
        ))
        .await;
        let said = refused(&database).await;
        assert!(said.contains(named) && !said.contains("good"), "{row}: {said}");
        let hint = said.split("\nhint: ").nth(1).unwrap_or_default();
        assert!(hint.contains(advice), "{row}: {said}");
        // Told what to do, somebody does it.
        database.run("DELETE FROM copilot_internal.cost_quotas WHERE scope_id IS DISTINCT FROM 'good'").await;
        store::migrate(&database.options()).await.expect("the migrations");
        assert_eq!(database.value("SELECT scope_id FROM copilot_internal.cost_quotas").await, "good");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_rows_ten_are_named_and_the_others_counted() {
    let database = before_adoption(&format!(
        "{OLD_TABLE} INSERT INTO copilot_internal.cost_quotas (scope, scope_id, limit_usd, period)
         SELECT 'user', gen_random_uuid(), 5, 'day' FROM generate_series(1, 13);"
    ))
    .await;
    let said = refused(&database).await;
    assert_eq!(said.matches("llm day (a user").count(), 10, "{said}");
    assert!(said.contains("; and 3 more (nothing was changed)\nhint: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_things_in_the_way_are_named_as_well() {
    let old_table = |more: &str| format!("{OLD_TABLE}{more}");
    for (before, named) in [
        (
            old_table(&format!(
                "ALTER TABLE copilot_internal.cost_quotas DROP CONSTRAINT cost_quotas_scope_scope_id_resource_type_key;
                 INSERT INTO copilot_internal.cost_quotas (scope, scope_id, limit_usd, period)
                 SELECT 'tenant', '{ACME}', n, 'day' FROM generate_series(1, 2) n;"
            )),
            "more than one quota for the same scope",
        ),
        (
            old_table(
                "CREATE MATERIALIZED VIEW public.quota_report AS SELECT limit_usd FROM copilot_internal.cost_quotas;",
            ),
            "quota_report is a materialized view",
        ),
        (
            "CREATE SCHEMA copilot_internal; CREATE TABLE copilot_internal.cost_quotas (scope text, amount numeric);"
                .into(),
            "copilot_internal.cost_quotas is no table of the replaced system: it has no column scope_id, limit_usd",
        ),
    ] {
        let said = refused(&before_adoption(&before).await).await;
        assert!(said.contains(named) && said.contains("\nhint: "), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_with_a_name_of_ours_is_named_and_nothing_is_changed() {
    let ours =
        "SELECT relname FROM pg_class WHERE relnamespace = 'copilot_internal'::regnamespace AND relkind IN ('r', 'p')
                AND relname NOT IN ('cost_quotas', '_sqlx_migrations') ORDER BY 1";
    let ours = Database::migrated().await.rows(ours).await;
    assert!(ours.len() >= 10, "{ours:?}");
    for table in ours.iter().map(|row| &row["relname"]) {
        let database = before_adoption(&format!(
            "{OLD_TABLE} CREATE TABLE copilot_internal.{table} (id uuid PRIMARY KEY, slug text);
             INSERT INTO copilot_internal.cost_quotas (scope, scope_id, limit_usd, period) VALUES ('tenant', '{GLOBEX}', 5, 'day');"
        ))
        .await;
        let said = refused(&database).await;
        assert!(
            said.contains(&format!(
                "error: another system's table has a name that Tollgate needs: copilot_internal.{table}\n"
            )),
            "{said}"
        );
        assert!(
            said.contains(&format!(
                "\nhint: rename it or move it to another schema (ALTER TABLE copilot_internal.{table} SET SCHEMA"
            )),
            "{said}"
        );
        database.run(&format!("ALTER TABLE copilot_internal.{table} SET SCHEMA public")).await;
        store::migrate(&database.options()).await.expect("the migrations");
        assert_eq!(database.value("SELECT scope_id FROM copilot_internal.cost_quotas").await, GLOBEX);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_start_together_wait_for_the_end_of_the_one_that_takes_over() {
    // The first comes to a stop when it brings policies back: behind the last migration, and before its commit.
    let database = before_adoption(&format!(
        "{REPLACED_SYSTEM}
         CREATE FUNCTION public.stop() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_advisory_xact_lock(4711); END $$;
         CREATE EVENT TRIGGER stop ON ddl_command_end WHEN TAG IN ('CREATE POLICY') EXECUTE FUNCTION public.stop();"
    ))
    .await;
    let mut holder = database.options().connect().await.expect("a connection");
    sqlx::raw_sql("SELECT pg_advisory_lock(4711)").execute(&mut holder).await.expect("the lock");
    let first = database.options();
    let first = tokio::spawn(async move { store::migrate(&first).await });
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
                   AND clock_timestamp() - waitstart > interval '300 ms'
                   AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
    until("the first has stopped", || async { database.value(waiting).await == "1" }).await;
    // The others wait for it, however short their patience with locks is otherwise.
    let others: Vec<_> = (0..2)
        .map(|_| {
            let hasty = database.options().options([("lock_timeout", "100ms")]);
            tokio::spawn(async move { store::migrate(&hasty).await })
        })
        .collect();
    until("the others wait", || async { database.value(waiting).await == "3" }).await;
    assert_eq!(database.value("SELECT to_regclass('copilot_internal._sqlx_migrations') IS NULL").await, "t");
    holder.close().await.expect("a closed connection");
    first.await.expect("no panic").expect("the migrations");
    for other in others {
        other.await.expect("no panic").expect("the migrations");
    }
}
