//! A decision log from before it had days.

use tollgate::store::{self, migrate};

use super::{DAYS, OF_NO_DAY, listed};
use crate::harness::{Database, Setup, llm, until};

/// A database as the version before the days had it, with what `more` puts there.
async fn before_days(more: &str) -> Database {
    let database = Database::before("0008").await;
    database.run(more).await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_decisions_from_before_the_days_keeps_them_their_readers_and_their_views() {
    let database = before_days(
        "INSERT INTO copilot_internal.decisions (id, decided_at, tenant_id, resource_type, estimate_usd, outcome, code, reason,
             quota_id, policy_name, policy_digest, facts)
         SELECT ('019b8' || lpad(n::text, 3, '0') || '-ea00-4000-8000-000000000000')::uuid,
                timestamptz '2026-01-04 11:00:00+00' - n * interval '10 days', 'acme-corp', 'llm', 0.05, 'denied',
                'limit_exceeded', 'no', gen_random_uuid(), 'standard', 'sha256:x', '{\"quotas\": []}'
         FROM generate_series(0, 11) n;
         DO $$ BEGIN CREATE ROLE tollgate_test_auditor; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         GRANT SELECT ON copilot_internal.decisions, public.application_logs TO tollgate_test_auditor;
         CREATE VIEW public.denied WITH (security_barrier) AS
             SELECT tenant_id, count(*) AS n FROM copilot_internal.decisions WHERE outcome = 'denied' GROUP BY 1;
         CREATE VIEW public.denied_at_all AS SELECT sum(n) AS n FROM public.denied;",
    )
    .await;
    migrate(&database.options()).await.expect("the days");
    assert_eq!(database.value(OF_NO_DAY).await, "3");
    assert_eq!(database.value(DAYS).await.split(' ').count(), 9);
    let readers = "SELECT string_agg(has_table_privilege('tollgate_test_auditor', name, 'SELECT')::text, ' ')
                   FROM unnest(ARRAY['copilot_internal.decisions', 'public.application_logs']) AS name";
    assert_eq!(database.value(readers).await, "true true");
    assert_eq!(
        database.value("SELECT reloptions[1] FROM pg_class WHERE relname = 'denied'").await,
        "security_barrier=true"
    );
    assert_eq!(database.value("SELECT n FROM public.denied_at_all").await, "12");
    let facts = "SELECT string_agg(DISTINCT facts, '|') FROM copilot_internal.decisions";
    assert_eq!(database.value(facts).await, r#"{"quotas": []}"#);

    let host = Setup { database: Some(database), ..Setup::default() }.start().await;
    until("what is older than thirty days is gone", || async {
        host.database.value("SELECT count(*) FROM copilot_internal.decisions").await == "4"
    })
    .await;
    host.database.quota("tenant acme-corp llm day", "0.01", "0").await;
    let new = host.check(llm("1")).await.expect_status(429).word("/decisionId");
    let there = listed(&host).await;
    assert_eq!((there.len(), there.first()), (5, Some(&new)));
    for id in &there {
        host.get(&format!("/v1/decisions/{id}")).await.expect_status(200);
    }
    // The views read the new log, not what they were made over.
    assert_eq!(host.database.value("SELECT n FROM public.denied_at_all").await, "5");
    assert_eq!(host.database.value("SELECT count(*) FROM public.application_logs").await, "10");
    store::migrate(&host.database.options()).await.expect("the migrations, again");
    assert_eq!(listed(&host).await.len(), 5);
}
