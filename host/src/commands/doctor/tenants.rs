//! The tenants: no quota means unlimited access.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::super::say::word;
use super::{Findings, Level};
use crate::store::inspect::{Cover, KnownTenant};
use crate::store::{Store, StoreError};

const AREA: &str = "tenants";
/// More than these are counted, not named.
const NAMED: usize = 20;

pub(super) async fn look(
    store: &Store,
    now: DateTime<Utc>,
    policies: Option<&BTreeSet<String>>,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let combined = store.combined_quotas().await?;
    if combined > 0 {
        findings
            .add(AREA, Level::Critical, format!("{combined} quotas of the resource type \"all\" limit nothing"))
            .hint("give each type, llm and e2b, its own: `tollgate quota set tenant TENANT llm day 50.00`");
    }
    let tenants = store.known_tenants(now).await?;
    let (mut unlimited, mut shared, mut well) = (Vec::new(), Vec::new(), 0_usize);
    for tenant in &tenants {
        match tenant.llm.min(tenant.e2b) {
            Cover::Nothing => unlimited.push(tenant),
            Cover::Shared => shared.push(tenant),
            Cover::Own => well += 1,
        }
    }
    for tenant in unlimited.iter().take(NAMED) {
        let tier = tenant.tier.as_deref().unwrap_or("TIER");
        findings
            .add(
                AREA,
                Level::Critical,
                format!(
                    "{} has no quota for {}: no quota means unlimited access",
                    tenant.tenant_id,
                    missing(tenant, Cover::Nothing)
                ),
            )
            .hint(format!(
                "`tollgate tenant onboard {} --tier {}` adds what is missing",
                word(&tenant.tenant_id),
                word(tier)
            ));
    }
    if unlimited.len() > NAMED {
        let more = unlimited.len() - NAMED;
        findings
            .add(AREA, Level::Critical, format!("{more} more have no quota for llm or e2b"))
            .hint("`tollgate tenant list` shows all");
    }
    for tenant in shared.iter().take(NAMED) {
        let what = missing(tenant, Cover::Shared);
        findings
            .add(
                AREA,
                Level::Warning,
                format!("{} has no quota of its own for {what}: only its pool's or everybody's", tenant.tenant_id),
            )
            .hint(format!("`tollgate tenant onboard {} --tier TIER`", word(&tenant.tenant_id)));
    }
    if let Some(policies) = policies {
        let tiers: BTreeSet<&str> = tenants.iter().filter_map(|tenant| tenant.tier.as_deref()).collect();
        for tier in tiers.into_iter().filter(|tier| !policies.contains(*tier)) {
            findings
                .add(
                    AREA,
                    Level::Warning,
                    format!("there are tenants of the tier {tier}, which has no policy: the standard one decides"),
                )
                .hint(format!("put {tier}.wasm into the policy folder if it should decide otherwise"));
        }
    }
    if well > 0 || tenants.is_empty() {
        findings.add(AREA, Level::Ok, format!("{well} of {} have both quotas, llm and e2b", tenants.len()));
    }
    Ok(())
}

/// `llm`, `e2b`, or both: what is covered no better than `at_most`.
fn missing(tenant: &KnownTenant, at_most: Cover) -> String {
    let covers = [("llm", tenant.llm), ("e2b", tenant.e2b)];
    let missing: Vec<&str> = covers.iter().filter(|(_, cover)| *cover <= at_most).map(|(name, _)| *name).collect();
    missing.join(" and ")
}
