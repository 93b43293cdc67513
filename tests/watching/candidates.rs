//! Candidates: asked in shadow, and what becomes of them.

use serde_json::{Value, json};

use super::{digest_of, of_the_tests};
use crate::harness::{Answer, Setup, guests, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_asked_in_shadow_and_where_it_disagrees_is_counted_and_stored() {
    let files = guests::own_folder();
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    // It has no operator's file of its own: that of the live policy counts, which knows no settings.
    files.write("odd.next.wasm", of_the_tests("hostile"));
    let policies = guests::open(files.path().to_owned());
    let host = Setup { policies, ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    let candidate = |answer: &Answer| {
        let policies = answer.at("/policies");
        let all = policies.as_array().cloned().unwrap_or_default();
        all.into_iter().find(|policy| policy["name"] == "odd").expect("the policy")["candidate"].clone()
    };
    let mut denied = String::new();
    for n in 1..=4 {
        let user = format!("u-{n}");
        let body = json!({ "tenantId": "acme-corp", "userId": user, "resourceType": "llm" });
        let answer = host.check(body.clone()).await.expect_status(if n % 2 == 1 { 200 } else { 403 });
        assert_eq!(answer.at("/policy/name"), if n % 2 == 1 { json!("odd") } else { Value::Null });
        if n == 2 {
            denied = answer.word("/decisionId");
        }
        host.post("/v1/reservations", body).await.expect_status(if n % 2 == 1 { 201 } else { 403 });
    }
    // Others have no candidate.
    host.check(crate::harness::llm("2.00")).await;
    host.tenant("globex", None, None).await;
    host.check(json!({ "tenantId": "globex", "resourceType": "llm" })).await.expect_status(200);
    until("9 compared", || async { candidate(&host.get("/v1/policies").await)["compared"] == 9 }).await;
    let shown = candidate(&host.get("/v1/policies").await);
    assert_eq!((&shown["disagreed"], &shown["dropped"], &shown["lastError"]), (&json!(5), &json!(0), &Value::Null));
    assert_eq!((&shown["digest"], &shown["since"]), (&json!(digest_of("hostile")), &json!(crate::harness::NOON)));
    let stored = "SELECT count(*) FROM copilot_internal.policy_disagreements WHERE live_outcome = 'denied'
                  AND live_code = 'even_user' AND candidate_outcome = 'allowed' AND policy_name = 'odd'";
    until("5 stored", || async { host.database.value(stored).await == "5" }).await;
    let one =
        format!("SELECT candidate_digest FROM copilot_internal.policy_disagreements WHERE decision_id = '{denied}'");
    assert_eq!(host.database.value(&one).await, digest_of("hostile"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_hurts_nobody_and_says_how() {
    let files = guests::own_folder();
    files.write("standard.next.wasm", of_the_tests("hostile"));
    files.write("standard.next.toml", "timeout_ms = 1000\n[settings]\nbehaviour = \"panic\"\n");
    files.write("standard.next.fixtures.toml", "");
    let host = Setup { policies: guests::open(files.path().to_owned()), ..Setup::default() }.start().await;
    host.check(crate::harness::llm("2.00")).await.expect_status(200);
    let at = "/policies/0/candidate/lastError/kind";
    until("its failure", || async { host.get("/v1/policies").await.at(at) == "trap" }).await;
    let stored = "SELECT count(*) FROM copilot_internal.policy_disagreements
                  WHERE candidate_outcome = 'failed' AND candidate_code = 'trap'";
    until("it is stored", || async { host.database.value(stored).await == "1" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_promoted_by_its_digest_and_a_rollback_puts_back_what_was_live() {
    let files = guests::own_folder();
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    let host = Setup { policies: guests::open(files.path().to_owned()), ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    let ask = || host.check(json!({ "tenantId": "acme-corp", "userId": "u-2", "resourceType": "llm" }));
    let change = |what: &'static str, body: Value| {
        let host = &host;
        async move { host.post(&format!("/v1/policies/odd/{what}"), body).await }
    };
    let none = change("promote", json!({})).await.expect_status(409);
    assert_eq!((none.at("/error"), none.word("/message").contains("odd.next.wasm")), (json!("policy_conflict"), true));
    change("rollback", json!({})).await.expect_status(409);
    files.write("odd.next.wasm", "no component");
    let refused = change("promote", json!({})).await.expect_status(409);
    assert!(refused.word("/message").contains("was refused: not a WebAssembly component"), "{}", refused.text);
    files.write("odd.next.wasm", of_the_tests("hostile"));
    files.write("odd.next.toml", "timeout_ms = 1000\n[settings]\nbehaviour = \"count\"\n");
    let other = change("promote", json!({ "digest": digest_of("every-second-user") })).await.expect_status(409);
    assert!(other.word("/message").starts_with("the candidate for odd is sha256:"), "{}", other.text);
    assert_eq!(ask().await.expect_status(403).at("/code"), "even_user");
    change("promote", json!({ "digest": digest_of("hostile") })).await.expect_status(200);
    assert_eq!(ask().await.expect_status(403).at("/code"), "counted");
    assert!(!files.join("odd.next.wasm").exists() && !files.join("odd.next.toml").exists());
    // There and back again, with the texts that belong to each.
    change("rollback", json!({ "digest": digest_of("hostile") })).await.expect_status(409);
    change("rollback", json!({})).await.expect_status(200);
    assert_eq!(ask().await.expect_status(403).at("/code"), "even_user");
    change("rollback", json!({})).await.expect_status(200);
    assert_eq!(ask().await.expect_status(403).at("/code"), "counted");
    // The command does the same to the folder, and the host sees it.
    let folder = files.path().to_str().expect("a text");
    let output = crate::harness::tollgate(&["policy", "rollback", "odd", "--policies", folder], &[]);
    assert!(output.status.success(), "{output:?}");
    Answer::of(host.request("POST", "/v1/policies/reload")).await.expect_status(200);
    assert_eq!(ask().await.expect_status(403).at("/code"), "even_user");
    let output = crate::harness::tollgate(&["policy", "promote", "odd", "--policies", folder], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("odd has no candidate"), "{output:?}");
    assert_eq!(output.status.code(), Some(2));
}
