//! Policies in JavaScript and Python: large guests that load, decide and reload like the others.
//!
//! They are built with what the languages' registries have, which takes a minute: `cargo test -- --ignored languages`, and `.ci/run`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::json;
use tollgate::decision::{Facts, Request};
use tollgate::money::Money;
use tollgate::period::Period;
use tollgate::policy::build::build;
use tollgate::quota::{Quota, QuotaKey, ResourceType, Scope, TenantId, Tier};
use uuid::Uuid;

use crate::harness::guests::repository;
use crate::harness::{Answer, Host, NOON, Scratch, Setup, guests, instant, tollgate_in};

/// As docs/writing-policies.md has them.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
/// For Python's size.
const LARGE: &str = "timeout_ms = 1000\nmemory_mib = 64\nmax_size_mib = 24\n";

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; install it, as .ci/run does"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", said(&output.stdout), said(&output.stderr));
}

/// Where the built examples are: `javascript.wasm`, `python.wasm`, and `curious.wasm` of the tests, which imports WASI.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("languages");
    std::fs::create_dir_all(&out).expect("a folder");
    javascript(&out);
    python(&out);
    out
});

/// A copy of an example, to be built in: nothing is left in the sources.
fn copied(language: &str, out: &Path) -> PathBuf {
    let work = out.join("work").join(language);
    std::fs::create_dir_all(&work).expect("a folder");
    let source = repository().join("policies/examples").join(language);
    run(Command::new("cp").args(["-R", "."]).arg(&work).current_dir(&source));
    work
}

fn built(work: &Path, out: &Path) {
    if let Err(error) = build(&[work.to_owned()], out, None) {
        panic!("{}: {error}", work.display());
    }
}

fn javascript(out: &Path) {
    let work = copied("javascript", out);
    run(Command::new("npm").args(["install", "--no-package-lock", "--no-audit", "--no-fund"]).current_dir(&work));
    built(&work, out);
}

fn python(out: &Path) {
    let work = copied("python", out);
    let venv = work.join(".venv");
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", COMPONENTIZE_PY]));
    built(&work, out);
    let mut command = Command::new(venv.join("bin/componentize-py"));
    command.arg("-d").arg(repository().join("wit/policy.wit")).args(["-w", "policy", "componentize"]);
    command.arg("-p").arg(repository().join("tests/fixtures/languages")).arg("-o").arg(out.join("curious.wasm"));
    run(command.arg("curious").env("PYTHONDONTWRITEBYTECODE", "1"));
}

/// The example's own, but for its deadline, which is for a machine that does nothing else.
fn manifest(language: &str) -> String {
    let file = repository().join(format!("policies/examples/{language}/{language}.toml"));
    let manifest = std::fs::read_to_string(file).expect("an example's manifest");
    assert!(manifest.contains("timeout_ms = 250\n"), "{manifest}");
    manifest.replace("timeout_ms = 250\n", "timeout_ms = 1000\n")
}

/// Puts the policy of a language into a folder, under the fixtures of `standard`, whose twin it is.
fn install(folder: &Scratch, language: &str) {
    std::fs::copy(BUILT.join(format!("{language}.wasm")), folder.join(&format!("{language}.wasm"))).expect("a policy");
    folder.write(&format!("{language}.toml"), manifest(language));
    let fixtures = repository().join("policies/standard/standard.fixtures.toml");
    std::fs::copy(fixtures, folder.join(&format!("{language}.fixtures.toml"))).expect("the fixtures");
}

