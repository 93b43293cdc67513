//! A real Envoy in front, with the recipe of the documents.

use std::process::{Child, Command, Stdio};

use tollgate::api::auth::{Access, Token, Transport};
use tollgate::config::Listen;

use crate::harness::guests::{self, repository};
use crate::harness::{Answer, Scratch, Setup, until_listening};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Ends with the test.
struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything but the recipe: a front that has its filters, an app that says which decision it saw, and where each is.
fn bootstrap(folder: &Scratch) -> String {
    let recipe = std::fs::read_to_string(repository().join("docs/recipes/envoy.yaml")).expect("the recipe");
    // A busy machine is not what this is about.
    let recipe = recipe.replace("timeout: 0.25s", "timeout: 60s");
    let filters = format!("            {}\n", recipe.trim_end().replace('\n', "\n            "));
    let place = |name: &str| format!("address: {{ pipe: {{ path: {} }} }}", folder.join(name).display());
    let cluster = |name: &str| {
        let place = place(&format!("{name}.sock"));
        let host = format!("{{ lb_endpoints: [{{ endpoint: {{ {place} }} }}] }}");
        format!("  - {{ name: {name}, load_assignment: {{ cluster_name: {name}, endpoints: [{host}] }} }}\n")
    };
    let listener = |name: &str, route: &str, filters: &str| {
        let place = place(&format!("{name}.sock"));
        let host = format!(r#"{{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, {route} }}] }}"#);
        format!(
            r#"  - name: {name}
    {place}
    filter_chains:
      - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": {MANAGER}
            stat_prefix: {name}
            route_config:
              virtual_hosts: [{host}]
              response_headers_to_add: [{{ header: {{ key: seen-by-{name}, value: "%REQ(x-tollgate-decision-id)%" }} }}]
{filters}"#
        )
    };
    let router = "            http_filters:
            - name: envoy.filters.http.router
              typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n";
    let app = listener("app", r#"direct_response: { status: 200, body: { inline_string: "the app" } }"#, router);
    let front = listener("front", "route: { cluster: app }", &filters);
    format!("static_resources:\n  listeners:\n{app}{front}  clusters:\n{}{}", cluster("app"), cluster("tollgate"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy; .ci/run runs it"]
async fn envoy_asks_before_it_passes_a_request_on_and_passes_the_denial_through() {
    let (folder, files) = (Scratch::new(), guests::own_folder());
    // The recipe's token, and a tier whose policy fails.
    let token = Token::new("proxy".into(), "THE-APP-TOKEN", vec![]);
    let access = Access { app: vec![token], admin: None, transport: Transport::Unix };
    files.write("odd.wasm", "no component");
    std::fs::copy(guests::SHIPPED.join("free.wasm"), files.join("free.wasm")).expect("a built policy");
    let policies = guests::open(files.path().to_owned());
    let listen = Listen::Unix(folder.join("tollgate.sock"));
    let host = Setup { access, listen, policies, ..Setup::default() }.start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    host.database.quota("tenant globex llm day", "50.00", "49.96").await;
    host.database
        .run("INSERT INTO copilot_internal.tenants (tenant_id, tier) VALUES ('initech', 'free'), ('umbrella', 'odd')")
        .await;

    folder.write("envoy.yaml", bootstrap(&folder));
    let mut command = Command::new("envoy");
    command.arg("-c").arg(folder.join("envoy.yaml")).args(["--disable-hot-restart", "--concurrency", "1"]);
    let envoy = command.stdout(Stdio::null()).stderr(std::fs::File::create(folder.join("log")).expect("a file"));
    let _envoy = Envoy(envoy.spawn().expect("envoy: pip install -r tests/clients/requirements.txt"));
    let front = folder.join("front.sock");
    until_listening(&folder.join("app.sock")).await;
    until_listening(&front).await;

    let client = reqwest::Client::builder().no_proxy().unix_socket(front).build().expect("a client");
    let chat = |tenant: &str| client.post("http://app.example/chat?q=1").header("x-tollgate-tenant", tenant).body("hi");
    let passed = Answer::of(chat("acme-corp")).await.expect_status(200);
    assert_eq!(passed.text, "the app");
    assert!(passed.header("seen-by-app").starts_with("01"), "{passed:?}");

    // A client that names another price, or has a token of its own, is not heard.
    let sly = |tenant: &str| chat(tenant).header("x-tollgate-estimated-cost-usd", "0").bearer_auth("mine");
    Answer::of(sly("acme-corp")).await.expect_status(200);
    let denied = Answer::of(sly("globex")).await.expect_status(429);
    assert_eq!(denied.at("/error"), "quota_exceeded");
    assert_eq!((denied.header("retry-after"), denied.header("content-type")), ("43200", "application/json"));
    assert_eq!(denied.header("x-should-retry"), "false");
    assert!(denied.header("ratelimit").starts_with("\"llm-tenant-day\""), "{denied:?}");
    assert!(denied.header("ratelimit-policy").starts_with("\"llm-tenant-day\""), "{denied:?}");
    assert_eq!(denied.header("seen-by-app"), "");

    // What was spent counts at once.
    host.database
        .run("UPDATE copilot_internal.cost_quotas SET current_spend_usd = 50 WHERE scope_id = 'acme-corp'")
        .await;
    Answer::of(chat("acme-corp")).await.expect_status(429);

    let refused = Answer::of(chat("initech")).await.expect_status(403);
    assert_eq!((refused.at("/error"), refused.header("content-type")), ("policy_denied".into(), "application/json"));
    // What is no decision is no denial either.
    let failed = Answer::of(chat("umbrella")).await.expect_status(503);
    assert_eq!(failed.text, "");
    Answer::of(chat("")).await.expect_status(400);
}
