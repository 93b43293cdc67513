//! The operator's day: overrides that end by themselves, tenants on board in one command, and who changed what.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Database, Host, instant, llm, llm_cost, tollgate};

const QUOTA: &str = "/v1/quotas/tenant/acme-corp/llm/day";
const OVERRIDE: &str = "/v1/quotas/tenant/acme-corp/llm/day/override";

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    String::from_utf8(output.stdout.clone()).expect("a text")
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_comes_on_board_with_all_its_quotas_and_again_changes_nothing() {
    let database = Database::migrated().await;
    let url = database.url();
    let tenant = |arguments: &[&str]| tollgate(&[&["tenant"], arguments].concat(), &[("DATABASE_URL", &url)]);
    let planned = done(&tenant(&["onboard", "acme-corp", "--tier", "pro", "--dry-run"]));
    assert!(planned.ends_with("Nothing was changed: this was the plan.\n"), "{planned}");
    assert_eq!(database.value("SELECT count(*) FROM copilot_internal.audit").await, "0");
    let onboarded = done(&tenant(&["onboard", "acme-corp", "--tier", "pro", "--reason", "contract 7"]));
    assert_eq!(
        onboarded,
        "create  tenant acme-corp  tier pro  pool none\n\
         create  quota e2b         $10.00    a day\n\
         create  quota llm         $50.00    a day\n\
         Done.\n"
    );
    let rows = "SELECT string_agg(concat_ws(' ', actor, action, subject, reason), ', ' ORDER BY id) FROM copilot_internal.audit";
    let audited = database.value(rows).await;
    assert!(audited.starts_with("cli:"), "{audited}");
    assert!(audited.ends_with("quota.created tenant/acme-corp/llm/day contract 7"), "{audited}");
    // Somebody has raised a limit: onboarding again leaves it.
    database.run("UPDATE copilot_internal.cost_quotas SET limit_usd = 75 WHERE resource_type = 'llm'").await;
    let again = done(&tenant(&["onboard", "acme-corp", "--tier", "pro"]));
    assert!(
        again.contains("keep  quota llm         $75.00    a day\n") && again.ends_with("Nothing to do.\n"),
        "{again}"
    );
    // Half of it is missing: only that is created.
    database.run("DELETE FROM copilot_internal.cost_quotas WHERE resource_type = 'e2b'").await;
    let mended = done(&tenant(&["onboard", "acme-corp", "--tier", "pro"]));
    assert!(mended.contains("create  quota e2b") && mended.contains("keep    quota llm"), "{mended}");
    let refused = tenant(&["onboard", "acme-corp", "--tier", "free"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("is on board already, on the tier pro") && said(&refused).contains("set-tier"));
    let refused = tenant(&["onboard", "globex", "--tier", "por"]);
    assert!(said(&refused).contains("no tier \"por\", did you mean \"pro\"?"), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_is_changed_with_its_limits_and_spend_stays() {
    let database = Database::migrated().await;
    let url = database.url();
    let tenant = |arguments: &[&str]| tollgate(&[&["tenant"], arguments].concat(), &[("DATABASE_URL", &url)]);
    assert_eq!(tenant(&["set-tier", "acme-corp", "pro"]).status.code(), Some(2));
    done(&tenant(&["onboard", "acme-corp", "--tier", "free", "--pool", "eu-team"]));
    database.run("UPDATE copilot_internal.cost_quotas SET current_spend_usd = 0.4, hard_limit_usd = 900").await;
    let changed = done(&tenant(&["set-tier", "acme-corp", "enterprise"]));
    assert!(changed.contains("change  tenant acme-corp  tier free → enterprise  pool eu-team\n"), "{changed}");
    assert!(changed.contains("change  quota llm         $1.00 → $500.00"), "{changed}");
    let rows = "SELECT string_agg(concat_ws(' ', resource_type, period, limit_usd::int, current_spend_usd::numeric(3,1), hard_limit_usd::int), ', '
                       ORDER BY resource_type, period) FROM copilot_internal.cost_quotas";
    assert_eq!(
        database.value(rows).await,
        "e2b day 100 0.4 900, e2b month 2000 0.0, llm day 500 0.4 900, llm month 10000 0.0"
    );
    let kept = done(&tenant(&["set-tier", "acme-corp", "pro", "--keep-quotas"]));
    assert!(kept.contains("keep    quota llm         $500.00"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_offboarded_spends_nothing_whatever_its_tiers_policy_says() {
    let host = Host::start().await;
    let url = host.database.url();
    let tenant = |arguments: &[&str]| tollgate(&[&["tenant"], arguments].concat(), &[("DATABASE_URL", &url)]);
    done(&tenant(&["onboard", "acme-corp", "--tier", "enterprise"]));
    host.check(llm("2.00")).await.expect_status(200);
    host.database.run("UPDATE copilot_internal.cost_quotas SET override_limit_usd = 5000, override_until = '2100-01-01Z' WHERE resource_type = 'llm'").await;
    host.database.run("DELETE FROM copilot_internal.cost_quotas WHERE resource_type = 'e2b'").await;
    let closed = done(&tenant(&["offboard", "acme-corp", "--reason", "left"]));
    assert!(
        closed.contains("create  quota e2b         $0.000000001")
            && closed.contains("a lifetime, hard limit $0.000000001\n"),
        "{closed}"
    );
    host.check(llm("0.01")).await.expect_status(429);
    host.check(json!({ "tenantId": "acme-corp", "resourceType": "e2b" })).await.expect_status(429);
    let again = done(&tenant(&["offboard", "acme-corp"]));
    assert!(again.contains("Nothing to do.\n"), "{again}");
    assert_eq!(tenant(&["offboard", "nobody"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tier_allows_is_allowed_though_a_hard_limit_was_lower_or_the_tenant_had_left() {
    let host = Host::start().await;
    let url = host.database.url();
    let run = |line: &str| {
        let said = done(&tollgate(&line.split(' ').collect::<Vec<_>>(), &[("DATABASE_URL", &url)]));
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    run("tenant onboard acme-corp --tier free");
    run("quota set tenant acme-corp llm day 60 --hard-limit 90");
    run("quota set tenant acme-corp e2b lifetime 5");
    run("quota set tenant acme-corp gpu day 5");
    let changed = run("tenant set-tier acme-corp enterprise");
    for line in [
        "change quota llm $60.00 → $500.00 a day, hard limit $90.00 → none",
        "keep quota e2b $5.00 a lifetime, not of the tier",
    ] {
        assert!(changed.iter().any(|said| said == line), "{line}: {changed:#?}");
    }
    host.check(llm("400")).await.expect_status(200);
    assert_eq!(run("tenant set-tier acme-corp enterprise").pop().as_deref(), Some("Nothing to do."));

    run("tenant offboard acme-corp");
    host.check(llm("0.01")).await.expect_status(429);
    let back = run("tenant onboard acme-corp --tier enterprise");
    for line in [
        "change quota llm $0.000000001 → $500.00 a day, hard limit $0.000000001 → none",
        "remove quota e2b $0.000000001 a lifetime, hard limit $0.000000001, closed",
    ] {
        assert!(back.iter().any(|said| said == line), "{line}: {back:#?}");
    }
    host.check(llm("400")).await.expect_status(200);
    host.check(json!({ "tenantId": "acme-corp", "resourceType": "e2b", "estimatedCostUsd": 6 }))
        .await
        .expect_status(200);
    // What the tier says nothing of stays closed: without any quota it would be unlimited.
    let gpu = json!({ "tenantId": "acme-corp", "resourceType": "gpu", "estimatedCostUsd": 1 });
    host.check(gpu).await.expect_status(429);
    assert_eq!(run("tenant onboard acme-corp --tier enterprise").pop().as_deref(), Some("Nothing to do."));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_over_keeps_its_total_when_its_closed_quota_goes() {
    let database = Database::migrated().await;
    let url = database.url();
    let tenant = |line: &str| done(&tollgate(&line.split(' ').collect::<Vec<_>>(), &[("DATABASE_URL", &url)]));
    tenant("tenant onboard acme-corp --tier pro");
    database
        .run(
            "INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, period, limit_usd, current_spend_usd, period_start)
             VALUES ('tenant', 'acme-corp', 'llm', 'week', 100, 12.34, '2026-01-05 00:00Z')",
        )
        .await;
    tenant("tenant offboard acme-corp");
    assert!(tenant("tenant onboard acme-corp --tier pro").contains("remove  quota llm"));
    let kept = "SELECT coalesce(sum(spend_usd), 0)::numeric(20,2) FROM copilot_internal.cost_quota_periods WHERE period = 'week'";
    assert_eq!(database.value(kept).await, "12.34");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_take_the_same_tenant_on_board_do_it_once() {
    let database = Database::migrated().await;
    let url = database.url();
    let one = |_| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            tollgate(&["tenant", "onboard", "acme-corp", "--tier", "pro"], &[("DATABASE_URL", &url)])
        })
    };
    for output in (0..4).map(one).collect::<Vec<_>>() {
        let output = output.await.expect("an end");
        let lost = said(&output).contains("somebody has changed the tenant in the meantime");
        assert!(output.status.code() == Some(0) || lost, "{}", said(&output));
    }
    assert_eq!(database.value("SELECT count(*) FROM copilot_internal.audit").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_shown_on_one_screen_and_listed_with_what_limits_it() {
    let host = Host::start().await;
    let url = host.database.url();
    let run = |arguments: &[&str]| done(&tollgate(arguments, &[("DATABASE_URL", &url)]));
    run(&["tenant", "onboard", "acme-corp", "--tier", "pro", "--pool", "eu-team"]);
    host.database.quota("pool eu-team llm month", "100.00", "0").await;
    host.database.quota("user acme-corp/u-42 llm day", "5.00", "0").await;
    host.check(llm("70.00")).await.expect_status(429);
    host.check(json!({ "tenantId": "unknown", "resourceType": "llm" })).await.expect_status(200);
    host.get("/v1/decisions").await;
    let until = ["quota", "override", "tenant", "acme-corp", "llm", "day", "75", "--until", "2100-01-01T00:00:00Z"];
    let overridden = run(&[&until[..], &["--reason", "launch day"]].concat());
    assert_eq!(
        overridden,
        "Overridden tenant acme-corp llm: $75.00 a day until 2100-01-01 00:00:00 UTC, then its own limit again\n"
    );
    let screen = run(&["tenant", "show", "acme-corp"]);
    for fragment in [
        "tier          pro\n",
        "pool          eu-team\n",
        "until 2100-01-01 00:00, then $50.00: launch day",
        "user    acme-corp/u-42  llm",
        "pool    eu-team         llm",
        "limit_exceeded  LLM quota exceeded. Limit: $50.00",
        "quota.overridden",
    ] {
        assert!(screen.contains(fragment), "{fragment} is not in {screen}");
    }
    let json: Value = serde_json::from_str(&run(&["tenant", "show", "acme-corp", "--json"])).expect("JSON");
    assert_eq!((&json["tier"], json["quotas"].as_array().map(Vec::len)), (&json!("pro"), Some(4)));
    assert_eq!(json["denials"][0]["code"], "limit_exceeded");
    let listed = run(&["tenant", "list"]);
    let words: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[1], ["acme-corp", "pro", "eu-team", "own", "own"]);
    assert_eq!(words[2], ["unknown", "-", "-", "UNLIMITED", "UNLIMITED"]);
    run(&["quota", "override", "tenant", "acme-corp", "llm", "day", "--end"]);
    assert!(!run(&["tenant", "show", "acme-corp"]).contains("launch day, then"), "{screen}");
    assert_eq!(tollgate(&["tenant", "show", "nobody"], &[("DATABASE_URL", &url)]).status.code(), Some(2));
    assert!(host.clock.now() < instant("2100-01-01T00:00:00Z"));
}
