//! Policies that fail: each kind is told apart, ends as the operator chose, and hurts nobody else.

mod busy;
pub mod component;
mod corpus;
mod table;

use std::fmt::Write as _;

use serde_json::{Value, json};
use tollgate::gate::Enforcement;

use self::corpus::{Case, compile_bomb, corpus};
use crate::harness::{Answer, ENFORCED, Host, Setup, guests, llm};

/// A host with a tenant and tier for each behaviour; `manifest` is beside each policy.
async fn host(behaviours: &[&str], manifest: &str, enforcement: Enforcement) -> Host {
    let folder = guests::own_folder();
    for behaviour in behaviours {
        let mut manifest = manifest.to_owned();
        let _ = write!(manifest, "\n[settings]\nbehaviour = \"{behaviour}\"\n");
        guests::install(&folder, "hostile", behaviour, &manifest);
    }
    let policies = guests::open(folder.path().to_owned());
    assert_eq!(policies.generation().refused(), 0);
    let host = Setup { enforcement, policies, ..Setup::default() }.start().await;
    for behaviour in behaviours {
        host.tenant(behaviour, Some(behaviour), None).await;
    }
    host
}

async fn ask(host: &Host, tenant: &str) -> Answer {
    host.check(json!({ "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": "2.00" })).await
}

