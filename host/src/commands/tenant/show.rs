//! `tenant show`: all that support needs, on one screen.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::super::{Failure, OpenStore, configured, table};
use crate::api::{AuditView, QuotaView};
use crate::cli::StoreArgs;
use crate::clock::Clock;
use crate::money::Money;
use crate::quota::{ResourceType, TenantId};
use crate::store::audit::{AuditFilter, AuditRow};
use crate::store::decisions::{DecisionFilter, StoredDecision};
use crate::store::inspect::TenantActivity;
use crate::store::quotas::{ListedQuota, QuotaFilter};
use crate::store::tenants::TenantRow;
use crate::store::{Store, StoreError};

/// How many denials and changes fit on a screen.
const NEWEST: i64 = 5;

struct Overview {
    tenant: Option<TenantRow>,
    quotas: Vec<ListedQuota>,
    activity: TenantActivity,
    denials: Vec<StoredDecision>,
    changes: Vec<AuditRow>,
}

pub(super) async fn show(tenant: &TenantId, json: bool, store: &StoreArgs) -> Result<(), Failure> {
    let opened = OpenStore::open(&configured(store)?).await?;
    let now = Clock::System.now();
    let overview = read(&opened.store, tenant, now).await;
    opened.close().await?;
    let overview = overview?;
    let nobody = overview.tenant.is_none()
        && overview.activity.last_decision.is_none()
        && !overview.activity.has_costs
        && !overview.quotas.iter().any(|listed| of(tenant, listed));
    if nobody {
        return Err(super::unknown(tenant));
    }
    if json {
        let shown = Shown::new(tenant, overview, now);
        println!("{}", serde_json::to_string_pretty(&shown).map_err(|error| Failure::caused(&error))?);
        return Ok(());
    }
    print!("{}", screen(tenant, &overview, now));
    Ok(())
}

async fn read(store: &Store, tenant: &TenantId, now: DateTime<Utc>) -> Result<Overview, StoreError> {
    let row = store.tenant(tenant).await?;
    let pool = row.as_ref().and_then(|row| row.pool.clone());
    let mut quotas = store.quotas(QuotaFilter::default()).await?;
    quotas.retain(|listed| of(tenant, listed) || shared(pool.as_deref(), listed));
    let of_tenant = Some(tenant.as_str().to_owned());
    let denied =
        DecisionFilter { tenant_id: of_tenant.clone(), outcome: Some("denied".to_owned()), since: None, limit: NEWEST };
    let changed = AuditFilter { tenant_id: of_tenant, limit: NEWEST, ..AuditFilter::default() };
    Ok(Overview {
        tenant: row,
        quotas,
        activity: store.tenant_activity(tenant, now).await?,
        denials: store.decisions(&denied).await?,
        changes: store.audit(&changed).await?,
    })
}

/// The screen as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    tenant_id: &'a TenantId,
    tier: Option<String>,
    pool: Option<String>,
    reservations: i64,
    reserved_usd: Money,
    recorded_in_30_days_usd: Money,
    last_decision_at: Option<DateTime<Utc>>,
    last_alert_at: Option<DateTime<Utc>>,
    quotas: Vec<QuotaView>,
    denials: Vec<ShownDenial>,
    audit: Vec<AuditView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownDenial {
    at: DateTime<Utc>,
    resource_type: String,
    code: Option<String>,
    reason: Option<String>,
}

impl<'a> Shown<'a> {
    fn new(tenant_id: &'a TenantId, overview: Overview, now: DateTime<Utc>) -> Self {
        let Overview { tenant, quotas, activity, denials, changes } = overview;
        let (tier, pool) = tenant.map(|row| (row.tier, row.pool)).unwrap_or_default();
        let denial = |stored: StoredDecision| ShownDenial {
            at: stored.decided_at,
            resource_type: stored.resource_type,
            code: stored.code,
            reason: stored.reason,
        };
        Self {
            tenant_id,
            tier,
            pool,
            reservations: activity.reservations,
            reserved_usd: activity.held(),
            recorded_in_30_days_usd: activity.month(),
            last_decision_at: activity.last_decision,
            last_alert_at: activity.last_alert,
            quotas: quotas.iter().map(|quota| QuotaView::new(quota, now)).collect(),
            denials: denials.into_iter().map(denial).collect(),
            audit: changes.into_iter().map(AuditView::from).collect(),
        }
    }
}

