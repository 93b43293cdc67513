//! Slips of authors and operators on the command line: each is told with what to do, and none passes for a success.

use std::fs;

use crate::authoring::{policy, stderr, stdout};
use crate::harness::{Scratch, guests, tollgate};

/// `pro` with this one case, or sequence.
fn pro(fixtures: &str) -> Scratch {
    let folder = Scratch::new();
    fs::copy(guests::SHIPPED.join("pro.wasm"), folder.join("pro.wasm")).expect("a built policy");
    folder.write("pro.toml", guests::PATIENT);
    folder.write("pro.fixtures.toml", fixtures);
    folder
}

/// A case that passes under the defaults.
fn case(settings: &str) -> String {
    format!(
        r#"[[case]]
        name = "fits"
        now = "2026-01-04T12:00:00Z"
        settings = {{ {settings} }}
        request = {{ tenantId = "acme-corp", resourceType = "llm", estimatedCostUsd = "1.00" }}
        quotas = [{{ scope = "tenant", scopeId = "acme-corp", period = "day", limitUsd = "50.00" }}]
        expect = {{ decision = "allow" }}
        "#
    )
}

#[test]
fn a_fixture_whose_setting_is_mistyped_or_makes_no_sense_fails() {
    let passes = policy("test", &pro(&case("grace_percent = 50")), &[]);
    assert_eq!(passes.status.code(), Some(0), "{}{}", stdout(&passes), stderr(&passes));
    let mistyped = "settings.grace_percnt: the policy knows no such setting, did you mean \"grace_percent\"?";
    let sequence = case("grace_percnt = \"50\"")
        .replace("[[case]]", "[[sequence]]")
        .replace("expect = { decision = \"allow\" }", "step = [{ expect = { decision = \"allow\" } }]");
    for (fixtures, told) in [
        (case("grace_percnt = \"50\""), mistyped),
        (sequence, mistyped),
        (case("grace_percent = \"many\""), "settings: grace_percent"),
    ] {
        let folder = pro(&fixtures);
        let output = policy("test", &folder, &[]);
        assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains(told), "{told:?} is not in {}", stdout(&output));
        // A host takes no policy whose fixtures do not hold.
        let output = policy("inspect", &folder, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        assert!(stdout(&output).contains("no (load): 1 fixture failed: \"fits"), "{}", stdout(&output));
    }
}

#[test]
fn a_folder_is_tried_as_a_host_takes_it_without_what_a_promotion_has_left_there() {
    let folder = guests::own_folder();
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    folder.write("odd.previous.wasm", "no component");
    for command in ["inspect", "test"] {
        let output = policy(command, &folder, &[]);
        assert_eq!(output.status.code(), Some(0), "{command}: {}{}", stdout(&output), stderr(&output));
        assert!(!stdout(&output).contains("previous"), "{}", stdout(&output));
    }
    // A candidate counts.
    folder.write("odd.next.wasm", "no component");
    assert_eq!(policy("inspect", &folder, &[]).status.code(), Some(1));
}

#[test]
fn a_policy_without_fixtures_is_skipped_in_a_folder_and_an_error_where_it_is_named() {
    let folder = guests::own_folder();
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    let output = policy("test", &folder, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("odd.wasm\n  skipped: it has no fixtures"), "{}", stdout(&output));
    let named = folder.join("odd.wasm");
    let test = || tollgate(&["policy", "test", named.to_str().expect("a text")], &[]);
    let missing = test();
    assert_eq!(missing.status.code(), Some(2), "{}", stdout(&missing));
    assert!(stderr(&missing).contains("odd.fixtures.toml: not there"), "{}", stderr(&missing));
    folder.write("odd.fixtures.toml", "# later\n");
    let empty = test();
    assert_eq!(empty.status.code(), Some(2), "{}", stdout(&empty));
    assert!(stderr(&empty).contains("odd.fixtures.toml: has no case"), "{}", stderr(&empty));
}

#[test]
fn an_exploration_takes_no_flag_that_it_would_ignore() {
    let folder = guests::own_folder();
    for flags in [&["--json"][..], &["--junit", "results.xml"], &["--update"], &["--watch"]] {
        let output = policy("test", &folder, &[&["--explore"], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {}", stdout(&output));
        assert!(stderr(&output).contains("cannot be used with"), "{}", stderr(&output));
    }
}

#[test]
fn a_file_is_no_folder_to_build_a_policy_from() {
    let folder = Scratch::new();
    folder.write("Cargo.toml", "");
    let file = folder.join("Cargo.toml");
    let output = tollgate(&["policy", "build", file.to_str().expect("a text"), "--out", "built"], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    let hint = format!("hint: `tollgate policy build {} --out built`", folder.path().display());
    assert!(stderr(&output).contains("a policy is built from its folder"), "{}", stderr(&output));
    assert!(stderr(&output).contains(&hint), "{}", stderr(&output));
}
