//! Gates in processes of their own, and their store that can be switched off.

use std::process::Command;

use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;

use crate::harness::{Binary, Database, Receiver, Scratch, Switch, Wire, guests, llm, llm_cost, tollgate, until};

/// A store that can be switched off, and the data directory of the gates that are started with it.
pub struct Apart {
    pub database: Database,
    pub switch: Switch,
    pub data: Scratch,
    /// Of the database, through the switch.
    url: String,
}

impl Apart {
    pub async fn on() -> Self {
        let database = Database::migrated().await;
        let server: PgConnectOptions = database.options();
        let socket = server.get_socket().expect("a socket");
        let switch = Switch::new(socket);
        let in_url = |folder: &std::path::Path| folder.to_str().expect("a text").replace('/', "%2F");
        let url = database.url().replace(&in_url(socket), &in_url(switch.folder()));
        Self { database, switch, data: Scratch::new(), url }
    }

    pub async fn off() -> Self {
        let apart = Self::on().await;
        apart.switch.now(Wire::Refuses);
        apart
    }

    pub fn serve(&self, more: &[&str]) -> Binary {
        self.serve_in(&[], more)
    }

    /// In this environment.
    pub fn serve_in(&self, environment: &[(&str, &str)], more: &[&str]) -> Binary {
        let (policies, data) = (guests::SHIPPED.to_str().expect("a text"), self.data.path().to_str().expect("a text"));
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies, "--data-dir", data];
        let url = [("DATABASE_URL", self.url.as_str())];
        Binary::start(&[&arguments[..], more].concat(), &[&url[..], environment].concat())
    }

    /// Switched on again, with all that `gate` has kept in the books.
    pub async fn on_again(&self, gate: &Binary) {
        self.switch.now(Wire::Forwards);
        let is_back = || async { gate.send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(false) };
        until("everything is in the books", is_back).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_while_its_store_is_down_serves_and_what_a_killed_one_kept_is_not_lost() {
    let apart = Apart::off().await;
    let gate = apart.serve(&[]);
    let made = gate.send("POST", "/v1/reservations", llm("10")).await.expect_status(201);
    assert_eq!(made.at("/degraded"), json!(true));
    gate.send("POST", "/v1/costs", llm_cost("kept", "3")).await.expect_status(200);
    let metrics = gate.send("GET", "/metrics", json!(null)).await.text;
    for line in [
        "tollgate_store_up 0",
        "tollgate_spool_records 2",
        "tollgate_decisions_total{resource_type=\"llm\",outcome=\"degraded\",mode=\"reserve\"} 1",
    ] {
        assert!(metrics.lines().any(|said| said == line), "{line}: {metrics}");
    }
    gate.kill();
    // The host is gone: its oldest record says when that was.
    let folder = apart.data.path().to_str().expect("a text");
    let doctor = tollgate(&["doctor", "--data-dir", folder], &[("DATABASE_URL", &apart.url)]);
    let findings = String::from_utf8_lossy(&doctor.stdout);
    assert!(findings.contains("wait for the store, the oldest since 20"), "{findings}");
    let gate = apart.serve(&[]);
    let settle = json!({ "tenantId": "acme-corp", "actualCostUsd": 8 });
    let path = format!("/v1/reservations/{}/settle", made.word("/reservationId"));
    gate.send("POST", &path, settle.clone()).await.expect_status(200);
    apart.on_again(&gate).await;
    let books = "SELECT (SELECT sum(actual_usd) FROM copilot_internal.cost_records)::numeric(20,2) || ' ' ||
                        (SELECT sum(actual_usd) FROM copilot_internal.reservations)::numeric(20,2)";
    assert_eq!(apart.database.value(books).await, "3.00 8.00");
    let again = gate.send("POST", &path, settle).await.expect_status(200);
    assert_eq!(again.at("/duplicate"), json!(true));
    assert_eq!(gate.interrupt().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_there_is_no_more_room_for_costs_the_caller_is_told_and_what_was_kept_is_not_lost() {
    let apart = Apart::off().await;
    let gate = apart.serve_in(&[("TOLLGATE_SPOOL_MIB", "1")], &[]);
    let mut kept = 0;
    let refused = loop {
        let mut cost = llm_cost(&format!("cost-{kept}"), "1");
        cost["attributes"] = json!({ "note": "x".repeat(60_000) });
        let answer = gate.send("POST", "/v1/costs", cost).await;
        if answer.status != 200 {
            break answer;
        }
        kept += 1;
    };
    assert_eq!((refused.status, refused.word("/error").as_str()), (507, "spool_full"));
    assert!(kept >= 10, "{kept}");
    apart.on_again(&gate).await;
    assert_eq!(
        apart.database.value("SELECT count(*)::text FROM copilot_internal.cost_records").await,
        kept.to_string()
    );
    gate.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_stops_and_starts_while_its_store_is_silent_and_loses_nothing() {
    let apart = Apart::on().await;
    let gate = apart.serve(&["--store-failure", "closed"]);
    apart.switch.now(Wire::IsSilent);
    gate.send("POST", "/v1/costs", llm_cost("kept", "3")).await.expect_status(200);
    assert_eq!(gate.interrupt().code, Some(0));
    let gate = apart.serve(&["--store-failure", "closed"]);
    gate.send("POST", "/v1/costs", llm_cost("kept, too", "2")).await.expect_status(200);
    apart.on_again(&gate).await;
    let books = "SELECT sum(actual_usd)::numeric(20,2)::text FROM copilot_internal.cost_records";
    assert_eq!(apart.database.value(books).await, "5.00");
    assert_eq!(gate.interrupt().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_alerts_does_not_wait_for_a_silent_store_either() {
    let (apart, receiver) = (Apart::on().await, Receiver::start().await);
    let environment = [
        ("COST_ALERT_CHANNELS", "slack"),
        ("COST_ALERT_SLACK_WEBHOOK_URL", &receiver.url()),
        ("TOLLGATE_ALERT_ALLOWED_HOSTS", "127.0.0.1, events.pagerduty.com"),
        ("TOLLGATE_ALERT_ALLOW_PRIVATE_ADDRESSES", "true"),
    ];
    let gate = apart.serve_in(&environment, &[]);
    let metrics = || async { gate.send("GET", "/metrics", json!(null)).await.text };
    // At 0 from the start: the first that is lost is a change that a rule sees.
    let lost = "tollgate_alerts_total{channel=\"slack\",result=\"gave_up\"} 0\n";
    until("the sender runs", || async { metrics().await.contains(lost) }).await;
    // It asks once a second, and this is known after one.
    apart.switch.now(Wire::IsSilent);
    gate.send("POST", "/v1/costs", llm_cost("kept", "3")).await.expect_status(200);
    let finished = gate.interrupt();
    assert_eq!(finished.code, Some(0));
    let is_cut = |line: &&String| line.contains("The last decisions are not in the decision log");
    assert_eq!(finished.log.iter().find(is_cut), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_has_no_descriptor_left_is_overloaded_and_its_store_is_not_down() {
    let apart = Apart::on().await;
    apart.database.quota("tenant acme-corp llm day", "10.00", "0").await;
    let gate = apart.serve(&[]);
    // The connections of a check are there from now on.
    gate.send("POST", "/v1/check", llm("100")).await.expect_status(429);
    // The first reservation needs a connection to the store of its own, and there is nothing to make it of.
    let limit = |descriptors: &str| {
        let (pid, limit) = (gate.id().to_string(), format!("--nofile={descriptors}:"));
        let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status().expect("prlimit");
        assert!(limited.success());
    };
    let usual = std::fs::read_to_string(format!("/proc/{}/limits", gate.id())).expect("its limits");
    let usual = usual.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit").trim();
    let usual: Vec<&str> = usual.split_whitespace().collect();
    assert_eq!(usual[0], usual[1], "it takes as many as it may");
    let usual = usual[0].to_owned();
    limit("3");
    let answer = gate.send("POST", "/v1/reservations", llm("1")).await.expect_status(503);
    assert_eq!(answer.word("/error"), "overloaded");
    let check = gate.send("POST", "/v1/check", llm("100")).await.expect_status(429);
    assert_eq!(check.at("/degraded"), json!(null), "no free passage");
    limit(&usual);
    gate.send("POST", "/v1/reservations", llm("1")).await.expect_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_do_not_wait_for_ever_for_a_store_that_is_silent() {
    let apart = Apart::on().await;
    apart.switch.now(Wire::IsSilent);
    for (arguments, code) in [(&["doctor"][..], 1), (&["quota", "list"], 2)] {
        let output = tollgate(arguments, &[("DATABASE_URL", &apart.url)]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("a text");
        assert!(text.contains("the database cannot be reached: it was silent for 5s"), "{arguments:?}: {text}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_reservation_in_an_outage_has_the_id_of_its_answer() {
    let apart = Apart::off().await;
    let gate = apart.serve(&["--log-level", "debug"]);
    let made = gate.send("POST", "/v1/reservations", llm("1")).await.expect_status(201);
    let log = gate.interrupt().log;
    let lines = log.iter().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    let of_it: Vec<(String, String)> = lines
        .filter(|line| line["tenantId"] == "acme-corp")
        .map(|line| (line["message"].as_str().unwrap_or_default().into(), line["decisionId"].to_string()))
        .collect();
    let id = made.at("/decisionId").to_string();
    let expected = ["Checking LLM quota before request", "Allowed without a decision: the store cannot be reached"];
    assert_eq!(of_it, expected.map(|message| (message.to_owned(), id.clone())));
}
