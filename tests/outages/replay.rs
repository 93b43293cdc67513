//! The end of an outage, while somebody else has the rows.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, PgConnection};
use tollgate::gate::StoreFailure;

use super::Cut;
use super::process::Apart;
use crate::harness::{Answer, Binary, Wire, llm, llm_cost, until};

fn a_cost(tenant: &str, id: &str) -> Value {
    let mut cost = llm_cost(id, "3");
    cost["tenantId"] = json!(tenant);
    cost
}

/// A gate in an outage, with quotas for `acme-corp` and `globex`.
struct Gate {
    apart: Apart,
    serving: Binary,
}

impl Gate {
    async fn start() -> Self {
        let apart = Apart::off().await;
        for tenant in ["acme-corp", "globex"] {
            apart.database.quota(&format!("tenant {tenant} llm day"), "50.00", "0").await;
        }
        Self { serving: apart.serve(&[]), apart }
    }

    async fn cost(&self, tenant: &str, id: &str) -> Answer {
        self.serving.send("POST", "/v1/costs", a_cost(tenant, id)).await.expect_status(200)
    }

    /// Somebody has the tenant's row.
    async fn hold(&self, tenant: &str) -> PgConnection {
        let mut holder = self.apart.database.options().connect().await.expect("a connection");
        let change = "UPDATE copilot_internal.cost_quotas SET limit_usd = 51 WHERE scope_id =";
        let lock = format!("BEGIN; {change} '{tenant}'; SELECT 1");
        sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut holder).await.expect("a lock");
        holder
    }

    /// When the statement began that waits for a row now.
    async fn waits_since(&self) -> Option<String> {
        let waiting = "SELECT coalesce(max(query_start)::text, '') FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        Some(self.apart.database.value(waiting).await).filter(|began| !began.is_empty())
    }

    async fn spent(&self, tenant: &str) -> String {
        let spent = "SELECT current_spend_usd::numeric(20,2) FROM copilot_internal.cost_quotas WHERE scope_id =";
        self.apart.database.value(&format!("{spent} '{tenant}'")).await
    }
}

