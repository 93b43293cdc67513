//! `doctor`: what stands in the way of production, each finding with what to do next.

use serde_json::Value;
use sqlx::ConnectOptions as _;

use crate::authoring::stderr;
use crate::harness::{Database, Host, Scratch, guests, tollgate};

const TOKENS: [(&str, &str); 2] = [("TOLLGATE_APP_TOKEN", "chat t0ken acme-corp"), ("TOLLGATE_ADMIN_TOKEN", "adm1n")];

struct Report {
    code: Option<i32>,
    text: String,
    findings: Vec<Value>,
    stderr: String,
}

impl Report {
    /// The level and hint of the finding with these words.
    #[track_caller]
    fn of(&self, words: &str) -> (&str, &str) {
        let word = |finding: &'_ Value| finding["message"].as_str().is_some_and(|message| message.contains(words));
        let finding = self.findings.iter().find(|finding| word(finding));
        let finding = finding.unwrap_or_else(|| panic!("{words:?} is not in {}", self.text));
        (finding["level"].as_str().unwrap_or_default(), finding["hint"].as_str().unwrap_or_default())
    }
}

fn doctor(arguments: &[&str], environment: &[(&str, &str)]) -> Report {
    let output = tollgate(&[&["doctor", "--json"], arguments].concat(), environment);
    let stderr = stderr(&output);
    let text = String::from_utf8(output.stdout).expect("a text");
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let findings = json["findings"].as_array().cloned().unwrap_or_default();
    assert_eq!(json["ok"], output.status.code() == Some(0), "{text}");
    Report { code: output.status.code(), text, findings, stderr }
}

