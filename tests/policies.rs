//! The policy folder: a policy of the tests' own decides, reloads swap it, and what does not hold does not serve.

mod told;

use serde_json::{Value, json};

use crate::harness::{Answer, Host, Scratch, Setup, guests};

/// A host whose tenant `acme-corp` has the tier `odd`, and its folder; no policy has that name yet.
async fn host() -> (Host, Scratch) {
    let folder = guests::own_folder();
    let host = Setup { policies: guests::open(folder.path().to_owned()), ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    (host, folder)
}

async fn ask(host: &Host, user: &str) -> Answer {
    host.check(json!({ "tenantId": "acme-corp", "userId": user, "resourceType": "llm" })).await
}

async fn reload(host: &Host) -> Answer {
    Answer::of(host.request("POST", "/v1/policies/reload")).await
}

/// What the answer says of one policy.
fn status(answer: &Answer, name: &str) -> Value {
    let policies = answer.at("/policies");
    let found = policies.as_array().and_then(|all| all.iter().find(|policy| policy["name"] == name));
    found.cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_the_host_knows_nothing_of_decides_through_the_folder() {
    let (host, folder) = host().await;
    assert_eq!(ask(&host, "u-2").await.at("/policy/name"), "standard");
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    reload(&host).await.expect_status(200);
    for n in 1..=6 {
        let answer = ask(&host, &format!("u-{n}")).await;
        if n % 2 == 1 {
            assert_eq!((answer.status, answer.at("/policy/name")), (200, json!("odd")));
        } else {
            assert_eq!((answer.status, answer.at("/code")), (403, json!("even_user")));
            assert_eq!(
                (answer.at("/error"), answer.at("/message")),
                (json!("policy_denied"), json!("Only odd users today."))
            );
        }
    }
    // A quota changes nothing for a policy that does not look at it.
    host.database.quota("tenant acme-corp llm day", "0.01", "1.00").await;
    ask(&host, "u-1").await.expect_status(200);
    // Without the file the tier is served by the standard policy again.
    std::fs::remove_file(folder.join("odd.wasm")).expect("a file");
    reload(&host).await.expect_status(200);
    assert_eq!(ask(&host, "u-1").await.expect_status(429).at("/error"), "quota_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_serves_is_listed_with_digest_and_since_when() {
    let (host, folder) = host().await;
    host.at("2026-01-04T13:00:00Z");
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    let listed = reload(&host).await.expect_status(200);
    assert_eq!(host.get("/v1/policies").await.text, listed.text);
    let odd = status(&listed, "odd");
    let bytes = std::fs::read(folder.join("odd.wasm")).expect("a file");
    assert_eq!(odd["digest"], tollgate::policy::engine::digest(&bytes));
    assert_eq!((&odd["since"], &odd["version"]), (&json!("2026-01-04T13:00:00Z"), &json!("0.1.0")));
    assert_eq!((&odd["summary"], &odd["lastError"]), (&json!("Lets odd users through."), &Value::Null));
    assert_eq!(status(&listed, "standard")["since"], crate::harness::NOON);
    assert_eq!(ask(&host, "u-1").await.at("/policy/digest"), odd["digest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_leaves_the_last_good_version_serving_and_is_reported() {
    let (host, folder) = host().await;
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    let good = reload(&host).await.expect_status(200);
    host.at("2026-01-04T13:00:00Z");
    folder.write("odd.wasm", b"half a fi");
    let broken = reload(&host).await.expect_status(422);
    let error = &status(&broken, "odd")["lastError"];
    assert_eq!(error, &json!({ "kind": "load", "message": "not a WebAssembly component" }));
    for field in ["digest", "since"] {
        assert_eq!(status(&broken, "odd")[field], status(&good, "odd")[field], "{field}");
    }
    assert_eq!(status(&broken, "standard"), status(&good, "standard"));
    ask(&host, "u-1").await.expect_status(200);
    ask(&host, "u-2").await.expect_status(403);
    assert_eq!(host.get("/v1/policies").await.text, broken.text);
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    assert_eq!(status(&reload(&host).await.expect_status(200), "odd"), status(&good, "odd"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_goes_live_only_after_its_fixtures_pass() {
    let (host, folder) = host().await;
    let case = |decision: &str| {
        format!(
            "[[case]]\nname = \"lets the second user in\"\nnow = \"2026-01-04T12:00:00Z\"\n\
             request = {{ tenantId = \"acme-corp\", userId = \"u-2\", resourceType = \"llm\", estimatedCostUsd = \"2.00\" }}\n\
             expect = {{ decision = \"{decision}\" }}\n"
        )
    };
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    folder.write("odd.fixtures.toml", case("allow"));
    let refused = reload(&host).await.expect_status(422);
    let message = status(&refused, "odd")["lastError"]["message"].to_string();
    assert!(message.contains("lets the second user in") && message.contains("expected allow, got deny"), "{message}");
    assert_eq!(status(&refused, "odd")["digest"], Value::Null);
    folder.write("odd.fixtures.toml", case("deny"));
    reload(&host).await.expect_status(200);
    ask(&host, "u-2").await.expect_status(403);
    folder.write("odd.fixtures.toml", "[[case]]\nnmae = \"x\"\n");
    let refused = reload(&host).await.expect_status(422);
    let message = status(&refused, "odd")["lastError"]["message"].to_string();
    assert!(message.contains("odd.fixtures.toml") && message.contains("nmae"), "{message}");
    ask(&host, "u-2").await.expect_status(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_policy_is_refused_with_a_sentence_that_says_why() {
    let (host, folder) = host().await;
    // A component with one import, a function `clock`.
    let header = b"\0asm\x0d\0\x01\0".as_slice();
    let importing = [header, b"\x07\x05\x01\x40\0\x01\0", b"\x0a\x0a\x01\0\x05clock\x01\0"].concat();
    for (name, bytes, fragment) in [
        ("module", b"\0asm\x01\0\0\0".to_vec(), "a core module, not a component"),
        ("random", (0..=255).collect(), "not a WebAssembly component"),
        ("empty", Vec::new(), "not a WebAssembly component"),
        ("nothing", header.to_vec(), "does not export tollgate:policy/decider@0.1.0"),
        ("imports", importing, "imports clock, and a policy imports nothing"),
        ("large", vec![0; (4 << 20) + 1], "more than the 4 MiB that a policy may have"),
        ("cut", std::fs::read(folder.join("standard.wasm")).expect("a file")[..9_000].to_vec(), "does not compile"),
    ] {
        folder.write(&format!("{name}.wasm"), bytes);
        let error = status(&reload(&host).await.expect_status(422), name)["lastError"].clone();
        assert_eq!(error["kind"], "load", "{name}: {error}");
        assert!(error["message"].to_string().contains(fragment), "{name}: {error}");
        std::fs::remove_file(folder.join(&format!("{name}.wasm"))).expect("a file");
    }
    reload(&host).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_file_that_does_not_hold_refuses_the_policy() {
    let (host, folder) = host().await;
    for (manifest, fragment) in [
        ("timeout = 10", "timeout_ms"),
        ("timeout_ms = 0", "timeout_ms: 1 to 1000, got 0"),
        ("timeout_ms = 1001", "timeout_ms: 1 to 1000"),
        ("memory_mib = 513", "memory_mib: 1 to 512"),
        ("max_size_mib = 65", "max_size_mib: 1 to 64"),
        ("on_error = \"open\"", "on_error"),
        ("wasi = \"full\"", "wasi"),
        ("[settings]\nbehavior = \"allow\"", "did you mean \\\"behaviour\\\"?"),
        ("[settings]\nbehaviour = 0.5", "a text, a whole number or true/false"),
        ("timeout_ms = 10\n]", "odd.toml"),
    ] {
        guests::install(&folder, "hostile", "odd", manifest);
        let error = status(&reload(&host).await.expect_status(422), "odd")["lastError"].clone();
        assert_eq!(error["kind"], "load", "{manifest}: {error}");
        assert!(error["message"].to_string().contains(fragment), "{manifest}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_decides_nothing_and_neither_do_files_of_other_names() {
    let (host, folder) = host().await;
    for name in ["odd.next", "Odd", "odd.wasm.new"] {
        guests::install(&folder, "every-second-user", name, guests::PATIENT);
    }
    let listed = reload(&host).await.expect_status(200);
    let names: Vec<_> =
        listed.at("/policies").as_array().into_iter().flatten().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["odd", "standard"]);
    assert_eq!(status(&listed, "odd")["digest"], Value::Null);
    assert_eq!(ask(&host, "u-2").await.expect_status(200).at("/policy/name"), "standard");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_policy_serves_on_when_its_file_is_gone() {
    let (host, folder) = host().await;
    std::fs::remove_file(folder.join("standard.wasm")).expect("a file");
    let refused = reload(&host).await.expect_status(422);
    let message = status(&refused, "standard")["lastError"]["message"].to_string();
    assert!(message.contains("its last version serves on"), "{message}");
    ask(&host, "u-1").await.expect_status(200);
    // A policy of the folder can be the standard one.
    guests::install(&folder, "every-second-user", "standard", guests::PATIENT);
    folder.write("standard.fixtures.toml", "");
    reload(&host).await.expect_status(200);
    assert_eq!(ask(&host, "u-2").await.expect_status(403).at("/code"), "even_user");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_policies_are_swapped() {
    let (host, folder) = host().await;
    for n in 0..6 {
        if n % 2 == 0 {
            guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
        } else {
            std::fs::remove_file(folder.join("odd.wasm")).expect("a file");
        }
        let checks: Vec<_> = (0..20)
            .map(|_| {
                let body = json!({ "tenantId": "acme-corp", "userId": "u-1", "resourceType": "llm" });
                tokio::spawn(Answer::of(host.request("POST", "/v1/check").json(&body)))
            })
            .collect();
        reload(&host).await.expect_status(200);
        for check in checks {
            check.await.expect("no panic").expect_status(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_whose_policy_does_not_hold_at_the_start_is_not_left_to_the_standard_one() {
    let folder = guests::own_folder();
    folder.write("odd.wasm", "no component");
    let host = Setup { policies: guests::open(folder.path().to_owned()), ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    assert_eq!(ask(&host, "u-1").await.expect_status(503).at("/error"), "policy_failed");
    let reserve = json!({ "tenantId": "acme-corp", "resourceType": "llm" });
    host.post("/v1/reservations", reserve).await.expect_status(503);
    // Everybody else is served, and so is the tier once its policy holds.
    host.check(json!({ "tenantId": "globex", "resourceType": "llm" })).await.expect_status(200);
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    reload(&host).await.expect_status(200);
    assert_eq!(ask(&host, "u-1").await.expect_status(200).at("/policy/name"), "odd");
    // A broken file that comes later leaves serving what served before.
    folder.write("odd.wasm", "no component");
    reload(&host).await.expect_status(422);
    assert_eq!(ask(&host, "u-1").await.expect_status(200).at("/policy/name"), "odd");
}
