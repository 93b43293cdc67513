//! `A_TENANTS_LIFE.md`: a transcript from onboarding to the first alert, held against what really happens.

use std::fs;

use serde_json::Value;
use tollgate::clock::Clock;

use crate::alerts::slack;
use crate::harness::guests::repository;
use crate::harness::page::{Block, blocks, is_as};
use crate::harness::{Answer, Host, Receiver, Setup, slack_shows, tollgate, until};

const UNSENT: &str =
    "SELECT count(*) FROM copilot_internal.alerts a LEFT JOIN copilot_internal.alert_deliveries d ON d.alert_id = a.id
    WHERE d.state IS DISTINCT FROM 'sent'";

/// The words of a command line; those in single quotes are one.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(n, part)| match n % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

async fn run(host: &Host, command: &str) -> String {
    let words = words(command);
    let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    match (words[0].as_str(), arguments.as_slice()) {
        ("tollgate", arguments) => {
            let output = tollgate(arguments, &[("DATABASE_URL", &host.database.url())]);
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("a text")
        }
        ("curl", [url, "-H", "content-type: application/json", "-d", body]) => {
            let path = url.strip_prefix("http://127.0.0.1:8080").expect("an address of the gate");
            let answer: Answer = host.post_text(path, body).await;
            // What is decided is in the log before anybody looks.
            host.get("/v1/decisions?limit=1").await.expect_status(200);
            answer.text
        }
        other => panic!("{other:?} is not run"),
    }
}

/// A message as its reader sees it.
fn shown(message: &Value) -> String {
    let blocks = &message["blocks"];
    let context = blocks[2]["elements"][0]["text"].as_str().expect("a text");
    [&slack_shows(&blocks[0]), &slack_shows(&blocks[1]), context].join("\n")
}

/// A block of the page with what is really said below each command.
async fn follow(host: &Host, receiver: &Receiver, block: &Block) -> String {
    if block.language == "slack" {
        until("every message is sent", || async { host.database.value(UNSENT).await == "0" }).await;
        let shown: Vec<String> = receiver.bodies().iter().map(shown).collect();
        return shown.join("\n\n");
    }
    assert_eq!(block.language, "console", "line {}", block.line);
    let mut happened = Vec::new();
    for line in block.text.lines().filter(|line| line.starts_with("$ ")) {
        let said = run(host, line.trim_start_matches("$ ")).await;
        happened.push(format!("{line}\n{}\n", said.trim_end()));
    }
    happened.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_life_is_as_its_page_tells_it() {
    let receiver = Receiver::start().await;
    // The commands have the machine's clock.
    let host = Setup { clock: Clock::System, alerts: slack(&receiver), ..Setup::default() }.start().await;
    let page = fs::read_to_string(repository().join("docs/operations/A_TENANTS_LIFE.md")).expect("the page");
    let told = blocks(&page);
    assert!(told.len() >= 5, "blocks are missing");
    for block in &told {
        let happened = follow(&host, &receiver, block).await;
        let (said, is): (Vec<&str>, Vec<&str>) =
            (block.text.trim_end().lines().collect(), happened.trim_end().lines().collect());
        let same = said.len() == is.len() && said.iter().zip(&is).all(|(said, is)| is_as(said, is.trim_end()));
        assert!(same, "line {} says\n{}\nand it is\n{happened}", block.line, block.text);
    }
    assert_eq!(receiver.bodies().len(), 1, "a message that the page does not tell");
}

#[test]
fn words_in_quotes_are_one() {
    assert_eq!(words("tollgate x --reason 'contract 17'"), ["tollgate", "x", "--reason", "contract 17"]);
}
