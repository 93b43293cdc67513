//! The commands of the real binary: what they print, and how they end.

use std::process::Output;

use serde_json::json;

use crate::harness::{Binary, Database, Host, Scratch, Setup, guests, llm, tollgate};

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("a text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("a text")
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, fragments: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
    for fragment in fragments {
        assert!(stderr(output).contains(fragment), "{fragment} is not in {}", stderr(output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_set_listed_and_deleted_on_the_store_directly() {
    let database = Database::migrated().await;
    let host = Setup { database: Some(database.clone()), ..Setup::default() }.start().await;
    let url = database.url();
    let quota = |arguments: &[&str]| tollgate(&[&["quota"], arguments].concat(), &[("DATABASE_URL", &url)]);
    let set =
        quota(&["set", "user", "acme-corp/u-42", "llm", "day", "1.50", "--hard-limit", "2", "--thresholds", "50,100"]);
    assert_eq!(
        (stdout(&set), set.status.code()),
        ("Created user acme-corp/u-42 llm: $1.50 a day\n", Some(0)),
        "{}",
        stderr(&set)
    );
    let request =
        json!({ "tenantId": "acme-corp", "userId": "u-42", "resourceType": "llm", "estimatedCostUsd": "1.51" });
    host.check(request).await.expect_status(429);
    let set = quota(&["set", "user", "acme-corp/u-42", "llm", "day", "3.00"]);
    assert_eq!(stdout(&set), "Changed user acme-corp/u-42 llm: $3.00 a day\n");
    quota(&["set", "global", "*", "e2b", "lifetime", "0.000000001"]);

    let listed = quota(&["list"]);
    let lines: Vec<Vec<&str>> = stdout(&listed).lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "SCOPE SCOPE ID RESOURCE PERIOD LIMIT SPEND HELD REMAINING RESETS AT");
    assert_eq!(lines[1][..8], ["user", "acme-corp/u-42", "llm", "day", "$3.00", "$0.00", "$0.00", "$3.00"]);
    assert_eq!(lines[2], ["global", "*", "e2b", "lifetime", "$0.000000001", "$0.00", "$0.00", "$0.000000001", "never"]);
    let listed =
        quota(&["list", "--json", "--scope", "user", "--scope-id", "acme-corp/u-42", "--resource-type", "llm"]);
    let json: serde_json::Value = serde_json::from_str(stdout(&listed)).expect("JSON");
    assert_eq!((json.as_array().map(Vec::len), &json[0]["thresholds"]), (Some(1), &json!([50, 100])));
    assert!(stdout(&listed).contains(r#""limitUsd": 3.00,"#), "{}", stdout(&listed));

    let deleted = quota(&["delete", "user", "acme-corp/u-42", "llm", "day"]);
    assert_eq!(stdout(&deleted), "Deleted user acme-corp/u-42 llm a day; without any quota a resource is unlimited.\n");
    let again = quota(&["delete", "user", "acme-corp/u-42", "llm", "day"]);
    assert_fails(&again, 2, &["error: there is no quota user acme-corp/u-42 llm a day", "\nhint: "]);
    // What matches nothing says nothing of what else is limited.
    for filter in [["--scope", "pool"], ["--scope-id", "globex"], ["--resource-type", "gpu"]] {
        assert_eq!(stdout(&quota(&[&["list"][..], &filter].concat())), "No quota matches.\n");
    }
    quota(&["delete", "global", "*", "e2b", "lifetime"]);
    assert_eq!(stdout(&quota(&["list"])), "No quotas: every resource is unlimited.\n");
    assert_eq!(stdout(&quota(&["list", "--json"])), "[]\n");
}

#[test]
fn wrong_arguments_end_with_2_and_name_what_would_be_right() {
    for (arguments, fragments) in [
        (
            vec!["quota", "set", "team", "a", "llm", "day", "1"],
            vec!["error: SCOPE: one of tenant, user, pool, global, got \"team\""],
        ),
        (vec!["quota", "set", "user", "a", "llm", "day", "1"], vec!["SCOPE_ID: tenant, slash and user"]),
        (vec!["quota", "set", "tenant", "a", "LLM", "day", "1"], vec!["RESOURCE_TYPE: a lower-case letter"]),
        (
            vec!["quota", "set", "tenant", "a", "llm", "daily", "1"],
            vec!["PERIOD: one of hour, day, week, month, lifetime"],
        ),
        (vec!["quota", "set", "tenant", "a", "llm", "day", "0"], vec!["LIMIT: above 0"]),
        (vec!["quota", "set", "tenant", "a", "llm", "day", "0.1234567891"], vec!["LIMIT: at most 9 decimals"]),
        (
            vec!["quota", "set", "tenant", "a", "llm", "day", "1", "--thresholds", "0"],
            vec!["--thresholds: percents from 1 to 1000, got 0"],
        ),
        (
            vec![
                "quota",
                "set",
                "tenant",
                "a",
                "llm",
                "day",
                "1",
                "--thresholds",
                "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
            ],
            vec!["--thresholds: up to 16 percents, got 17"],
        ),
        (
            vec!["quota", "list", "--scope", "tenannt"],
            vec!["error: --scope: one of tenant, user, pool, global, got \"tenannt\""],
        ),
        (vec!["quota", "list", "--resource-type", "LLM"], vec!["error: --resource-type: a lower-case letter"]),
        (
            vec!["alert", "list", "--scope", "foo"],
            vec!["error: --scope: one of tenant, user, pool, global, got \"foo\""],
        ),
        (vec!["quota", "sett"], vec!["sett"]),
        (vec!["serve", "--port", "8080"], vec!["--port"]),
        (vec!["policy", "test", "/nowhere"], vec!["error: /nowhere: "]),
    ] {
        assert_fails(&tollgate(&arguments, &[("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")]), 2, &fragments);
    }
}

#[test]
fn a_store_that_does_not_answer_is_an_error_with_a_hint_and_without_its_password() {
    for url in ["postgres://tollgate:hunter2@127.0.0.1:1/none", "postgres//tollgate:hunter2@x"] {
        for arguments in [vec!["quota", "list"], vec!["migrate"], vec!["serve"]] {
            let output = tollgate(&arguments, &[("DATABASE_URL", url)]);
            assert_fails(&output, 2, &["error: ", "\nhint: "]);
            assert!(
                !stderr(&output).contains("hunter2") && !stdout(&output).contains("hunter2"),
                "{}",
                stderr(&output)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_takes_an_old_database_over() {
    let database = Database::empty().await;
    database.run(crate::adoption::OLD_TABLE).await;
    for _ in 0..2 {
        let output = tollgate(&["migrate"], &[("DATABASE_URL", &database.url())]);
        assert_eq!(
            (stdout(&output), output.status.code()),
            ("The database is at this version.\n", Some(0)),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(database.value("SELECT count(held_usd) FROM copilot_internal.cost_quotas").await, "0");
}

#[test]
fn a_gate_without_policies_says_how_to_build_some() {
    let folder = Scratch::new();
    let database = "postgres://nobody@127.0.0.1:1/none";
    let output = tollgate(&["policy", "test", folder.path().to_str().expect("a text")], &[("DATABASE_URL", database)]);
    assert_fails(&output, 2, &["error: no policies there", "hint: build some with `tollgate policy build"]);
}

#[test]
fn policy_test_runs_fixtures_and_ends_with_1_where_one_fails() {
    let folder = guests::own_folder();
    let standard = folder.join("standard.wasm");
    let test = || tollgate(&["policy", "test", standard.to_str().expect("a text")], &[]);
    let passed = test();
    assert_eq!(passed.status.code(), Some(0), "{}", stderr(&passed));
    assert!(stdout(&passed).trim_end().ends_with("passed, 0 failed"), "{}", stdout(&passed));
    folder.write(
        "standard.fixtures.toml",
        "[[case]]\nname = \"wants the impossible\"\nnow = \"2026-01-04T12:00:00Z\"\n\
         request = { tenantId = \"acme-corp\", resourceType = \"llm\", estimatedCostUsd = \"2.00\" }\nexpect = { decision = \"deny\" }\n",
    );
    let failed = test();
    assert_fails(&failed, 1, &["1 fixture failed", "hint: change the policy or what is expected of it"]);
    assert!(
        stdout(&failed).contains(
            "FAILED wants the impossible\n                     expected  actual\n         decision    deny      allow\n"
        ),
        "{}",
        stdout(&failed)
    );
    std::fs::remove_file(folder.join("standard.fixtures.toml")).expect("a file");
    assert_fails(&test(), 2, &["standard.fixtures.toml: not there", "hint: "]);
}

#[test]
fn a_gate_that_cannot_listen_says_what_to_do_about_it() {
    let policies = guests::SHIPPED.to_str().expect("a text");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let long = format!("unix:/{}", "x".repeat(200));
    for (listen, fragment) in [
        ("unix:/nodir/s.sock", "\nhint: the folder /nodir is not there: create it; or choose another with --listen"),
        (&taken, "\nhint: another process may have it; or choose another with --listen"),
        // Kept for examples: no machine has it.
        ("192.0.2.1:8080", "\nhint: no interface of this machine has that address; or"),
        (&long, "\nhint: a socket's path must be short; or"),
    ] {
        let environment = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"), ("TOLLGATE_APP_TOKEN", "t0ken")];
        let output = tollgate(&["serve", "--policies", policies, "--listen", listen], &environment);
        assert_fails(&output, 2, &["error: cannot listen on ", fragment]);
        assert_eq!(stderr(&output).contains("another process"), listen == taken, "{}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_listens_on_a_unix_socket_and_behind_tokens_on_any_address() {
    let database = Database::migrated().await;
    let folder = Scratch::new();
    let (policies, url) = (guests::SHIPPED.to_str().expect("a text"), database.url());
    folder.write("token", "# the applications\nchat chat-secret acme-corp\n\nonly-secret\n");
    let token = folder.join("token");
    let environment = [
        ("DATABASE_URL", url.as_str()),
        ("TOLLGATE_APP_TOKEN_FILE", token.to_str().expect("a text")),
        ("TOLLGATE_ADMIN_TOKEN", "admin-secret"),
    ];
    let gate = Binary::start(&["serve", "--listen", "0.0.0.0:0", "--policies", policies], &environment);
    assert_eq!(gate.send("POST", "/v1/check", llm("1")).await.status, 401);
    for (token, tenant, status) in [
        ("chat-secret", "acme-corp", 200),
        ("chat-secret", "globex", 403),
        ("only-secret", "globex", 200),
        ("chat", "acme-corp", 401),
    ] {
        let body = json!({ "tenantId": tenant, "resourceType": "llm" });
        assert_eq!(gate.send_as(token, "POST", "/v1/check", body).await.status, status, "{token} {tenant}");
    }
    assert_eq!(gate.send_as("admin-secret", "GET", "/v1/quotas", json!({})).await.status, 200);
    assert_eq!(gate.interrupt().code, Some(0));

    let socket = format!("unix:{}", folder.join("s").display());
    let gate = Binary::start(&["serve", "--listen", &socket, "--policies", policies], &[("DATABASE_URL", &url)]);
    assert_eq!(gate.url, socket);
    let client = reqwest::Client::builder().no_proxy().unix_socket(folder.join("s")).build().expect("a client");
    let answer = client.post("http://localhost/v1/check").body(llm("1").to_string()).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(gate.interrupt().code, Some(0));
    drop(Host::start().await);
}
