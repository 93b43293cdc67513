//! The breaker: a policy that keeps failing is not run for a while, comes back by itself, and is in nobody's way.

use serde_json::json;

use crate::harness::{Answer, Binary, Database, Host, Scratch, Setup, guests};

/// The tenants `acme-corp` and `globex` have the tier `odd`, whose policy does what `behaviour` says.
async fn host(behaviour: &str, manifest: &str) -> (Host, Scratch) {
    let folder = guests::own_folder();
    install(&folder, behaviour, manifest);
    let host = Setup { policies: guests::open(folder.path().to_owned()), ..Setup::default() }.start().await;
    for tenant in ["acme-corp", "globex"] {
        host.tenant(tenant, Some("odd"), None).await;
    }
    (host, folder)
}

fn install(folder: &Scratch, behaviour: &str, manifest: &str) {
    let manifest = format!("{manifest}\n[settings]\nbehaviour = \"{behaviour}\"\n");
    guests::install(folder, "hostile", "odd", &manifest);
}

async fn ask(host: &Host, tenant: &str) -> Answer {
    host.check(json!({ "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": "2.00" })).await
}

/// The kind of failure as the decision log has it.
async fn kind(host: &Host, answer: Answer) -> String {
    let id = answer.expect_status(503).word("/decisionId");
    host.get(&format!("/v1/decisions/{id}")).await.word("/code")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_keeps_failing_is_paused_for_its_tenant_and_tried_again_by_one_request() {
    let (host, _folder) = host("panic", guests::PATIENT).await;
    for _ in 0..5 {
        assert_eq!(kind(&host, ask(&host, "acme-corp").await).await, "trap");
    }
    let paused = ask(&host, "acme-corp").await.expect_status(503);
    let message = paused.word("/message");
    assert!(message.starts_with("policy odd: not run for now, since it keeps failing"), "{message}");
    assert!(message.contains("It last failed with: trapped: "), "{message}");
    assert_eq!(kind(&host, paused).await, "paused");
    // Another tenant's is not, and a reservation is no way around.
    assert_eq!(kind(&host, ask(&host, "globex").await).await, "trap");
    let reserve = json!({ "tenantId": "acme-corp", "resourceType": "llm" });
    assert_eq!(kind(&host, host.post("/v1/reservations", reserve).await).await, "paused");
    host.at("2026-01-04T12:00:09.999Z");
    assert_eq!(kind(&host, ask(&host, "acme-corp").await).await, "paused");
    host.at("2026-01-04T12:00:10Z");
    assert_eq!(kind(&host, ask(&host, "acme-corp").await).await, "trap");
    assert_eq!(kind(&host, ask(&host, "acme-corp").await).await, "paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_was_mended_is_run_at_once_and_one_that_recovers_after_its_pause() {
    let (host, folder) = host("flaky", guests::PATIENT).await;
    let attempt = |failing: &str| {
        let attributes = json!({ "fail": failing });
        host.check(json!({ "tenantId": "acme-corp", "resourceType": "llm", "attributes": attributes }))
    };
    for _ in 0..5 {
        attempt("yes").await.expect_status(503);
    }
    assert_eq!(kind(&host, attempt("no").await).await, "paused");
    host.at("2026-01-04T12:00:10Z");
    attempt("no").await.expect_status(200);
    for _ in 0..4 {
        attempt("yes").await.expect_status(503);
        attempt("no").await.expect_status(200);
    }
    for _ in 0..5 {
        attempt("yes").await.expect_status(503);
    }
    assert_eq!(kind(&host, attempt("no").await).await, "paused");
    // Another component under the same name.
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    Answer::of(host.request("POST", "/v1/policies/reload")).await.expect_status(200);
    assert_eq!(ask(&host, "acme-corp").await.expect_status(403).at("/code"), "even_user");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_policy_whose_settings_or_limits_were_corrected_is_run_at_once() {
    let (host, folder) = host("panic", guests::PATIENT).await;
    let paused = || async {
        for _ in 0..5 {
            ask(&host, "acme-corp").await.expect_status(503);
        }
        assert_eq!(kind(&host, ask(&host, "acme-corp").await).await, "paused");
    };
    paused().await;
    // The same component: other limits.
    install(&folder, "panic", "timeout_ms = 999");
    Answer::of(host.request("POST", "/v1/policies/reload")).await.expect_status(200);
    assert_eq!(kind(&host, ask(&host, "acme-corp").await).await, "trap");
    paused().await;
    // Other settings.
    install(&folder, "count", "timeout_ms = 999");
    Answer::of(host.request("POST", "/v1/policies/reload")).await.expect_status(200);
    assert_eq!(ask(&host, "acme-corp").await.expect_status(403).at("/code"), "counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_once_that_a_policy_is_paused_and_not_for_each_request_that_goes_without() {
    let folder = guests::own_folder();
    install(&folder, "panic", guests::PATIENT);
    let (database, policies) = (Database::migrated().await, folder.path().to_str().expect("a text"));
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies];
    let gate = Binary::start(&arguments, &[("DATABASE_URL", &database.url())]);
    database.run("INSERT INTO copilot_internal.tenants (tenant_id, tier) VALUES ('acme-corp', 'odd')").await;
    for _ in 0..9 {
        let body = json!({ "tenantId": "acme-corp", "resourceType": "llm" });
        gate.send("POST", "/v1/check", body).await.expect_status(503);
    }
    let log = gate.interrupt().log;
    let lines = |message: &str| log.iter().filter(|line| line.contains(&format!("\"message\":\"{message}\""))).count();
    assert_eq!((lines("Policy failed"), lines("Policy paused")), (5, 1), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_paused_on_error_applies() {
    let (host, _folder) = host("panic", "timeout_ms = 1000\non_error = \"standard\"").await;
    host.database.quota("tenant globex llm day", "1.00", "0").await;
    for _ in 0..8 {
        assert_eq!(ask(&host, "acme-corp").await.expect_status(200).at("/policy/name"), "standard");
        assert_eq!(ask(&host, "globex").await.expect_status(429).at("/code"), "limit_exceeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_policy_delays_its_own_requests_only() {
    let (host, _folder) = host("loop", "timeout_ms = 1000").await;
    host.tenant("beta", Some("odd"), None).await;
    // Once everybody may wait for them; from then on they are known.
    for tenant in ["acme-corp", "beta"] {
        ask(&host, tenant).await.expect_status(503);
    }
    let send = |path: &str, tenant: &str| {
        let body = json!({ "tenantId": tenant, "resourceType": "llm" });
        tokio::spawn(Answer::of(host.request("POST", path).json(&body)))
    };
    let slow: Vec<_> =
        ["acme-corp", "beta"].into_iter().flat_map(|tenant| [0, 1, 2].map(|_| send("/v1/check", tenant))).collect();
    // Over every lane, as likely as not.
    let others: Vec<_> = (0..6)
        .map(|n| format!("t-{n}"))
        .flat_map(|tenant| [(200, send("/v1/check", &tenant)), (201, send("/v1/reservations", &tenant))])
        .collect();
    for (status, other) in others {
        other.await.expect("no panic").expect_status(status);
    }
    assert!(slow.iter().any(|slow| !slow.is_finished()), "the slow ones were answered first");
    for slow in slow {
        slow.await.expect("no panic").expect_status(503);
    }
}
