//! Channels through the real binary: mail by STARTTLS, `alert test`, `alert list`, and what a setting must be.

mod mail;

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Behaviour, CANARY, Host, MailServer, Receiver, Setup, llm_cost, slack_shows, tollgate};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn mail<'a>(port: &'a str, certificate: &'a str, password: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("COST_ALERT_CHANNELS", "email"),
        ("COST_ALERT_EMAIL_SMTP_HOST", "127.0.0.1"),
        ("COST_ALERT_EMAIL_SMTP_PORT", port),
        ("COST_ALERT_EMAIL_SMTP_USER", "ops"),
        ("COST_ALERT_EMAIL_SMTP_PASSWORD", password),
        ("COST_ALERT_EMAIL_FROM", "Tollgate <gate@example.com>"),
        ("COST_ALERT_EMAIL_TO", "ops@example.com, owner@example.com"),
        ("SSL_CERT_FILE", certificate),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_slack_is_no_markup_calls_nobody_and_can_be_copied() {
    let receiver = Receiver::start().await;
    let host = Setup { alerts: crate::alerts::slack(&receiver), ..Setup::default() }.start().await;
    let name = "<!channel>acme_corp*`b`";
    host.database.quota(&format!("tenant {name} llm day"), "10.00", "0").await;
    let cost = json!({ "tenantId": name, "resourceType": "llm", "costId": "c", "actualCostUsd": "8" });
    host.cost(cost).await;
    let message = receiver.has(1).await.remove(0);
    let (title, lines) = (slack_shows(&message["blocks"][0]), slack_shows(&message["blocks"][1]));
    assert_eq!(title, format!(":warning: *tenant {name} has used 80% of its LLM limit of $10.00 a day*"));
    assert!(lines.starts_with(&format!("*Who*: tenant {name}\n*Spent*: $8.00")), "{lines}");
    // Where blocks are not shown: a text without markup, in which these characters are written so.
    assert_eq!(message["mrkdwn"], false);
    let fallback = message["text"].as_str().expect("a text");
    assert!(fallback.starts_with("tenant &lt;!channel&gt;acme_corp*`b` has used 80%"), "{fallback}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_can_be_tried_and_says_what_is_wrong() {
    let (receiver, server) = (Receiver::start().await, MailServer::start().await);
    let (url, port, certificate) = (receiver.url(), server.port(), server.certificate());
    let environment = [
        mail(&port, &certificate, CANARY),
        vec![
            ("COST_ALERT_CHANNELS", "slack, email,pagerduty"),
            ("COST_ALERT_SLACK_WEBHOOK_URL", &url),
            ("COST_ALERT_PAGERDUTY_ROUTING_KEY", CANARY),
            ("TOLLGATE_ALERT_PAGERDUTY_URL", &url),
            ("TOLLGATE_ALERT_ALLOWED_HOSTS", "127.0.0.1"),
            ("TOLLGATE_ALERT_ALLOW_PRIVATE_ADDRESSES", "true"),
        ],
    ]
    .concat();
    for channel in ["slack", "email", "pagerduty"] {
        let output = tollgate(&["alert", "test", channel], &environment);
        assert_eq!(said(&output), format!("Sent a test message to {channel}.\n"));
    }
    let actions: Vec<Value> = receiver.bodies().iter().map(|body| body["event_action"].clone()).collect();
    assert_eq!(actions, [Value::Null, json!("trigger"), json!("resolve")]);
    assert!(server.messages()[0].contains("Subject: A test message from Tollgate"), "{:?}", server.messages());
    receiver.then(&[Behaviour::Answer(404, "", CANARY)]);
    // To both recipients at once, and to each.
    server.then(&["550 no", "550 no", "550 no"]);
    for (channel, fragment) in [
        ("slack", "error: slack: answered 404: the address or key is not valid there\nhint: "),
        ("email", "error: email: the mail server answered 550: it does not accept this sender or recipient\nhint: "),
    ] {
        let output = tollgate(&["alert", "test", channel], &environment);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).starts_with(fragment), "{}", said(&output));
    }
    // The same by `doctor`, with everything else that it finds.
    receiver.then(&[Behaviour::Answer(404, "", CANARY)]);
    let output = tollgate(&["doctor", "--send", "--json"], &environment);
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of_alerts: Vec<String> = findings["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|finding| finding["area"] == "alerts")
        .map(|finding| format!("{} {}", finding["level"], finding["message"]).replace('"', ""))
        .collect();
    assert_eq!(
        of_alerts,
        [
            "error slack: answered 404: the address or key is not valid there",
            "ok email has taken a test message",
            "ok pagerduty has taken a test message"
        ]
    );
    let output = tollgate(&["alert", "test", "slack"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).starts_with("error: alert_channels does not name slack\nhint: "), "{}", said(&output));
}

