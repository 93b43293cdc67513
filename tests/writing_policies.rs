//! `docs/writing-policies.md`, followed from its first command to its last, in each language of policies.
//!
//! `TOLLGATE_RECORD=PROGRAM cargo test --test tollgate -- --ignored writing_policies::the_page_works_in_rust` records it
//! with that program, such as a release build, in `docs/recordings/writing-a-policy.cast`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tollgate::clock::Clock;
use tollgate::policy::Watch;

use crate::harness::guests::repository;
use crate::harness::page::{Reader, blocks, own_variables, typed};
use crate::harness::tape::Tape;
use crate::harness::{Scratch, Setup, guests, shows_no_secret};

const PAGE: &str = "docs/writing-policies.md";
const RECORDING: &str = "docs/recordings/writing-a-policy.cast";

/// A gate that watches `.tollgate/policies`, as one that runs in the reader's folder.
async fn follow(language: &str) {
    let folder = Scratch::new();
    let policies = folder.join(".tollgate/policies");
    fs::create_dir_all(&policies).expect("a folder");
    for file in ["standard.wasm", "standard.toml", "standard.fixtures.toml"] {
        fs::copy(guests::SHIPPED.join(file), policies.join(file)).expect("a built policy");
    }
    let policies = guests::open(policies);
    let _watch = Watch::start(policies.clone(), Clock::System).expect("a thread");
    // The commands have the machine's clock.
    let host = Setup { policies, clock: Clock::System, ..Setup::default() }.start().await;

    let recorded_with = std::env::var_os("TOLLGATE_RECORD").map(PathBuf::from);
    let is_recorded = recorded_with.is_some();
    let mut tape = Tape::new("Tollgate: from nothing to a live policy");
    let mut reader = Reader::new(&host, &folder);
    reader.language = language;
    reader.environment = own_variables(&["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"]);
    // Where the way to the registries has a proxy or certificates of its own.
    reader.environment.extend(own_variables(&[
        "HTTPS_PROXY",
        "NO_PROXY",
        "NODE_EXTRA_CA_CERTS",
        "SSL_CERT_FILE",
        "PIP_CERT",
    ]));
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    reader.environment.push(("XDG_CACHE_HOME", cache.to_str().expect("a text").to_owned()));
    if let Some(program) = recorded_with {
        reader.program = program;
    }
    reader.watches = Box::new(|event| tape.take(&event));
    let report = reader.follow(PAGE).await;
    drop(reader);
    assert!(report.len() >= 12, "{report:?}");
    if is_recorded {
        fs::write(repository().join(RECORDING), tape.text()).expect("the recording");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds the SDK anew; .ci/run runs it"]
async fn the_page_works_in_rust() {
    follow("rust").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from npm; .ci/run runs it"]
async fn the_page_works_in_javascript() {
    follow("javascript").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from PyPI; .ci/run runs it"]
async fn the_page_works_in_python() {
    follow("python").await;
}

#[test]
fn the_recording_has_every_command_of_the_page_and_nothing_of_the_machine_it_was_made_on() {
    let recording = fs::read_to_string(repository().join(RECORDING)).expect("the recording");
    assert!(recording.len() < 200_000, "{} bytes", recording.len());
    let mut lines = recording.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    assert_eq!(lines.next().expect("a header")["version"], 2);
    let mut shown = String::new();
    for line in lines {
        shown.push_str(line[2].as_str().expect("a text"));
    }
    let shown = shown.replace("\r\n", "\n");
    shows_no_secret(&shown);
    for private in [env!("CARGO_TARGET_TMPDIR"), "/root", "/home", "/tmp"] {
        assert!(!shown.contains(private), "{private} is shown");
    }
    let page = fs::read_to_string(repository().join(PAGE)).expect("the page");
    let mut rest = shown.as_str();
    for block in blocks(&page) {
        let is_for_others = block.about.iter().any(|word| word == "javascript" || word == "python");
        let commands = match block.language.as_str() {
            "console" if !is_for_others => typed(&block).into_iter().map(|typed| typed.command).collect(),
            "sh" if !is_for_others => vec![block.text.trim_end().to_owned()],
            _ => Vec::new(),
        };
        for command in commands {
            let at = rest.find(&command).unwrap_or_else(|| panic!("record it anew; it has no\n{command}"));
            rest = &rest[at + command.len()..];
        }
    }
}
