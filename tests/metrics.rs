//! `/metrics` of the real binary, and the files that read it.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{Binary, Database, Host, guests, llm_cost, until};

/// The sample's value as it is written; `None` where there is no such sample.
fn sample<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_policies_reloads_and_the_store_are_counted_and_no_tenant_is_named() {
    let database = Database::migrated().await;
    let folder = guests::own_folder();
    let url = database.url();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", folder.path().to_str().expect("a text")];
    let gate = Binary::start(&arguments, &[("DATABASE_URL", url.as_str()), ("ENFORCE_E2B_QUOTAS", "false")]);
    database.quota("tenant acme-corp llm day", "10.00", "0").await;
    database.quota("tenant acme-corp e2b day", "0.01", "0").await;
    let ask = |resource: &str, usd: &str| json!({ "tenantId": "acme-corp", "resourceType": resource, "estimatedCostUsd": usd });
    gate.send("POST", "/v1/check", ask("llm", "1.00")).await.expect_status(200);
    gate.send("POST", "/v1/check", ask("llm", "1.00")).await.expect_status(200);
    gate.send("POST", "/v1/check", ask("llm", "11.00")).await.expect_status(429);
    gate.send("POST", "/v1/check", ask("e2b", "1.00")).await.expect_status(200);
    gate.send("POST", "/v1/reservations", ask("llm", "1.00")).await.expect_status(201);
    gate.send("POST", "/v1/policies/reload", json!({})).await.expect_status(200);
    std::fs::write(folder.join("junk.wasm"), "junk").expect("a file");
    gate.send("POST", "/v1/policies/reload", json!({})).await.expect_status(422);

    let metrics = gate.send("GET", "/metrics", json!({})).await.expect_status(200);
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for (name, value) in [
        (r#"tollgate_decisions_total{resource_type="llm",outcome="allowed",mode="check"}"#, "2"),
        (r#"tollgate_decisions_total{resource_type="llm",outcome="denied",mode="check"}"#, "1"),
        (r#"tollgate_decisions_total{resource_type="llm",outcome="allowed",mode="reserve"}"#, "1"),
        (r#"tollgate_decisions_total{resource_type="e2b",outcome="unenforced",mode="check"}"#, "1"),
        (r#"tollgate_decision_duration_seconds_bucket{le="+Inf"}"#, "5"),
        ("tollgate_decision_duration_seconds_count", "5"),
        (r#"tollgate_policy_eval_duration_seconds_count{policy="standard"}"#, "5"),
        (r#"tollgate_policy_reload_total{result="ok"}"#, "1"),
        (r#"tollgate_policy_reload_total{result="refused"}"#, "1"),
        ("tollgate_store_up", "1"),
        ("tollgate_reservations_held", "1"),
        ("tollgate_alerts_due", "0"),
        (concat!("tollgate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), "1"),
    ] {
        assert_eq!(sample(&metrics.text, name), Some(value), "{name}: {}", metrics.text);
    }
    assert!(!metrics.text.contains("acme"), "{}", metrics.text);
    for line in metrics.text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(name.starts_with("tollgate_") && value.bytes().all(|b| b.is_ascii_digit() || b == b'.'), "{line}");
    }
    read_by_the_files(&metrics.text);
}

/// Rules and dashboard ask for nothing that is not there, and what is there is documented.
fn read_by_the_files(text: &str) {
    let known: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let document = std::fs::read_to_string(guests::repository().join("docs/configuration.md")).expect("the document");
    for name in &known {
        assert!(document.contains(&format!("`{name}`")), "{name} is not in docs/configuration.md");
    }
    for file in ["prometheus-rules.yml", "grafana-dashboard.json"] {
        let content = std::fs::read_to_string(guests::repository().join("docs/operations").join(file)).expect(file);
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let asked: BTreeSet<&str> = content
            .match_indices("tollgate_")
            .map(|(at, _)| content[at..].split(|c| !is_part(c)).next().unwrap_or_default())
            .collect();
        assert!(asked.len() >= 5, "{file}: {asked:?}");
        for name in asked {
            assert!(known.contains(name.trim_end_matches("_bucket").trim_end_matches("_count")), "{file}: {name}");
        }
        if file.ends_with("json") {
            let dashboard: serde_json::Value = serde_json::from_str(&content).expect("JSON");
            assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() >= 6));
        }
    }
}

/// Prometheus takes what it reads first for what was always there: no `increase` sees it.
#[test]
fn a_rule_sees_what_a_gate_has_counted_before_it_is_first_read() {
    let file = guests::repository().join("docs/operations/prometheus-rules.yml");
    let rules = std::fs::read_to_string(file).expect("the rules");
    let increases: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: increase(")).collect();
    assert_eq!(increases.len(), 2, "{increases:?}");
    for rule in increases {
        let (counted, rest) = rule.split_once('[').expect("a range");
        let (span, _) = rest.split_once(']').expect("its end");
        let is_new = format!("or ({counted} > 0 unless {counted} offset {span})");
        assert!(rule.ends_with(&is_new), "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_is_counted_by_its_kind() {
    let database = Database::migrated().await;
    let folder = guests::own_folder();
    let manifest = format!("{}\n[settings]\nbehaviour = \"panic\"\n", guests::PATIENT);
    guests::install(&folder, "hostile", "bad", &manifest);
    let url = database.url();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", folder.path().to_str().expect("a text")];
    let gate = Binary::start(&arguments, &[("DATABASE_URL", url.as_str())]);
    database.run("INSERT INTO copilot_internal.tenants (tenant_id, tier) VALUES ('globex', 'bad')").await;
    let request = json!({ "tenantId": "globex", "resourceType": "llm", "estimatedCostUsd": "1.00" });
    gate.send("POST", "/v1/check", request).await.expect_status(503);
    let metrics = gate.send("GET", "/metrics", json!({})).await;
    let errors = r#"tollgate_policy_errors_total{policy="bad",kind="trap"}"#;
    assert_eq!(sample(&metrics.text, errors), Some("1"), "{}", metrics.text);
    let failed = r#"tollgate_decisions_total{resource_type="llm",outcome="failed",mode="check"}"#;
    assert_eq!(sample(&metrics.text, failed), Some("1"), "{}", metrics.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_nothing_is_down_and_the_rest_is_told_all_the_same() {
    let host = Host::start().await;
    host.cost(llm_cost("c-1", "1.00")).await;
    let database = host.database.clone();
    let locked = tokio::spawn(async move {
        database.run("BEGIN; LOCK TABLE copilot_internal.alert_deliveries; SELECT pg_sleep(4); COMMIT").await;
    });
    until("the store is down", || async {
        let metrics = host.get("/metrics").await.expect_status(200);
        sample(&metrics.text, "tollgate_store_up") == Some("0") && metrics.text.contains("tollgate_build_info")
    })
    .await;
    locked.await.expect("no panic");
    until("it is up again", || async { sample(&host.get("/metrics").await.text, "tollgate_store_up") == Some("1") })
        .await;
}
