//! `tenant onboard`, `set-tier`, `offboard`: a plan is shown, then carried out whole.

mod list;
mod show;

use super::say::word;
use super::{Failure, OpenStore, actor, configured, table};
use crate::api;
use crate::cli::{ChangeArgs, TenantCommand};
use crate::clock::Clock;
use crate::config::Config;
use crate::money::Money;
use crate::period::Period;
use crate::quota::{PoolId, ResourceType, TenantId, Tier};
use crate::store::StoreError;
use crate::store::audit::Change;
use crate::store::onboarding::{CLOSED, Existing, Plan, Wish};
use crate::store::quotas::QuotaFilter;
use crate::telemetry;
use crate::tiers::Template;

pub(super) async fn run(command: TenantCommand) -> Result<(), Failure> {
    telemetry::to_stderr();
    match command {
        TenantCommand::Onboard { tenant, tier, pool, change } => onboard(&tenant, &tier, pool.as_deref(), change).await,
        TenantCommand::SetTier { tenant, tier, keep_quotas, change } => {
            set_tier(&tenant, &tier, keep_quotas, change).await
        }
        TenantCommand::Offboard { tenant, change } => offboard(&tenant, change).await,
        TenantCommand::Show { tenant, json, store } => show::show(&tenant_id(&tenant)?, json, &store).await,
        TenantCommand::List { json, store } => list::list(json, &store).await,
    }
}

fn tenant_id(text: &str) -> Result<TenantId, Failure> {
    TenantId::parse(text).map_err(|fault| Failure::new(format!("TENANT: {fault}")))
}

async fn onboard(tenant: &str, tier: &str, pool: Option<&str>, change: ChangeArgs) -> Result<(), Failure> {
    let tenant = tenant_id(tenant)?;
    let pool = pool.map(PoolId::parse).transpose().map_err(|fault| Failure::new(format!("--pool: {fault}")))?;
    let config = configured(&change.store)?;
    let (tier, quotas) = template(&config, "--tier", tier)?;
    let wish = Wish { tenant, tier: Some(tier), pool, quotas, existing: Existing::Keep };
    with(OpenStore::open_or_create(&config).await?, async |opened| {
        let plan = opened.store.plan(&wish).await?;
        let has = plan.tenant.as_ref().and_then(|row| row.tier.clone());
        if let Some(has) = has.filter(|has| Some(has.as_str()) != wish.tier.as_ref().map(Tier::as_str)) {
            return Err(Failure::new(format!("{} is on board already, on the tier {has}", wish.tenant)).hint(format!(
                "`tollgate tenant set-tier {} TIER` changes the tier and its limits",
                word(wish.tenant.as_str())
            )));
        }
        carry_out(opened, &wish, &plan, &change).await
    })
    .await
}

async fn set_tier(tenant: &str, tier: &str, keep_quotas: bool, change: ChangeArgs) -> Result<(), Failure> {
    let config = configured(&change.store)?;
    let (tier, quotas) = template(&config, "TIER", tier)?;
    let existing = if keep_quotas { Existing::Keep } else { Existing::Change };
    let wish = Wish { tenant: tenant_id(tenant)?, tier: Some(tier), pool: None, quotas, existing };
    with(OpenStore::open(&config).await?, async |opened| {
        let plan = opened.store.plan(&wish).await?;
        if plan.tenant.is_none() {
            return Err(unknown(&wish.tenant));
        }
        carry_out(opened, &wish, &plan, &change).await
    })
    .await
}

/// Closes every quota that is there, and gives both resources one that never starts anew.
async fn offboard(tenant: &str, change: ChangeArgs) -> Result<(), Failure> {
    let tenant = tenant_id(tenant)?;
    let config = configured(&change.store)?;
    with(OpenStore::open(&config).await?, async |opened| {
        let filter = QuotaFilter { scope: Some("tenant"), scope_id: Some(tenant.as_str()), resource_type: None };
        let there = opened.store.quotas(filter).await?;
        let store = &opened.store;
        let is_known = async || {
            let activity = store.tenant_activity(&tenant, Clock::System.now()).await?;
            Ok::<_, StoreError>(activity.has_costs || activity.last_decision.is_some())
        };
        // Who has no quota is unlimited, and whom to close first.
        if there.is_empty() && store.tenant(&tenant).await?.is_none() && !is_known().await? {
            return Err(unknown(&tenant));
        }
        let mut quotas: Template =
            there.iter().map(|listed| (listed.row.key.resource_type.clone(), listed.row.key.period, CLOSED)).collect();
        for needed in [ResourceType::LLM, ResourceType::E2B] {
            let resource = ResourceType::parse(needed).map_err(Failure::new)?;
            if !quotas.iter().any(|(has, ..)| *has == resource) {
                quotas.push((resource, Period::Lifetime, CLOSED));
            }
        }
        quotas.sort();
        let wish = Wish { tenant: tenant.clone(), tier: None, pool: None, quotas, existing: Existing::Close };
        let plan = opened.store.plan(&wish).await?;
        carry_out(opened, &wish, &plan, &change).await?;
        if !change.dry_run {
            println!(
                "Its books stay. Take its name out of the app tokens; what it has reserved may still be settled.\n\
                 A resource without a quota is unlimited, so keep these quotas."
            );
        }
        Ok(())
    })
    .await
}

