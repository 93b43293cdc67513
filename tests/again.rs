//! `policy replay`: what was decided before, decided again under a candidate.

use serde_json::{Value, json};

use crate::harness::{Database, Host, Scratch, Setup, guests, tollgate};

const SINCE: &str = "2026-01-04T00:00:00Z";

/// `acme-corp` in tier `pro`, and `globex` in none, with decisions that `standard` would make otherwise.
async fn decided() -> (Host, Database) {
    let database = Database::migrated().await;
    let host = Setup { database: Some(database.clone()), ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("pro"), None).await;
    database.quota("tenant acme-corp llm day", "10.00", "9.50").await;
    database.quota("tenant globex llm day", "10.00", "9.50").await;
    for (tenant, usd, priority, status) in [
        ("acme-corp", "0.25", "low", 200),
        ("acme-corp", "1.000000001", "high", 200),
        ("acme-corp", "1.25", "high", 200),
        ("acme-corp", "5", "high", 429),
        ("globex", "0.25", "high", 200),
        ("globex", "1", "high", 429),
    ] {
        let request = json!({ "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": usd,
                              "attributes": { "priority": priority } });
        host.check(request).await.expect_status(status);
    }
    host.get("/v1/decisions").await;
    (host, database)
}

fn replay(database: &Database, candidate: &std::path::Path, more: &[&str]) -> (String, String, Option<i32>) {
    let url = database.url();
    let candidate = candidate.to_str().expect("a text");
    let arguments = [&["policy", "replay", candidate, "--since", SINCE], more].concat();
    let output = tollgate(&arguments, &[("DATABASE_URL", &url)]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn json_of(shown: &str) -> Value {
    serde_json::from_str(shown).unwrap_or_else(|error| panic!("{error}: {shown}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_tells_who_would_now_be_denied_and_how_much_money_that_is() {
    let (_host, database) = decided().await;
    let standard = guests::SHIPPED.join("standard.wasm");
    let (shown, said, code) = replay(&database, &standard, &["--json"]);
    assert_eq!(code, Some(0), "{said}");
    let report = json_of(&shown);
    assert_eq!((&report["decisions"], &report["same"]), (&json!(6), &json!(4)), "{shown}");
    assert!(shown.contains(r#""usd": 2.250000001"#), "{shown}");
    let tenants: Vec<_> = report["byTenant"].as_array().expect("a list").iter().collect();
    let of = |tenant: &str| *tenants.iter().find(|group| group["tenant"] == tenant).expect("a group");
    assert_eq!((&of("acme-corp")["tier"], &of("acme-corp")["nowDenied"]["decisions"]), (&json!("pro"), &json!(2)));
    assert_eq!((&of("globex")["tier"], &of("globex")["nowDenied"]["decisions"]), (&Value::Null, &json!(0)));
    let example = of("acme-corp")["example"].as_str().expect("an example").to_owned();
    let estimate = format!("SELECT estimate_usd::text FROM copilot_internal.decisions WHERE id = '{example}'");
    let estimate = database.value(&estimate).await;
    assert!(["1.000000001", "1.250000000"].contains(&estimate.as_str()), "{estimate}");

    let (shown, ..) = replay(&database, &standard, &[]);
    assert!(shown.contains("  now denied      2 ($2.250000001)\n"), "{shown}");
    let (shown, ..) = replay(&database, &guests::SHIPPED.join("pro.wasm"), &["--policy", "pro", "--json"]);
    assert_eq!((&json_of(&shown)["decisions"], &json_of(&shown)["same"]), (&json!(4), &json!(4)), "{shown}");
    let (shown, ..) = replay(&database, &standard, &["--tenant", "globex", "--json"]);
    assert_eq!(json_of(&shown)["decisions"], json!(2), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_tells_who_would_now_be_allowed_for_less_or_not_answered() {
    let (_host, database) = decided().await;
    let folder = Scratch::new();
    let under = |behaviour: &str| {
        let settings = format!("timeout_ms = 1000\n[settings]\nbehaviour = \"{behaviour}\"\n");
        guests::install(&folder, "hostile", "hostile", &settings);
        let (shown, said, code) = replay(&database, &folder.join("hostile.wasm"), &["--json"]);
        (json_of(&shown), shown, said, code)
    };
    let (report, shown, said, code) = under("allow");
    assert_eq!((code, &report["nowAllowed"]["decisions"], &report["same"]), (Some(0), &json!(2), &json!(4)), "{said}");
    assert!(shown.contains(r#""usd": 6.00"#), "{shown}");
    let (report, shown, ..) = under("half");
    assert_eq!(report["otherAmount"]["decisions"], json!(4), "{shown}");
    assert!(shown.contains(r#""usd": -1.375000001"#), "{shown}");
    let (report, shown, said, code) = under("panic");
    assert_eq!((code, &report["nowFailing"]["decisions"]), (Some(1), &json!(6)), "{shown}");
    assert_eq!(report["failures"][0]["kind"], json!("trap"), "{shown}");
    assert!(said.contains("error: the candidate gave no verdict on 6 decisions\nhint: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_read_page_by_page_each_once_and_facts_that_cannot_be_read_are_told() {
    let (_host, database) = decided().await;
    // More than two pages at one instant, and one row of something else.
    database
        .run(
            "INSERT INTO copilot_internal.decisions
             SELECT gen_random_uuid(), decided_at, tenant_id, user_id, resource_type, estimate_usd, request_id, outcome,
                    code, reason, quota_id, policy_name, policy_digest, facts
             FROM copilot_internal.decisions, generate_series(1, 400);
             UPDATE copilot_internal.decisions SET facts = '{\"quotas\": [{}]}'
             WHERE id = (SELECT id FROM copilot_internal.decisions LIMIT 1)",
        )
        .await;
    let (shown, said, code) = replay(&database, &guests::SHIPPED.join("standard.wasm"), &["--json"]);
    assert_eq!(code, Some(0), "{said}");
    let report = json_of(&shown);
    assert_eq!((&report["decisions"], &report["unreadable"]), (&json!(6 * 401 - 1), &json!(1)), "{shown}");
}