#[test]
fn a_setting_of_alerts_that_does_not_hold_is_named_and_never_repeated() {
    let slack = ("COST_ALERT_CHANNELS", "slack");
    for (environment, fragment) in [
        (vec![("COST_ALERT_CHANNELS", "slak")], "COST_ALERT_CHANNELS: none, or a list: one of slack"),
        (
            vec![slack, ("COST_ALERT_SLACK_WEBHOOK_URL", "")],
            "alert_slack_webhook_url: required, since alert_channels names slack",
        ),
        (
            vec![("COST_ALERT_SLACK_WEBOOK_URL", CANARY)],
            "unknown variable, did you mean \"COST_ALERT_SLACK_WEBHOOK_URL\"?",
        ),
        (
            vec![("COST_ALERT_SLACK_WEBHOOK_URL", "https://example.com/canary-7f3a9c")],
            "COST_ALERT_SLACK_WEBHOOK_URL: the host example.com is not in alert_allowed_hosts",
        ),
        (vec![("COST_ALERT_SLACK_WEBHOOK_URL", CANARY)], "an address such as https://hooks.slack.com/services/…"),
        (
            vec![
                ("COST_ALERT_CHANNELS", "email"),
                ("TOLLGATE_ALERT_EMAIL_SMTP_HOST", "mail.example.com"),
                ("COST_ALERT_EMAIL_SMTP_PASSWORD", CANARY),
                ("COST_ALERT_EMAIL_SMTP_USER", ""),
            ],
            "error: alert_email_smtp_user: required, since there is a password",
        ),
        (
            vec![
                ("TOLLGATE_ALERT_EMAIL_SMTP_HOST", "mail.example.com"),
                ("COST_ALERT_EMAIL_SMTP_SECURITY", "none"),
                ("COST_ALERT_EMAIL_SMTP_USER", "ops"),
            ],
            "error: COST_ALERT_EMAIL_SMTP_SECURITY: starttls or tls; none is for a mail server on this machine",
        ),
    ] {
        let output = tollgate(&["alert", "test", "slack"], &environment);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(fragment) && !said(&output).contains(CANARY), "{fragment}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_their_deliveries_are_listed() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "10.00", "0").await;
    host.database.quota("tenant globex llm day", "10.00", "0").await;
    host.cost(llm_cost("c-1", "8.00")).await;
    host.at("2026-01-04T12:00:01Z");
    let globex = json!({ "tenantId": "globex", "resourceType": "llm", "costId": "c", "actualCostUsd": "9.00" });
    host.cost(globex).await;
    host.database
        .run(
            "INSERT INTO copilot_internal.alert_deliveries (alert_id, channel, state, attempts, due_at, last_error)
             SELECT id, 'slack', 'due', 3, '2026-01-04 12:05:00Z', 'answered 500' FROM copilot_internal.alerts WHERE scope_id = 'acme-corp'",
        )
        .await;
    let listed = host.get("/v1/alerts").await.expect_status(200);
    let who: Vec<Value> =
        listed.at("/alerts").as_array().expect("a list").iter().map(|alert| alert["scopeId"].clone()).collect();
    assert_eq!(who, ["globex", "globex", "acme-corp"]);
    let one = host.get("/v1/alerts?state=due&scope=tenant&since=2026-01-04T12:00:00Z&limit=5").await.expect_status(200);
    let mut alert = one.at("/alerts/0");
    alert["id"] = json!("…");
    let expected = json!({
        "id": "…", "kind": "threshold", "scope": "tenant", "scopeId": "acme-corp", "resourceType": "llm", "period": "day",
        "windowStart": "2026-01-04T00:00:00Z", "threshold": 80, "limitUsd": 10.0, "spendUsd": 8.0,
        "createdAt": "2026-01-04T12:00:00Z",
        "deliveries": [{ "channel": "slack", "action": "trigger", "state": "due", "attempts": 3,
                         "dueAt": "2026-01-04T12:05:00Z", "sentAt": null, "lastError": "answered 500" }],
    });
    assert_eq!(alert, expected);
    assert!(one.text.contains(r#""limitUsd":10.00,"spendUsd":8.00"#), "{}", one.text);
    for (query, field) in
        [("scope=team", "scope"), ("state=lost", "state"), ("limit=0", "limit"), ("since=now", "since"), ("id=1", "id")]
    {
        let refused = host.get(&format!("/v1/alerts?{query}")).await.expect_status(400);
        assert_eq!(refused.at("/field"), field);
    }
    let url = host.database.url();
    let list =
        |arguments: &[&str]| said(&tollgate(&[&["alert", "list"], arguments].concat(), &[("DATABASE_URL", &url)]));
    assert_eq!(
        list(&["--scope-id", "acme-corp"]),
        "2026-01-04 12:00:00  tenant acme-corp llm a day: 80% of $10.00, $8.00 spent\n  \
         slack: trigger due (3 attempts), next at 2026-01-04 12:05:00: answered 500\n"
    );
    assert!(list(&["--scope-id", "globex"]).contains("90% of $10.00, $9.00 spent\n  sent nowhere\n"));
    let json: Value = serde_json::from_str(&list(&["--json", "--state", "due"])).expect("JSON");
    assert_eq!(json[0]["deliveries"][0]["lastError"], "answered 500");
    assert_eq!(list(&["--state", "failed"]), "No alert matches.\n");
    host.database.run("DELETE FROM copilot_internal.alerts").await;
    assert_eq!(list(&[]), "No alerts.\n");
}
