//! The vendors' own clients against an app that passes a denial on as the gate gave it: each raises its own quota error,
//! after exactly one attempt.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::harness::guests::repository;
use crate::harness::{Host, llm};

/// An app: it asks the gate first, and passes what is no 200 on, headers included.
struct AppOfTheTest {
    url: String,
    attempts: Arc<AtomicU32>,
}

impl AppOfTheTest {
    async fn start(host: &Host, format: &str, stream: bool, tenant: &str) -> Self {
        let attempts = Arc::new(AtomicU32::new(0));
        let (counter, url) = (attempts.clone(), format!("{}/v1/check?format={format}", host.url()));
        let mut request = llm("2.00");
        request["tenantId"] = tenant.into();
        request["stream"] = stream.into();
        let app = Router::new().fallback(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            let asked =
                reqwest::Client::builder().no_proxy().build().expect("a client").post(&url).json(&request).send();
            async move { passed_on(asked.await.expect("the gate's answer")).await }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, attempts }
    }

    /// What a client says that it raised; and how often it asked.
    async fn told_by(&self, command: &str, script: &str, vendor: &str) -> (String, u32) {
        self.attempts.store(0, Ordering::SeqCst);
        let clients = repository().join("tests/clients");
        let mut command = Command::new(command);
        command.arg(clients.join(script)).args([vendor, &self.url]).current_dir(clients).env_remove("HTTP_PROXY");
        command.env_remove("http_proxy").env("NO_PROXY", "127.0.0.1");
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread");
        let output = output.expect("the client: tests/clients says what to install");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).expect("a text").trim().to_owned();
        (said, self.attempts.load(Ordering::SeqCst))
    }
}

async fn passed_on(answer: reqwest::Response) -> Response {
    let status = StatusCode::from_u16(answer.status().as_u16()).expect("a status");
    let headers = answer.headers().clone();
    let mut response = (status, answer.bytes().await.expect("a body")).into_response();
    *response.headers_mut() = headers;
    response.headers_mut().remove("transfer-encoding");
    response
}

const CLIENTS: [(&str, &str); 2] = [("python3", "app.py"), ("node", "app.mjs")];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the vendors' clients; .ci/run runs it"]
async fn each_vendors_client_raises_its_own_quota_error_after_one_attempt() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    for (vendor, format, stream, raised) in [
        ("openai", "openai", false, "RateLimitError 429 insufficient_quota"),
        ("anthropic", "anthropic", false, "RateLimitError 429 rate_limit_error"),
    ] {
        let app = AppOfTheTest::start(&host, format, stream, "acme-corp").await;
        for (command, script) in CLIENTS {
            let told = app.told_by(command, script, vendor).await;
            assert_eq!(told, (raised.to_owned(), 1), "{command} {vendor}");
        }
    }
    let app = AppOfTheTest::start(&host, "openai", true, "acme-corp").await;
    for (command, script) in CLIENTS {
        let (said, attempts) = app.told_by(command, script, "openai-stream").await;
        assert!(said.starts_with("RateLimitError 429") && attempts == 1, "{command}: {said}, {attempts} attempts");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the vendors' clients; .ci/run runs it"]
async fn a_refusal_without_a_quota_is_a_permission_error_after_one_attempt() {
    let host = Host::start().await;
    host.tenant("hobbyist", Some("free"), None).await;
    let app = AppOfTheTest::start(&host, "anthropic", false, "hobbyist").await;
    for (command, script) in CLIENTS {
        let told = app.told_by(command, script, "anthropic").await;
        assert_eq!(told, ("PermissionDeniedError 403 permission_error".to_owned(), 1), "{command}");
    }
}
