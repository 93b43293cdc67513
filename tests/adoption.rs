//! Databases that others have used before: the replaced system's tables are taken over with their rows.

mod refusals;
mod row_security;
mod way_back;

use serde_json::json;
use tollgate::store;

use crate::harness::{Database, Host, Setup, llm, llm_cost, tollgate};

/// The replaced system's table, with nothing in it.
pub const OLD_TABLE: &str = "
CREATE SCHEMA copilot_internal;
CREATE TABLE copilot_internal.cost_quotas (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    scope text NOT NULL CHECK (scope IN ('platform', 'tenant', 'user')),
    scope_id uuid,
    resource_type text NOT NULL DEFAULT 'llm' CHECK (resource_type IN ('llm', 'e2b', 'all')),
    limit_usd numeric(12,6) NOT NULL,
    period text NOT NULL CHECK (period IN ('hour', 'day', 'week', 'month')),
    current_spend_usd numeric(12,6) NOT NULL DEFAULT 0,
    period_start timestamptz NOT NULL DEFAULT now(),
    period_end timestamptz NOT NULL DEFAULT now() + interval '1 day',
    warning_threshold numeric(3,2) DEFAULT 0.80,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (scope, scope_id, resource_type)
);";
/// The replaced system's database, with rows, rights, a trigger and row-level security.
const REPLACED_SYSTEM: &str = include_str!("adoption/replaced_system.sql");
const ACME: &str = "11111111-1111-1111-1111-111111111111";
const GLOBEX: &str = "22222222-2222-2222-2222-222222222222";

async fn before_adoption(before: &str) -> Database {
    let database = Database::empty().await;
    database.run(before).await;
    database
}

async fn adopted(before: &str) -> Host {
    let database = before_adoption(before).await;
    store::migrate(&database.options()).await.expect("the migrations");
    Setup { database: Some(database), ..Setup::default() }.start().await
}

