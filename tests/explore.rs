//! `policy test --explore`: what generated facts find, and what they do not.

use crate::harness::{Scratch, guests, tollgate};

fn explore(policy: &std::path::Path, more: &[&str]) -> (String, String, Option<i32>) {
    let policy = policy.to_str().expect("a text");
    let output = tollgate(&[&["policy", "test", "--explore", policy], more].concat(), &[]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

/// The policy with this fault, alone in a folder.
fn faulty(fault: &str) -> Scratch {
    let folder = Scratch::new();
    let manifest = format!("{}[settings]\nfault = \"{fault}\"\n", guests::PATIENT);
    guests::install(&folder, "faulty", "faulty", &manifest);
    folder
}

#[test]
fn nothing_is_found_in_the_shipped_policies() {
    for policy in ["standard", "free", "pro", "enterprise"] {
        let component = guests::SHIPPED.join(format!("{policy}.wasm"));
        let (shown, said, code) = explore(&component, &["--seed", "1", "--questions", "1000"]);
        assert_eq!(code, Some(0), "{shown}{said}");
        assert!(shown.contains("  1000 questions, seed 1\n  nothing found\n"), "{shown}");
    }
}

#[test]
fn each_fault_is_found_shrunk_and_printed_as_fixtures_that_fail() {
    for (fault, told, smallest) in [
        ("index", "FOUND it gives no verdict: trapped", "estimatedCostUsd = \"0.00\" }\nquotas = []\n"),
        ("truncated", "FOUND it denies $2.00, and allows $3.00", "estimatedCostUsd = \"2.00\" }\nquotas = []\n"),
        (
            "unsigned",
            "FOUND it denies where $0.00 of the tenant's day is spent, and allows where $",
            "quotas = [{ scope",
        ),
    ] {
        let folder = faulty(fault);
        let component = folder.join("faulty.wasm");
        let (shown, said, code) = explore(&component, &["--seed", "1"]);
        assert_eq!(code, Some(1), "{shown}{said}");
        assert!(said.contains(" that no policy should do\nhint: paste"), "{said}");
        for part in [told, smallest, "--explore --seed 1: ", &format!("settings = {{ fault = \"{fault}\" }}")] {
            assert!(
                shown.contains(part) || fault == "index" && part.starts_with("settings"),
                "{part:?} is not in {shown}"
            );
        }
        let cases = shown[shown.find("[[case]]").expect("a case")..].lines();
        let cases: Vec<&str> = cases.filter(|line| !line.starts_with("  FOUND")).collect();
        folder.write("faulty.fixtures.toml", cases.join("\n"));
        let tested = tollgate(&["policy", "test", component.to_str().expect("a text")], &[]);
        assert_eq!(tested.status.code(), Some(1), "{shown}{}", String::from_utf8_lossy(&tested.stderr));
    }
}

#[test]
fn a_policy_that_remembers_is_found() {
    let folder = faulty("memory");
    let (shown, said, code) = explore(&folder.join("faulty.wasm"), &["--seed", "1", "--questions", "50"]);
    assert_eq!(code, Some(1), "{shown}{said}");
    assert!(
        shown.contains("FOUND asked again, it answers deny (too_much: That is too much.) instead of allow"),
        "{shown}"
    );
}

#[test]
fn the_same_seed_asks_the_same_questions() {
    let folder = faulty("index");
    let once = explore(&folder.join("faulty.wasm"), &["--seed", "7", "--questions", "300"]);
    assert_eq!(once, explore(&folder.join("faulty.wasm"), &["--seed", "7", "--questions", "300"]));
}
