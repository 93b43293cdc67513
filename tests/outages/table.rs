//! How long an answer takes while the store is known to be down, in each mode and by each way of being down.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::process::Apart;
use crate::harness::{Answer, Binary, Wire, until};

const CALLERS: usize = 16;
const EACH: usize = 125;

fn spends(id: &str) -> Value {
    json!({ "tenantId": "acme-corp", "resourceType": "llm", "estimatedCostUsd": "0.01", "requestId": id })
}

/// Reservations of before the outage, for what is settled in it.
async fn made(gate: &Binary) -> Vec<String> {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (client, url) = (client.clone(), format!("{}/v1/reservations", gate.url));
        callers.spawn(async move {
            let mut ids = Vec::new();
            while ids.len() < EACH {
                let made = spends(&format!("before-{caller}-{}", ids.len()));
                let answer = Answer::of(client.post(&url).json(&made)).await;
                // A busy machine may be overloaded: it is asked again, by the same id.
                ids.extend((answer.status == 201).then(|| answer.word("/reservationId")));
            }
            ids
        });
    }
    callers.join_all().await.concat()
}

/// The statuses of the answers, and how long each took.
struct Answers {
    statuses: Vec<u16>,
    took: Vec<Duration>,
}

/// Sixteen callers at once, each of whom asks as soon as it is answered.
async fn ask(gate: &Binary, body: impl Fn(usize) -> (String, Value)) -> Answers {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let asks: Vec<_> = (0..EACH).map(|n| body(caller * EACH + n)).collect();
        let (client, url) = (client.clone(), gate.url.clone());
        callers.spawn(async move {
            let mut answers = Vec::new();
            for (path, body) in asks {
                let asked = Instant::now();
                let answer = client.post(format!("{url}{path}")).json(&body).send().await.expect("an answer");
                let status = answer.status().as_u16();
                answer.bytes().await.expect("a whole answer");
                answers.push((status, asked.elapsed()));
            }
            answers
        });
    }
    let mut all: Vec<(u16, Duration)> = callers.join_all().await.into_iter().flatten().collect();
    all.sort_by_key(|(_, took)| *took);
    Answers {
        statuses: all.iter().map(|(status, _)| *status).collect(),
        took: all.iter().map(|(_, took)| *took).collect(),
    }
}

impl Answers {
    fn line(&self, what: &str) {
        let at = |percent: usize| {
            let micros = self.took[(self.took.len() - 1) * percent / 100].as_micros();
            format!("{}.{:02}", micros / 1000, micros % 1000 / 10)
        };
        println!("| {what} | {} | {} | {} | {} |", self.took.len(), at(50), at(99), at(100));
    }

    /// Whether every answer was this one.
    fn are(&self, status: u16) -> bool {
        self.statuses.iter().all(|is| *is == status)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: TOLLGATE_BIN=… cargo test -- --ignored --nocapture an_outage_as_a_table"]
async fn an_outage_as_a_table() {
    println!("{CALLERS} callers at once; milliseconds");
    println!("| mode, outage, route | answers | p50 | p99 | most |\n|---|---|---|---|---|");
    for mode in ["open", "bounded", "closed"] {
        for (wire, outage) in [(Wire::Refuses, "refused"), (Wire::IsSilent, "silent")] {
            let apart = Apart::on().await;
            let bound = [("TOLLGATE_STORE_FAILURE_BOUND_USD", "1000000")];
            let gate = apart.serve_in(&bound, &["--log-level", "error", "--store-failure", mode]);
            let ids = made(&gate).await;

            apart.switch.now(wire);
            // Known with the first marked answer.
            until("the outage is known", || async {
                let answer = gate.send("POST", "/v1/check", spends("finds-out")).await;
                answer.status == 503 || answer.at("/degraded") == json!(true)
            })
            .await;
            let name = |route: &str| format!("{mode}, {outage}, {route}");
            let (allowed, made) = if mode == "closed" { (503, 503) } else { (200, 201) };
            let check = ask(&gate, |n| ("/v1/check".into(), spends(&format!("check-{n}")))).await;
            let reserve = ask(&gate, |n| ("/v1/reservations".into(), spends(&format!("reserve-{n}")))).await;
            let settle = ask(&gate, |n| {
                let body = json!({ "tenantId": "acme-corp", "actualCostUsd": "0.01" });
                (format!("/v1/reservations/{}/settle", ids[n]), body)
            })
            .await;
            let costs = ask(&gate, |n| {
                let body = json!({ "tenantId": "acme-corp", "resourceType": "llm", "costId": format!("c-{n}"), "actualCostUsd": "0.01" });
                ("/v1/costs".into(), body)
            })
            .await;
            for (answers, route, status) in [
                (&check, "check", allowed),
                (&reserve, "reserve", made),
                (&settle, "settle", 200),
                (&costs, "costs", 200),
            ] {
                answers.line(&name(route));
                assert!(answers.are(status), "{}: {:?}", name(route), answers.statuses);
            }
            let mended = Instant::now();
            apart.on_again(&gate).await;
            println!("| {}: {} ms | | | | |", name("everything in the books"), mended.elapsed().as_millis());
            let spent = "SELECT (SELECT count(*) FROM copilot_internal.cost_records) + (SELECT count(*) FROM copilot_internal.reservations WHERE state = 'settled')";
            assert_eq!(apart.database.value(spent).await, (2 * CALLERS * EACH).to_string(), "{mode}, {outage}");
            gate.kill();
        }
    }
}
