//! Each decision is stored with the facts that its policy saw, the policy's name and digest, and the outcome.

use serde_json::{Value, json};
use tollgate::decision::new_id;
use tollgate::money::Money;
use tollgate::store::Store;
use tollgate::store::decisions::DecisionRow;
use uuid::Uuid;

use crate::harness::{Database, Host, instant, llm};

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_stored_with_everything_that_its_policy_saw() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("pro"), Some("eu-team")).await;
    host.database.quota("tenant acme-corp llm day", "50.00", "49.00").await;
    host.database.quota("user acme-corp/u-42 llm month", "20.00", "0.25").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 60, held_usd = 0.50, admitted_count = 7 WHERE scope = 'tenant'").await;
    let request = json!({ "tenantId": "acme-corp", "userId": "u-42", "resourceType": "llm", "estimatedCostUsd": "2.000000001",
                          "requestId": "r-1", "attributes": { "model": "large", "priority": "low" } });
    let denied = host.check(request).await.expect_status(429);
    let id = denied.word("/decisionId");
    let stored = host.get(&format!("/v1/decisions/{id}")).await.expect_status(200);
    for (field, value) in [
        ("decisionId", json!(id)),
        ("decidedAt", json!("2026-01-04T12:00:00Z")),
        ("tenantId", json!("acme-corp")),
        ("userId", json!("u-42")),
        ("resourceType", json!("llm")),
        ("requestId", json!("r-1")),
        ("outcome", json!("denied")),
        ("code", json!("limit_exceeded")),
        ("reason", denied.at("/message")),
    ] {
        assert_eq!(stored.at(&format!("/{field}")), value, "{field}");
    }
    assert!(stored.text.contains(r#""estimatedCostUsd":2.000000001,"#), "{}", stored.text);
    assert_eq!(stored.at("/policy/name"), "pro");
    assert_eq!(stored.word("/policy/digest").len(), 71);
    let facts = stored.at("/facts");
    assert_eq!((&facts["tier"], &facts["pool"]), (&json!("pro"), &json!("eu-team")));
    assert_eq!(facts["attributes"], json!({ "model": "large", "priority": "low" }));
    assert_eq!(facts["settings"], json!({ "grace_percent": "10", "high_priority_share_percent": "0" }));
    assert_eq!(facts["quotas"].as_array().map(Vec::len), Some(2));
    let day = &facts["quotas"][0];
    assert_eq!(
        (&day["scope"], &day["scopeId"], &day["period"]),
        (&json!("tenant"), &json!("acme-corp"), &json!("day"))
    );
    assert_eq!((&day["windowStart"], &day["admitted"]), (&json!("2026-01-04T00:00:00Z"), &json!(7)));
    let amounts = "SELECT facts::json#>>'{quotas,0,limitUsd}' || ' ' || (facts::json#>>'{quotas,0,hardLimitUsd}') || ' ' || (facts::json#>>'{quotas,0,spendUsd}')
                   || ' ' || (facts::json#>>'{quotas,0,heldUsd}') FROM copilot_internal.decisions";
    assert_eq!(host.database.value(amounts).await, "50.00 60.00 49.00 0.50");
    let binding =
        "SELECT q.scope FROM copilot_internal.decisions d JOIN copilot_internal.cost_quotas q ON q.id = d.quota_id";
    assert_eq!(host.database.value(binding).await, "tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_check_is_stored_with_its_policys_annotations() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("pro"), None).await;
    host.database.quota("tenant acme-corp llm day", "10.00", "9.50").await;
    let mut urgent = llm("1.00");
    urgent["attributes"] = json!({ "priority": "high" });
    let allowed = host.check(urgent).await.expect_status(200);
    assert_eq!(allowed.at("/annotations"), Value::Null);
    let stored = host.get(&format!("/v1/decisions/{}", allowed.word("/decisionId"))).await.expect_status(200);
    assert_eq!(
        (stored.at("/outcome"), stored.at("/code"), stored.at("/reason")),
        (json!("allowed"), Value::Null, Value::Null)
    );
    assert_eq!(stored.at("/facts/annotations"), json!({ "grace": "true" }));
    assert_eq!(stored.at("/policy"), allowed.at("/policy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_listed_newest_first_and_narrowed() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "1.00", "0").await;
    let ask = |tenant: &'static str, usd: &'static str| {
        host.check(json!({ "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": usd, "requestId": format!("{tenant}-{usd}") }))
    };
    ask("acme-corp", "0.5").await;
    ask("acme-corp", "2").await;
    host.at("2026-01-04T13:00:00Z");
    ask("globex", "2").await;
    ask("acme-corp", "3").await;
    let listed = async |query: &str| {
        let answer = host.get(&format!("/v1/decisions{query}")).await.expect_status(200);
        let ids = answer.at("/decisions").as_array().cloned().unwrap_or_default();
        ids.iter().map(|decision| decision["requestId"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let mut all = listed("").await;
    assert_eq!(all[2..].iter().collect::<std::collections::BTreeSet<_>>().len(), 2);
    all.sort();
    assert_eq!(all, ["acme-corp-0.5", "acme-corp-2", "acme-corp-3", "globex-2"]);
    assert_eq!(listed("?outcome=denied&tenantId=acme-corp").await, ["acme-corp-3", "acme-corp-2"]);
    assert_eq!(listed("?outcome=allowed&tenantId=globex").await, ["globex-2"]);
    assert_eq!(listed("?since=2026-01-04T13:00:00Z&tenantId=acme-corp").await, ["acme-corp-3"]);
    assert_eq!(listed("?since=2026-01-04T12:30:00%2B00:00").await.len(), 2);
    assert_eq!(listed("?limit=1&outcome=denied").await, ["acme-corp-3"]);
    assert_eq!(listed("?outcome=failed").await, [""; 0]);
    let unknown = host.get("/v1/decisions/019b88e0-ea00-743b-a3d8-e453e2d72f63").await.expect_status(404);
    assert_eq!(unknown.at("/error"), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_are_all_stored_and_allowed_checks_up_to_a_thousand_a_second() {
    let host = Host::start().await;
    host.database.quota("tenant poor llm day", "0.01", "0").await;
    let sends: Vec<_> = (0..1_060)
        .map(|n| {
            let tenant = if n % 53 == 0 { "poor" } else { "rich" };
            let request = host.request("POST", "/v1/check").json(&json!({ "tenantId": tenant, "resourceType": "llm" }));
            tokio::spawn(crate::harness::Answer::of(request))
        })
        .collect();
    for send in sends {
        send.await.expect("no panic");
    }
    host.get("/v1/decisions?limit=1").await.expect_status(200);
    let counts = "SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM (SELECT outcome, count(*) AS n FROM copilot_internal.decisions GROUP BY 1) AS c";
    assert_eq!(host.database.value(counts).await, "allowed 1000, denied 20");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_copied_letter_by_letter_whatever_is_in_it() {
    let database = Database::migrated().await;
    let store = Store::new(database.options());
    let odd = "\\N \\. a\tb\nc\rd\\\\ \"é\" \u{8}";
    let decided_at = instant("2026-01-04T12:00:00.123456Z");
    let row = DecisionRow {
        id: new_id(decided_at),
        decided_at,
        tenant_id: "\\N".to_owned(),
        user_id: Some(odd.to_owned()),
        resource_type: "llm".to_owned(),
        estimate: Money::from_nanos(999_999_999_000_000_001),
        request_id: Some(String::new()),
        outcome: "denied",
        code: None,
        reason: Some(odd.to_owned()),
        quota_id: Some("019b88e0-ea00-743b-a3d8-e453e2d72f64".parse().expect("an id")),
        policy_name: "\\".to_owned(),
        policy_digest: "sha256:0".to_owned(),
        facts: json!({ "note": odd }).to_string(),
    };
    let bare = DecisionRow { id: Uuid::nil(), user_id: None, reason: None, quota_id: None, ..row.clone() };
    store.log_link().copy_decisions(&[row.clone(), bare]).await.expect("both are copied");
    let stored = store.decision(row.id).await.expect("an answer").expect("the row");
    assert_eq!((stored.id, stored.decided_at, stored.estimate_nanos), (row.id, row.decided_at, row.estimate.nanos()));
    assert_eq!((&stored.tenant_id, &stored.user_id, &stored.reason), (&row.tenant_id, &row.user_id, &row.reason));
    assert_eq!((stored.request_id, stored.code, stored.quota_id), (row.request_id, None, row.quota_id));
    assert_eq!(
        (stored.policy_name, stored.policy_digest, stored.facts),
        (row.policy_name, row.policy_digest, row.facts)
    );
    let nothing =
        "SELECT count(*) FROM copilot_internal.decisions WHERE user_id IS NULL AND reason IS NULL AND quota_id IS NULL";
    assert_eq!(database.value(nothing).await, "1");
}
