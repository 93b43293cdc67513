//! `decision list` and `decision explain`: one stored decision on one screen, and as a fixture.

use serde_json::{Value, json};

use crate::harness::{Database, Host, Scratch, Setup, guests, llm, tollgate};

fn decision(database: &Database, arguments: &[&str]) -> (String, String, Option<i32>) {
    let url = database.url();
    let output = tollgate(&[&["decision"], arguments].concat(), &[("DATABASE_URL", &url)]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

/// A host whose database outlives it here.
async fn host() -> (Host, Database) {
    let database = Database::migrated().await;
    (Setup { database: Some(database.clone()), ..Setup::default() }.start().await, database)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_explained_with_what_its_policy_saw_and_the_quota_that_bound() {
    let (host, database) = host().await;
    host.tenant("acme-corp", Some("pro"), Some("eu-team")).await;
    database.quota("tenant acme-corp llm day", "50.00", "49.00").await;
    database.quota("user acme-corp/u-42 llm month", "20.00", "0.25").await;
    let request = json!({ "tenantId": "acme-corp", "userId": "u-42", "resourceType": "llm", "estimatedCostUsd": "2.5",
                          "requestId": "r-1", "attributes": { "model": "large" } });
    let denied = host.check(request).await.expect_status(429);
    let id = denied.word("/decisionId");
    host.get("/v1/decisions").await;
    let (shown, said, code) = decision(&database, &["explain", &id]);
    assert_eq!(code, Some(0), "{said}");
    assert!(shown.starts_with(&format!("{id} denied (limit_exceeded)\n")), "{shown}");
    for line in [
        "  at          2026-01-04 12:00:00",
        "  tenant      acme-corp",
        "  user        u-42",
        "  tier        pro",
        "  pool        eu-team",
        "  asked for   $2.50 of llm",
        "  request id  r-1",
        "  attributes  model=large",
        "  settings    grace_percent=10, high_priority_share_percent=0",
        "  reason      LLM quota exceeded. Limit: $50.00, Current: $49.00, Requested: $2.50",
        "\nNothing was set aside",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    let row = |mark: &str| {
        let row = shown.lines().find(|row| row.contains(mark)).unwrap_or_else(|| panic!("no {mark} in {shown}"));
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row(" day ")[..9], ["*", "tenant", "acme-corp", "day", "$50.00", "-", "$49.00", "$0.00", "$1.00"]);
    assert_eq!(row(" month ")[..4], ["user", "acme-corp/u-42", "month", "$20.00"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_reservation_is_told() {
    let (host, database) = host().await;
    database.quota("tenant acme-corp llm day", "50.00", "0").await;
    let reserve = async |usd: &str| {
        let reserved = host.post("/v1/reservations", llm(usd)).await.expect_status(201);
        (reserved.word("/reservationId"), reserved.word("/decisionId"))
    };
    let (settled, its_decision) = reserve("2.00").await;
    let path = format!("/v1/reservations/{settled}/settle");
    host.post(&path, json!({ "tenantId": "acme-corp", "actualCostUsd": "2.25" })).await.expect_status(200);
    let (released, released_decision) = reserve("1.00").await;
    let path = format!("/v1/reservations/{released}/release");
    host.post(&path, json!({ "tenantId": "acme-corp" })).await.expect_status(200);
    let (_, held_decision) = reserve("3.00").await;
    host.get("/v1/decisions").await;
    for (decided, told) in [
        (its_decision, "reservation  $2.00 set aside, settled at $2.25, $0.25 above what was held"),
        (released_decision, "reservation  $1.00 set aside, released, and given back"),
        (held_decision, "reservation  $3.00 set aside, still held; it expires at 2026-01-04 12:05:00"),
    ] {
        let (shown, said, code) = decision(&database, &["explain", &decided]);
        assert_eq!(code, Some(0), "{said}");
        assert!(shown.contains(told), "{told:?} is not in {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_becomes_a_fixture_that_its_policy_passes_and_another_one_fails() {
    let (host, database) = host().await;
    host.tenant("acme \"corp\"", Some("pro"), None).await;
    database.quota("tenant acme llm day", "50.00", "49.00").await;
    database.run("UPDATE copilot_internal.cost_quotas SET scope_id = 'acme \"corp\"', held_usd = 0.5, hard_limit_usd = 60, admitted_count = 3").await;
    let ask = async |usd: &str, priority: &str| {
        let request = json!({ "tenantId": "acme \"corp\"", "resourceType": "llm", "estimatedCostUsd": usd,
                              "attributes": { "priority": priority } });
        host.check(request).await.word("/decisionId")
    };
    let ids = [ask("0.5", "low").await, ask("2.000000001", "low").await, ask("2", "high").await];
    host.get("/v1/decisions").await;
    let mut fixtures = String::new();
    for id in &ids {
        let (fixture, said, code) = decision(&database, &["explain", id, "--fixture"]);
        assert_eq!(code, Some(0), "{said}");
        fixtures.push_str(&fixture);
    }
    let folder = Scratch::new();
    let test = |policy: &str| {
        std::fs::copy(guests::SHIPPED.join(format!("{policy}.wasm")), folder.join("its.wasm")).expect("a policy");
        folder.write("its.toml", guests::PATIENT);
        folder.write("its.fixtures.toml", &fixtures);
        let output = tollgate(&["policy", "test", folder.join("its.wasm").to_str().expect("a text")], &[]);
        String::from_utf8(output.stdout).expect("a text")
    };
    let told = test("pro");
    assert!(told.contains("3 passed, 0 failed"), "{told}{fixtures}");
    // Without its grace for high priority.
    let told = test("standard");
    assert!(told.contains("2 passed, 1 failed"), "{told}{fixtures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_wrote_commands_no_terminal() {
    let (host, database) = host().await;
    database.quota("tenant acme-corp llm day", "1.00", "0").await;
    // Hides what follows, and passes for another line.
    let (hides, passes) = ("\u{1b}[8m", "x\n  reason      all is well");
    let attributes = json!({ "model": hides, "note": passes, "turn": "\u{202e}evil" });
    let request =
        json!({ "tenantId": "acme-corp", "resourceType": "llm", "estimatedCostUsd": 2, "attributes": attributes });
    let id = host.check(request).await.expect_status(429).word("/decisionId");
    host.get("/v1/decisions").await;
    // As a policy might say it.
    database.run("UPDATE copilot_internal.decisions SET reason = E'no\\x1b[2J\\x07\\nmore', code = E'c\\x1b[8m'").await;
    let url = database.url();
    let shown = |arguments: &[&str]| {
        let output = tollgate(arguments, &[("DATABASE_URL", &url)]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a text")
    };
    let explained = shown(&["decision", "explain", &id]);
    for line in [
        &format!("{id} denied (c\\u001b[8m)"),
        "  attributes  model=\\u001b[8m, note=x\\n  reason      all is well, turn=\\u202eevil",
        "  reason      no\\u001b[2J\\u0007\\nmore",
    ] {
        assert!(explained.lines().any(|said| said == line), "{line:?} is not in {explained}");
    }
    let (listed, tenant) = (shown(&["decision", "list"]), shown(&["tenant", "show", "acme-corp"]));
    assert!(listed.contains("c\\u001b[8m") && tenant.contains("no\\u001b[2J\\u0007\\nmore"), "{listed}{tenant}");
    for text in [&explained, &listed, &tenant, &shown(&["decision", "explain", &id, "--fixture"])] {
        assert!(!text.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
    }
    // A program gets what was written.
    let json: Value = serde_json::from_str(&shown(&["decision", "list", "--json"])).expect("JSON");
    let facts = &json[0]["facts"]["attributes"];
    assert_eq!((&facts["note"], &facts["turn"]), (&json!(passes), &json!("\u{202e}evil")));
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_listed_and_narrowed_on_the_command_line() {
    let (host, database) = host().await;
    database.quota("tenant acme-corp llm day", "1.00", "0").await;
    host.check(llm("0.5")).await.expect_status(200);
    host.at("2026-01-04T13:00:00Z");
    host.check(llm("2")).await.expect_status(429);
    host.get("/v1/decisions").await;
    let (shown, ..) = decision(&database, &["list"]);
    let outcomes: Vec<&str> = shown.lines().filter_map(|line| line.split_whitespace().nth(6)).collect();
    assert_eq!(outcomes[1..], ["denied", "allowed"], "{shown}");
    let (shown, ..) = decision(&database, &["list", "--json", "--outcome", "allowed", "--tenant", "acme-corp"]);
    let listed: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["outcome"]), (Some(1), &json!("allowed")));
    let (shown, ..) = decision(&database, &["list", "--since", "2026-01-04T12:30:00Z", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON").as_array().map(Vec::len), Some(1));
    for (arguments, fragment) in [
        (vec!["list", "--outcome", "denid"], "got \"denid\", did you mean \"denied\"?"),
        (vec!["list", "--since", "yesterday"], "--since: a time such as 90m, 24h, 7d"),
        (vec!["explain", "42"], "ID: the decisionId of an answer or a log line, a UUID, got \"42\""),
        (vec!["explain", "019b88e0-ea00-743b-a3d8-e453e2d72f63"], "\nhint: `tollgate decision list`"),
    ] {
        let (_, said, code) = decision(&database, &arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(fragment), "{fragment:?} is not in {said}");
    }
}