/// Behaviour, kind of failure, part of the message.
const FAILURES: [(&str, &str, &str); 10] = [
    ("loop", "timeout", "no answer within 300 ms (timeout_ms)"),
    ("panic", "trap", "trapped: "),
    ("recursion", "trap", "trapped: "),
    ("memory", "memory", "wanted more than 16 MiB of memory (memory_mib)"),
    ("output", "output", "answered more than 64 KiB"),
    ("error", "bad_answer", "bad answer: the policy could not decide: no idea"),
    ("code", "bad_answer", r#"code must be 1 to 64 of a-z, 0-9 and _, got "Not A Code""#),
    ("reason", "bad_answer", "reason must be a sentence for people"),
    ("quota", "bad_answer", "quota must be an index below 0, got 99"),
    ("at-most", "bad_answer", "at-most must be 0 to the estimate of $2.00, got $2.000000001"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_failure_denies_with_503_and_its_own_name() {
    let host = host(&FAILURES.map(|(behaviour, ..)| behaviour), "timeout_ms = 300", ENFORCED).await;
    for (behaviour, kind, fragment) in FAILURES {
        let answer = ask(&host, behaviour).await.expect_status(503);
        assert_eq!(answer.at("/error"), "policy_failed", "{behaviour}");
        let message = answer.word("/message");
        assert!(message.starts_with(&format!("policy {behaviour}: ")) && message.contains(fragment), "{message}");
        let stored = host.get(&format!("/v1/decisions/{}", answer.word("/decisionId"))).await.expect_status(200);
        assert_eq!((stored.at("/outcome"), stored.at("/code")), (json!("failed"), json!(kind)), "{behaviour}");
        assert_eq!(stored.at("/policy/name"), behaviour);
        // The standard policy is there for everybody else.
        host.check(llm("2.00")).await.expect_status(200);
    }
    assert_eq!(host.database.value("SELECT count(*) FROM application_logs").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_error_standard_asks_the_standard_policy_instead() {
    let host = host(&["panic", "error"], "timeout_ms = 1000\non_error = \"standard\"", ENFORCED).await;
    host.database.quota("tenant error llm day", "1.00", "0").await;
    let allowed = ask(&host, "panic").await.expect_status(200);
    assert_eq!(allowed.at("/policy/name"), "standard");
    let denied = ask(&host, "error").await.expect_status(429);
    assert_eq!(denied.at("/code"), "limit_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_error_allow_allows_but_not_beyond_a_hard_limit() {
    let host = host(&["panic"], "timeout_ms = 1000\non_error = \"allow\"", ENFORCED).await;
    host.database.quota("tenant panic llm day", "1.00", "0").await;
    let allowed = ask(&host, "panic").await.expect_status(200);
    assert_eq!(allowed.at("/policy/name"), "panic");
    let stored = host.get(&format!("/v1/decisions/{}", allowed.word("/decisionId"))).await;
    assert_eq!(stored.at("/facts/annotations"), json!({ "policy_failed": "trap" }));
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 1.00").await;
    assert_eq!(ask(&host, "panic").await.expect_status(429).at("/code"), "hard_limit_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_denies_nobody_where_enforcement_is_off() {
    let host = host(&["panic"], "timeout_ms = 1000", Enforcement { e2b: true, others: false }).await;
    assert_eq!(ask(&host, "panic").await.expect_status(200).at("/allowed"), true);
    let e2b = json!({ "tenantId": "panic", "resourceType": "e2b" });
    host.check(e2b).await.expect_status(503);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_has_an_instance_of_its_own() {
    let host = host(&["count"], "timeout_ms = 1000", ENFORCED).await;
    for _ in 0..5 {
        let answer = ask(&host, "count").await.expect_status(403);
        assert_eq!((answer.at("/code"), answer.at("/message")), (json!("counted"), json!("Call 1.")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_allow_less_than_was_asked_for() {
    let host = host(&["half"], "timeout_ms = 1000", ENFORCED).await;
    let answer = ask(&host, "half").await.expect_status(200);
    assert!(answer.text.contains(r#""atMostUsd":1.00,"quotaDetails":null"#), "{}", answer.text);
    // Who did not hear it and asks again is told so too.
    let again = json!({ "tenantId": "half", "resourceType": "llm", "requestId": "r-1", "estimatedCostUsd": "2.00" });
    for duplicate in [json!(null), json!(true)] {
        let held = host.post("/v1/reservations", again.clone()).await.expect_status(201);
        assert_eq!((held.at("/atMostUsd"), held.at("/duplicate")), (json!(1.0), duplicate), "{}", held.text);
    }
    // All of nothing is no less than was asked for.
    let nothing = json!({ "tenantId": "half", "resourceType": "llm", "estimatedCostUsd": "0" });
    assert_eq!(host.check(nothing).await.expect_status(200).at("/atMostUsd"), json!(null));
    // The hard limit looks at what was allowed.
    host.database.quota("tenant half llm day", "9.00", "0").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 1.00").await;
    ask(&host, "half").await.expect_status(200);
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 0.99").await;
    ask(&host, "half").await.expect_status(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_say_when_to_come_back() {
    let host = host(&["later"], "timeout_ms = 1000", ENFORCED).await;
    host.database.quota("tenant later llm lifetime", "9.00", "0").await;
    let denied = ask(&host, "later").await.expect_status(429);
    assert_eq!((denied.at("/retryAfter"), denied.header("retry-after")), (json!(90), "90"));
    assert_eq!((denied.at("/code"), denied.at("/message")), (json!("later"), json!("In a minute and a half.")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_cut_for_many_callers_at_once_and_the_others_are_answered() {
    let host = host(&["loop"], "timeout_ms = 20", ENFORCED).await;
    let sends: Vec<_> = (0..40)
        .map(|n| {
            let tenant = if n % 4 == 0 { "loop" } else { "acme-corp" };
            let body = json!({ "tenantId": tenant, "resourceType": "llm" });
            (tenant, tokio::spawn(Answer::of(host.request("POST", "/v1/check").json(&body))))
        })
        .collect();
    for (tenant, send) in sends {
        let answer = send.await.expect("no panic").expect_status(if tenant == "loop" { 503 } else { 200 });
        assert_eq!(answer.at("/error"), if tenant == "loop" { json!("policy_failed") } else { Value::Null });
    }
}

/// A host whose tenants each have the tier of one case of the corpus.
async fn besieged(cases: &[Case]) -> Host {
    let folder = guests::own_folder();
    for case in cases {
        folder.write(&format!("{}.wasm", case.name), &case.bytes);
        folder.write(&format!("{}.toml", case.name), case.manifest);
    }
    let host = Setup { policies: guests::open(folder.path().to_owned()), ..Setup::default() }.start().await;
    for case in cases {
        host.tenant(case.name, Some(case.name), None).await;
    }
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_policy_does_its_own_tenant_is_told_what_and_the_others_are_answered() {
    let cases = corpus();
    let host = besieged(&cases).await;
    let mut wrong = Vec::new();
    for case in &cases {
        let answer = ask(&host, case.name).await.expect_status(503);
        let message = answer.word("/message");
        let stored = host.get(&format!("/v1/decisions/{}", answer.word("/decisionId"))).await.expect_status(200);
        assert_eq!(stored.at("/outcome"), "failed", "{}", case.name);
        let told = message.starts_with(&format!("policy {}: ", case.name)) && message.contains(case.message);
        if !told || stored.at("/code") != case.kind {
            wrong.push(format!("{}, {}: {message}", case.name, stored.at("/code")));
        }
        host.check(llm("2.00")).await.expect_status(200);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_was_cut_or_altered_anywhere_is_refused_or_decides_and_breaks_nothing() {
    let whole = component::Module::default().component();
    let folder = guests::own_folder();
    let mut damaged = 0;
    let mut put = |bytes: &[u8]| {
        folder.write(&format!("damaged-{damaged}.wasm"), bytes);
        folder.write(&format!("damaged-{damaged}.toml"), "timeout_ms = 100");
        damaged += 1;
        format!("damaged-{}", damaged - 1)
    };
    let mut tiers = vec![put(&whole)];
    let step = whole.len() / 40;
    let cut: Vec<String> = (0..40).map(|n| put(&whole[..n * step])).collect();
    for n in 0..80 {
        let mut altered = whole.clone();
        // Scattered over the file, and over the values of a byte.
        let at = 8 + n * 2_654_435_761 % (whole.len() - 8);
        altered[at] ^= u8::try_from(1 + n * 97 % 255).expect("a byte");
        tiers.push(put(&altered));
    }
    let policies = guests::open(folder.path().to_owned());
    assert!(policies.generation().refused() >= cut.len());
    let host = Setup { policies, ..Setup::default() }.start().await;
    for tier in cut.iter().chain(&tiers) {
        host.tenant(tier, Some(tier), None).await;
    }
    for tier in &cut {
        assert_eq!(ask(&host, tier).await.expect_status(503).at("/error"), "policy_failed");
    }
    for tier in &tiers {
        // What was altered may be what nobody looks at.
        let answer = ask(&host, tier).await;
        assert!([200, 403, 429, 503].contains(&answer.status), "{answer:?}");
        host.check(llm("2.00")).await.expect_status(200);
    }
    ask(&host, &tiers[0]).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_takes_long_to_compile_is_refused_or_decides_and_the_others_are_answered() {
    // Bounded where policies are compiled; here only the outcome counts.
    let bomb = Case { name: "bomb", bytes: compile_bomb(50_000), manifest: "", kind: "load", message: "" };
    let host = besieged(&[bomb]).await;
    let answer = ask(&host, "bomb").await;
    assert!([200, 503].contains(&answer.status), "{answer:?}");
    host.check(llm("2.00")).await.expect_status(200);
}
