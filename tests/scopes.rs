//! Every quota that applies counts: tenant, user, pool, global, and of each every period.

use serde_json::{Value, json};

use crate::harness::Host;

fn request(tenant: &str, user: Option<&str>) -> Value {
    json!({ "tenantId": tenant, "userId": user, "resourceType": "llm", "estimatedCostUsd": "1.00" })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_exhausted_quota_of_any_scope_or_period_denies() {
    let host = Host::start().await;
    host.tenant("acme-corp", None, Some("eu-team")).await;
    let scopes = [("tenant", "acme-corp"), ("user", "acme-corp/u-42"), ("pool", "eu-team"), ("global", "*")];
    let periods = ["hour", "day", "week", "month", "lifetime"];
    for (scope, id) in scopes {
        for period in periods {
            host.database.quota(&format!("{scope} {id} llm {period}"), "10.00", "0").await;
        }
    }
    host.check(request("acme-corp", Some("u-42"))).await.expect_status(200);
    for (scope, id) in scopes {
        for period in periods {
            let spend = |usd: &str| {
                format!(
                    "UPDATE copilot_internal.cost_quotas SET current_spend_usd = {usd}
                     WHERE scope = '{scope}' AND period = '{period}'"
                )
            };
            host.database.run(&spend("9.01")).await;
            let denied = host.check(request("acme-corp", Some("u-42"))).await.expect_status(429);
            let found =
                ["/quotaDetails/scope", "/quotaDetails/scopeId", "/quotaDetails/period"].map(|at| denied.word(at));
            assert_eq!(found, [scope, id, period]);
            host.database.run(&spend("0")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_quota_counts_where_the_user_is_named_and_for_nobody_else() {
    let host = Host::start().await;
    host.database.quota("user acme-corp/u-42 llm day", "0.50", "0").await;
    host.check(request("acme-corp", Some("u-42"))).await.expect_status(429);
    host.check(request("acme-corp", Some("u-43"))).await.expect_status(200);
    host.check(request("acme-corp", None)).await.expect_status(200);
    host.check(request("globex", Some("u-42"))).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pools_quota_counts_for_its_members_from_the_request_after_they_join() {
    let host = Host::start().await;
    host.database.quota("pool eu-team llm day", "10.00", "0").await;
    host.tenant("acme-corp", None, Some("eu-team")).await;
    host.tenant("globex", None, Some("eu-team")).await;
    let cost = json!({ "tenantId": "globex", "resourceType": "llm", "costId": "c-1", "actualCostUsd": "9.50" });
    host.cost(cost).await;
    host.check(request("acme-corp", None)).await.expect_status(429);
    host.check(request("initech", None)).await.expect_status(200);
    host.tenant("initech", None, Some("eu-team")).await;
    host.check(request("initech", None)).await.expect_status(429);
    host.tenant("acme-corp", None, None).await;
    host.check(request("acme-corp", None)).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_of_another_resource_does_not_count() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp e2b day", "0.01", "0").await;
    host.database.quota("global * gpu day", "0.01", "0").await;
    host.check(request("acme-corp", None)).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_named_like_a_user_of_another_is_not_that_user() {
    let host = Host::start().await;
    host.database.quota("user acme-corp/u-42 llm day", "0.50", "0").await;
    host.check(request("acme-corp/u-42", None)).await.expect_status(200);
    host.database.quota("tenant acme-corp/u-42 llm day", "0.50", "0").await;
    host.check(request("acme-corp/u-42", None)).await.expect_status(429);
    host.check(request("acme-corp", Some("u-43"))).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_data_and_never_sql_or_patterns() {
    let host = Host::start().await;
    host.database.quota("tenant % llm day", "0.50", "0").await;
    for tenant in ["%", "a'b", "\"x\"", "$1", "ünï", "a b", "\\"] {
        let status = if tenant == "%" { 429 } else { 200 };
        host.check(request(tenant, None)).await.expect_status(status);
    }
}
