//! `quota list`, `set`, `delete`, `override`: on the store directly.

use chrono::{DateTime, Utc};

use super::{Failure, OpenStore, actor, configured, table};
use crate::api::{self, QuotaView};
use crate::cli::{QuotaCommand, QuotaKeyArgs};
use crate::clock::Clock;
use crate::money::Money;
use crate::quota::{MOST_THRESHOLDS, QuotaKey, ResourceType, Scope, TemporaryLimit};
use crate::store::audit::Change;
use crate::store::overrides::Overridden;
use crate::store::quotas::{ListedQuota, QuotaFilter, QuotaRule};
use crate::telemetry;

pub(super) async fn run(command: QuotaCommand) -> Result<(), Failure> {
    telemetry::to_stderr();
    match command {
        QuotaCommand::List { scope, scope_id, resource_type, json, store } => {
            let usage = |flag: &str, fault: String| Failure::new(format!("{flag}: {fault}"));
            let scope: Option<Scope> =
                scope.map(|text| text.parse()).transpose().map_err(|fault| usage("--scope", fault))?;
            let resource = resource_type.map(|text| ResourceType::parse(&text)).transpose();
            let resource = resource.map_err(|fault| usage("--resource-type", fault))?;
            let filter = QuotaFilter {
                scope: scope.map(Scope::as_str),
                scope_id: scope_id.as_deref(),
                resource_type: resource.as_ref().map(ResourceType::as_str),
            };
            let is_filtered = scope.is_some() || scope_id.is_some() || resource.is_some();
            let opened = OpenStore::open(&configured(&store)?).await?;
            let quotas = opened.store.quotas(filter).await;
            opened.close().await?;
            print(&quotas?, is_filtered, json)
        }
        QuotaCommand::Set { key, limit, hard_limit, thresholds, store } => {
            let key = parse_key(key)?;
            let rule = QuotaRule {
                limit: parse_limit("LIMIT", &limit)?,
                hard_limit: hard_limit.as_deref().map(|text| parse_limit("--hard-limit", text)).transpose()?,
                thresholds: thresholds.map(percents).transpose()?,
            };
            let opened = OpenStore::open_or_create(&configured(&store)?).await?;
            let written = opened.store.set_quota(&key, &rule, change(&actor(), None)).await;
            opened.close().await?;
            println!(
                "{} {}: {} a {}",
                if written? { "Created" } else { "Changed" },
                name(&key),
                rule.limit,
                key.period
            );
            Ok(())
        }
        QuotaCommand::Delete { key, store } => {
            let key = parse_key(key)?;
            let opened = OpenStore::open(&configured(&store)?).await?;
            let deleted = opened.store.delete_quota(&key, change(&actor(), None)).await;
            opened.close().await?;
            if !deleted? {
                return Err(Failure::new(format!("there is no quota {} a {}", name(&key), key.period))
                    .hint("`tollgate quota list` shows those that there are"));
            }
            println!("Deleted {} a {}; without any quota a resource is unlimited.", name(&key), key.period);
            Ok(())
        }
        QuotaCommand::Override { key, limit, until, reason, end, store } => {
            let key = parse_key(key)?;
            let temporary = if end { None } else { Some(temporary(limit, until)?) };
            let reason = reason.as_deref().map(api::reason).transpose();
            let reason = reason.map_err(|fault| Failure::new(format!("--reason: {fault}")))?;
            let opened = OpenStore::open(&configured(&store)?).await?;
            let actor = actor();
            let by = change(&actor, reason.as_deref());
            let overridden = opened.store.override_quota(&key, temporary, by).await;
            opened.close().await?;
            overridden_to(&key, temporary, overridden?)
        }
    }
}

fn temporary(limit: Option<String>, until: Option<DateTime<Utc>>) -> Result<TemporaryLimit, Failure> {
    let (Some(limit), Some(until)) = (limit, until) else {
        return Err(Failure::new("LIMIT and --until are required, or --end"));
    };
    if until <= Clock::System.now() {
        return Err(Failure::new("--until: an instant that is still to come"));
    }
    Ok(TemporaryLimit { limit: parse_limit("LIMIT", &limit)?, until })
}