async fn host(folder: &Scratch, tiers: &[&str]) -> Host {
    let policies = guests::open(folder.path().to_owned());
    let refused: Vec<_> = policies.generation().statuses().into_iter().filter_map(|status| status.last_error).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let host = Setup { policies, ..Setup::default() }.start().await;
    for tier in tiers {
        host.tenant(tier, Some(tier), None).await;
    }
    host
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from npm and PyPI"]
async fn the_examples_in_other_languages_pass_the_fixtures_of_standard_serve_and_reload() {
    let folder = guests::own_folder();
    let languages = ["javascript", "python"];
    for language in languages {
        install(&folder, language);
    }
    let host = host(&folder, &languages).await;
    for language in languages {
        let ask =
            |usd: &str| host.check(json!({ "tenantId": language, "resourceType": "llm", "estimatedCostUsd": usd }));
        host.database.quota(&format!("tenant {language} llm day"), "50.00", "48.50").await;
        assert_eq!(ask("1.50").await.expect_status(200).at("/policy/name"), language);
        let denied = ask("2.00").await.expect_status(429);
        let message = "LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00";
        assert_eq!((denied.at("/code"), denied.at("/message")), (json!("limit_exceeded"), json!(message)));
        // Another file beside it, for the reload.
        folder.write(&format!("{language}.toml"), format!("on_error = \"standard\"\n{}", manifest(language)));
    }
    let reload = || Answer::of(host.request("POST", "/v1/policies/reload"));
    reload().await.expect_status(200);
    for language in languages {
        let reserve = json!({ "tenantId": language, "resourceType": "llm", "estimatedCostUsd": "1.00" });
        assert_eq!(host.post("/v1/reservations", reserve).await.expect_status(201).at("/policy/name"), language);
        // Larger than a policy may be without its operator's word.
        folder.write(&format!("{language}.toml"), "");
        let refused = reload().await.expect_status(422);
        assert!(refused.text.contains("more than the 4 MiB that a policy may have (max_size_mib)"), "{}", refused.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from npm and PyPI"]
async fn a_library_that_looks_around_in_its_sandbox_finds_nothing_but_the_requests_time() {
    let folder = guests::own_folder();
    std::fs::copy(BUILT.join("curious.wasm"), folder.join("curious.wasm")).expect("a policy");
    folder.write("curious.toml", format!("{LARGE}wasi = \"sandbox\"\n"));
    let host = host(&folder, &["curious"]).await;
    let ask = || host.check(json!({ "tenantId": "curious", "resourceType": "llm" }));
    let (first, second) = (ask().await.expect_status(403).word("/message"), ask().await.word("/message"));
    let sights: Vec<&str> = first.split("; ").collect();
    assert_eq!(sights[0], "environment []");
    for (sight, what) in sights[1..5].iter().zip(["file", "folder", "write", "network"]) {
        let found = sight.strip_prefix(what).unwrap_or_else(|| panic!("{first}")).trim();
        assert!(found.ends_with("Error"), "{first}");
    }
    assert_eq!(sights[5], "time 1767528000.0");
    assert!(sights[6].starts_with("random ") && sights[6].len() == "random ".len() + 16, "{first}");
    assert_ne!(first, second, "another request has other randomness");
}

#[test]
#[ignore = "installs from npm and PyPI"]
fn a_new_policy_in_another_language_builds_and_passes_its_fixtures() {
    let work = BUILT.join("work");
    for (language, installed) in [("javascript", "node_modules"), ("python", ".venv")] {
        let folder = Scratch::new();
        let does = |arguments: &[&str]| {
            let output = tollgate_in(&folder, arguments, &[]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stdout));
        };
        does(&["policy", "new", "gold", "--lang", language]);
        // What the install line would bring.
        let installed = (work.join(language).join(installed), folder.join("gold").join(installed));
        std::os::unix::fs::symlink(installed.0, installed.1).expect("a link");
        does(&["policy", "build", "gold", "--out", "policies"]);
        folder.write("policies/gold.toml", LARGE);
        does(&["policy", "test", "policies/gold.wasm"]);
    }
}

/// For the documentation's numbers: `cargo test -- --ignored --nocapture what_a_decision_takes`.
#[test]
#[ignore = "measures"]
fn what_a_decision_takes_in_each_language() {
    let folder = guests::own_folder();
    for language in ["javascript", "python"] {
        install(&folder, language);
    }
    std::fs::copy(BUILT.join("curious.wasm"), folder.join("curious.wasm")).expect("a policy");
    folder.write("curious.toml", format!("{LARGE}wasi = \"sandbox\"\n"));
    let generation = guests::open(folder.path().to_owned()).generation();
    for tier in ["standard", "javascript", "python", "curious"] {
        let policy = generation.for_tier(Some(&Tier::parse(tier).expect("a tier"))).expect("a policy");
        let mut times: Vec<Duration> = (0..300)
            .map(|_| {
                let started = Instant::now();
                policy.decide(&facts()).expect("a verdict");
                started.elapsed()
            })
            .collect();
        let first = times[0];
        times.sort_unstable();
        println!("{tier:12} first {first:>10.2?}  p50 {:>10.2?}  p99 {:>10.2?}", times[150], times[297]);
    }
}

fn facts() -> Facts {
    let at: DateTime<Utc> = instant(NOON);
    let resource_type = ResourceType::parse("llm").expect("a resource type");
    let quotas = [Period::Day, Period::Week, Period::Month].map(|period| Quota {
        id: Uuid::nil(),
        key: QuotaKey {
            scope: Scope::Tenant,
            scope_id: "acme-corp".into(),
            resource_type: resource_type.clone(),
            period,
        },
        window: period.window(at),
        limit: Money::from_nanos(50_000_000_000),
        hard_limit: None,
        spend: Money::from_nanos(48_500_000_000),
        held: Money::ZERO,
        previous_spend: None,
        admitted: 7,
    });
    let request = Request {
        id: Uuid::nil(),
        at,
        tenant: TenantId::parse("acme-corp").expect("a tenant"),
        user: None,
        resource_type,
        estimate: Money::from_nanos(2_000_000_000),
        request_id: None,
        attributes: Vec::new(),
    };
    Facts { request: Arc::new(request), tier: None, pool: None, quotas: Arc::new(quotas.into()) }
}
