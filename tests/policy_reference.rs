//! docs/policy-reference.md is what the interface's comments and the shipped policies say of themselves, and nothing else.
//!
//! `TOLLGATE_UPDATE=1 cargo test --test tollgate policy_reference` writes it.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::harness::guests::repository;
use crate::harness::{guests, tollgate};

const HEAD: &str = "# Policy reference

What a policy sees and answers, and the settings of the shipped ones. Written from `wit/policy.wit` and from what each policy
says of itself, by `TOLLGATE_UPDATE=1 cargo test --test tollgate policy_reference`; [Writing policies](writing-policies.md)
tells how to use it.
";

/// Tables of the interface: a heading for each type, a row for each of its fields.
fn interface(wit: &str) -> String {
    let (mut page, mut comment) = ("\n## The interface\n".to_owned(), Vec::new());
    let mut inside = false;
    for line in wit.lines().map(str::trim) {
        if let Some(said) = line.strip_prefix("///") {
            comment.push(said.trim());
            continue;
        }
        let said = comment.join(" ").replace("  ", "\n\n");
        let words: Vec<&str> = line.trim_end_matches([';', ',', '{']).split_whitespace().collect();
        match words.as_slice() {
            ["package", name] => write!(page, "\n`{name}`\n"),
            ["interface" | "world", name] => write!(page, "\n### {} `{name}`\n\n{said}\n", words[0]),
            ["type", name, "=", of] => write!(page, "\n### type `{name}`\n\n`{of}`. {said}\n"),
            [kind @ ("record" | "variant"), name] => {
                inside = true;
                let said = if said.is_empty() { said } else { format!("\n{said}\n") };
                write!(page, "\n### {kind} `{name}`\n{said}\n| | | |\n|---|---|---|\n")
            }
            ["}"] => {
                inside = false;
                Ok(())
            }
            [] | ["export", ..] => Ok(()),
            _ => {
                let declared = line.trim_end_matches([',', ';']);
                let (name, of) = declared.split_once(['(', ':']).expect("a name and a type");
                if inside {
                    writeln!(page, "| `{name}` | `{}` | {said} |", of.trim().trim_end_matches(')'))
                } else {
                    write!(page, "\n### function `{name}`\n\n`{}`. {said}\n", of.trim())
                }
            }
        }
        .expect("a text takes everything");
        comment.clear();
    }
    page
}

/// A table of settings for each shipped policy, as `policy inspect` tells them.
fn shipped() -> String {
    let mut page = "\n## The shipped policies\n\nSettings stand in `[settings]` of `NAME.toml`.\n".to_owned();
    for name in ["standard", "free", "pro", "enterprise"] {
        let component = guests::SHIPPED.join(format!("{name}.wasm"));
        let output = tollgate(&["policy", "inspect", "--json", component.to_str().expect("a text")], &[]);
        let inspected: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let description = &inspected["policies"][0]["description"];
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        write!(page, "\n### `{name}`\n\n{}\n", text(&description["summary"])).expect("a text takes everything");
        let settings = description["settings"].as_array().expect("settings");
        page.push_str(if settings.is_empty() {
            "\nIt has no settings.\n"
        } else {
            "\n| setting | default | |\n|---|---|---|\n"
        });
        for setting in settings {
            let default = setting["default"].as_str().map_or("required".to_owned(), |value| format!("`\"{value}\"`"));
            writeln!(page, "| `{}` | {default} | {} |", text(&setting["name"]), text(&setting["summary"]))
                .expect("a text takes everything");
        }
    }
    page
}

#[test]
fn the_policy_reference_is_what_the_interface_and_the_shipped_policies_say() {
    let wit = fs::read_to_string(repository().join("wit/policy.wit")).expect("the interface");
    let page = format!("{HEAD}{}{}", interface(&wit), shipped());
    let file = repository().join("docs/policy-reference.md");
    if std::env::var_os("TOLLGATE_UPDATE").is_some() {
        fs::write(&file, &page).expect("the page");
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "docs/policy-reference.md is out of date: run this test with TOLLGATE_UPDATE=1");
}
