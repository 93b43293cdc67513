//! Bad input: each answer names the field and what would be right.

use serde_json::json;

use crate::harness::Host;

/// Posts each body to `path`; it must be refused as a whole with the field and a message that contains the fragment.
async fn assert_refused(path: &str, cases: &[(&str, &str, &str)]) {
    let host = Host::start().await;
    for (body, field, fragment) in cases {
        let answer = host.post_text(path, body).await;
        assert_eq!((answer.status, answer.at("/error")), (400, json!("invalid_request")), "{body}: {}", answer.text);
        let expected = if field.is_empty() { json!(null) } else { json!(field) };
        assert_eq!(answer.at("/field"), expected, "{body}: {}", answer.text);
        let message = answer.word("/message");
        assert!(message.contains(fragment), "{body}: {message}");
        assert!(field.is_empty() || message.starts_with(&format!("{field}: ")), "{body}: {message}");
    }
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.cost_records").await, "0");
}

/// A check of acme-corp with more, or other, fields.
fn check(more: &str) -> String {
    format!(r#"{{"tenantId":"acme-corp","resourceType":"llm"{more}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_object_says_so() {
    let object = "the body must be a JSON object";
    let cases =
        ["", "{", "[]", "null", "\"text\"", r#"{"tenantId":}"#, "{} {}", "\u{1}"].map(|body| (body, "", object));
    assert_refused("/v1/check", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_resource_types_are_checked() {
    let (long, longest) = ("x".repeat(129), "1 to 128 characters, no control characters, got 129 characters");
    let of = |tenant: &str| format!(r#"{{"tenantId":{tenant},"resourceType":"llm"}}"#);
    let resource = |name: &str| format!(r#"{{"tenantId":"acme-corp","resourceType":{name}}}"#);
    let bodies = [
        (r#"{"resourceType":"llm"}"#.to_owned(), "tenantId", "required"),
        (of("null"), "tenantId", "required"),
        (of("7"), "tenantId", "a text, got 7"),
        (of("[\"acme-corp\"]"), "tenantId", "a text, got a list"),
        (of("\"\""), "tenantId", "1 to 128 characters, no control characters, got 0 characters"),
        (of(r#""a\nb""#), "tenantId", "no control characters"),
        (of(r#""a\u0000""#), "tenantId", "no control characters"),
        (of(&format!("\"{long}\"")), "tenantId", longest),
        (check(r#","userId":"acme-corp/u-42""#), "userId", "no slash: the user's own name, without the tenant's"),
        (check(r#","userId":"""#), "userId", "1 to 128 characters"),
        (check(r#","userId":42"#), "userId", "a text, got 42"),
        (check(r#","userId":"\t""#), "userId", "no control characters"),
        (check(&format!(r#","requestId":"{long}""#)), "requestId", longest),
        (check(r#","requestId":"""#), "requestId", "1 to 128 characters"),
        (r#"{"tenantId":"acme-corp"}"#.to_owned(), "resourceType", "required"),
        (resource("\"LLM\""), "resourceType", r#"a lower-case letter, then up to 31 of a-z, 0-9, _ and -, got "LLM""#),
        (resource("\"9gpu\""), "resourceType", "a lower-case letter"),
        (resource(&format!("\"{}\"", "g".repeat(33))), "resourceType", "up to 31"),
        (resource("\"gpu\""), "estimatedCostUsd", r#"required for the resource type "gpu""#),
    ];
    let cases: Vec<_> = bodies.iter().map(|(body, field, fragment)| (body.as_str(), *field, *fragment)).collect();
    assert_refused("/v1/check", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_are_checked() {
    let bodies = [
        ("\"0.1234567891\"", "at most 9 decimals, got 0.1234567891"),
        ("\"-1.00\"", "0 or more, got -1.00"),
        ("-1", "0 or more, got -1"),
        ("-1e-300", "0 or more, got -1e-300"),
        ("\"1000000000.000000001\"", "at most 1000000000 (USD), got 1000000000.000000001"),
        ("1e10", "at most 1000000000 (USD), got 1e10"),
        ("1e999999", "at most 1000000000 (USD)"),
        // The largest number of nano-dollars that there is, rounded up.
        ("9223372036.8547758071", "at most 1000000000 (USD), got 9223372036.8547758071"),
        ("9.2233720368547758071e9", "at most 1000000000 (USD)"),
        ("\"1e3\"", r#"a decimal amount such as "0.05", got "1e3""#),
        ("\" 1\"", "a decimal amount"),
        ("\"$1\"", "a decimal amount"),
        ("\"1,50\"", "a decimal amount"),
        ("\"NaN\"", "a decimal amount"),
        ("\"\"", "a decimal amount"),
        ("true", r#"an amount, as a number or a text such as "0.05", got true"#),
        ("[1]", "got a list"),
        (r#"{"usd":1}"#, "got an object"),
    ]
    .map(|(amount, fragment)| (check(&format!(r#","estimatedCostUsd":{amount}"#)), fragment));
    let cases: Vec<_> = bodies.iter().map(|(body, fragment)| (body.as_str(), "estimatedCostUsd", *fragment)).collect();
    assert_refused("/v1/check", &cases).await;
    assert_refused("/v1/check", &[(&check(r#","estimatedCostUsd":NaN"#), "", "must be a JSON object")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_languages_floats_print_is_read_as_decimals_and_rounded_up() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "0.01", "0.01").await;
    for (amount, shown) in [
        ("0.30000000000000004", "0.300000001"),
        ("3e-7", "0.0000003"),
        ("1E2", "100.00"),
        ("1.5e+1", "15.00"),
        ("1e-300", "0.000000001"),
        ("\"0.000000001\"", "0.000000001"),
        ("1000000000", "1000000000.00"),
        ("2", "2.00"),
    ] {
        let answer = host.post_text("/v1/check", &check(&format!(r#","estimatedCostUsd":{amount}"#))).await;
        assert!(answer.text.contains(&format!(r#""estimatedCostUsd":{shown},"#)), "{amount}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_repeated_fields_and_wrong_attributes_are_refused() {
    let many: Vec<String> = (0..33).map(|n| format!(r#""a{n}":"x""#)).collect();
    let many = check(&format!(r#","attributes":{{{}}}"#, many.join(",")));
    let bodies = [
        (check(r#","estimatedCost":1"#), "estimatedCost", r#"unknown field, did you mean "estimatedCostUsd"?"#),
        (check(r#","tenantid":"acme""#), "tenantid", r#"unknown field, did you mean "tenantId"?"#),
        (check(r#","ttlSeconds":5"#), "ttlSeconds", "unknown field"),
        (check(r#","resourceType":"e2b""#), "resourceType", "given twice"),
        (check(r#","stream":"yes""#), "stream", "true or false, got a text"),
        (check(r#","stream":1"#), "stream", "true or false, got 1"),
        (check(r#","attributes":[]"#), "attributes", "an object of texts, got a list"),
        (check(r#","attributes":{"model":7}"#), "attributes.model", "a text, got 7"),
        (check(r#","attributes":{"model":null}"#), "attributes.model", "a text, got null"),
        (check(r#","attributes":{"a":"1","a":"2"}"#), "attributes.a", "given twice"),
        (many, "attributes", "at most 32 pairs, got 33"),
    ];
    let cases: Vec<_> = bodies.iter().map(|(body, field, fragment)| (body.as_str(), *field, *fragment)).collect();
    assert_refused("/v1/check", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_are_checked_as_strictly() {
    let cost = |more: &str| format!(r#"{{"tenantId":"acme-corp","resourceType":"llm"{more}}}"#);
    let at = |when: &str| cost(&format!(r#","costId":"c-1","actualCostUsd":1,"occurredAt":{when}"#));
    let bodies = [
        (cost(r#","actualCostUsd":1"#), "costId", "required"),
        (cost(r#","costId":"","actualCostUsd":1"#), "costId", "1 to 128 characters"),
        (cost(r#","costId":"c-1""#), "actualCostUsd", "required"),
        (cost(r#","costId":"c-1","actualCostUsd":"-1""#), "actualCostUsd", "0 or more"),
        (cost(r#","costId":"c-1","actualCostUsd":"0.0000000001""#), "actualCostUsd", "at most 9 decimals"),
        (cost(r#","costId":"c-1","estimatedCostUsd":1,"actualCostUsd":1"#), "estimatedCostUsd", "unknown field"),
        (at("\"2026-01-04\""), "occurredAt", "an instant such as 2026-01-04T12:00:00Z"),
        (at("\"2026-01-04T12:00:00\""), "occurredAt", "an instant such as"),
        (at("1767528000"), "occurredAt", "a text, got 1767528000"),
        (at("\"2026-01-04T12:05:00.001Z\""), "occurredAt", "not in the future"),
        (at("\"1969-12-31T23:59:59Z\""), "occurredAt", "1970-01-01T00:00:00Z or later"),
    ];
    let cases: Vec<_> = bodies.iter().map(|(body, field, fragment)| (body.as_str(), *field, *fragment)).collect();
    assert_refused("/v1/costs", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_clock_may_be_five_minutes_ahead() {
    let host = Host::start().await;
    let cost = json!({ "tenantId": "acme-corp", "resourceType": "llm", "costId": "c-1", "actualCostUsd": 1,
                       "occurredAt": "2026-01-04T12:05:00Z" });
    host.cost(cost).await;
    let occurred = "SELECT occurred_at AT TIME ZONE 'UTC' FROM copilot_internal.cost_records";
    assert_eq!(host.database.value(occurred).await, "2026-01-04 12:00:00");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_128_characters_and_32_attributes_are_fine() {
    let host = Host::start().await;
    let long = "ü".repeat(128);
    let attributes: serde_json::Map<_, _> = (0..32).map(|n| (format!("a{n}"), json!("x"))).collect();
    let request = json!({ "tenantId": long, "userId": long, "requestId": long, "resourceType": format!("g{}", "9".repeat(31)),
                          "estimatedCostUsd": 0, "attributes": attributes });
    host.check(request).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_with_a_nul_is_no_fault_of_the_store() {
    let host = Host::start().await;
    for (path, name) in [
        ("/v1/quotas?scopeId=%00", "scopeId"),
        ("/v1/decisions?tenantId=a%00b", "tenantId"),
        ("/v1/audit?action=%00", "action"),
        ("/v1/alerts?scopeId=%00", "scopeId"),
    ] {
        let answer = host.get(path).await.expect_status(400);
        assert_eq!((answer.at("/error"), answer.at("/field")), (json!("invalid_request"), json!(name)), "{path}");
    }
}
