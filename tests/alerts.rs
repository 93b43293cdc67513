//! Alerts arrive: at least once, by any host, after whatever the provider does, and never in the way of a request.

mod news;

use std::time::Duration;

use serde_json::{Value, json};
use tollgate::alert::{Reach, Secret, Settings, Webhook};

use crate::harness::{Behaviour, Host, Receiver, Setup, instant, llm_cost, slack_shows, until};

const STATES: &str = "SELECT coalesce(string_agg(channel || ' ' || action || ' ' || state || ' ' || attempts, ', '
    ORDER BY channel, action, state, attempts), '') FROM copilot_internal.alert_deliveries";

pub fn reach() -> Reach {
    Reach { hosts: vec!["127.0.0.1".to_owned()], private: true }
}

fn to(receiver: &Receiver) -> Webhook {
    Webhook::parse(&receiver.url(), &reach()).expect("a webhook")
}

fn settings() -> Settings {
    Settings { reach: reach(), timeout: Duration::from_millis(500), ..Settings::default() }
}

pub fn slack(receiver: &Receiver) -> Settings {
    Settings { slack: Some(to(receiver)), ..settings() }
}

fn pagerduty(receiver: &Receiver) -> Settings {
    Settings { pagerduty: Some((to(receiver), Secret::new("r0uting-key"))), ..settings() }
}

/// A host with a quota of ten dollars a day, and alerts at 80, 90 and 100 percent.
async fn host(alerts: Settings) -> Host {
    let host = Setup { alerts, ..Setup::default() }.start().await;
    host.database.quota("tenant acme-corp llm day", "10.00", "0").await;
    host
}

