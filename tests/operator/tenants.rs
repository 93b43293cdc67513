//! Tenants on board, between tiers and off board, in one command.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Database, Host, instant, llm, llm_cost, tollgate};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    String::from_utf8(output.stdout.clone()).expect("a text")
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
    let shows = |plan: &[String], line: &str| assert!(plan.iter().any(|said| said == line), "{line}: {plan:#?}");
    run("tenant onboard acme-corp --tier free");
    run("quota set tenant acme-corp llm day 60 --hard-limit 90");
    run("quota set tenant acme-corp e2b lifetime 5");
    run("quota set tenant acme-corp gpu day 5");
    let changed = run("tenant set-tier acme-corp enterprise");
    shows(&changed, "change quota llm $60.00 → $500.00 a day, hard limit $90.00 → none");
    shows(&changed, "keep quota e2b $5.00 a lifetime, not of the tier");
    host.check(llm("400")).await.expect_status(200);
    assert_eq!(run("tenant set-tier acme-corp enterprise").pop().as_deref(), Some("Nothing to do."));

    let overridden = json!({ "limitUsd": 5000, "until": "2100-01-01T00:00:00Z", "reason": "launch" });
    host.post("/v1/quotas/tenant/acme-corp/llm/month/override", overridden).await.expect_status(200);
    let kept = run("tenant set-tier acme-corp enterprise");
    shows(&kept, "keep quota llm $10000.00 a month, while no override holds");

    run("tenant offboard acme-corp");
    host.check(llm("0.01")).await.expect_status(429);
    let back = run("tenant onboard acme-corp --tier enterprise");
    shows(&back, "change quota llm $0.000000001 → $500.00 a day, hard limit $0.000000001 → none");
    shows(&back, "remove quota e2b $0.000000001 a lifetime, hard limit $0.000000001, closed");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_has_spent_more_than_an_amount_can_be_is_shown() {
    let host = Host::start().await;
    let url = host.database.url();
    for n in 0..10 {
        host.cost(llm_cost(&format!("c-{n}"), "1000000000")).await;
    }
    // The command's clock is the machine's.
    host.database.run("UPDATE copilot_internal.cost_records SET occurred_at = now()").await;
    let screen = done(&tollgate(&["tenant", "show", "acme-corp"], &[("DATABASE_URL", &url)]));
    assert!(screen.contains("recorded      $9223372036.00 in"), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_only_spends_can_be_closed() {
    let host = Host::start().await;
    let url = host.database.url();
    host.cost(llm_cost("c-1", "5")).await;
    let closed = done(&tollgate(&["tenant", "offboard", "acme-corp"], &[("DATABASE_URL", &url)]));
    assert!(closed.contains("Done."), "{closed}");
    host.check(llm("1")).await.expect_status(429);
    assert_eq!(tollgate(&["tenant", "offboard", "nobody"], &[("DATABASE_URL", &url)]).status.code(), Some(2));
}