fn with<'a>(url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("DATABASE_URL", url)], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_ready_for_production_passes() {
    let host = Host::start().await;
    let url = host.database.url();
    for resource in ["llm", "e2b"] {
        host.database.quota(&format!("tenant acme-corp {resource} day"), "50.00", "0").await;
    }
    let policies = guests::SHIPPED.to_str().expect("a text");
    let report = doctor(&["--policies", policies, "--listen", "0.0.0.0:8080"], &with(&url, &TOKENS));
    assert_eq!(report.code, Some(0), "{}", report.text);
    assert_eq!(report.of("database_url = (set)  (DATABASE_URL)").0, "note");
    assert_eq!(report.of("listen = 0.0.0.0:8080  (--listen)").0, "note");
    assert_eq!(report.of("log_level = info  (default)").0, "note");
    assert_eq!(report.of("app token \"chat\" may charge acme-corp").0, "ok");
    assert_eq!(report.of("its tables are at this version").0, "ok");
    assert_eq!(report.of("decisions are kept for 30 days; the log has partitions for ").0, "ok");
    assert_eq!(report.of("enterprise 0.1.0 passes its fixtures").0, "ok");
    assert_eq!(report.of("1 of 1 have both quotas").0, "ok");
    assert!(report.findings.iter().any(|finding| finding["area"] == "outages"));
    for secret in ["t0ken", "adm1n", "postgres://"] {
        assert!(!report.text.contains(secret), "{secret}: {}", report.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_quota_means_unlimited_access_and_is_critical() {
    let host = Host::start().await;
    let url = host.database.url();
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.tenant("globex", Some("gold"), Some("eu-team")).await;
    host.database.quota("pool eu-team llm month", "50.00", "0").await;
    host.database.quota("pool eu-team e2b month", "50.00", "0").await;
    // Known from the decision log only.
    host.check(serde_json::json!({ "tenantId": "initech", "resourceType": "llm" })).await.expect_status(200);
    host.get("/v1/decisions").await;
    host.check(serde_json::json!({ "tenantId": "$(id)", "resourceType": "llm" })).await.expect_status(200);
    host.get("/v1/decisions").await;
    // And one that only records what it has spent.
    host.cost(serde_json::json!({ "tenantId": "hooli", "resourceType": "llm", "costId": "c", "actualCostUsd": 1 }))
        .await;
    host.database.run("UPDATE copilot_internal.cost_records SET occurred_at = now(), recorded_at = now()").await;
    let policies = guests::SHIPPED.to_str().expect("a text");
    let report = doctor(&["--policies", policies], &with(&url, &TOKENS));
    assert_eq!(report.code, Some(1), "{}", report.text);
    let (level, hint) = report.of("acme-corp has no quota for e2b: no quota means unlimited access");
    assert_eq!((level, hint), ("critical", "`tollgate tenant onboard acme-corp --tier TIER` adds what is missing"));
    assert_eq!(report.of("initech has no quota for llm and e2b").0, "critical");
    assert_eq!(report.of("$(id) has no").1, "`tollgate tenant onboard '$(id)' --tier TIER` adds what is missing");
    assert_eq!(report.of("hooli has no quota for llm and e2b").0, "critical");
    let shown = tollgate(&["tenant", "show", "hooli"], &[("DATABASE_URL", &url)]);
    assert!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains("$1.00"), "{shown:?}");
    assert_eq!(report.of("globex has no quota of its own for llm and e2b").0, "warning");
    assert_eq!(report.of("tenants of the tier gold, which has no policy").0, "warning");
    let text = tollgate(&["doctor", "--policies", policies], &with(&url, &TOKENS));
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("  CRITICAL  acme-corp has no quota for e2b") && text.contains("            hint: `tollgate"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_used_is_described_and_left_as_it_is() {
    let policies = guests::SHIPPED.to_str().expect("a text");
    let empty = Database::empty().await;
    let report = doctor(&["--policies", policies], &with(&empty.url(), &TOKENS));
    let (level, hint) = report.of("not at this version; missing: 0001 cost quotas");
    assert_eq!((report.code, level), (Some(1), "error"));
    assert!(hint.contains("tollgate migrate"), "{hint}");
    assert_eq!(empty.value("SELECT to_regnamespace('copilot_internal') IS NULL").await, "t");

    let database = Database::migrated().await;
    let name = database.value("SELECT current_database()").await;
    database
        .run(&format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = on;
             SET default_transaction_read_only = off;
             INSERT INTO copilot_internal._sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'from the future', true, '', 0)"
        ))
        .await;
    let report = doctor(&["--policies", policies], &with(&database.url(), &TOKENS));
    assert_eq!(report.of("it is read-only").0, "error");
    assert_eq!(report.of("it has migrations of a later version: [9999]").0, "error");

    let nobody = "postgres://somebody:s3cret@127.0.0.1:1/none";
    let report = doctor(&["--policies", policies], &with(nobody, &TOKENS));
    let (level, hint) = report.of("the database cannot be reached");
    assert!((level, hint.contains("DATABASE_URL")) == ("error", true), "{}", report.text);
    assert!(!report.text.contains("s3cret"), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_configured_wrongly_is_a_finding_with_a_hint() {
    let database = Database::migrated().await;
    let url = database.url();
    let policies = guests::own_folder();
    policies.write("broken.wasm", "no component");
    let folder = policies.path().to_str().expect("a text");
    let environment = with(&url, &[("ENFORCE_COST_QUOTAS", "false")]);
    let report = doctor(&["--policies", folder, "--listen", "0.0.0.0:8080"], &environment);
    assert_eq!(report.code, Some(1));
    assert_eq!(report.of("0.0.0.0:8080 is no loopback address").0, "error");
    assert_eq!(report.of("no app token").0, "warning");
    let (level, hint) = report.of("are not enforced");
    assert_eq!((level, hint), ("error", "unset ENFORCE_COST_QUOTAS, or set it to true"));
    let (level, hint) = report.of("broken does not serve");
    assert!(level == "error" && hint.contains("tollgate policy test"), "{}", report.text);
    assert_eq!(report.of("quotas of e2b are enforced").0, "ok");

    let report = doctor(&[], &with(&url, &[("TOLLGATE_LISTN", "127.0.0.1:1")]));
    assert_eq!(report.of("did you mean \"TOLLGATE_LISTEN\"?").0, "error");
    let config = Scratch::new();
    config.write("tollgate.toml", "[tiers.gold]\nllm = { day = \"5.00\" }");
    let file = config.join("tollgate.toml");
    let report = doctor(&["--config", file.to_str().expect("a text")], &with(&url, &[]));
    assert_eq!(report.of("tiers.gold: has no quota for e2b, which would be unlimited").0, "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_would_refuse_or_not_read_at_all_is_found_in_the_policy_folder() {
    let database = Database::migrated().await;
    let url = database.url();
    let policies = guests::own_folder();
    guests::install(&policies, "every-second-user", "odd", guests::PATIENT);
    policies.write("odd.fixture.toml", "");
    policies.write("Odd.wasm", "");
    policies.write("ghost.toml", "");
    policies.write("odd.next.wasm", "no component");
    let folder = policies.path().to_str().expect("a text");
    let report = doctor(&["--policies", folder], &with(&url, &TOKENS));
    let (level, hint) = report.of("the candidate for odd was refused: not a WebAssembly component");
    assert!(level == "warning" && hint.contains("odd.next.wasm`"), "{level}: {hint}");
    let (level, hint) = report.of("odd 0.1.0 loads; it has no fixtures");
    assert_eq!((level, hint), ("note", "what it should decide goes beside it, as odd.fixtures.toml"));
    assert_eq!(report.of("standard 0.1.0 passes its fixtures").0, "ok");
    for stray in [
        "odd.fixture.toml is read by no host: no policy has a file of this name, did you mean \"odd.fixtures.toml\"?",
        "Odd.wasm is read by no host: a policy is NAME.wasm, a candidate NAME.next.wasm, with NAME the tier's, \
         did you mean \"odd.wasm\"?",
        "ghost.toml is read by no host: there is no ghost.wasm",
    ] {
        let (level, hint) = report.of(stray);
        assert!(level == "warning" && hint.starts_with("rename it, or remove it from "), "{level}: {hint}");
    }
    assert!(!report.stderr.contains("\"timestamp\""), "{}", report.stderr);

    policies.write("standard.wasm", "no component");
    let report = doctor(&["--policies", folder], &with(&url, &TOKENS));
    let (level, hint) = report.of("standard.wasm: not a WebAssembly component");
    assert!(level == "error" && hint.contains("tollgate policy test"), "{level}: {hint}");
    policies.write("standard.previous.wasm", "");
    let report = doctor(&["--policies", folder], &with(&url, &TOKENS));
    let (_, hint) = report.of("standard.wasm: not a WebAssembly component");
    assert!(hint.starts_with("`tollgate policy rollback standard`"), "{hint}");
    assert_eq!(report.of("ghost.toml is read by no host").0, "warning");
}

#[test]
fn without_a_store_none_is_created() {
    let home = Scratch::new();
    let data = home.join("data");
    let report = doctor(&["--data-dir", data.to_str().expect("a text")], &[]);
    assert_eq!(report.of("no store yet: the first start creates an embedded PostgreSQL").0, "note");
    assert_eq!(report.of("is not there yet; the first start creates it").0, "note");
    assert!(!data.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_at_is_a_finding_and_costs_none_of_the_others() {
    let database = Database::migrated().await;
    let mut holder = database.options().connect().await.expect("a connection");
    sqlx::raw_sql("BEGIN; LOCK TABLE copilot_internal.cost_quotas").execute(&mut holder).await.expect("a lock");
    let policies = guests::SHIPPED.to_str().expect("a text");
    let report = doctor(&["--policies", policies], &with(&database.url(), &TOKENS));
    assert_eq!(report.code, Some(1), "{}", report.text);
    assert_eq!(report.of("the database did not answer in time").0, "error");
    assert_eq!(report.of("PostgreSQL ").0, "ok");
}