async fn states(host: &Host, expected: &str) {
    let mut last = String::new();
    for _ in 0..1500 {
        last = host.database.value(STATES).await;
        if last == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{expected} never came; at last: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crossing_becomes_a_slack_message_that_says_what_there_is_to_know() {
    let receiver = Receiver::start().await;
    let host = host(slack(&receiver)).await;
    host.cost(llm_cost("c-1", "8.00")).await;
    states(&host, "slack trigger sent 1").await;
    let message = receiver.bodies().remove(0);
    assert_eq!(message["text"], "tenant acme-corp has used 80% of its LLM limit of $10.00 a day");
    assert_eq!(
        slack_shows(&message["blocks"][1]),
        "*Who*: tenant acme-corp\n*Spent*: $8.00 of $10.00 a day (80.0%)\n*Since*: 2026-01-04 00:00 UTC\n\
         *Rate*: $0.66 an hour\n*Lasts*: at this rate, until 2026-01-04 15:00 UTC (in 3 h 0 min)\n\
         *Then*: requests that do not fit are denied with 429 until 2026-01-05 00:00 UTC, unless the tier's policy allows more"
    );
    // Nothing comes twice: another crossing is another message.
    host.cost(llm_cost("c-2", "1.00")).await;
    states(&host, "slack trigger sent 1, slack trigger sent 1").await;
    assert_eq!(receiver.bodies().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_misbehaves_gets_it_again_after_a_pause() {
    let receiver = Receiver::start().await;
    receiver.then(&[
        Behaviour::Answer(500, "", "an error that repeats what it was sent"),
        Behaviour::Reset,
        Behaviour::Hang,
        Behaviour::Answer(302, "location: http://127.0.0.1:1/elsewhere\r\n", ""),
        Behaviour::Answer(429, "retry-after: 600\r\n", ""),
    ]);
    let host = host(slack(&receiver)).await;
    host.cost(llm_cost("c-1", "8.00")).await;
    let error = "SELECT last_error FROM copilot_internal.alert_deliveries";
    for (attempt, pause, fragment) in [
        (1, 5, "answered 500"),
        (2, 10, "the connection broke: "),
        (3, 20, "no answer within 500ms"),
        (4, 40, "answered 302, a redirect, which is not followed"),
        (5, 600, "answered 429"),
    ] {
        receiver.has(attempt).await;
        until(&format!("attempt {attempt}: {fragment}"), || async {
            host.database.value(error).await.starts_with(fragment)
        })
        .await;
        let due = host.database.value("SELECT due_at::text FROM copilot_internal.alert_deliveries").await;
        let due = due.replace(' ', "T").replace("+00", "Z");
        assert_eq!((instant(&due) - host.clock.now()).num_seconds(), pause, "attempt {attempt}");
        // Not a second earlier: the message waits for its time, not for a tick.
        host.clock.advance(chrono::TimeDelta::seconds(pause));
    }
    states(&host, "slack trigger sent 6").await;
    assert!(receiver.bodies().windows(2).all(|pair| pair[0] == pair[1]), "one message, six times");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_share_the_work_and_what_one_has_taken_the_other_leaves() {
    let receiver = Receiver::start().await;
    let host = host(pagerduty(&receiver)).await;
    let database = Some(host.database.clone());
    let clock = host.clock.clone();
    let _beside = Setup { clock, database, alerts: pagerduty(&receiver), ..Setup::default() }.start().await;
    for tenant in 0..20 {
        host.database.quota(&format!("tenant t-{tenant} llm day"), "1.00", "0").await;
        let cost =
            json!({ "tenantId": format!("t-{tenant}"), "resourceType": "llm", "costId": "c", "actualCostUsd": "1" });
        host.cost(cost).await;
    }
    until("all are sent", || async {
        let left = "SELECT count(*) FROM copilot_internal.alerts a WHERE NOT EXISTS (
            SELECT FROM copilot_internal.alert_deliveries d WHERE d.alert_id = a.id AND d.state = 'sent')";
        host.database.value(left).await == "0"
    })
    .await;
    let mut keys: Vec<String> = receiver.bodies().iter().map(|body| body["dedup_key"].to_string()).collect();
    keys.sort();
    assert_eq!(keys.len(), 60);
    keys.dedup();
    assert_eq!(keys.len(), 60, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_had_taken_when_it_died_is_sent_by_another_when_the_lease_is_over() {
    let receiver = Receiver::start().await;
    let host = host(Settings::default()).await;
    host.cost(llm_cost("c-1", "8.00")).await;
    // As a host leaves it that is killed while it sends.
    host.database
        .run(
            "UPDATE copilot_internal.alerts SET routed = true;
             INSERT INTO copilot_internal.alert_deliveries (alert_id, channel, attempts, due_at)
             SELECT id, 'slack', 1, '2026-01-04 12:01:00Z' FROM copilot_internal.alerts",
        )
        .await;
    let (clock, database) = (host.clock.clone(), Some(host.database.clone()));
    let beside = Setup { clock, database, alerts: slack(&receiver), ..Setup::default() }.start().await;
    // It works, and leaves alone what another has: a second alert goes out, the first does not.
    host.cost(llm_cost("c-2", "1.00")).await;
    states(&beside, "slack trigger due 1, slack trigger sent 1").await;
    assert!(receiver.bodies()[0]["text"].to_string().contains("90%"));
    host.at("2026-01-04T12:01:00Z");
    states(&beside, "slack trigger sent 1, slack trigger sent 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_says_nothing_delays_no_request_and_no_other_channel() {
    let (mute, receiver) = (Receiver::start().await, Receiver::start().await);
    mute.then(&[Behaviour::Hang]);
    let alerts = Settings { timeout: Duration::from_hours(1), slack: Some(to(&mute)), ..pagerduty(&receiver) };
    let host = host(alerts).await;
    host.cost(llm_cost("c-1", "8.00")).await;
    mute.has(1).await;
    receiver.has(1).await;
    host.cost(llm_cost("c-2", "1.00")).await;
    receiver.has(2).await;
    states(&host, "pagerduty trigger sent 1, pagerduty trigger sent 1, slack trigger due 0, slack trigger due 1").await;
}

fn events(bodies: &[Value]) -> Vec<String> {
    let word = |body: &Value, name: &str| body[name].as_str().unwrap_or_default().to_owned();
    bodies.iter().map(|body| format!("{} {}", word(body, "event_action"), word(body, "dedup_key"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pagerduty_has_one_incident_for_a_quota_window_and_threshold_until_the_window_ends() {
    let receiver = Receiver::start().await;
    let host = host(pagerduty(&receiver)).await;
    let quota = host.database.value("SELECT id::text FROM copilot_internal.cost_quotas").await;
    host.cost(llm_cost("c-1", "8.00")).await;
    states(&host, "pagerduty trigger sent 1").await;
    let event = receiver.bodies().remove(0);
    let key = format!("tollgate/{quota}/1767484800/80");
    assert_eq!((&event["routing_key"], &event["event_action"]), (&json!("r0uting-key"), &json!("trigger")));
    assert_eq!((&event["dedup_key"], &event["payload"]["severity"]), (&json!(key), &json!("warning")));
    let summary = "tenant acme-corp has used 80% of its LLM limit of $10.00 a day";
    assert_eq!(event["payload"]["summary"], summary);
    assert_eq!(event["payload"]["custom_details"]["spent"], "$8.00 of $10.00 a day (80.0%)");
    host.at("2026-01-05T00:00:00Z");
    states(&host, "pagerduty resolve sent 1").await;
    assert_eq!(events(&receiver.bodies()), [format!("trigger {key}"), format!("resolve {key}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_limit_resolves_the_incident_and_a_new_crossing_opens_it_again() {
    let receiver = Receiver::start().await;
    let host = host(pagerduty(&receiver)).await;
    let put = |usd: &'static str| host.put("/v1/quotas/tenant/acme-corp/llm/day", json!({ "limitUsd": usd }));
    host.cost(llm_cost("c-1", "8.00")).await;
    states(&host, "pagerduty trigger sent 1").await;
    put("20.00").await.expect_status(200);
    states(&host, "pagerduty resolve sent 1").await;
    host.cost(llm_cost("c-2", "8.00")).await;
    states(&host, "pagerduty resolve sent 1, pagerduty trigger sent 1").await;
    let keys = events(&receiver.bodies());
    let key = keys[0].strip_prefix("trigger ").expect("a trigger");
    assert_eq!(keys, [format!("trigger {key}"), format!("resolve {key}"), format!("trigger {key}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_lasts_as_long_as_the_limit_that_holds_is_passed() {
    let receiver = Receiver::start().await;
    let host = host(pagerduty(&receiver)).await;
    let overridden = |usd: &'static str| {
        let body = json!({ "limitUsd": usd, "until": "2026-01-04T18:00:00Z", "reason": "a test" });
        host.post("/v1/quotas/tenant/acme-corp/llm/day/override", body)
    };
    overridden("5.00").await.expect_status(200);
    host.cost(llm_cost("c-1", "4.00")).await;
    states(&host, "pagerduty trigger sent 1").await;
    // Another one, which is resolved: then the host has looked at the first one, too, and left it.
    host.database.quota("tenant globex llm day", "10.00", "0").await;
    let cost = json!({ "tenantId": "globex", "resourceType": "llm", "costId": "c", "actualCostUsd": "8.00" });
    host.cost(cost).await;
    states(&host, "pagerduty trigger sent 1, pagerduty trigger sent 1").await;
    host.put("/v1/quotas/tenant/globex/llm/day", json!({ "limitUsd": 20 })).await.expect_status(200);
    states(&host, "pagerduty resolve sent 1, pagerduty trigger sent 1").await;
    overridden("6.00").await.expect_status(200);
    states(&host, "pagerduty resolve sent 1, pagerduty resolve sent 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolution_that_waits_is_not_sent_when_the_incident_has_begun_again() {
    let receiver = Receiver::start().await;
    let host = host(pagerduty(&receiver)).await;
    let put = |usd: &'static str| host.put("/v1/quotas/tenant/acme-corp/llm/day", json!({ "limitUsd": usd }));
    host.cost(llm_cost("c-1", "8.00")).await;
    states(&host, "pagerduty trigger sent 1").await;
    receiver.then(&[Behaviour::Answer(503, "", "")]);
    put("20.00").await.expect_status(200);
    states(&host, "pagerduty resolve due 1").await;
    put("10.00").await.expect_status(200);
    host.clock.advance(chrono::TimeDelta::seconds(5));
    states(&host, "pagerduty trigger sent 2").await;
    assert_eq!(receiver.bodies().len(), 2, "the trigger, and the resolution that failed");
}
