//! `policy bench`: what a decision takes, and the lines that CI can hold.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Scratch, guests, tollgate};

fn bench(component: &Path, more: &[&str]) -> (String, String, Option<i32>) {
    let component = component.to_str().expect("a text");
    let output = tollgate(&[&["policy", "bench", component, "--time", "1"], more].concat(), &[]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn instructions_and_memory_are_the_same_at_each_run_and_compared_with_a_saved_one() {
    let folder = Scratch::new();
    let saved = folder.join("saved.json");
    let saved = saved.to_str().expect("a text");
    let standard = guests::SHIPPED.join("standard.wasm");
    let (shown, said, code) = bench(&standard, &["--json", "--save", saved]);
    assert_eq!(code, Some(0), "{said}");
    let figures: Value = serde_json::from_str(&shown).expect("JSON");
    let figure = |name: &str| figures["standard"][name].as_u64().unwrap_or_else(|| panic!("{name}: {shown}"));
    assert!(figure("fuel") > 100 && figure("memoryBytes") >= 64 << 10, "{shown}");
    assert!(figure("p99Nanos") >= figure("medianNanos") && figure("medianNanos") > 0, "{shown}");

    let (shown, said, code) = bench(&standard, &["--against", saved]);
    assert_eq!(code, Some(0), "{said}");
    assert!(shown.contains(&format!("{} (same)", figure("fuel"))), "{shown}");
    // A run that took twice the instructions.
    let text = std::fs::read_to_string(saved).expect("a file");
    let (fuel, twice) = (figure("fuel").to_string(), (figure("fuel") * 2).to_string());
    folder.write("saved.json", text.replace(&format!("\"fuel\": {fuel}"), &format!("\"fuel\": {twice}")));
    let (shown, ..) = bench(&standard, &["--against", saved]);
    assert!(shown.contains(&format!("{fuel} (-50.0 %)")), "{shown}");
}

#[test]
fn a_policy_above_a_limit_ends_with_1_and_says_by_how_much() {
    let standard = guests::SHIPPED.join("standard.wasm");
    let (_, said, code) = bench(&standard, &["--max-fuel", "10"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("error: standard takes ") && said.contains("more than --max-fuel 10"), "{said}");
    let (_, said, code) = bench(&standard, &["--max-p99", "1ns"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(" at the 99th percentile, more than --max-p99 0.0 µs"), "{said}");
    let (_, said, code) = bench(&standard, &["--max-fuel", "1000000000", "--max-p99", "900000ms"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn what_cannot_be_measured_ends_with_2_and_a_hint() {
    let folder = guests::own_folder();
    let standard = folder.join("standard.wasm");
    let (_, said, code) = bench(&standard, &["--max-p99", "fast"]);
    assert_eq!((code, said.contains("--max-p99: a time such as 800ns, 50us or 2ms, got \"fast\"")), (Some(2), true));
    folder.write("saved.json", "{}x");
    let (_, said, code) = bench(&standard, &["--against", folder.join("saved.json").to_str().expect("a text")]);
    assert_eq!(
        (code, said.contains("hint: --against wants a file that --save has written")),
        (Some(2), true),
        "{said}"
    );
    std::fs::remove_file(folder.join("standard.fixtures.toml")).expect("a file");
    let (_, said, code) = bench(&standard, &[]);
    assert_eq!((code, said.contains("no fixtures, and so nothing to measure\nhint: ")), (Some(2), true), "{said}");
}
