//! Alerts that look ahead and back, each off until it is asked for.

use serde_json::json;
use tollgate::alert::{Extras, Settings};

use crate::alerts::slack;
use crate::harness::{Host, Receiver, Setup, llm_cost, slack_shows, until};

const KINDS: &str =
    "SELECT coalesce(string_agg(kind || ' ' || scope_id || ' ' || period, ', ' ORDER BY kind, scope_id, period), '')
                     FROM copilot_internal.alerts";

async fn beside(host: &Host, alerts: Settings, extras: Extras) -> Host {
    let (clock, database) = (host.clock.clone(), Some(host.database.clone()));
    Setup { clock, alerts, extras, database, ..Setup::default() }.start().await
}

async fn kinds(host: &Host, expected: &str) {
    until(expected, || async { host.database.value(KINDS).await == expected }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_ends_before_its_window_at_this_rate_is_told_once() {
    let (host, receiver) = (Host::start().await, Receiver::start().await);
    // At noon, half of the day is over.
    for (tenant, usd) in [("slow", "5.00"), ("fast", "6.00"), ("done", "7.90")] {
        host.database
            .quota(&format!("tenant {tenant} llm day"), if tenant == "done" { "7.90" } else { "10.00" }, "0")
            .await;
        let cost = json!({ "tenantId": tenant, "resourceType": "llm", "costId": "c", "actualCostUsd": usd });
        host.cost(cost).await;
    }
    host.database.quota("tenant ever llm lifetime", "10.00", "6.00").await;
    // What counts is the limit that holds now: this one's lasts for the whole day.
    host.database.quota("tenant launching llm day", "10.00", "6.00").await;
    let override_of = json!({ "limitUsd": 50, "until": "2026-01-04T18:00:00Z", "reason": "launch day" });
    host.post("/v1/quotas/tenant/launching/llm/day/override", override_of).await.expect_status(200);
    host.database.run("DELETE FROM copilot_internal.alerts").await;
    let extras = Extras { predicted: true, ..Extras::default() };
    let first = beside(&host, slack(&receiver), extras).await;
    kinds(&host, "predicted fast day").await;
    let message = receiver.has(1).await.remove(0);
    assert_eq!(message["text"], "tenant fast will use up its LLM limit of $10.00 a day before the day ends");
    let text = slack_shows(&message["blocks"][1]);
    assert!(text.contains("*Lasts*: at this rate, until 2026-01-04 20:00 UTC (in 8 h 0 min)"), "{text}");
    // Another host predicts the same, and a new quota that shows that it has looked.
    host.database.quota("tenant later llm day", "10.00", "6.00").await;
    let _second = beside(&host, Settings::default(), extras).await;
    drop(first);
    let _third = beside(&host, slack(&receiver), extras).await;
    kinds(&host, "predicted fast day, predicted later day").await;
    receiver.has(2).await;
    assert_eq!(receiver.bodies().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_week_and_a_month_are_summed_up_against_those_before() {
    let (host, receiver) = (Host::start().await, Receiver::start().await);
    for quota in ["tenant acme-corp llm day", "tenant acme-corp llm month", "tenant globex e2b week"] {
        host.database.quota(quota, "100.00", "0").await;
    }
    for (at, id, usd) in [
        ("2025-11-30T12:00:00Z", "c-0", "10.00"),
        ("2025-12-24T12:00:00Z", "c-1", "20.00"),
        ("2025-12-30T12:00:00Z", "c-2", "17.00"),
        ("2025-12-31T12:00:00Z", "c-3", "13.00"),
    ] {
        host.at(at);
        host.cost(llm_cost(id, usd)).await;
    }
    let globex = json!({ "tenantId": "globex", "resourceType": "e2b", "costId": "c", "actualCostUsd": "5.25" });
    host.cost(globex).await;
    host.at("2026-01-01T00:10:00Z");
    let extras = Extras { weekly: true, monthly: true, ..Extras::default() };
    let beside = beside(&host, slack(&receiver), extras).await;
    let month = receiver.has(1).await.remove(0);
    assert_eq!(month["text"], "$50.00 spent in the month from 2025-12-01");
    host.at("2026-01-05T00:10:00Z");
    let week = receiver.has(2).await.remove(1);
    assert_eq!(week["text"], "$35.25 spent in the week from 2025-12-29");
    assert_eq!(
        slack_shows(&week["blocks"][1]),
        "*From*: 2025-12-29 00:00 UTC\n*To*: 2026-01-05 00:00 UTC\n\
         *Spent*: $35.25, +76.2% against the week before ($20.00)\n\
         *acme-corp llm*: $30.00, +50.0% against the week before ($20.00)\n\
         *globex e2b*: $5.25, nothing in the week before"
    );
    kinds(&host, "summary * month, summary * week").await;
    let listed = beside.get("/v1/alerts").await.expect_status(200);
    let summary = r#""summary":{"spendUsd":35.25,"beforeUsd":20.00,"most":[{"scopeId":"acme-corp","resourceType":"llm","spendUsd":30.00,"#;
    assert!(listed.text.contains(summary), "{}", listed.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_week_with_more_than_an_amount_can_be_is_summed_up() {
    let (host, receiver) = (Host::start().await, Receiver::start().await);
    for n in 0..10 {
        host.database.quota(&format!("tenant t-{n} llm day"), "100.00", "0").await;
        let mut cost = llm_cost("c", "1000000000");
        cost["tenantId"] = json!(format!("t-{n}"));
        host.cost(cost).await;
    }
    host.at("2026-01-05T00:10:00Z");
    let _beside = beside(&host, slack(&receiver), Extras { weekly: true, ..Extras::default() }).await;
    let summary = "SELECT coalesce(max(spend_usd), 0)::bigint FROM copilot_internal.alerts WHERE kind = 'summary'";
    until("it is summed up", || async { host.database.value(summary).await == "9223372036" }).await;
    let listed = host.get("/v1/alerts").await.expect_status(200);
    assert!(listed.text.contains(r#""summary":{"spendUsd":9223372036.00,"#), "{}", listed.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_asked_nothing_is_predicted_or_summed_up() {
    let (host, receiver) = (Host::start().await, Receiver::start().await);
    host.at("2026-01-05T18:00:00Z");
    host.database.quota("tenant acme-corp llm day", "10.00", "0").await;
    host.cost(llm_cost("c-1", "8.00")).await;
    let _beside = beside(&host, slack(&receiver), Extras::default()).await;
    // It has looked, and told what was crossed.
    receiver.has(1).await;
    kinds(&host, "threshold acme-corp day").await;
}
