//! The end of an outage, while somebody else has the rows.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, PgConnection};

use super::process::Apart;
use crate::harness::{Answer, Binary, Wire, llm_cost, until};

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
        let mut cost: Value = llm_cost(id, "3");
        cost["tenantId"] = json!(tenant);
        self.serving.send("POST", "/v1/costs", cost).await.expect_status(200)
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