/// The tenant's own, or one of its users'.
fn of(tenant: &TenantId, listed: &ListedQuota) -> bool {
    let key = &listed.row.key;
    match key.scope.as_str() {
        "tenant" => *key.scope_id == *tenant.as_str(),
        "user" => key.scope_id.rsplit_once('/').is_some_and(|(of, _)| of == tenant.as_str()),
        _ => false,
    }
}

fn shared(pool: Option<&str>, listed: &ListedQuota) -> bool {
    let key = &listed.row.key;
    match key.scope.as_str() {
        "pool" => pool == Some(&*key.scope_id),
        "global" => true,
        _ => false,
    }
}

fn screen(tenant: &TenantId, overview: &Overview, now: DateTime<Utc>) -> String {
    let instant = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M").to_string();
    let never = |at: Option<DateTime<Utc>>| at.map_or_else(|| "never".to_owned(), instant);
    let row = overview.tenant.as_ref();
    let tier = row.and_then(|row| row.tier.as_deref()).unwrap_or("none (the standard policy decides)");
    let pool = row.and_then(|row| row.pool.as_deref()).unwrap_or("none");
    let activity = &overview.activity;
    let mut screen = format!(
        "tenant        {tenant}\ntier          {tier}\npool          {pool}\nreserved      {} in {} reservations\n\
         recorded      {} in 30 days\nlast decision {}\nlast alert    {}\n\nQuotas\n",
        activity.held(),
        activity.reservations,
        activity.month(),
        never(activity.last_decision),
        never(activity.last_alert),
    );
    let header =
        ["SCOPE", "SCOPE ID", "RESOURCE", "PERIOD", "LIMIT", "SPEND", "HELD", "REMAINING", "RESETS AT", "OVERRIDE"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(overview.quotas.iter().map(|listed| {
        let quota = listed.row.at(now);
        let temporary = listed.row.temporary_at(now).map(|temporary| {
            let reason = listed.override_reason.as_deref().unwrap_or("no reason given");
            format!("until {}, then {}: {reason}", instant(temporary.until), listed.row.limit)
        });
        [
            quota.key.scope.to_string(),
            quota.key.scope_id.to_string(),
            quota.key.resource_type.to_string(),
            quota.key.period.to_string(),
            quota.limit.to_string(),
            quota.spend.to_string(),
            quota.held.to_string(),
            quota.remaining().to_string(),
            never(quota.window.end),
            temporary.unwrap_or_default(),
        ]
    }));
    screen.push_str(&table::text(&rows, &[4, 5, 6, 7]));
    for resource in [ResourceType::LLM, ResourceType::E2B] {
        if !overview.quotas.iter().any(|listed| listed.row.key.resource_type.as_str() == resource) {
            let _ = writeln!(screen, "No quota for {resource}: it is UNLIMITED.");
        }
    }
    screen.push_str("\nNewest denials\n");
    let denials = overview.denials.iter().map(|denial| {
        let reason = denial.reason.clone().unwrap_or_default();
        [instant(denial.decided_at), denial.resource_type.clone(), denial.code.clone().unwrap_or_default(), reason]
    });
    screen.push_str(&or_none(&denials.collect::<Vec<_>>()));
    screen.push_str("\nNewest changes\n");
    let changes = overview.changes.iter().map(|change| {
        let reason = change.reason.clone().unwrap_or_default();
        [instant(change.at), change.actor.clone(), change.action.clone(), change.subject.clone(), reason]
    });
    screen.push_str(&or_none(&changes.collect::<Vec<_>>()));
    screen
}

fn or_none<const N: usize>(rows: &[[String; N]]) -> String {
    if rows.is_empty() { "none\n".to_owned() } else { table::text(rows, &[]) }
}
