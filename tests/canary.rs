//! Secrets are looked for in all that a gate says. The harness does so for every answer, log line and printed line of
//! the whole test run; here a gate has each kind of secret at once, and a day on which everything goes wrong.

use serde_json::json;

use crate::harness::{Behaviour, Binary, CANARY, Database, MailServer, Receiver, guests, tollgate, until};

/// More than anybody should log, and the libraries too.
const EVERYTHING: &str = "tollgate=trace,reqwest=trace,hyper=trace,hyper_util=trace,rustls=trace,lettre=trace,sqlx=trace,axum=trace,h2=trace";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_said_on_a_bad_day() {
    let (receiver, mail, database) = (Receiver::start().await, MailServer::start().await, Database::migrated().await);
    // Providers that repeat what they were sent.
    receiver.then(&vec![Behaviour::Answer(403, "location: http://canary-7f3a9c/\r\nx: canary-7f3a9c\r\n", CANARY); 50]);
    mail.then(&["550 canary-7f3a9c"; 50]);
    let (hook, port, certificate, url) = (receiver.url(), mail.port(), mail.certificate(), database.url());
    let (app, admin) = (format!("app {CANARY}-app acme-corp"), format!("{CANARY}-admin"));
    let secrets = [
        ("DATABASE_URL", url.as_str()),
        ("TOLLGATE_APP_TOKEN", &app),
        ("TOLLGATE_ADMIN_TOKEN", &admin),
        ("COST_ALERT_CHANNELS", "slack,email,pagerduty"),
        ("COST_ALERT_SLACK_WEBHOOK_URL", &hook),
        ("COST_ALERT_PAGERDUTY_ROUTING_KEY", CANARY),
        ("TOLLGATE_ALERT_PAGERDUTY_URL", &hook),
        ("COST_ALERT_EMAIL_SMTP_HOST", "127.0.0.1"),
        ("COST_ALERT_EMAIL_SMTP_PORT", &port),
        ("COST_ALERT_EMAIL_SMTP_USER", "ops"),
        ("COST_ALERT_EMAIL_SMTP_PASSWORD", CANARY),
        ("COST_ALERT_EMAIL_FROM", "gate@example.com"),
        ("COST_ALERT_EMAIL_TO", "ops@example.com"),
        ("SSL_CERT_FILE", &certificate),
        ("TOLLGATE_ALERT_ALLOWED_HOSTS", "127.0.0.1"),
        ("TOLLGATE_ALERT_ALLOW_PRIVATE_ADDRESSES", "true"),
    ];
    let policies = guests::SHIPPED.to_str().expect("a text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies, "--log-level", EVERYTHING];
    let gate = Binary::start(&arguments, &secrets);
    database.quota("tenant acme-corp llm day", "1.00", "0").await;
    let app = format!("{CANARY}-app");
    let ask = |tenant: &str| json!({ "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": "2" });
    let cost = json!({ "tenantId": "acme-corp", "resourceType": "llm", "costId": "c-1", "actualCostUsd": "1" });
    for (token, method, path, body, status) in [
        (app.as_str(), "POST", "/v1/costs", cost, 200),
        (&app, "POST", "/v1/check", ask("acme-corp"), 429),
        (&app, "POST", "/v1/check", ask("globex"), 403),
        (&app, "GET", "/v1/alerts", json!({}), 401),
        ("canary-7f3a9c-unknown", "POST", "/v1/check", ask("acme-corp"), 401),
        (&admin, "GET", "/v1/quotas", json!({}), 200),
        (&admin, "GET", "/v1/decisions", json!({}), 200),
        (&admin, "GET", "/v1/policies", json!({}), 200),
        (&admin, "GET", "/metrics", json!({}), 200),
        (&admin, "GET", "/readyz", json!({}), 200),
    ] {
        gate.send_as(token, method, path, body).await.expect_status(status);
    }
    let tried = "SELECT count(DISTINCT channel) FROM copilot_internal.alert_deliveries WHERE last_error IS NOT NULL";
    until("each channel has failed", || async { database.value(tried).await == "3" }).await;
    let alerts = gate.send_as(&admin, "GET", "/v1/alerts", json!({})).await.expect_status(200);
    assert!(
        alerts.text.contains("answered 403") && alerts.text.contains("the mail server answered 550"),
        "{}",
        alerts.text
    );
    for channel in ["slack", "email", "pagerduty"] {
        assert_eq!(tollgate(&["alert", "test", channel], &secrets).status.code(), Some(1));
    }
    assert_eq!(tollgate(&["alert", "list"], &secrets).status.code(), Some(0));
    assert_eq!(tollgate(&["alert", "list", "--json"], &secrets).status.code(), Some(0));
    let log = gate.interrupt().log;
    for channel in ["slack", "email", "pagerduty"] {
        let line = log.iter().find(|line| line.contains("Alert not sent") && line.contains(channel));
        assert!(line.is_some(), "{channel}: {log:?}");
    }
}

#[test]
fn a_wrong_secret_is_not_repeated_by_the_error_about_it() {
    let unreachable = format!("postgres://tollgate:{CANARY}@127.0.0.1:1/none");
    for (arguments, environment) in [
        (vec!["migrate"], vec![("DATABASE_URL", unreachable.as_str())]),
        (vec!["alert", "list"], vec![("DATABASE_URL", "postgres:/canary-7f3a9c")]),
        (vec!["serve"], vec![("TOLLGATE_APP_TOKEN", "chat canary-7f3a9c *")]),
        (vec!["serve"], vec![("COST_ALERT_SLACK_WEBHOOK_URL", "http://canary:canary-7f3a9c@localhost/")]),
        (
            vec!["serve"],
            vec![("COST_ALERT_PAGERDUTY_ROUTING_KEY", "canary-7f3a9c"), ("COST_ALERT_CHANNELS", "pagerduty,canary")],
        ),
    ] {
        // The harness looks at what it prints.
        assert_eq!(tollgate(&arguments, &environment).status.code(), Some(2), "{arguments:?}");
    }
}
