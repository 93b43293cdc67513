//! Callers who repeat what was not answered, and remember what was.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::{PATIENCE, until};

const CALLERS: usize = 24;

/// What was answered: ids, and for settles and costs the amount.
#[derive(Default)]
struct Answered {
    reservations: Vec<String>,
    settles: Vec<String>,
    costs: Vec<String>,
    /// How many of them only the repetition was answered of.
    repetitions: usize,
}

pub struct Load {
    callers: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    client: reqwest::Client,
    urls: Vec<String>,
    answered: Mutex<Answered>,
    answers: AtomicUsize,
    enough: AtomicBool,
}

impl Load {
    /// Callers of several hosts, each with one of its own until that does not answer.
    pub fn start(urls: &[&str]) -> Self {
        let shared = Arc::new(Shared {
            client: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().expect("a client"),
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            answered: Mutex::default(),
            answers: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
        });
        let callers = (0..CALLERS).map(|caller| {
            let shared = shared.clone();
            async move { shared.call(caller).await }
        });
        Self { callers: callers.collect(), shared }
    }

    /// Waits for so many more answers.
    pub async fn answers(&self, more: usize) {
        let goal = self.shared.answers.load(Ordering::SeqCst) + more;
        until("more answers", || async { self.shared.answers.load(Ordering::SeqCst) >= goal }).await;
    }

    /// Every caller gets the answer that it waits for, and calls no more.
    pub async fn stop(mut self) -> Told {
        self.shared.enough.store(true, Ordering::SeqCst);
        while let Some(caller) = self.callers.join_next().await {
            caller.expect("no panic");
        }
        let answered = std::mem::take(&mut *self.shared.answered.lock().expect("no panic"));
        Told(answered)
    }
}

impl Shared {
    async fn call(&self, caller: usize) {
        for n in 0.. {
            if self.enough.load(Ordering::SeqCst) {
                return;
            }
            let request = json!({
                "tenantId": "acme-corp", "resourceType": "llm", "estimatedCostUsd": "0.01", "ttlSeconds": 3,
                "requestId": format!("r-{caller}-{n}"),
            });
            let made = self.answer(caller, "/v1/reservations", 201, &request).await;
            let id = made["reservationId"].as_str().expect("an id").to_owned();
            self.remember(&made, |answered| answered.reservations.push(id.clone()));
            if n % 3 == 1 {
                let settle = json!({ "tenantId": "acme-corp", "actualCostUsd": "0.02" });
                let settled = self.answer(caller, &format!("/v1/reservations/{id}/settle"), 200, &settle).await;
                self.remember(&settled, |answered| answered.settles.push(id));
            } else if n % 3 == 2 {
                let id = format!("c-{caller}-{n}");
                let cost =
                    json!({ "tenantId": "acme-corp", "resourceType": "llm", "costId": id, "actualCostUsd": "0.03" });
                let recorded = self.answer(caller, "/v1/costs", 200, &cost).await;
                self.remember(&recorded, |answered| answered.costs.push(id));
            }
        }
    }

    fn remember(&self, answer: &Value, note: impl FnOnce(&mut Answered)) {
        let mut answered = self.answered.lock().expect("no panic");
        answered.repetitions += usize::from(answer["duplicate"] == true);
        note(&mut answered);
        self.answers.fetch_add(1, Ordering::SeqCst);
    }

    /// Sends until it is answered, each time to the next host.
    async fn answer(&self, caller: usize, path: &str, status: u16, body: &Value) -> Value {
        let begun = Instant::now();
        for attempt in 0.. {
            let url = &self.urls[(caller + attempt) % self.urls.len()];
            if let Ok(response) = self.client.post(format!("{url}{path}")).json(body).send().await {
                let got = response.status().as_u16();
                if let Ok(answer) = response.json::<Value>().await {
                    if got == status && answer["degraded"] != true {
                        return answer;
                    }
                    assert!([status, 503].contains(&got), "{path}: {got} {answer}");
                }
            }
            assert!(begun.elapsed() < PATIENCE, "{path} is not answered");
            sleep(Duration::from_millis(20)).await;
        }
        unreachable!("it goes on until it is answered")
    }
}

/// What the callers know, after everything was answered.
pub struct Told(Answered);

impl Told {
    pub fn repetitions(&self) -> usize {
        self.0.repetitions
    }

    /// Each answer is in the books, once, and nothing else is.
    pub async fn is_all_that_is_in_the_books(&self, store: &PgConnectOptions) {
        let list = |ids: &[String]| {
            let mut ids = ids.to_vec();
            ids.sort();
            ids.join(" ")
        };
        let ids = "SELECT coalesce(string_agg(id, ' ' ORDER BY id COLLATE \"C\"), '') FROM";
        let reservations = format!("{ids} (SELECT id::text FROM copilot_internal.reservations) AS r");
        assert_eq!(value(store, &reservations).await, list(&self.0.reservations), "reservations");
        let settled = "copilot_internal.reservations WHERE state = 'settled' AND actual_usd = 0.02";
        let settled = format!("{ids} (SELECT id::text FROM {settled}) AS r");
        assert_eq!(value(store, &settled).await, list(&self.0.settles), "settles");
        let costs = "copilot_internal.cost_records WHERE actual_usd = 0.03";
        let costs = format!("{ids} (SELECT cost_id AS id FROM {costs}) AS r");
        assert_eq!(value(store, &costs).await, list(&self.0.costs), "costs");
        self.counts_are_sums(store).await;
    }

    /// Every quota's counters are the sums of the rows that made them.
    async fn counts_are_sums(&self, store: &PgConnectOptions) {
        let disagreeing = "
            SELECT count(*)::text FROM copilot_internal.cost_quotas,
                (SELECT coalesce(sum(actual_usd), 0) AS settled, coalesce(sum(held_usd) FILTER (WHERE state = 'held'), 0) AS held,
                        count(*) AS admitted FROM copilot_internal.reservations) AS r,
                (SELECT coalesce(sum(actual_usd), 0) AS spent, count(*) AS admitted FROM copilot_internal.cost_records) AS c
            WHERE current_spend_usd <> settled + spent OR held_usd <> held OR admitted_count <> r.admitted + c.admitted";
        assert_eq!(value(store, disagreeing).await, "0", "counters that are no sums");
    }
}

/// The one text of a query.
pub async fn value(store: &PgConnectOptions, sql: &str) -> String {
    let mut connection = store.clone().disable_statement_logging().connect().await.expect("a connection");
    let row = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await;
    row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
}
