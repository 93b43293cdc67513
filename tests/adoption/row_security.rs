//! Row-level security over the replaced system's table.

use super::{ACME, GLOBEX, REPLACED_SYSTEM, adopted, before_adoption, refused};
use crate::harness::{Database, tollgate};

/// What a person of a tenant sees.
async fn seen_by(database: &Database, role: &str, jwt: &str) -> String {
    let seen = "SELECT coalesce(string_agg(limit_usd::real::text, ' ' ORDER BY limit_usd), '') FROM copilot_internal.cost_quotas";
    database.value(&format!("SET request.jwt = '{jwt}'; SET ROLE {role}; {seen}")).await
}

/// The policies in the words of the database.
async fn policies(database: &Database) -> Vec<String> {
    let policies = "SELECT concat_ws(' | ', policyname, permissive, roles::text, cmd, regexp_replace(qual, '\\s+', ' ', 'g'), with_check,
                        obj_description((SELECT oid FROM pg_policy WHERE polname = policyname), 'pg_policy')) AS policy
                    FROM pg_policies ORDER BY policyname";
    database.rows(policies).await.into_iter().map(|mut row| row.remove("policy").expect("a policy")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_through_the_policies_what_they_saw_before() {
    let jwt = format!(r#"{{"tenant_id": "{ACME}", "sub": "{GLOBEX}"}}"#);
    let before = before_adoption(REPLACED_SYSTEM).await;
    let was = [seen_by(&before, "authenticated", &jwt).await, seen_by(&before, "service_role", "{}").await];
    assert_eq!(was, ["10 50 1000 5000", "10 20 50 1000 5000"]);
    let host = adopted(REPLACED_SYSTEM).await;
    assert_eq!(seen_by(&host.database, "authenticated", &jwt).await, was[0]);
    assert_eq!(seen_by(&host.database, "service_role", "{}").await, was[1]);
    // Ids are texts now, and the policy knows it.
    host.database.quota("tenant acme-corp llm day", "7", "0").await;
    assert_eq!(seen_by(&host.database, "authenticated", r#"{"tenant_id": "acme-corp"}"#).await, "7 1000 5000");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_come_back_as_they_were_for_ids_that_are_texts() {
    let host = adopted(&format!(
        "{REPLACED_SYSTEM}
         DROP POLICY cost_quotas_service_role_all ON copilot_internal.cost_quotas;
         DROP POLICY cost_quotas_tenant_select ON copilot_internal.cost_quotas;
         CREATE POLICY a ON copilot_internal.cost_quotas AS RESTRICTIVE FOR SELECT TO service_role
             USING (scope <> 'platform' AND current_setting('app.tenant')::uuid = scope_id);
         COMMENT ON POLICY a ON copilot_internal.cost_quotas IS 'A comment.';
         CREATE POLICY b ON copilot_internal.cost_quotas FOR INSERT WITH CHECK (scope IN ('platform', 'tenant') AND scope_id IS NULL);
         CREATE POLICY c ON copilot_internal.cost_quotas FOR UPDATE USING ((SELECT auth.uid()) = scope_id) WITH CHECK (scope_id = auth.uid());
         CREATE POLICY d ON copilot_internal.cost_quotas FOR DELETE USING (id = '{ACME}'::uuid AND 'platform' = scope);
         CREATE POLICY e ON copilot_internal.cost_quotas FOR DELETE USING (scope_id = ANY ('{{{ACME}}}'::uuid[]));
         CREATE TABLE public.tenant_names (name text, tenant_id uuid);
         CREATE POLICY f ON public.tenant_names FOR SELECT
             USING (EXISTS (SELECT FROM copilot_internal.cost_quotas q WHERE q.scope = 'platform' AND q.scope_id IS NULL));
         CREATE POLICY not_ours ON public.tenant_names FOR SELECT
             USING (name = 'platform' AND EXISTS (SELECT FROM copilot_internal.cost_quotas q WHERE q.scope_id IS NULL));"
    ))
    .await;
    assert_eq!(
        policies(&host.database).await,
        [
            "a | RESTRICTIVE | {service_role} | SELECT | ((scope <> 'global'::text) AND (current_setting('app.tenant'::text) = scope_id)) | A comment.",
            "b | PERMISSIVE | {public} | INSERT | ((scope = ANY (ARRAY['global'::text, 'tenant'::text])) AND (scope_id = '*'::text))",
            "c | PERMISSIVE | {public} | UPDATE | ((( SELECT auth.uid() AS uid))::text = scope_id) | (scope_id = (auth.uid())::text)",
            &format!("d | PERMISSIVE | {{public}} | DELETE | ((id = '{ACME}'::uuid) AND ('global'::text = scope))"),
            &format!("e | PERMISSIVE | {{public}} | DELETE | (scope_id = ANY ('{{{ACME}}}'::text[]))"),
            "f | PERMISSIVE | {public} | SELECT | (EXISTS ( SELECT FROM copilot_internal.cost_quotas q WHERE ((q.scope = 'global'::text) AND (q.scope_id = '*'::text))))",
        ]
    );
    assert_eq!(host.database.value("SELECT relrowsecurity FROM pg_class WHERE relname = 'cost_quotas'").await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permissive_policy_that_cannot_come_back_is_reported_and_takes_access_away_only() {
    let database = before_adoption(&format!(
        "{REPLACED_SYSTEM}
         CREATE TABLE public.members (tenant_id uuid, user_id uuid);
         GRANT SELECT ON public.members TO authenticated;
         INSERT INTO public.members VALUES ('{GLOBEX}', '{GLOBEX}');
         CREATE POLICY of_members ON copilot_internal.cost_quotas FOR SELECT TO authenticated
             USING (scope_id IN (SELECT m.tenant_id FROM public.members m WHERE m.user_id = auth.uid()));
         CREATE POLICY of_the_platform ON copilot_internal.cost_quotas FOR SELECT TO authenticated
             USING (auth.jwt() ->> 'role' = 'platform');"
    ))
    .await;
    let jwt = format!(r#"{{"tenant_id": "{ACME}", "sub": "{GLOBEX}", "role": "platform"}}"#);
    assert_eq!(seen_by(&database, "authenticated", &jwt).await, "10 20 50 1000 5000");
    let migrated = tollgate(&["migrate"], &[("DATABASE_URL", &database.url())]);
    let said = String::from_utf8(migrated.stderr).expect("a text");
    assert!(migrated.status.success(), "{said}");
    for part in [
        r#""policy":"of_members""#,
        r#""table":"copilot_internal.cost_quotas""#,
        "CREATE POLICY of_members ON copilot_internal.cost_quotas AS PERMISSIVE FOR SELECT TO authenticated USING ((scope_id IN",
        "operator does not exist: text = uuid",
        r#""policy":"of_the_platform""#,
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(said.lines().count(), 2, "{said}");
    assert_eq!(seen_by(&database, "authenticated", &jwt).await, "10 50 1000 5000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restrictive_policy_that_cannot_come_back_stops_the_start() {
    let database = before_adoption(&format!(
        "{REPLACED_SYSTEM}
         CREATE TABLE public.hidden (tenant_id uuid);
         CREATE POLICY not_hidden ON copilot_internal.cost_quotas AS RESTRICTIVE FOR SELECT TO authenticated
             USING (NOT scope_id IN (SELECT h.tenant_id FROM public.hidden h));"
    ))
    .await;
    let said = refused(&database).await;
    assert!(said.contains("the restrictive policy not_hidden on copilot_internal.cost_quotas does not fit"), "{said}");
    assert!(
        said.contains("USING ((NOT (scope_id IN") && said.contains("\nhint: revoke what it restricts, drop it"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_from_which_rows_are_hidden_takes_nothing_over() {
    let database = before_adoption(&format!(
        "{REPLACED_SYSTEM}
         DO $$ BEGIN CREATE ROLE tollgate_test_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         ALTER SCHEMA copilot_internal OWNER TO tollgate_test_owner;
         ALTER TABLE copilot_internal.cost_quotas OWNER TO tollgate_test_owner;
         ALTER TABLE copilot_internal.cost_quotas FORCE ROW LEVEL SECURITY;"
    ))
    .await;
    let owner = database.options().username("tollgate_test_owner");
    let error = tollgate::store::migrate(&owner).await.expect_err("a refusal");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.starts_with("ALTER TABLE copilot_internal.cost_quotas NO FORCE ROW LEVEL SECURITY"), "{error:?}");
    database.run("ALTER TABLE copilot_internal.cost_quotas NO FORCE ROW LEVEL SECURITY").await;
    tollgate::store::migrate(&owner).await.expect("the migrations");
    assert_eq!(database.value("SELECT count(*) FROM copilot_internal.cost_quotas").await, "5");
}
