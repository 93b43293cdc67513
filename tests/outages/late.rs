//! A gate that has started while its store was down: what it says then, and when the store comes up.

use std::time::Instant;

use super::process::Apart;
use crate::harness::{Wire, until};

fn with<'a>(log: &'a [String], message: &str) -> Vec<&'a String> {
    log.iter().filter(|line| line.contains(message)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_says_that_it_is_initialized_when_it_has_reached_its_store_and_not_before() {
    let apart = Apart::off().await;
    let never = apart.serve(&[]).interrupt();
    assert_eq!((never.code, with(&never.log, "Store down").len()), (Some(0), 1));
    assert!(with(&never.log, "initialized").is_empty(), "{:?}", never.log);

    let gate = apart.serve(&[]);
    apart.on_again(&gate).await;
    let late = gate.interrupt();
    let said = with(&late.log, "initialized");
    assert!(
        said.len() == 2 && said[0].contains("\"Cost tracking") && said[1].contains("\"E2B cost tracking"),
        "{:?}",
        late.log
    );
    let place = |message: &str| late.log.iter().position(|line| line.contains(message));
    assert!(place("Store down") < place("initialized"), "{:?}", late.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_refused_later_is_told_with_its_cause_and_not_at_every_try() {
    let apart = Apart::off().await;
    let gate = apart.serve(&[]);
    // Another version's migrations; whoever reads them is counted.
    apart
        .database
        .run(
            "ALTER TABLE copilot_internal._sqlx_migrations RENAME TO applied;
             CREATE SEQUENCE copilot_internal.seen;
             CREATE VIEW copilot_internal._sqlx_migrations AS
             SELECT version, description, installed_on, success, '\\x00'::bytea AS checksum, execution_time
             FROM copilot_internal.applied WHERE (SELECT nextval('copilot_internal.seen')) > 0",
        )
        .await;
    let since = Instant::now();
    apart.switch.now(Wire::Forwards);
    until("it has tried again and again", || async {
        apart.database.value("SELECT last_value >= 10 FROM copilot_internal.seen").await == "t"
    })
    .await;
    let log = gate.interrupt().log;
    let said = with(&log, "The books are not up to date yet");
    let at_most = 1 + usize::try_from(since.elapsed().as_secs() / 10).expect("a number");
    assert!((1..=at_most).contains(&said.len()), "{said:?}");
    let cause = "cannot migrate the database: migration 1 was previously applied but has been modified";
    assert!(said[0].contains(cause), "{said:?}");
}