fn unknown(tenant: &TenantId) -> Failure {
    Failure::new(format!("there is no tenant {tenant}")).hint(format!(
        "`tollgate tenant list` shows those that there are; `tollgate tenant onboard {} --tier TIER` creates it",
        word(tenant.as_str())
    ))
}

fn template(config: &Config, argument: &str, name: &str) -> Result<(Tier, Template), Failure> {
    let tier = Tier::parse(name).map_err(|fault| Failure::new(format!("{argument}: {fault}")))?;
    let Some(template) = config.tiers.get(&tier) else {
        let known: Vec<&str> = config.tiers.keys().map(Tier::as_str).collect();
        let hint = crate::nearest::hint(name, known.iter().copied());
        return Err(Failure::new(format!("{argument}: no tier {name:?}{hint}"))
            .hint(format!("there are {}; add one as [tiers.{name}] to tollgate.toml", known.join(", "))));
    };
    Ok((tier, template.clone()))
}

async fn with(opened: OpenStore, work: impl AsyncFnOnce(&OpenStore) -> Result<(), Failure>) -> Result<(), Failure> {
    let done = work(&opened).await;
    opened.close().await?;
    done
}

async fn carry_out(opened: &OpenStore, wish: &Wish, plan: &Plan, change: &ChangeArgs) -> Result<(), Failure> {
    let reason = change.reason.as_deref().map(api::reason).transpose();
    let reason = reason.map_err(|fault| Failure::new(format!("--reason: {fault}")))?;
    print!("{}", shown(wish, plan));
    if !plan.changes_anything() {
        println!("Nothing to do.");
        return Ok(());
    }
    if change.dry_run {
        println!("Nothing was changed: this was the plan.");
        return Ok(());
    }
    let actor = actor();
    let by = Change { actor: &actor, reason: reason.as_deref(), at: Clock::System.now() };
    if opened.store.carry_out(wish, plan, by).await? {
        println!("Done.");
        return Ok(());
    }
    Err(Failure::new("somebody has changed the tenant in the meantime: nothing was done").hint("run it again"))
}

fn from_to(was: &str, becomes: &str) -> String {
    if was == becomes { becomes.to_owned() } else { format!("{was} → {becomes}") }
}

/// What a quota's line says of its hard limit, where there is one.
fn hard_limit(was: Option<Money>, becomes: Option<Money>) -> String {
    if was.or(becomes).is_none() {
        return String::new();
    }
    let word = |limit: Option<Money>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    format!(", hard limit {}", from_to(&word(was), &word(becomes)))
}

/// The plan, a line for each part.
fn shown(wish: &Wish, plan: &Plan) -> String {
    let word = |text: Option<&str>| text.unwrap_or("none").to_owned();
    let (tier, pool) = &plan.becomes;
    let (tier, pool) = (word(tier.as_ref().map(Tier::as_str)), word(pool.as_ref().map(PoolId::as_str)));
    let from = |was: Option<&str>, now: &str| from_to(was.unwrap_or(now), now);
    let row = plan.tenant.as_ref();
    let mut lines = vec![[
        if row.is_some() { "keep" } else { "create" }.to_owned(),
        format!("tenant {}", wish.tenant),
        format!("tier {}", from(row.map(|row| row.tier.as_deref().unwrap_or("none")), &tier)),
        format!("pool {}", from(row.map(|row| row.pool.as_deref().unwrap_or("none")), &pool)),
    ]];
    lines.extend(plan.steps.iter().map(|step| {
        let verb = match (step.writes, &step.was) {
            (true, None) => "create",
            (true, Some(_)) => "change",
            (false, _) => "keep",
        };
        let was = step.was.as_ref().filter(|_| step.writes).map_or(step.limit, |was| was.limit);
        let limit = from_to(&was.to_string(), &step.limit.to_string());
        let hard_was = step.was.as_ref().map_or(step.hard_limit, |was| was.hard_limit);
        let is_overridden = step.was.as_ref().is_some_and(|was| was.is_overridden) && wish.existing != Existing::Close;
        let override_note = if is_overridden { ", while no override holds" } else { "" };
        let period = format!("a {}{}{override_note}", step.key.period, hard_limit(hard_was, step.hard_limit));
        [verb.to_owned(), format!("quota {}", step.key.resource_type), limit, period]
    }));
    lines.extend(plan.others.iter().map(|other| {
        let (verb, note) = if plan.removes(other) { ("remove", "closed") } else { ("keep", "not of the tier") };
        let period = format!("a {}{}, {note}", other.key.period, hard_limit(other.hard_limit, other.hard_limit));
        [verb.to_owned(), format!("quota {}", other.key.resource_type), other.limit.to_string(), period]
    }));
    if row.is_some() && lines[0][2..].iter().any(|cell| cell.contains('→')) {
        "change".clone_into(&mut lines[0][0]);
    }
    table::text(&lines, &[])
}
