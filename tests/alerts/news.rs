//! What is news, and what comes too late.

use tollgate::alert::Settings;
use tollgate::clock::Clock;

use super::{host, slack, states};
use crate::harness::{Behaviour, Receiver, Setup, instant, llm_cost, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_crossed_long_before_a_channel_is_used_goes_nowhere() {
    let receiver = Receiver::start().await;
    let host = host(Settings::default()).await;
    host.cost(llm_cost("c-1", "8.00")).await;
    host.at("2026-01-05T12:00:01Z");
    host.cost(llm_cost("c-2", "8.00")).await;
    let (clock, database) = (host.clock.clone(), Some(host.database.clone()));
    let beside = Setup { clock, database, alerts: slack(&receiver), ..Setup::default() }.start().await;
    states(&beside, "slack trigger sent 1").await;
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.alerts WHERE NOT routed").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn news_is_not_kept_waiting_by_what_has_come_long_before_a_channel_is_used() {
    let receiver = Receiver::start().await;
    let host = host(Settings::default()).await;
    host.database
        .run(
            "INSERT INTO copilot_internal.alerts (quota_id, scope, scope_id, resource_type, period, window_start, kind,
                 threshold, limit_usd, spend_usd, created_at)
             SELECT gen_random_uuid(), 'tenant', 'long-ago', 'llm', 'day', '2025-01-01', 'threshold', 80, 10, 8, '2025-01-01'
             FROM generate_series(1, 50000)",
        )
        .await;
    host.cost(llm_cost("c-1", "8.00")).await;
    let (clock, database) = (host.clock.clone(), Some(host.database.clone()));
    let beside = Setup { clock, database, alerts: slack(&receiver), ..Setup::default() }.start().await;
    states(&beside, "slack trigger sent 1").await;
}

const ALL: &str =
    "INSERT INTO copilot_internal.alert_deliveries (alert_id, channel, due_at)
     SELECT id, channel, '2026-01-04 12:00:00Z' FROM copilot_internal.alerts, unnest(ARRAY['email', 'slack', 'pagerduty']) AS channel";

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_told_for_a_day_is_given_up_whether_its_channel_is_used_or_not() {
    let receiver = Receiver::start().await;
    let host = host(Settings::default()).await;
    host.cost(llm_cost("c-1", "8.00")).await;
    host.database.run(ALL).await;
    // The end of an incident has a time of its own: it may come long after its alert.
    let end = "UPDATE copilot_internal.alert_deliveries SET action = 'resolve' WHERE channel = 'pagerduty'";
    host.database.run(end).await;
    host.database.run("UPDATE copilot_internal.alerts SET routed = true").await;
    host.at("2026-01-05T13:00:01Z");
    let (clock, database) = (host.clock.clone(), Some(host.database.clone()));
    let beside = Setup { clock, database, alerts: slack(&receiver), ..Setup::default() }.start().await;
    until("all are given up", || async {
        let failed = "SELECT count(*) FROM copilot_internal.alert_deliveries WHERE state = 'failed'";
        beside.database.value(failed).await == "3"
    })
    .await;
    assert!(receiver.bodies().is_empty(), "{:?}", receiver.bodies());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_far_ahead_swallows_no_alert() {
    let receiver = Receiver::start().await;
    let host = host(Settings::default()).await;
    host.cost(llm_cost("c-1", "8.00")).await;
    // By the database's clock it is new.
    host.database.run("UPDATE copilot_internal.alerts SET created_at = now()").await;
    let ahead = Setup {
        clock: Clock::manual(instant("2100-01-01T00:00:00Z")),
        database: Some(host.database.clone()),
        alerts: slack(&receiver),
        ..Setup::default()
    };
    receiver.then(&[Behaviour::Answer(500, "", "")]);
    let ahead = ahead.start().await;
    states(&ahead, "slack trigger due 1").await;
    // It fails, and is due soon, for hosts with a right clock, too.
    until("it is due again soon", || async {
        let soon = "SELECT due_at < now() + interval '30 seconds' FROM copilot_internal.alert_deliveries";
        host.database.value(soon).await == "t"
    })
    .await;
    let is_failed = "SELECT last_error IS NOT NULL FROM copilot_internal.alert_deliveries";
    assert_eq!(host.database.value(is_failed).await, "t");
    ahead.clock.advance(chrono::TimeDelta::seconds(6));
    states(&ahead, "slack trigger sent 2").await;
}
