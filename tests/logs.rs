//! The log lines of the real binary, letter by letter, and the rows that the log view shows for them.

use serde_json::{Value, json};

use crate::harness::{Binary, Database, guests};

/// A gate on a new database whose log has everything.
async fn gate(environment: &[(&str, &str)]) -> (Binary, Database) {
    let database = Database::migrated().await;
    let policies = guests::SHIPPED.to_str().expect("a text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies, "--log-level", "debug"];
    let url = format!("{}?application_name=unlogged-hunter2", database.url());
    let environment = [environment, &[("DATABASE_URL", url.as_str())]].concat();
    (Binary::start(&arguments, &environment), database)
}

async fn ask(gate: &Binary, body: Value) -> String {
    let answer = gate.send("POST", "/v1/check", body).await;
    answer.word("/decisionId")
}

/// The lines without their timestamps, each of which must be one, and without what a request's lines end with.
fn without_timestamps(log: &[String]) -> Vec<String> {
    let strip = |line: &String| {
        let rest = line.strip_prefix(r#"{"timestamp":""#).unwrap_or_else(|| panic!("{line}"));
        let (timestamp, rest) = rest.split_once(r#"",""#).unwrap_or_else(|| panic!("{line}"));
        assert!(timestamp.ends_with('Z') && timestamp.len() == 24, "{line}");
        timestamp.parse::<chrono::DateTime<chrono::Utc>>().unwrap_or_else(|error| panic!("{error}: {line}"));
        let Some((own, of_request)) = rest.split_once(r#","method":"POST","route":"/v1/check","requestId":""#) else {
            return format!("{{\"{rest}");
        };
        let id = of_request.strip_suffix(r#""}"#).unwrap_or_else(|| panic!("{line}"));
        id.parse::<uuid::Uuid>().unwrap_or_else(|error| panic!("{error}: {line}"));
        format!("{{\"{own}}}")
    };
    log.iter().map(strip).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_logged_letter_by_letter() {
    let (gate, database) = gate(&[]).await;
    for resource in ["llm", "e2b", "gpu"] {
        database.quota(&format!("tenant acme-corp {resource} day"), "50.00", "48.50").await;
    }
    database.run("INSERT INTO copilot_internal.tenants (tenant_id, tier) VALUES ('globex', 'free')").await;
    let mut ids = Vec::new();
    for resource in ["llm", "e2b", "gpu"] {
        for usd in ["1.00", "2.00"] {
            let body =
                json!({ "tenantId": "acme-corp", "userId": "u-42", "resourceType": resource, "estimatedCostUsd": usd });
            ids.push(ask(&gate, body).await);
        }
    }
    ids.push(ask(&gate, json!({ "tenantId": "globex", "userId": "u-1", "resourceType": "llm" })).await);
    let finished = gate.interrupt();
    assert_eq!(finished.code, Some(0));
    let reason =
        |resource: &str| format!("{resource} quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00");
    let by = |n: usize| format!(r#""decisionId":"{}""#, ids[n]);
    let expected = [
        format!(
            r#"{{"level":"debug","message":"Checking LLM quota before request",{},"estimatedCostUsd":1.00,"tenantId":"acme-corp"}}"#,
            by(0)
        ),
        format!(
            r#"{{"level":"debug","message":"LLM quota check passed",{},"estimatedCostUsd":1.00,"policy":"standard","quotaCheckPassed":true,"tenantId":"acme-corp"}}"#,
            by(0)
        ),
        format!(
            r#"{{"level":"debug","message":"Checking LLM quota before request",{},"estimatedCostUsd":2.00,"tenantId":"acme-corp"}}"#,
            by(1)
        ),
        format!(
            r#"{{"level":"warn","message":"LLM quota check failed","currentSpend":48.50,{},"estimatedCostUsd":2.00,"limit":50.00,"policy":"standard","tenantId":"acme-corp"}}"#,
            by(1)
        ),
        format!(
            r#"{{"level":"warn","message":"Chat request denied due to LLM quota exceeded",{},"policy":"standard","reason":"{}","tenantId":"acme-corp","userId":"u-42"}}"#,
            by(1),
            reason("LLM")
        ),
        format!(
            r#"{{"level":"debug","message":"Checking E2B quota before sandbox creation",{},"estimatedCostUsd":1.00,"tenantId":"acme-corp"}}"#,
            by(2)
        ),
        format!(
            r#"{{"level":"debug","message":"E2B quota check passed",{},"policy":"standard","quotaCheckPassed":true,"tenantId":"acme-corp"}}"#,
            by(2)
        ),
        format!(
            r#"{{"level":"debug","message":"Checking E2B quota before sandbox creation",{},"estimatedCostUsd":2.00,"tenantId":"acme-corp"}}"#,
            by(3)
        ),
        format!(
            r#"{{"level":"error","message":"E2B quota exceeded, cannot create sandbox",{},"estimatedCostUsd":2.00,"policy":"standard","reason":"{}","tenantId":"acme-corp"}}"#,
            by(3),
            reason("E2B")
        ),
        format!(
            r#"{{"level":"debug","message":"GPU quota check passed",{},"estimatedCostUsd":1.00,"policy":"standard","quotaCheckPassed":true,"tenantId":"acme-corp"}}"#,
            by(4)
        ),
        format!(
            r#"{{"level":"warn","message":"GPU quota exceeded","currentSpend":48.50,{},"estimatedCostUsd":2.00,"limit":50.00,"policy":"standard","reason":"{}","tenantId":"acme-corp","userId":"u-42"}}"#,
            by(5),
            reason("GPU")
        ),
        format!(
            r#"{{"level":"debug","message":"Checking LLM quota before request",{},"estimatedCostUsd":0.05,"tenantId":"globex"}}"#,
            by(6)
        ),
        format!(
            r#"{{"level":"warn","message":"LLM request denied by policy","code":"not_included",{},"policy":"free","reason":"The free tier does not include llm.","tenantId":"globex","userId":"u-1"}}"#,
            by(6)
        ),
    ];
    let lines = without_timestamps(&finished.log);
    let decisions: Vec<&String> = lines.iter().filter(|line| line.contains("tenantId")).collect();
    assert_eq!(decisions, expected.iter().collect::<Vec<_>>());
    // The view has a row for each denial line.
    let rows = database.rows("SELECT level, message, tenant_id FROM public.application_logs ORDER BY message").await;
    let rows: Vec<String> =
        rows.iter().map(|row| format!("{} {} {}", row["level"], row["message"], row["tenant_id"])).collect();
    assert_eq!(
        rows,
        [
            "warn Chat request denied due to LLM quota exceeded acme-corp",
            "error E2B quota exceeded, cannot create sandbox acme-corp",
            "warn GPU quota exceeded acme-corp",
            "warn LLM quota check failed acme-corp",
            "warn LLM request denied by policy globex",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_that_is_not_enforced_has_the_pass_line() {
    let (gate, database) = gate(&[("ENFORCE_COST_QUOTAS", "false"), ("ENFORCE_E2B_QUOTAS", "false")]).await;
    for resource in ["llm", "e2b"] {
        database.quota(&format!("tenant acme-corp {resource} day"), "0.01", "0").await;
    }
    let llm = ask(&gate, json!({ "tenantId": "acme-corp", "resourceType": "llm" })).await;
    let e2b = ask(&gate, json!({ "tenantId": "acme-corp", "resourceType": "e2b" })).await;
    let lines = without_timestamps(&gate.interrupt().log);
    let passed: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.contains("passed")).collect();
    assert_eq!(
        passed,
        [
            format!(
                r#"{{"level":"debug","message":"LLM quota check passed","decisionId":"{llm}","enforced":false,"estimatedCostUsd":0.05,"policy":"standard","quotaCheckPassed":true,"tenantId":"acme-corp"}}"#
            ),
            format!(
                r#"{{"level":"debug","message":"E2B quota check passed","decisionId":"{e2b}","enforced":false,"policy":"standard","quotaCheckPassed":true,"tenantId":"acme-corp"}}"#
            ),
        ]
    );
    assert!(!lines.iter().any(|line| line.contains("denied") || line.contains("initialized")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_which_resources_are_enforced() {
    for (environment, expected) in [
        (vec![], vec!["Cost tracking initialized successfully", "E2B cost tracking initialized successfully"]),
        (vec![("ENFORCE_COST_QUOTAS", "false")], vec!["E2B cost tracking initialized successfully"]),
        (vec![("ENFORCE_E2B_QUOTAS", "false")], vec!["Cost tracking initialized successfully"]),
    ] {
        let (gate, _database) = gate(&environment).await;
        let lines = without_timestamps(&gate.interrupt().log);
        let said: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.contains("initialized")).collect();
        let line = |message| format!(r#"{{"level":"info","message":"{message}","store":"PostgreSQL"}}"#);
        assert_eq!(said, expected.into_iter().map(line).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_and_no_database_url_is_ever_said() {
    let tokens = [("TOLLGATE_APP_TOKEN", "app hunter2-app acme-corp"), ("TOLLGATE_ADMIN_TOKEN", "hunter2-admin")];
    let (gate, _database) = gate(&tokens).await;
    let refused = gate.send("POST", "/v1/check", json!({ "tenantId": "acme-corp", "resourceType": "llm" })).await;
    assert_eq!(refused.status, 401);
    let finished = gate.interrupt();
    for text in [refused.text, finished.log.join("\n"), finished.said] {
        assert!(!text.contains("hunter2") && !text.contains("postgres://"), "{text}");
    }
}
