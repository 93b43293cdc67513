//! The vendors' own clients against an app that passes a denial on as the gate gave it: each raises its own quota error,
//! after exactly one attempt.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::harness::guests::repository;
use crate::harness::{Host, Scratch, llm};

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

/// What the recipe's example says, compiled by the real compiler and run by Node.
fn recipe(built: &Scratch, url: &str) -> String {
    let run = Command::new("node").arg(built.join("example.js")).args([url, "acme-corp"]).output().expect("node");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).expect("a text")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node and the compiler of TypeScript; .ci/run runs it"]
async fn the_recipe_in_typescript_gates_a_chat_and_a_sandbox_and_records_the_cost() {
    let built = Scratch::new();
    built.write("package.json", r#"{ "type": "module" }"#);
    let clients = repository().join("tests/clients/node_modules");
    let compiled = Command::new("node")
        .arg(clients.join("typescript/bin/tsc"))
        .args(["--typeRoots".as_ref(), clients.join("@types").as_os_str(), "--types".as_ref(), "node".as_ref()])
        .args(["--outDir".as_ref(), built.path().as_os_str(), "--project".as_ref()])
        .arg(repository().join("docs/recipes/typescript"))
        .output()
        .expect("the compiler: npm ci in tests/clients");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stdout));

    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "0.08", "0").await;
    host.database.quota("tenant acme-corp e2b day", "0.03", "0").await;
    assert_eq!(recipe(&built, host.url()), "chat 200 - \"hello\"\nsandbox a sandbox\n");
    let recorded = "SELECT sum(actual_usd) FROM copilot_internal.cost_records WHERE tenant_id = 'acme-corp'";
    assert_eq!(host.database.value(recorded).await, "0.040000000");
    host.database.run("UPDATE copilot_internal.cost_quotas SET limit_usd = 0.02 WHERE resource_type = 'e2b'").await;
    let denied = recipe(&built, host.url());
    assert!(denied.starts_with(r#"chat 429 43200 "event: error\ndata: {\"error\":\"quota_exceeded\""#), "{denied}");
    assert!(denied.contains(r#"event: done\ndata: {\"status\":\"quota_exceeded\"}\n\n"#), "{denied}");
    let sandbox = "sandbox E2B quota exceeded: E2B quota exceeded. Limit: $0.02, Current: $0.00, Requested: $0.03\n";
    assert!(denied.ends_with(sandbox), "{denied}");
    // A gate that is not there denies nothing; a cost that cannot be recorded is an error.
    let gone = Command::new("node").arg(built.join("example.js")).args(["http://127.0.0.1:1", "acme-corp"]).output();
    let gone = gone.expect("node");
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains("without an answer, allowed"));
}
