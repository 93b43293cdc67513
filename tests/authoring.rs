//! The author's loop on the command line: new, build, inspect, test. No store, no gate.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Running, Scratch, guests, tollgate, tollgate_in};
use crate::sequences::SPENDS;

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `tollgate policy COMMAND FOLDER FLAGS…`
pub fn policy(command: &str, folder: &Scratch, flags: &[&str]) -> Output {
    let mut arguments = vec!["policy", command, folder.path().to_str().expect("a text")];
    arguments.extend(flags);
    tollgate(&arguments, &[])
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

#[test]
fn an_inspection_tells_what_a_policy_is_and_that_a_host_takes_it() {
    let folder = guests::own_folder();
    let output = policy("inspect", &folder, &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    for line in [
        "accepted  yes; ",
        "policy    standard 0.1.0",
        "exports   tollgate:policy/decider@0.1.0",
        "imports   none",
        "of at most 4 MiB",
        "digest    sha256:",
        "memory    64 KiB at the start, at most 16 MiB",
        "deadline  1000 ms",
        "settings  none",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}

#[test]
fn an_inspection_as_json_has_the_settings_as_the_host_would_set_them() {
    let folder = Scratch::new();
    std::fs::copy(guests::SHIPPED.join("free.wasm"), folder.join("free.wasm")).expect("a policy");
    folder.write("free.toml", "timeout_ms = 1000\n[settings]\nfree_requests = 100\n");
    let output = policy("inspect", &folder, &["--json"]);
    let policy = &document(&output)["policies"][0];
    assert_eq!((&policy["accepted"], &policy["imports"]), (&json!(true), &json!([])));
    let settings = &policy["description"]["settings"];
    assert_eq!((&settings[0]["name"], &settings[0]["value"]), (&json!("max_request_usd"), &json!("1.00")));
    assert_eq!((&settings[1]["default"], &settings[1]["value"]), (&json!("0"), &json!("100")));
    assert_eq!(policy["limits"]["timeoutMs"], 1000);
}

#[test]
fn an_inspection_says_why_a_host_would_refuse_a_policy_and_ends_with_1() {
    let folder = guests::own_folder();
    let refusals = |names: &str| {
        let output = policy("inspect", &folder, &["--json"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let document = document(&output);
        let policies = document["policies"].as_array().expect("policies");
        let refused = policies.iter().find(|policy| policy["accepted"] == false).expect("a refusal");
        assert!(refused["file"].as_str().expect("a file").ends_with(names), "{refused}");
        refused["refusal"]["message"].as_str().expect("a sentence").to_owned()
    };
    folder.write("standard.toml", "[settings]\ngrace = 1\n");
    assert_eq!(refusals("standard.wasm"), "standard.toml: [settings] grace: standard knows no such setting");
    folder.write("standard.toml", "timeout_ms = 5000\n");
    assert_eq!(refusals("standard.wasm"), "standard.toml: timeout_ms: 1 to 1000, got 5000");
    folder.write("standard.toml", guests::PATIENT);
    folder.write("standard.fixtures.toml", SPENDS.replace("\"allow\"", "\"deny\""));
    assert!(refusals("standard.wasm").starts_with("5 fixtures failed: "));
    folder.write("standard.fixtures.toml", "");
    folder.write("odd.wasm", b"\0asm\x01\0\0\0");
    assert!(refusals("odd.wasm").starts_with("a core module, not a component"));
    std::fs::rename(folder.join("odd.wasm"), folder.join("Odd.wasm")).expect("a file");
    assert!(refusals("Odd.wasm").starts_with("its file's name is that of no tier: a lower-case letter"));
}

/// Three cases that `standard` decides in another way, one of them without any denial.
const WRONG: &str = r#"# What the tier promises.
[[case]]
name = "fits & <passes>"
now = "2026-01-04T12:00:00Z"
request = { tenantId = "acme-corp", resourceType = "llm", estimatedCostUsd = "1.00" } # small
expect = { decision = "deny", code = "limit_exceeded", retryAfter = 1 }

[[case]]
name = "does not fit"
now = "2026-01-04T12:00:00Z"
request = { tenantId = "acme-corp", resourceType = "llm", estimatedCostUsd = "2.00" }
quotas = [{ scope = "tenant", scopeId = "acme-corp", period = "day", limitUsd = "50.00", spendUsd = "48.50" }]
expect = { decision = "deny", code = "too_much", reason = "*Limit: $40.00*", retryAfter = 43200 } # soon

[[case]]
name = "is denied"
now = "2026-01-04T12:00:00Z"
request = { tenantId = "acme-corp", resourceType = "llm", estimatedCostUsd = "2.00" }
quotas = [{ scope = "tenant", scopeId = "acme-corp", period = "day", limitUsd = "1.00" }]

[case.expect]
decision = "allow"
"#;

#[test]
fn every_failure_is_shown_with_expected_and_actual_side_by_side_whatever_failed_before() {
    let folder = guests::own_folder();
    folder.write("standard.fixtures.toml", WRONG);
    folder.write("broken.wasm", "no component");
    let output = policy("test", &folder, &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(2), "{text}{}", stderr(&output));
    assert!(stderr(&output).contains("broken.wasm: not a WebAssembly component"), "{}", stderr(&output));
    let shown = r#"
  FAILED fits & <passes>
                     expected          actual
         decision    deny              allow
         code        "limit_exceeded"  none
         retryAfter  1                 none
  FAILED does not fit
         code        expected  "too_much"
                     actual    "limit_exceeded"
         reason      expected  "*Limit: $40.00*"
                     actual    "LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00"
  FAILED is denied
"#;
    assert!(text.contains(shown), "{text}");
    assert!(text.ends_with("0 passed, 3 failed\n"), "{text}");
}

#[test]
fn results_are_there_as_json_and_as_junit() {
    let folder = guests::own_folder();
    folder.write("standard.fixtures.toml", WRONG);
    let junit = folder.join("results.xml");
    let output = policy("test", &folder, &["--json", "--junit", junit.to_str().expect("a text")]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let document = document(&output);
    assert_eq!((&document["passed"], &document["failed"]), (&json!(0), &json!(3)));
    let case = &document["policies"][0]["cases"][0];
    assert_eq!((&case["name"], &case["passed"]), (&json!("fits & <passes>"), &json!(false)));
    assert_eq!(case["differences"][0], json!({ "field": "decision", "expected": "deny", "actual": "allow" }));
    let xml = std::fs::read_to_string(junit).expect("the file");
    for part in [
        "tests=\"3\" failures=\"3\" errors=\"0\"",
        "name=\"fits &amp; &lt;passes&gt;\"",
        "<failure message=\"decision: expected deny, got allow\">decision: expected deny, got allow&#10;code: expected",
    ] {
        assert!(xml.contains(part), "{part} is not in {xml}");
    }
}

#[test]
fn an_update_writes_what_was_decided_and_leaves_everything_else_as_it_is() {
    let folder = guests::own_folder();
    folder.write(
        "standard.fixtures.toml",
        format!("{WRONG}\n{}", SPENDS.replace("retryAfter = 10800", "retryAfter = 1")),
    );
    let output = policy("test", &folder, &["--update"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("  4 expectations written to "), "{text}");
    let written = std::fs::read_to_string(folder.join("standard.fixtures.toml")).expect("the fixtures");
    let expected = WRONG
        .replace("{ decision = \"deny\", code = \"limit_exceeded\", retryAfter = 1 }", "{ decision = \"allow\" }")
        .replace("too_much", "limit_exceeded")
        .replace("*Limit: $40.00*", "LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00")
        .replace("decision = \"allow\"\n", "decision = \"deny\"\ncode = \"limit_exceeded\"\n");
    assert_eq!(written, format!("{expected}\n{SPENDS}"));
    assert_eq!(policy("test", &folder, &[]).status.code(), Some(0));
}

#[test]
fn a_watched_test_runs_again_when_a_file_changes() {
    let folder = guests::own_folder();
    let watched = Running::start(&["policy", "test", folder.path().to_str().expect("a text"), "--watch"]);
    assert!(watched.until("passed, ").contains("passed, 0 failed"));
    watched.until("Waiting for changes");
    folder.write("standard.fixtures.toml", WRONG);
    assert!(watched.until("passed, ").contains("FAILED does not fit"));
    watched.until("Waiting for changes");
    folder.write("standard.fixtures.toml", SPENDS);
    assert!(watched.until("passed, ").contains("7 passed, 0 failed"));
}

#[test]
fn completions_of_each_shell_know_the_whole_command_line() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = tollgate(&["completions", shell], &[]);
        let script = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        for word in ["junit", "promote", "hard-limit"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_new_policy_in_rust_builds_passes_its_fixtures_and_is_accepted() {
    let folder = Scratch::new();
    for arguments in [
        ["policy", "new", "eu-team"].as_slice(),
        &["policy", "build", "eu-team", "--out", "policies"],
        &["policy", "test", "policies/eu-team.wasm"],
        &["policy", "inspect", "policies"],
    ] {
        let output = tollgate_in(&folder, arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
        // The deadline is wall time, and the machine of the tests may be busy.
        if folder.join("policies").exists() {
            folder.write("policies/eu-team.toml", guests::PATIENT);
        }
    }
    let again = tollgate_in(&folder, &["policy", "new", "eu-team"], &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("error: eu-team is there already\nhint: "), "{}", stderr(&again));
}

#[test]
fn a_tool_that_is_missing_is_named_with_the_line_that_installs_it() {
    let folder = Scratch::new();
    for (language, tool, install) in [
        ("javascript", "node", "hint: install Node.js 18 or later: apt install nodejs npm"),
        ("python", "componentize-py", ".venv/bin/pip install componentize-py==0.25.1"),
    ] {
        let created = tollgate_in(&folder, &["policy", "new", language, "--lang", language], &[]);
        assert_eq!(created.status.code(), Some(0), "{}", stderr(&created));
        let built = tollgate_in(&folder, &["policy", "build", language, "--out", "out"], &[("PATH", "/nowhere")]);
        assert_eq!(built.status.code(), Some(2), "{}", stderr(&built));
        assert!(stderr(&built).contains(&format!("error: {tool} is not on this machine\n")), "{}", stderr(&built));
        assert!(stderr(&built).contains(install), "{}", stderr(&built));
    }
    let refused = tollgate_in(&folder, &["policy", "new", "Gold"], &[]);
    assert!(stderr(&refused).starts_with("error: NAME: a lower-case letter"), "{}", stderr(&refused));
}