/// What `tollgate migrate` says on a database that it does not take, and leaves as it was.
async fn refused(database: &Database) -> String {
    let shape = "SELECT concat_ws(' ', table_schema, table_name, column_name, data_type, column_default) AS line
                 FROM information_schema.columns WHERE table_schema NOT IN ('pg_catalog', 'information_schema')
                 UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint
                 UNION ALL SELECT concat_ws(' ', policyname, qual, with_check) FROM pg_policies
                 UNION ALL SELECT to_jsonb(q)::text FROM copilot_internal.cost_quotas q ORDER BY 1";
    let before = database.rows(shape).await;
    let migrated = tollgate(&["migrate"], &[("DATABASE_URL", &database.url())]);
    let said = String::from_utf8(migrated.stderr).expect("a text");
    assert_eq!(migrated.status.code(), Some(2), "{said}");
    assert_eq!(database.rows(shape).await, before, "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_replaced_system_go_on_with_their_spend_in_their_window() {
    let host = adopted(&format!(
        "{OLD_TABLE}
         INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, limit_usd, period, current_spend_usd, period_start, period_end)
         VALUES ('tenant', '{ACME}', 'llm', 50, 'day', 48.512345, '2026-01-04', '2026-01-05'),
                ('tenant', '{GLOBEX}', 'llm', 50, 'day', 49.999999, '2026-01-03', '2026-01-04'),
                ('platform', NULL, 'llm', 1000, 'month', 98.512344, '2026-01-01', '2026-02-01');"
    ))
    .await;
    let ask =
        |tenant: &str| host.check(json!({ "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": "1.50" }));
    let denied = ask(ACME).await.expect_status(429);
    assert!(denied.text.contains(r#""limitUsd":50.00,"currentSpendUsd":48.512345,"#), "{}", denied.text);
    let allowed = ask(GLOBEX).await.expect_status(200);
    assert!(allowed.text.contains(r#""limitUsd":50.00,"currentSpendUsd":0.00,"#), "{}", allowed.text);
    host.cost(json!({ "tenantId": GLOBEX, "resourceType": "llm", "costId": "c-1", "actualCostUsd": "0.000000001" }))
        .await;
    let stands = "SELECT string_agg(scope || ' ' || current_spend_usd, ', ' ORDER BY current_spend_usd) FROM copilot_internal.cost_quotas";
    assert_eq!(host.database.value(stands).await, "tenant 0.000000001, tenant 48.512345000, global 98.512344001");
    let closed =
        "SELECT spend_usd || ' ' || (window_start AT TIME ZONE 'UTC')::date FROM copilot_internal.cost_quota_periods";
    assert_eq!(host.database.value(closed).await, "49.999999000 2026-01-03");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_table_takes_what_a_new_one_takes() {
    let host = adopted(OLD_TABLE).await;
    // Every period beside each other, text as ids, nine decimals, and no word of the old columns.
    for key in
        ["tenant acme-corp llm day", "tenant acme-corp llm lifetime", "user acme-corp/u-42 gpu hour", "pool eu llm day"]
    {
        host.database.quota(key, "0.000000001", "0").await;
    }
    host.put("/v1/quotas/tenant/acme-corp/llm/month", json!({ "limitUsd": 5 })).await.expect_status(201);
    host.check(llm("0.000000002")).await.expect_status(429);
    host.cost(llm_cost("c-1", "1")).await;
    let columns = "SELECT table_name, column_name, data_type, numeric_precision, numeric_scale FROM information_schema.columns
                   WHERE table_schema = 'copilot_internal' AND column_name NOT IN ('period_end', 'warning_threshold', 'replaced_id')
                     AND table_name <> '_sqlx_migrations' AND table_name !~ '^decisions_\\d' ORDER BY 1, 2";
    let constraints = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'copilot_internal'::regnamespace
                         AND conname <> 'cost_quotas_pkey' AND conrelid::regclass::text !~ 'decisions_\\d' ORDER BY 1";
    let defaults = "SELECT column_name, column_default, is_nullable FROM information_schema.columns
                    WHERE table_name = 'cost_quotas' AND column_name NOT IN ('period_end', 'warning_threshold') ORDER BY 1";
    let new = Database::migrated().await;
    for schema in [columns, constraints, defaults] {
        assert_eq!(host.database.rows(schema).await, new.rows(schema).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_numbers_as_identifiers_is_taken_over_as_well() {
    let host = adopted(
        "CREATE SCHEMA copilot_internal;
         CREATE TABLE copilot_internal.cost_quotas (
             id serial PRIMARY KEY, scope text NOT NULL, scope_id text NOT NULL, resource_type text NOT NULL,
             limit_usd numeric(10,2) NOT NULL, period text NOT NULL, current_spend_usd numeric(10,2) NOT NULL DEFAULT 0,
             UNIQUE (scope, scope_id, resource_type, period));
         INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, limit_usd, period, current_spend_usd)
         VALUES ('tenant', 'acme-corp', 'llm', 50, 'day', 48.50), ('tenant', 'acme-corp', 'e2b', 10, 'day', 0);",
    )
    .await;
    let denied = host.check(llm("2.00")).await.expect_status(429);
    assert!(denied.text.contains(r#""limitUsd":50.00,"currentSpendUsd":48.50,"#), "{}", denied.text);
    host.database.quota("tenant globex llm day", "1.00", "0").await;
    let ids = "SELECT count(DISTINCT id) || ' ' || count(replaced_id) FROM copilot_internal.cost_quotas";
    assert_eq!(host.database.value(ids).await, "3 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_over_the_table_survive_with_owner_rights_and_options() {
    let host = adopted(&format!(
        "{OLD_TABLE}
         INSERT INTO copilot_internal.cost_quotas (scope, scope_id, limit_usd, period) VALUES ('tenant', '{ACME}', 50, 'day');
         DO $$ BEGIN CREATE ROLE tollgate_test_reporter; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         CREATE VIEW public.quota_overview WITH (security_barrier) AS
             SELECT scope_id, limit_usd, current_spend_usd FROM copilot_internal.cost_quotas;
         CREATE VIEW public.quota_totals AS SELECT sum(limit_usd) AS total FROM public.quota_overview;
         COMMENT ON VIEW public.quota_overview IS 'For the reports.';
         GRANT SELECT ON public.quota_overview TO tollgate_test_reporter;
         ALTER VIEW public.quota_totals OWNER TO tollgate_test_reporter;"
    ))
    .await;
    assert_eq!(host.database.value("SELECT scope_id FROM public.quota_overview").await, ACME);
    let view = "SELECT has_table_privilege('tollgate_test_reporter', oid, 'SELECT') || ' ' || pg_get_userbyid(relowner)
                FROM pg_class WHERE relname = ";
    assert_eq!(host.database.value(&format!("{view}'quota_overview'")).await, "true tollgate");
    assert_eq!(host.database.value(&format!("{view}'quota_totals'")).await, "true tollgate_test_reporter");
    let options = "SELECT concat_ws(', ', array_to_string(reloptions, ' '), obj_description(oid)) FROM pg_class WHERE relname = 'quota_overview'";
    assert_eq!(host.database.value(options).await, "security_barrier=true, For the reports.");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_warning_threshold_takes_the_place_of_the_first_of_ours() {
    let host = adopted(REPLACED_SYSTEM).await;
    let thresholds = "SELECT string_agg(limit_usd::real || ' ' || thresholds::text, ', ' ORDER BY limit_usd) FROM copilot_internal.cost_quotas";
    assert_eq!(
        host.database.value(thresholds).await,
        "10 {90,95,100}, 20 {80,90,100}, 50 {50,90,100}, 1000 {80,90,100}, 5000 {80,90,100}"
    );
    // It is how the quotas begin: nobody has changed them.
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.audit").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_migration_changes_nothing() {
    let host = adopted(OLD_TABLE).await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    store::migrate(&host.database.options()).await.expect("the migrations");
    host.check(llm("2.00")).await.expect_status(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_named_application_logs_is_left_alone() {
    let host = adopted(
        "CREATE TABLE public.application_logs (timestamp timestamptz, level text, message text);
         INSERT INTO public.application_logs VALUES (now(), 'info', 'theirs');",
    )
    .await;
    host.database.quota("tenant acme-corp llm day", "0.01", "0").await;
    host.check(llm("2.00")).await.expect_status(429);
    host.get("/v1/decisions").await;
    assert_eq!(host.database.value("SELECT string_agg(message, ' ') FROM public.application_logs").await, "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_write_to_public_gets_everything_but_the_log_view() {
    let database = Database::empty().await;
    database
        .run(
            "DO $$ BEGIN CREATE ROLE tollgate_test_modest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             CREATE SCHEMA copilot_internal AUTHORIZATION tollgate_test_modest;
             REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
        )
        .await;
    let modest = database.options().username("tollgate_test_modest");
    store::migrate(&modest).await.expect("the migrations");
    store::migrate(&modest).await.expect("the migrations, again");
    assert_eq!(database.value("SELECT to_regclass('public.application_logs') IS NULL").await, "t");
    assert_eq!(database.value("SELECT count(*) FROM copilot_internal.cost_quotas").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_schema_public_there_is_everything_but_the_log_view() {
    let database = before_adoption("DROP SCHEMA public").await;
    let migrated = tollgate(&["migrate"], &[("DATABASE_URL", &database.url())]);
    let said = String::from_utf8(migrated.stderr).expect("a text");
    assert!(migrated.status.success() && said.contains("public.application_logs not created"), "{said}");
    let host = Setup { database: Some(database), ..Setup::default() }.start().await;
    host.database.quota("tenant acme-corp llm day", "0.01", "0").await;
    host.check(llm("2.00")).await.expect_status(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_analyzes_its_own_tables_and_nobody_elses() {
    let database = Database::empty().await;
    database.run("CREATE TABLE public.others WITH (autovacuum_enabled = false) AS SELECT n FROM generate_series(1, 1000) AS n").await;
    store::migrate(&database.options()).await.expect("this version");
    // Where nobody has counted, it is -1.
    let counted = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
                   WHERE relname IN ('others', 'cost_quotas', 'reservations') AND reltuples >= 0";
    assert_eq!(database.value(counted).await, "cost_quotas reservations");
}
