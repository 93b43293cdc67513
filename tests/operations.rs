//! The operators' documents: every command and every statement in them is run, in the order of the page, against a gate
//! with tokens and a database of its own. What a block says with `test`, `grep` or `jq -e` must hold.

use tollgate::api::auth::{Access, Token, Transport};
use tollgate::clock::Clock;

use crate::harness::page::Reader;
use crate::harness::{Host, Scratch, Setup};

/// Runs a page; a line for each block that was run.
async fn follow(page: &str) -> (Host, Vec<String>) {
    let token = |name: &str| Token::new(name.into(), &format!("{name}-secret"), Vec::new());
    let access = Access { app: vec![token("app")], admin: Some(token("admin")), transport: Transport::Loopback };
    // The statements ask the database's clock.
    let host = Setup { access, clock: Clock::System, ..Setup::default() }.start().await;
    let folder = Scratch::new();
    let mut reader = Reader::new(&host, &folder);
    reader.environment =
        vec![("TOLLGATE_APP_TOKEN", "app-secret".into()), ("TOLLGATE_ADMIN_TOKEN", "admin-secret".into())];
    let report = reader.follow(&format!("docs/operations/{page}")).await;
    drop(reader);
    (host, report)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs psql, curl and jq; .ci/run runs it"]
async fn the_quota_configuration_guide_works_when_followed() {
    let (host, report) = follow("QUOTA_CONFIGURATION_GUIDE.md").await;
    assert!(report.len() >= 22, "{report:?}");
    let limits = "SELECT count(*) FROM copilot_internal.tenants t WHERE 2 > (
                      SELECT count(DISTINCT resource_type) FROM copilot_internal.cost_quotas WHERE scope_id = t.tenant_id)";
    assert_eq!(host.database.value(limits).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs psql, curl and jq; .ci/run runs it"]
async fn the_tenant_onboarding_checklist_works_when_followed() {
    let (host, report) = follow("TENANT_ONBOARDING_CHECKLIST.md").await;
    assert!(report.len() >= 12, "{report:?}");
    let closed = "SELECT max(limit_usd) FROM copilot_internal.cost_quotas WHERE scope_id = 'acme-corp'";
    assert_eq!(host.database.value(closed).await, "0.000000001");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs psql, curl and jq; .ci/run runs it"]
async fn the_runbooks_work_when_followed() {
    let (_, report) = follow("RUNBOOKS.md").await;
    assert!(report.len() >= 22, "{report:?}");
}
