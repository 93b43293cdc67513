//! Quotas and tenants by the administrator's routes.

use serde_json::json;
use tollgate::store::migrate;

use crate::harness::{Database, Host, Setup, llm, llm_cost};

const RULES: &str =
    "SELECT string_agg(concat_ws(' ', scope, scope_id, resource_type, period), ', ' ORDER BY scope, scope_id, period)
                     FROM copilot_internal.cost_quotas";

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_created_changed_and_deleted() {
    let host = Host::start().await;
    let path = "/v1/quotas/tenant/acme-corp/llm/day";
    let created = host.put(path, json!({ "limitUsd": "50.00", "hardLimitUsd": 75.5 })).await.expect_status(201);
    assert_eq!(
        created.text,
        concat!(
            r#"{"scope":"tenant","scopeId":"acme-corp","resourceType":"llm","period":"day","limitUsd":50.00,"hardLimitUsd":75.50,"#,
            r#""thresholds":[80,90,100],"currentSpendUsd":0.00,"heldUsd":0.00,"remainingUsd":50.00,"utilizationPercent":0.0,"#,
            r#""admittedCount":0,"windowStart":"2026-01-04T00:00:00Z","resetsAt":"2026-01-05T00:00:00Z"}"#
        )
    );
    host.cost(llm_cost("c-1", "12.00")).await;
    // What is spent stays; what is left out of a rule is gone, but for the thresholds.
    let changed = host.put(path, json!({ "limitUsd": 20 })).await.expect_status(200);
    assert!(
        changed
            .text
            .contains(r#""limitUsd":20.00,"hardLimitUsd":null,"thresholds":[80,90,100],"currentSpendUsd":12.00,"#)
    );
    host.check(llm("9.00")).await.expect_status(429);
    host.delete(path).await.expect_status(204);
    host.check(llm("9.00")).await.expect_status(200);
    let gone = host.delete(path).await.expect_status(404);
    assert_eq!(gone.text, r#"{"error":"not_found","message":"no such quota"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_percent_encoded() {
    let host = Host::start().await;
    for path in [
        "user/acme-corp%2Fu-42/llm/day",
        "tenant/a%20b%2Fc%25/llm/week",
        "pool/eu-team/llm/month",
        "global/*/llm/lifetime",
        "global/%2A/llm/hour",
    ] {
        host.put(&format!("/v1/quotas/{path}"), json!({ "limitUsd": "0.50" })).await.expect_status(201);
    }
    assert_eq!(
        host.database.value(RULES).await,
        "global * llm hour, global * llm lifetime, pool eu-team llm month, tenant a b/c% llm week, user acme-corp/u-42 llm day"
    );
    let request =
        json!({ "tenantId": "acme-corp", "userId": "u-42", "resourceType": "llm", "estimatedCostUsd": "0.51" });
    host.check(request).await.expect_status(429);
    host.delete("/v1/quotas/user/acme-corp%2Fu-42/llm/day").await.expect_status(204);
    host.delete("/v1/quotas/tenant/a%20b%2Fc%25/llm/week").await.expect_status(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_ordered_and_narrowed_by_its_parameters() {
    let host = Host::start().await;
    for key in [
        "global * llm day",
        "user acme-corp/u-42 llm day",
        "tenant acme-corp llm month",
        "tenant acme-corp llm hour",
        "tenant acme-corp e2b day",
        "pool eu-team llm day",
    ] {
        host.database.quota(key, "50.00", "0").await;
    }
    let listed = async |query: &str| {
        let answer = host.get(&format!("/v1/quotas{query}")).await.expect_status(200);
        let quotas = answer.at("/quotas").as_array().cloned().unwrap_or_default();
        let word = |quota: &serde_json::Value, field: &str| quota[field].as_str().unwrap_or_default().to_owned();
        quotas
            .iter()
            .map(|quota| format!("{} {} {}", word(quota, "scope"), word(quota, "resourceType"), word(quota, "period")))
            .collect::<Vec<_>>()
    };
    let all =
        ["tenant e2b day", "tenant llm hour", "tenant llm month", "user llm day", "pool llm day", "global llm day"];
    assert_eq!(listed("").await, all);
    assert_eq!(listed("?scope=tenant").await, all[..3]);
    assert_eq!(listed("?scope=user&scopeId=acme-corp%2Fu-42").await, all[3..4]);
    assert_eq!(listed("?scopeId=acme-corp&resourceType=e2b").await, all[..1]);
    assert_eq!(listed("?scopeId=nobody").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_makes_no_sense_is_refused_by_name() {
    let host = Host::start().await;
    for (path, body, field, fragment) in [
        ("tenant/a/llm/day", json!({}), "limitUsd", "required"),
        (
            "tenant/a/llm/day",
            json!({ "limitUsd": 0 }),
            "limitUsd",
            "above 0; a quota that allows nothing has a limit of 0.000000001",
        ),
        ("tenant/a/llm/day", json!({ "limitUsd": -5 }), "limitUsd", "0 or more"),
        ("tenant/a/llm/day", json!({ "limitUsd": "1000000000.01" }), "limitUsd", "at most 1000000000 (USD)"),
        ("tenant/a/llm/day", json!({ "limitUsd": 1, "hardLimitUsd": 0 }), "hardLimitUsd", "above 0"),
        ("tenant/a/llm/day", json!({ "limitUsd": 1, "thresholds": [0] }), "thresholds", "whole percents, 1 to 1000"),
        ("tenant/a/llm/day", json!({ "limitUsd": 1, "thresholds": [80.5] }), "thresholds", "whole percents"),
        ("tenant/a/llm/day", json!({ "limitUsd": 1, "thresholds": 80 }), "thresholds", "a list of up to 16"),
        (
            "tenant/a/llm/day",
            json!({ "limitUsd": 1, "limit": 2 }),
            "limit",
            r#"unknown field, did you mean "limitUsd"?"#,
        ),
        ("team/a/llm/day", json!({ "limitUsd": 1 }), "scope", r#"one of tenant, user, pool, global, got "team""#),
        ("user/acme-corp/llm/day", json!({ "limitUsd": 1 }), "scopeId", "tenant, slash and user (acme-corp/u-42)"),
        ("global/acme-corp/llm/day", json!({ "limitUsd": 1 }), "scopeId", r#""*" for the scope global"#),
        ("tenant/a/LLM/day", json!({ "limitUsd": 1 }), "resourceType", "a lower-case letter"),
        (
            "tenant/a/llm/daily",
            json!({ "limitUsd": 1 }),
            "period",
            r#"one of hour, day, week, month, lifetime, got "daily""#,
        ),
    ] {
        let answer = host.put(&format!("/v1/quotas/{path}"), body.clone()).await.expect_status(400);
        assert_eq!(
            (answer.at("/error"), answer.at("/field")),
            (json!("invalid_request"), json!(field)),
            "{path} {body}"
        );
        assert!(answer.word("/message").contains(fragment), "{path} {body}: {}", answer.text);
    }
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.cost_quotas").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_created_changed_listed_and_deleted() {
    let host = Host::start().await;
    let path = "/v1/tenants/acme-corp";
    let unknown = host.get(path).await.expect_status(404);
    assert_eq!(unknown.at("/error"), "not_found");
    let created = host.put(path, json!({ "tier": "pro", "pool": "eu-team" })).await.expect_status(201);
    assert_eq!(
        created.text,
        r#"{"tenantId":"acme-corp","tier":"pro","pool":"eu-team","createdAt":"2026-01-04T12:00:00Z","updatedAt":"2026-01-04T12:00:00Z"}"#
    );
    host.at("2026-01-04T13:00:00Z");
    let changed = host.put(path, json!({ "tier": "free" })).await.expect_status(200);
    assert_eq!((changed.at("/tier"), changed.at("/pool")), (json!("free"), json!(null)));
    assert_eq!(
        (changed.at("/createdAt"), changed.at("/updatedAt")),
        (json!("2026-01-04T12:00:00Z"), json!("2026-01-04T13:00:00Z"))
    );
    assert_eq!(host.get(path).await.text, changed.text);
    host.tenant("a%20b%2Fc", None, Some("us")).await;
    let listed = host.get("/v1/tenants").await;
    assert_eq!(
        (listed.at("/tenants/0/tenantId"), listed.at("/tenants/1/tenantId")),
        (json!("a b/c"), json!("acme-corp"))
    );
    host.delete(path).await.expect_status(204);
    host.delete(path).await.expect_status(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_makes_no_sense_is_refused_by_name() {
    let host = Host::start().await;
    for (path, body, field) in [
        ("acme-corp", json!({ "tier": "Pro" }), "tier"),
        ("acme-corp", json!({ "tier": "standard.next" }), "tier"),
        ("acme-corp", json!({ "tier": 7 }), "tier"),
        ("acme-corp", json!({ "pool": "" }), "pool"),
        ("acme-corp", json!({ "teir": "pro" }), "teir"),
        ("a%0Ab", json!({}), "tenantId"),
    ] {
        let answer = host.put(&format!("/v1/tenants/{path}"), body.clone()).await.expect_status(400);
        assert_eq!(answer.at("/field"), field, "{body}: {}", answer.text);
    }
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.tenants").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_own_constraints_refuse_what_an_operator_cannot_mean() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    for (change, constraint) in [
        ("limit_usd = 0", "limit_is_above_zero"),
        ("limit_usd = -1", "limit_is_above_zero"),
        ("limit_usd = 'NaN'", "limit_is_above_zero"),
        ("limit_usd = 1000000000.01", "limit_is_above_zero"),
        ("hard_limit_usd = 'NaN'", "hard_limit_is_above_zero"),
        ("current_spend_usd = 'NaN'", "spend_is_an_amount"),
        ("current_spend_usd = -0.01", "spend_is_an_amount"),
        ("held_usd = 'NaN'", "held_is_an_amount"),
        ("period = 'daily'", "period_is_known"),
        ("scope = 'team'", "scope_is_known"),
        ("scope = 'global'", "scope_id_fits_scope"),
        ("scope = 'user'", "scope_id_fits_scope"),
        ("resource_type = 'LLM'", "resource_type_is_a_word"),
        ("thresholds = '{0}'", "thresholds_are_percents"),
        ("thresholds = '{NULL}'", "thresholds_are_numbers"),
        ("period_start = 'infinity'", "period_starts_before_the_year_10000"),
        ("override_limit_usd = 1, override_until = 'infinity'", "override_ends_before_the_year_10000"),
    ] {
        let refusal = host.database.refuses(&format!("UPDATE copilot_internal.cost_quotas SET {change}")).await;
        assert!(refusal.contains(&format!("cost_quotas_{constraint}")), "{change}: {refusal}");
    }
    let twice = "INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, limit_usd) VALUES ('tenant', 'acme-corp', 'llm', 1)";
    assert!(host.database.refuses(twice).await.contains("cost_quotas_one_per_rule"));
    let everybody = "INSERT INTO copilot_internal.tenants (tenant_id, pool) VALUES ('acme-corp', '*')";
    assert!(host.database.refuses(everybody).await.contains("tenants_pool_is_not_everybody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_could_read_are_mended_by_the_migration_that_takes_no_more_of_them() {
    let database = Database::before("0013").await;
    for period in ["day", "week", "month", "hour", "lifetime"] {
        let key = &format!("tenant acme-corp llm {period}");
        database.quota(key, "50.00", "1.00").await;
    }
    database
        .run(
            "UPDATE copilot_internal.cost_quotas SET override_limit_usd = 60, override_until = 'infinity' WHERE period = 'day';
             UPDATE copilot_internal.cost_quotas SET override_limit_usd = 60, override_until = '-infinity' WHERE period = 'week';
             UPDATE copilot_internal.cost_quotas SET period_start = 'infinity', thresholds = '{80,NULL}' WHERE period = 'month';
             UPDATE copilot_internal.cost_quotas SET thresholds = '{{70,80},{90,100}}' WHERE period = 'hour';
             UPDATE copilot_internal.cost_quotas SET thresholds = '[0:1]={60,70}' WHERE period = 'lifetime';
             INSERT INTO copilot_internal.tenants (tenant_id, pool) VALUES ('acme-corp', '*')",
        )
        .await;
    migrate(&database.options()).await.expect("this version");
    let host = Setup { database: Some(database.clone()), ..Setup::default() }.start().await;
    let tenant = host.get("/v1/tenants/acme-corp").await.expect_status(200);
    assert_eq!(tenant.at("/pool"), json!(null));
    let quotas = host.get("/v1/quotas?scopeId=acme-corp").await.expect_status(200).at("/quotas");
    let told: Vec<String> = quotas
        .as_array()
        .expect("quotas")
        .iter()
        .map(|quota| format!("{} {} {}", quota["period"], quota["override"]["until"], quota["thresholds"]))
        .collect();
    assert_eq!(
        told,
        [
            r#""hour" null [70,80,90,100]"#,
            r#""day" "9999-12-31T23:59:59Z" [80,90,100]"#,
            r#""week" null [80,90,100]"#,
            r#""month" null [80]"#,
            r#""lifetime" null [60,70]"#
        ]
    );
    host.post("/v1/reservations", llm("1")).await.expect_status(201);
}
