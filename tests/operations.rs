//! The operators' documents: every command and every statement in them is run, in the order of the page, against a gate
//! with tokens and a database of its own. What a block says with `test`, `grep` or `jq -e` must hold.

use std::fs;
use std::path::Path;
use std::process::Command;

use tollgate::api::auth::{Access, Token, Transport};
use tollgate::clock::Clock;

use crate::harness::guests::repository;
use crate::harness::{Host, Scratch, Setup};

pub struct Block {
    pub line: usize,
    pub language: String,
    pub text: String,
}

/// The fenced blocks of a page; those in lists are indented, and lose their indentation.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (number, line) in (1..).zip(page.lines()) {
        let trimmed = line.trim_start();
        match (&mut open, trimmed.strip_prefix("```")) {
            (None, Some(language)) => {
                let block = Block { line: number, language: language.to_owned(), text: String::new() };
                open = Some((line.len() - trimmed.len(), block));
            }
            (Some(_), Some("")) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indentation, block)), _) => {
                block.text.push_str(line.get(*indentation..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block that does not end");
    blocks
}

/// Runs a page; a line for each block that was run.
async fn follow(page: &str) -> (Host, Vec<String>) {
    let token = |name: &str| Token::new(name.into(), &format!("{name}-secret"), Vec::new());
    let access = Access { app: vec![token("app")], admin: Some(token("admin")), transport: Transport::Loopback };
    // The statements ask the database's clock.
    let host = Setup { access, clock: Clock::System, ..Setup::default() }.start().await;
    let text = fs::read_to_string(repository().join("docs/operations").join(page)).expect("the page");
    let folder = Scratch::new();
    let mut report = Vec::new();
    for Block { line, language, text } in blocks(&text) {
        match language.as_str() {
            "sql" => {
                let rows = host.database.rows(&text).await.len();
                report.push(format!("{page}:{line}  sql  {rows} rows"));
            }
            "sh" => {
                shell(&host, &folder, &text, &format!("{page}:{line}"));
                report.push(format!("{page}:{line}  sh   {} lines", text.lines().count()));
            }
            "text" => {}
            other => panic!("{page}:{line}: a block of {other:?} is not run"),
        }
    }
    println!("{}", report.join("\n"));
    (host, report)
}

fn shell(host: &Host, folder: &Scratch, text: &str, place: &str) {
    let ours = Path::new(env!("CARGO_BIN_EXE_tollgate")).parent().expect("a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([ours].into_iter().chain(std::env::split_paths(&path))).expect("a path");
    let script = format!("set -euo pipefail\n{}", text.replace("http://127.0.0.1:8080", host.url()));
    let run = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", path)
        .env("DATABASE_URL", host.database.url())
        .env("TOLLGATE_APP_TOKEN", "app-secret")
        .env("TOLLGATE_ADMIN_TOKEN", "admin-secret")
        .output()
        .expect("bash");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{place}:\n{text}\n{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs psql, curl and jq; .ci/run runs it"]
async fn the_quota_configuration_guide_works_when_followed() {
    let (host, report) = follow("QUOTA_CONFIGURATION_GUIDE.md").await;
    assert!(report.len() >= 23, "{report:?}");
    let limits = "SELECT count(*) FROM copilot_internal.tenants t WHERE 2 > (
                      SELECT count(DISTINCT resource_type) FROM copilot_internal.cost_quotas WHERE scope_id = t.tenant_id)";
    assert_eq!(host.database.value(limits).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs psql, curl and jq; .ci/run runs it"]
async fn the_tenant_onboarding_checklist_works_when_followed() {
    let (host, report) = follow("TENANT_ONBOARDING_CHECKLIST.md").await;
    assert!(report.len() >= 12, "{report:?}");
    let closed = "SELECT max(limit_usd) FROM copilot_internal.cost_quotas WHERE scope_id = 'acme-corp'";
    assert_eq!(host.database.value(closed).await, "0.000000001");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs psql, curl and jq; .ci/run runs it"]
async fn the_runbooks_work_when_followed() {
    let (_, report) = follow("RUNBOOKS.md").await;
    assert!(report.len() >= 18, "{report:?}");
}

#[test]
fn a_block_in_a_list_is_read_without_its_indentation() {
    let blocks = blocks("- [ ] x\n\n  ```sh\n  a \\\n      b\n  ```\n\n```text\nc\n```\n");
    assert_eq!((blocks[0].line, blocks[0].text.as_str()), (3, "a \\\n    b\n"));
    assert_eq!((blocks.len(), blocks[1].language.as_str()), (2, "text"));
}
