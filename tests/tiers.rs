//! The tier picks the policy; hard limits hold whatever the policy says.

use std::fs;

use serde_json::json;

use crate::harness::{Host, Setup, guests, llm};

#[tokio::test(flavor = "multi_thread")]
async fn the_tier_picks_the_policy_and_an_unknown_tier_gets_the_standard_one() {
    let host = Host::start().await;
    for (tier, policy) in [
        (None, "standard"),
        (Some("standard"), "standard"),
        (Some("pro"), "pro"),
        (Some("enterprise"), "enterprise"),
        (Some("gold"), "standard"),
    ] {
        host.tenant("acme-corp", tier, None).await;
        assert_eq!(host.check(llm("1")).await.at("/policy/name"), policy, "{tier:?}");
    }
    host.delete("/v1/tenants/acme-corp").await.expect_status(204);
    assert_eq!(host.check(llm("1")).await.at("/policy/name"), "standard");
}

#[tokio::test(flavor = "multi_thread")]
async fn pro_gives_high_priority_grace_but_never_beyond_the_hard_limit() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("pro"), None).await;
    host.database.quota("tenant acme-corp llm day", "10.00", "9.50").await;
    let mut urgent = llm("1.00");
    urgent["attributes"] = json!({ "priority": "high" });
    host.check(llm("1.00")).await.expect_status(429);
    host.check(urgent.clone()).await.expect_status(200);
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 10.25").await;
    let denied = host.check(urgent.clone()).await.expect_status(429);
    assert_eq!(denied.at("/code"), "hard_limit_exceeded");
    assert_eq!(denied.at("/message"), "LLM quota exceeded. Hard limit: $10.25, Current: $9.50, Requested: $1.00");
    assert_eq!((denied.at("/retryAfter"), denied.header("retry-after")), (json!(43200), "43200"));
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 10.50").await;
    host.check(urgent).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn free_requests_end_at_the_hard_limit() {
    let folder = guests::own_folder();
    fs::copy(guests::SHIPPED.join("free.wasm"), folder.join("free.wasm")).expect("a built policy");
    folder.write("free.toml", "timeout_ms = 1000\n[settings]\nfree_requests = 3\n");
    let host = Setup { policies: guests::open(folder.path().to_owned()), ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("free"), None).await;
    host.database.quota("tenant acme-corp llm day", "0.10", "0.10").await;
    host.check(llm("0.50")).await.expect_status(200);
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 0.55").await;
    assert_eq!(host.check(llm("0.50")).await.expect_status(429).at("/code"), "hard_limit_exceeded");
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = NULL, admitted_count = 3").await;
    assert_eq!(host.check(llm("0.50")).await.expect_status(429).at("/code"), "limit_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_hard_limits_that_are_crossed_the_one_that_resets_last_binds() {
    let host = Host::start().await;
    for period in ["hour", "month", "day"] {
        host.database.quota(&format!("tenant acme-corp llm {period}"), "100.00", "0").await;
    }
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 1.00 WHERE period <> 'month'").await;
    let denied = host.check(llm("2.00")).await.expect_status(429);
    assert_eq!((denied.at("/code"), denied.at("/quotaDetails/period")), (json!("hard_limit_exceeded"), json!("day")));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_limit_and_a_hard_limit_that_are_crossed_the_one_that_resets_last_binds() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "1.00", "0").await;
    host.database.quota("tenant acme-corp llm month", "100.00", "0").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 1.50 WHERE period = 'month'").await;
    let bound = async |usd: &str| {
        let denied = host.check(llm(usd)).await.expect_status(429);
        (denied.at("/code"), denied.at("/quotaDetails/period"))
    };
    assert_eq!(bound("2.00").await, (json!("hard_limit_exceeded"), json!("month")));
    assert_eq!(bound("1.25").await, (json!("limit_exceeded"), json!("day")));
}

#[tokio::test(flavor = "multi_thread")]
async fn held_money_alone_below_a_hard_limit_is_waited_for_and_not_the_next_window() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("enterprise"), Some("eu-team")).await;
    host.database.quota("pool eu-team llm day", "1000.00", "0").await;
    host.database.quota("tenant acme-corp llm day", "50.00", "0").await;
    host.database.run("UPDATE copilot_internal.cost_quotas SET hard_limit_usd = 60 WHERE scope = 'tenant'").await;
    let mut held = llm("58.00");
    held["ttlSeconds"] = json!(30);
    host.post("/v1/reservations", held).await.expect_status(201);
    for path in ["/v1/check", "/v1/reservations"] {
        let denied = host.post(path, llm("5.00")).await.expect_status(429);
        assert_eq!((denied.at("/code"), denied.at("/retryAfter")), (json!("capacity_held"), json!(30)), "{path}");
        let message = "LLM quota exceeded. Hard limit: $60.00, Current: $0.00, Requested: $5.00, Reserved: $58.00";
        assert_eq!(denied.word("/message"), message);
    }
    assert_eq!(host.check(llm("61.00")).await.expect_status(429).at("/code"), "hard_limit_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn enterprise_runs_over_its_own_quota_while_its_pool_has_room() {
    let host = Host::start().await;
    host.tenant("acme-corp", Some("enterprise"), Some("eu-team")).await;
    host.database.quota("tenant acme-corp llm day", "1.00", "1.00").await;
    host.check(llm("2.00")).await.expect_status(429);
    host.database.quota("pool eu-team llm day", "10.00", "0").await;
    host.check(llm("2.00")).await.expect_status(200);
    host.database.run("UPDATE copilot_internal.cost_quotas SET current_spend_usd = 8.50 WHERE scope = 'pool'").await;
    host.check(llm("2.00")).await.expect_status(429);
}
