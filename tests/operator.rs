//! The operator's day: overrides that end by themselves, and who changed what.

mod tenants;

use serde_json::{Value, json};

use crate::harness::{Host, llm, llm_cost};

const QUOTA: &str = "/v1/quotas/tenant/acme-corp/llm/day";
const OVERRIDE: &str = "/v1/quotas/tenant/acme-corp/llm/day/override";

async fn overridden(host: &Host, usd: &str, until: &str) {
    let body = json!({ "limitUsd": usd, "until": until, "reason": "launch day" });
    host.post(OVERRIDE, body).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_holds_on_every_host_from_the_next_request_on_and_ends_by_itself() {
    let host = Host::start().await;
    let beside = host.beside().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    for host in [&host, &beside] {
        host.post("/v1/reservations", llm("2.00")).await.expect_status(429);
    }
    let body = json!({ "limitUsd": "75.00", "until": "2026-01-04T18:00:00Z", "reason": "launch day" });
    let answer = host.post(OVERRIDE, body).await.expect_status(200);
    assert!(answer.text.contains(r#""limitUsd":75.00,"hardLimitUsd":null"#), "{}", answer.text);
    assert!(
        answer.text.ends_with(
            r#""override":{"limitUsd":75.00,"until":"2026-01-04T18:00:00Z","reason":"launch day","thenLimitUsd":50.00}}"#
        ),
        "{}",
        answer.text
    );
    for host in [&host, &beside] {
        host.check(llm("2.00")).await.expect_status(200);
        host.post("/v1/reservations", llm("2.00")).await.expect_status(201);
    }
    host.at("2026-01-04T17:59:59.999Z");
    for host in [&host, &beside] {
        host.post("/v1/reservations", llm("2.00")).await.expect_status(201);
    }
    // Its last instant has passed: nobody has to take it away.
    host.at("2026-01-04T18:00:00Z");
    for host in [&host, &beside] {
        let denied = host.post("/v1/reservations", llm("0.01")).await.expect_status(429);
        assert!(denied.text.contains(r#""limitUsd":50.00"#), "{}", denied.text);
        host.check(llm("0.01")).await.expect_status(429);
    }
    let listed = host.get("/v1/quotas").await;
    assert_eq!((listed.at("/quotas/0/limitUsd"), listed.at("/quotas/0/override")), (json!(50.0), json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_can_lower_a_limit_and_is_ended_early() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "10.00").await;
    overridden(&host, "5.00", "2026-01-05T18:00:00Z").await;
    host.check(llm("0.01")).await.expect_status(429);
    // The limit of the quota itself can be changed meanwhile, and holds when the override is over.
    host.put(QUOTA, json!({ "limitUsd": 20 })).await.expect_status(200);
    host.check(llm("0.01")).await.expect_status(429);
    let answer = host.delete(OVERRIDE).await.expect_status(200);
    assert_eq!((answer.at("/limitUsd"), answer.at("/override")), (json!(20.0), json!(null)));
    host.check(llm("9.00")).await.expect_status(200);
    host.check(llm("11.00")).await.expect_status(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_remembers_of_an_override_admits_nothing_after_it_was_ended_elsewhere() {
    let host = Host::start().await;
    let beside = host.beside().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    overridden(&host, "75.00", "2026-01-04T18:00:00Z").await;
    host.post("/v1/reservations", llm("2.00")).await.expect_status(201);
    host.post("/v1/reservations", llm("2.00")).await.expect_status(201);
    beside.delete(OVERRIDE).await.expect_status(200);
    host.post("/v1/reservations", llm("2.00")).await.expect_status(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn thresholds_are_those_of_the_limit_that_holds() {
    let host = Host::start().await;
    host.put(QUOTA, json!({ "limitUsd": 10 })).await.expect_status(201);
    overridden(&host, "100.00", "2026-01-04T18:00:00Z").await;
    host.cost(llm_cost("c-1", "9.50")).await;
    let alerts =
        "SELECT coalesce(string_agg(threshold || ' of ' || limit_usd::int, ', ' ORDER BY limit_usd, threshold), 'none')
                  FROM copilot_internal.alerts";
    assert_eq!(host.database.value(alerts).await, "none");
    // The worker takes it away; the limit that holds again has been passed already.
    host.at("2026-01-04T18:00:00Z");
    let ended = "SELECT count(*) FROM copilot_internal.audit WHERE action = 'quota.override_ended'";
    crate::harness::until("the override is taken away", || async { host.database.value(ended).await == "1" }).await;
    assert_eq!(host.database.value(alerts).await, "80 of 10, 90 of 10");
    let left = "SELECT count(*) FROM copilot_internal.cost_quotas WHERE override_until IS NOT NULL OR override_reason IS NOT NULL";
    assert_eq!(host.database.value(left).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_that_makes_no_sense_is_refused_by_name() {
    let host = Host::start().await;
    host.put(QUOTA, json!({ "limitUsd": 10, "hardLimitUsd": 20 })).await.expect_status(201);
    let until = "2026-01-04T18:00:00Z";
    for (body, field, fragment) in [
        (json!({ "until": until, "reason": "r" }), "limitUsd", "required"),
        (json!({ "limitUsd": 0, "until": until, "reason": "r" }), "limitUsd", "above 0"),
        (
            json!({ "limitUsd": 21, "until": until, "reason": "r" }),
            "limitUsd",
            "at most the quota's hard limit, $20.00",
        ),
        (json!({ "limitUsd": 15, "reason": "r" }), "until", "required"),
        (json!({ "limitUsd": 15, "until": "2026-01-04T12:00:00Z", "reason": "r" }), "until", "still to come"),
        (json!({ "limitUsd": 15, "until": "tomorrow", "reason": "r" }), "until", "an instant such as"),
        (json!({ "limitUsd": 15, "until": until }), "reason", "required"),
        (json!({ "limitUsd": 15, "until": until, "reason": " " }), "reason", "1 to 500 characters"),
        (json!({ "limitUsd": 15, "until": until, "reason": "r", "why": "" }), "why", "unknown field"),
    ] {
        let answer = host.post(OVERRIDE, body.clone()).await.expect_status(400);
        assert_eq!(answer.at("/field"), field, "{body}");
        assert!(answer.word("/message").contains(fragment), "{body}: {}", answer.text);
    }
    let body = json!({ "limitUsd": 15, "until": until, "reason": "r" });
    host.post("/v1/quotas/tenant/globex/llm/day/override", body).await.expect_status(404);
    host.delete("/v1/quotas/tenant/globex/llm/day/override").await.expect_status(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit_table_with_before_and_after_and_who_made_it() {
    let host = Host::start().await;
    host.put(QUOTA, json!({ "limitUsd": 50 })).await.expect_status(201);
    host.put(QUOTA, json!({ "limitUsd": "60.125" })).await.expect_status(200);
    // The same again is no change, and neither is what requests do.
    host.put(QUOTA, json!({ "limitUsd": "60.125" })).await.expect_status(200);
    host.cost(llm_cost("c-1", "1.00")).await;
    overridden(&host, "75.00", "2026-01-04T18:00:00Z").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET limit_usd = 0.01, current_spend_usd = 0").await;
    host.delete(QUOTA).await.expect_status(204);
    host.tenant("acme-corp", Some("pro"), None).await;
    host.tenant("acme-corp", Some("free"), Some("eu-team")).await;
    host.delete("/v1/tenants/acme-corp").await.expect_status(204);
    let answer = host.get("/v1/audit?tenantId=acme-corp").await.expect_status(200);
    let rows = answer.at("/audit").as_array().cloned().unwrap_or_default();
    let line = |row: &Value| {
        let word = |field: &str| row[field].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {}", word("actor"), word("action"), word("subject"), word("reason"))
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "http:loopback tenant.deleted acme-corp -",
            "http:loopback tenant.changed acme-corp -",
            "http:loopback tenant.created acme-corp -",
            "http:loopback quota.deleted tenant/acme-corp/llm/day -",
            "sql:tollgate quota.changed tenant/acme-corp/llm/day -",
            "http:loopback quota.overridden tenant/acme-corp/llm/day launch day",
            "http:loopback quota.changed tenant/acme-corp/llm/day -",
            "http:loopback quota.created tenant/acme-corp/llm/day -",
        ]
    );
    assert_eq!(rows[1]["before"], json!({ "tier": "pro", "pool": null }));
    assert_eq!(rows[1]["after"], json!({ "tier": "free", "pool": "eu-team" }));
    assert_eq!(rows[6]["at"], "2026-01-04T12:00:00Z");
    assert!(answer.text.contains(r#""limitUsd" : 60.125"#), "{}", answer.text);
    assert_eq!(rows[5]["after"]["override"]["until"], "2026-01-04T18:00:00Z");
    assert_eq!((&rows[7]["before"], &rows[3]["after"]), (&json!(null), &json!(null)));
    let only = host.get("/v1/audit?action=quota.changed&limit=1&since=2026-01-04T00:00:00Z").await;
    assert_eq!(only.at("/audit").as_array().map(Vec::len), Some(1));
    host.get("/v1/audit?limit=0").await.expect_status(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_change_quotas_is_audited_without_rights_on_the_audit_table() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.database
        .run(
            "DO $$ BEGIN CREATE ROLE tollgate_test_support; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT USAGE ON SCHEMA copilot_internal TO tollgate_test_support;
             GRANT SELECT, UPDATE ON copilot_internal.cost_quotas TO tollgate_test_support;
             SET ROLE tollgate_test_support; UPDATE copilot_internal.cost_quotas SET limit_usd = 60; RESET ROLE;",
        )
        .await;
    assert_eq!(host.get("/v1/audit").await.at("/audit/0/action"), "quota.changed");
}