fn overridden_to(key: &QuotaKey, temporary: Option<TemporaryLimit>, overridden: Overridden) -> Result<(), Failure> {
    match (overridden, temporary) {
        (Overridden::Yes, Some(temporary)) => println!(
            "Overridden {}: {} a {} until {}, then its own limit again",
            name(key),
            temporary.limit,
            key.period,
            temporary.until.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        (Overridden::Yes, None) => println!("{} a {} has its own limit again.", name(key), key.period),
        (Overridden::NoQuota, _) => {
            return Err(Failure::new(format!("there is no quota {} a {}", name(key), key.period))
                .hint("`tollgate quota list` shows those that there are"));
        }
        (Overridden::AboveHardLimit(hard_limit), _) => {
            return Err(Failure::new(format!(
                "LIMIT: at most the quota's hard limit, {hard_limit}, which holds whatever the limit is"
            ))
            .hint("raise the hard limit with `tollgate quota set … --hard-limit`"));
        }
    }
    Ok(())
}

fn change<'a>(actor: &'a str, reason: Option<&'a str>) -> Change<'a> {
    Change { actor, reason, at: Clock::System.now() }
}

fn name(key: &QuotaKey) -> String {
    format!("{} {} {}", key.scope, key.scope_id, key.resource_type)
}

fn parse_key(args: QuotaKeyArgs) -> Result<QuotaKey, Failure> {
    let usage = |field: &str| {
        let field = field.to_owned();
        move |fault: String| Failure::new(format!("{field}: {fault}"))
    };
    let scope: Scope = args.scope.parse().map_err(usage("SCOPE"))?;
    scope.check_id(&args.scope_id).map_err(usage("SCOPE_ID"))?;
    Ok(QuotaKey {
        scope,
        scope_id: args.scope_id.into(),
        resource_type: ResourceType::parse(&args.resource_type).map_err(usage("RESOURCE_TYPE"))?,
        period: args.period.parse().map_err(usage("PERIOD"))?,
    })
}

fn parse_limit(field: &str, text: &str) -> Result<Money, Failure> {
    match Money::parse(text) {
        Ok(Money::ZERO) => {
            Err(Failure::new(format!("{field}: above 0; a quota that allows nothing has a limit of 0.000000001")))
        }
        Ok(limit) => Ok(limit),
        Err(fault) => Err(Failure::new(format!("{field}: {fault}"))),
    }
}

fn percents(mut percents: Vec<i16>) -> Result<Vec<i16>, Failure> {
    if let Some(wrong) = percents.iter().find(|percent| !(1..=1000).contains(*percent)) {
        return Err(Failure::new(format!("--thresholds: percents from 1 to 1000, got {wrong}")));
    }
    if percents.len() > MOST_THRESHOLDS {
        return Err(Failure::new(format!("--thresholds: up to {MOST_THRESHOLDS} percents, got {}", percents.len())));
    }
    percents.sort_unstable();
    percents.dedup();
    Ok(percents)
}

fn print(quotas: &[ListedQuota], is_filtered: bool, json: bool) -> Result<(), Failure> {
    let now = Clock::System.now();
    if json {
        let views: Vec<QuotaView> = quotas.iter().map(|quota| QuotaView::new(quota, now)).collect();
        println!("{}", serde_json::to_string_pretty(&views).map_err(|error| Failure::caused(&error))?);
        return Ok(());
    }
    if quotas.is_empty() {
        // Of the others nothing is known: they may limit everybody.
        println!("{}", if is_filtered { "No quota matches." } else { "No quotas: every resource is unlimited." });
        return Ok(());
    }
    let header = ["SCOPE", "SCOPE ID", "RESOURCE", "PERIOD", "LIMIT", "SPEND", "HELD", "REMAINING", "RESETS AT"];
    let rows = quotas.iter().map(|listed| {
        let quota = listed.row.at(now);
        [
            quota.key.scope.to_string(),
            quota.key.scope_id.to_string(),
            quota.key.resource_type.to_string(),
            quota.key.period.to_string(),
            quota.limit.to_string(),
            quota.spend.to_string(),
            quota.held.to_string(),
            quota.remaining().to_string(),
            quota.window.end.map_or_else(|| "never".to_owned(), |end| end.format("%Y-%m-%d %H:%M").to_string()),
        ]
    });
    table::print(header, rows.collect(), &[4, 5, 6, 7]);
    Ok(())
}
