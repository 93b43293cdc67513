//! `/v1/authz`: a check by headers, for proxies; and a real nginx in front.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tollgate::api::auth::{Access, Token, Transport};

use crate::harness::{Answer, Host, Scratch, Setup, until_listening};

async fn ask(host: &Host, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = host.request(method, path);
    Answer::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

const ACME: (&str, &str) = ("x-tollgate-tenant", "acme-corp");

#[tokio::test(flavor = "multi_thread")]
async fn headers_say_who_and_the_query_says_for_what() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    host.database.quota("user acme-corp/u-42 e2b day", "1.00", "0.99").await;
    let allowed = ask(&host, "GET", "/v1/authz", &[ACME]).await.expect_status(200);
    assert_eq!((allowed.at("/allowed"), allowed.at("/quotaDetails/estimatedCostUsd")), (json!(true), json!(0.05)));
    assert_eq!(allowed.header("x-tollgate-decision-id"), allowed.word("/decisionId"));
    let denied = ask(&host, "POST", "/v1/authz?estimatedCostUsd=2.00", &[ACME]).await.expect_status(429);
    assert_eq!(denied.at("/message"), "LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00");
    assert_eq!((denied.header("retry-after"), denied.header("x-should-retry")), ("43200", "false"));
    let in_a_header: Value = serde_json::from_str(denied.header("x-tollgate-denial")).expect("JSON");
    assert_eq!(in_a_header, denied.json());
    // What the proxy's configuration fixes goes over what a header says.
    let cheap = ("x-tollgate-estimated-cost-usd", "0.01");
    ask(&host, "GET", "/v1/authz", &[ACME, cheap]).await.expect_status(200);
    ask(&host, "GET", "/v1/authz?estimatedCostUsd=2.00", &[ACME, cheap]).await.expect_status(429);
    let user = [ACME, ("x-tollgate-user", "u-42"), ("x-tollgate-resource-type", "e2b")];
    ask(&host, "GET", "/v1/authz", &user).await.expect_status(429);
    ask(&host, "GET", "/v1/authz?resourceType=llm", &user).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_403_where_the_proxy_knows_no_429_and_headers_say_what_it_was() {
    let host = Host::start().await;
    host.database.quota("tenant Zürich llm day", "0.01", "0").await;
    let denied = ask(&host, "GET", "/v1/authz?deny=403", &[("x-tollgate-tenant", "Zürich")]).await.expect_status(403);
    assert_eq!((denied.header("x-tollgate-status"), denied.header("retry-after")), ("429", "43200"));
    let in_a_header: Value = serde_json::from_str(denied.header("x-tollgate-denial")).expect("JSON");
    assert_eq!(in_a_header["quotaDetails"]["scopeId"], "Zürich");
    host.tenant("acme-corp", Some("free"), None).await;
    let refused = ask(&host, "GET", "/v1/authz?deny=403", &[ACME]).await.expect_status(403);
    assert_eq!((refused.header("x-tollgate-status"), refused.at("/code")), ("403", json!("not_included")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_envoy_appends_is_its_callers_and_says_nothing() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    let dear = ("x-tollgate-estimated-cost-usd", "2.00");
    for path in ["/v1/authz/", "/v1/authz/v1/chat?estimatedCostUsd=0&resourceType=free", "/v1/authz/a/b?deny=x&q"] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            ask(&host, method, path, &[ACME, dear]).await.expect_status(429);
        }
    }
    ask(&host, "POST", "/v1/authz/v1/chat", &[ACME]).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_by_name() {
    let host = Host::start().await;
    for (path, headers, field) in [
        ("/v1/authz", vec![], "x-tollgate-tenant"),
        ("/v1/authz", vec![("x-tollgate-tenant", "")], "x-tollgate-tenant"),
        ("/v1/authz", vec![ACME, ("x-tollgate-tenant", "globex")], "x-tollgate-tenant"),
        ("/v1/authz", vec![ACME, ("x-tollgate-user", "a/b")], "x-tollgate-user"),
        ("/v1/authz", vec![ACME, ("x-tollgate-estimated-cost-usd", "1e3")], "x-tollgate-estimated-cost-usd"),
        ("/v1/authz?resourceType=gpu", vec![ACME], "estimatedCostUsd"),
        ("/v1/authz?estimatedCostUsd=-1", vec![ACME], "estimatedCostUsd"),
        ("/v1/authz?deny=429", vec![ACME], "deny"),
        ("/v1/authz?resource=llm", vec![ACME], "resource"),
    ] {
        let answer = ask(&host, "GET", path, &headers).await.expect_status(400);
        assert_eq!(answer.at("/field"), field, "{path} {headers:?}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_wants_an_app_token_that_may_charge_the_tenant() {
    let acme = tollgate::quota::TenantId::parse("acme-corp").expect("a name");
    let access = Access {
        app: vec![Token::new("proxy".into(), "proxy-secret", vec![acme])],
        admin: None,
        transport: Transport::Network,
    };
    let host = Setup { access, ..Setup::default() }.start().await;
    let token = ("authorization", "Bearer proxy-secret");
    ask(&host, "GET", "/v1/authz", &[ACME]).await.expect_status(401);
    ask(&host, "GET", "/v1/authz/x", &[ACME]).await.expect_status(401);
    ask(&host, "GET", "/v1/authz", &[ACME, token]).await.expect_status(200);
    ask(&host, "GET", "/v1/authz", &[("x-tollgate-tenant", "globex"), token]).await.expect_status(403);
}

/// Ends with the test.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The recipe of the documents, as it stands there, with this test's places in it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx; .ci/run runs it"]
async fn nginx_asks_before_it_passes_a_request_on_and_answers_429_itself() {
    let folder = Scratch::new();
    let socket = folder.join("tollgate.sock");
    let access = Access { app: vec![], admin: None, transport: Transport::Unix };
    let listen = tollgate::config::Listen::Unix(socket.clone());
    let host = Setup { access, listen, ..Setup::default() }.start().await;
    host.database.quota("tenant acme-corp llm day", "50.00", "48.50").await;

    let recipe = std::fs::read_to_string(crate::harness::guests::repository().join("docs/recipes/nginx.conf"));
    let app = folder.join("app.sock");
    let front = folder.join("front.sock");
    let servers = recipe
        .expect("the recipe")
        .replace("/run/tollgate/tollgate.sock", socket.to_str().expect("a text"))
        .replace("127.0.0.1:3000", &format!("unix:{}", app.display()))
        .replace("listen 80;", &format!("listen unix:{};", front.display()));
    let conf = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
         events {{}}
         http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
                 uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
                 {servers}
                 server {{ listen unix:{app}; location / {{ return 200 \"the app: $http_x_tollgate_decision_id\"; }} }} }}",
        dir = folder.path().display(),
        app = app.display(),
    );
    folder.write("nginx.conf", conf);
    let mut command = Command::new("nginx");
    command.arg("-c").arg(folder.join("nginx.conf")).arg("-p").arg(folder.path()).stderr(Stdio::null());
    let _nginx = Nginx(command.spawn().expect("nginx: apt-get install nginx"));
    until_listening(&app).await;
    until_listening(&front).await;

    let client = reqwest::Client::builder().no_proxy().unix_socket(front).build().expect("a client");
    let chat = |headers: &[(&str, &str)]| {
        let request = client.post("http://app.example/chat").body("a chat");
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    let passed = Answer::of(chat(&[("x-tenant", "acme-corp")])).await.expect_status(200);
    assert!(passed.text.starts_with("the app: 01"), "{}", passed.text);
    host.cost(crate::harness::llm_cost("c-1", "1.49")).await;
    let denied = Answer::of(chat(&[("x-tenant", "acme-corp")])).await.expect_status(429);
    assert_eq!(denied.at("/error"), "quota_exceeded");
    assert_eq!((denied.header("retry-after"), denied.header("content-type")), ("43200", "application/json"));
    assert_eq!(denied.header("x-should-retry"), "false");
    // A client that names another price or another tenant is not heard.
    let sly = [("x-tenant", "acme-corp"), ("x-tollgate-tenant", "globex"), ("x-tollgate-estimated-cost-usd", "0")];
    Answer::of(chat(&sly)).await.expect_status(429);
    host.tenant("acme-corp", Some("free"), None).await;
    host.database.run("DELETE FROM copilot_internal.cost_quotas").await;
    let refused = Answer::of(chat(&[("x-tenant", "acme-corp")])).await.expect_status(403);
    assert_eq!(refused.at("/error"), "policy_denied");
}