async fn let_go(mut holder: PgConnection) {
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.expect("no more lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_for_rows_that_somebody_else_has_and_does_not_begin_anew() {
    let gate = Gate::start().await;
    gate.cost("acme-corp", "kept").await;
    let holder = gate.hold("acme-corp").await;
    gate.apart.switch.now(Wire::Forwards);
    // Each statement waits for the row for two seconds: when three were seen, it has been tried again twice.
    let seen = std::sync::Mutex::new(BTreeSet::new());
    until("the replay has tried again and again", || async {
        let began = gate.waits_since().await;
        let mut seen = seen.lock().expect("no panic");
        seen.extend(began);
        seen.len() >= 3
    })
    .await;
    let_go(holder).await;
    gate.apart.on_again(&gate.serving).await;
    assert_eq!(gate.spent("acme-corp").await, "3.00");
    let log = gate.serving.interrupt().log;
    let gave_up: Vec<_> = log.iter().filter(|line| line.contains("The books are not up to date yet")).collect();
    assert!(gave_up.is_empty(), "{gave_up:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_replay_that_waits_for_a_row() {
    let gate = Gate::start().await;
    gate.cost("acme-corp", "first").await;
    let (first, second) = (gate.hold("acme-corp").await, gate.hold("globex").await);
    gate.apart.switch.now(Wire::Forwards);
    until("the first round waits", || async { gate.waits_since().await.is_some() }).await;
    // This comes during the first round, and is the second one, before whose end no more is taken.
    gate.cost("globex", "second").await;
    let began = gate.waits_since().await;
    let_go(first).await;
    until("the second round waits", || async {
        let now = gate.waits_since().await;
        now.is_some() && now != began && gate.spent("acme-corp").await == "3.00"
    })
    .await;
    let answered = async {
        let answer = gate.cost("initech", "third").await;
        assert_eq!(answer.at("/degraded"), json!(true));
    };
    // It is answered when the statement that waits is tried again, not when the row is there.
    let mut tried = BTreeSet::new();
    let count = async {
        loop {
            tried.extend(gate.waits_since().await);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = answered => {}
        () = count => {}
    }
    assert!(tried.len() <= 3, "{tried:?}");
    let_go(second).await;
    gate.apart.on_again(&gate.serving).await;
    assert_eq!((gate.spent("acme-corp").await, gate.spent("globex").await), ("3.00".into(), "3.00".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_does_not_last_for_a_row_that_somebody_else_has_for_long() {
    let gate = Gate::start().await;
    for n in 0..20 {
        gate.cost("acme-corp", &format!("waits-{n}")).await;
        gate.cost("globex", &format!("kept-{n}")).await;
    }
    let holder = gate.hold("acme-corp").await;
    gate.apart.on_again(&gate.serving).await;
    assert_eq!((gate.spent("acme-corp").await, gate.spent("globex").await), ("0.00".into(), "60.00".into()));
    let_go(holder).await;
    until("the others are in the books too", || async { gate.spent("acme-corp").await == "60.00" }).await;
    let again = gate.serving.send("POST", "/v1/costs", a_cost("acme-corp", "waits-0")).await.expect_status(200);
    assert_eq!(again.at("/duplicate"), json!(true));
}

/// A gate in an outage that has kept a cost of 3, and a settle beside one of another amount, which only the books know.
/// The settle's reservation, too.
async fn with_a_record_that_cannot_be_in_the_books() -> (Cut, String) {
    let cut = Cut::start(StoreFailure::Open).await;
    let (_, id) = cut.reserve("1").await;
    cut.end(&id, "settle", json!({ "actualCostUsd": 1 })).await.expect_status(200);
    cut.off(Wire::Refuses).await;
    cut.end(&id, "settle", json!({ "actualCostUsd": 2 })).await.expect_status(200);
    cut.host.cost(llm_cost("kept", "3")).await.expect_status(200);
    (cut, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_the_books_is_set_aside_once_however_often_the_replay_begins_anew() {
    let (cut, id) = with_a_record_that_cannot_be_in_the_books().await;
    for sql in [
        "CREATE SEQUENCE attempts",
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM nextval('attempts'); RAISE EXCEPTION 'not now'; END $$",
        "CREATE TRIGGER fails BEFORE INSERT ON copilot_internal.cost_records FOR EACH ROW EXECUTE FUNCTION fail()",
    ] {
        cut.database.run(sql).await;
    }
    cut.switch.now(Wire::Forwards);
    let attempts = || async { cut.database.value("SELECT last_value >= 3 FROM attempts").await == "t" };
    until("the replay has begun anew", attempts).await;
    cut.database.run("DROP TRIGGER fails ON copilot_internal.cost_records").await;
    cut.on().await;
    assert_eq!(cut.books().await, "4.00 + 0.00 of 2");
    let files = std::fs::read_dir(cut.host.spool.path()).expect("a folder").flatten().map(|file| file.path());
    let rejected = files.filter(|file| file.extension().is_some_and(|extension| extension == "rejected"));
    let rejected: Vec<String> = rejected.map(|file| std::fs::read_to_string(file).expect("records")).collect();
    let lines: Vec<&str> = rejected.iter().flat_map(|file| file.lines()).collect();
    assert!(matches!(lines[..], [line] if line.contains(&id)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_does_not_last_for_a_disk_that_does_not_take_what_cannot_be_in_the_books() {
    let (cut, _) = with_a_record_that_cannot_be_in_the_books().await;
    for file in std::fs::read_dir(cut.host.spool.path()).expect("a folder").flatten() {
        std::fs::create_dir(file.path().with_extension("rejected")).expect("a folder in the way");
    }
    cut.on().await;
    assert_eq!(cut.books().await, "4.00 + 0.00 of 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_have_promised_the_same_request_keep_both_promises() {
    let first = Gate::start().await;
    let second = first.apart.serve(&[]);
    let mut request = llm("5");
    request["requestId"] = json!("the-same");
    for gate in [&first.serving, &second] {
        gate.send("POST", "/v1/reservations", request.clone()).await.expect_status(201);
    }
    // Both have looked for the request id before either of them keeps it.
    let holder = first.hold("acme-corp").await;
    first.apart.switch.now(Wire::Forwards);
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("both wait", || async { first.apart.database.value(waiting).await == "2" }).await;
    let_go(holder).await;
    first.apart.on_again(&first.serving).await;
    first.apart.on_again(&second).await;
    let held = "SELECT count(*) || ' ' || count(request_id) || ' ' || sum(held_usd)::numeric(20,2)
                FROM copilot_internal.reservations";
    assert_eq!(first.apart.database.value(held).await, "2 1 10.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_keeps_no_gate_in_its_outage_once_it_is_mended() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.off(Wire::Refuses).await;
    cut.host.cost(llm_cost("kept", "3")).await.expect_status(200);
    cut.database.holds_what_cannot_be_read().await;
    cut.switch.now(Wire::Forwards);
    let is_tried = || async { cut.database.value("SELECT count(*) FROM copilot_internal.cost_records").await == "1" };
    until("it has been tried", is_tried).await;
    cut.database.run("UPDATE copilot_internal.cost_quotas SET override_until = '2026-01-05'").await;
    cut.on().await;
    assert_eq!(cut.books().await, "3.00 + 0.00 of 1");
}
