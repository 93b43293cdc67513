//! Mail by STARTTLS, with a login, and who gets it.

use serde_json::json;

use super::{mail, said};
use crate::harness::{Binary, CANARY, Database, MailServer, guests, llm_cost, tollgate, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_crossing_becomes_mail_over_tls_with_a_login_after_the_server_was_busy() {
    let (server, database) = (MailServer::start().await, Database::migrated().await);
    server.then(&["451 later"]);
    let (port, certificate, url) = (server.port(), server.certificate(), database.url());
    let environment = [mail(&port, &certificate, CANARY), vec![("DATABASE_URL", url.as_str())]].concat();
    let policies = guests::SHIPPED.to_str().expect("a text");
    let gate = Binary::start(&["serve", "--listen", "127.0.0.1:0", "--policies", policies], &environment);
    database.quota("tenant <b>Bcc:evil@example.com llm day", "10.00", "0").await;
    let cost =
        json!({ "tenantId": "<b>Bcc:evil@example.com", "resourceType": "llm", "costId": "c", "actualCostUsd": "8" });
    gate.send("POST", "/v1/costs", cost).await.expect_status(200);
    until("the mail has come", || async { !server.messages().is_empty() }).await;
    let state = "SELECT state || ' ' || attempts FROM copilot_internal.alert_deliveries";
    until("it is sent", || async { database.value(state).await == "sent 2" }).await;
    let message = server.messages().remove(0);
    let id = database.value("SELECT id::text FROM copilot_internal.alerts").await;
    for fragment in [
        &format!("Message-ID: <{id}@example.com>\r\n"),
        "From: \"Tollgate\" <gate@example.com>\r\n",
        "To: ops@example.com, owner@example.com\r\n",
        "text/plain",
        "text/html",
        "&lt;b&gt;Bcc:evil",
    ] {
        let head = message.replace("From: Tollgate <", "From: \"Tollgate\" <");
        assert!(head.contains(fragment), "{fragment}: {message}");
    }
    assert!(!message.contains("\r\nBcc:"), "{message}");
    let commands = server.commands();
    let login = commands.iter().find(|line| line.contains("AUTH")).expect("a login");
    // \0ops\0canary-7f3a9c
    assert_eq!(login, "tls AUTH PLAIN AG9wcwBjYW5hcnktN2YzYTlj");
    assert!(!commands.iter().any(|line| line.starts_with("plain MAIL")), "{commands:?}");
    let log = gate.interrupt().log.join("\n");
    assert!(log.contains("the mail server answered 451") && !log.contains(CANARY), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_is_refused_keeps_alerts_from_nobody_else() {
    for refusal in ["550 nobody here", "452 4.2.2 over quota"] {
        let (server, database) = (MailServer::start().await, Database::migrated().await);
        server.refuses("owner@", refusal);
        let (port, certificate, url) = (server.port(), server.certificate(), database.url());
        let environment = [mail(&port, &certificate, CANARY), vec![("DATABASE_URL", url.as_str())]].concat();
        let policies = guests::SHIPPED.to_str().expect("a text");
        let gate = Binary::start(&["serve", "--listen", "127.0.0.1:0", "--policies", policies], &environment);
        database.quota("tenant acme-corp llm day", "10.00", "0").await;
        gate.send("POST", "/v1/costs", llm_cost("c-1", "8")).await.expect_status(200);
        let state = "SELECT max(state || ' ' || attempts) FROM copilot_internal.alert_deliveries";
        until("it is sent", || async { database.value(state).await == "sent 1" }).await;
        assert_eq!(server.messages().len(), 1);
        let log = gate.interrupt().log;
        let told: Vec<_> = log.iter().filter(|line| line.contains("Alert mail refused for one recipient")).collect();
        assert!(told.len() == 1 && told[0].contains(r#""recipient":"owner@example.com""#), "{told:?}");
        // Where nobody is known, it was not sent.
        server.refuses("@example.com", refusal);
        let tried = tollgate(&["alert", "test", "email"], &environment);
        assert!(said(&tried).contains(&format!("the mail server answered {}", &refusal[..3])), "{}", said(&tried));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_to_no_server_whose_certificate_is_not_trusted() {
    let server = MailServer::start().await;
    let port = server.port();
    let environment = mail(&port, "/nowhere.pem", CANARY);
    let output = tollgate(&["alert", "test", "email"], &environment);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("error: email: no mail over this connection: invalid peer certificate"),
        "{}",
        said(&output)
    );
    assert!(!server.commands().iter().any(|line| line.contains("AUTH")), "{:?}", server.commands());
}
