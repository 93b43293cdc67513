//! A stored decision, as the facts that its policy saw: what `facts` has written, read back.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::decision::{Facts, Request};
use crate::money::Money;
use crate::period::Period;
use crate::quota::{PoolId, Quota, QuotaKey, ResourceType, Scope, TenantId, Tier, UserId};
use crate::store::decisions::StoredDecision;

/// A question that was asked once and can be asked again.
#[derive(Clone, Debug)]
pub struct Recalled {
    /// What the policy saw.
    pub facts: Facts,
    /// The settings that it had.
    pub settings: Vec<(String, String)>,
    /// What it allowed, where that was less than the estimate.
    pub at_most: Option<Money>,
    /// What it noted beside its answer.
    pub annotations: Vec<(String, String)>,
}

impl Recalled {
    /// Which of its quotas has this id.
    pub fn position(&self, quota: Option<Uuid>) -> Option<usize> {
        self.facts.quotas.iter().position(|other| Some(other.id) == quota)
    }
}

/// Reads the facts of a stored decision.
///
/// # Errors
/// A sentence that names the field: the row was not written by this program, or by a version with other facts.
pub fn recall(stored: &StoredDecision) -> Result<Recalled, String> {
    let facts: StoredFacts<'_> =
        serde_json::from_str(&stored.facts).map_err(|error| format!("decision {}: facts: {error}", stored.id))?;
    let field = |name: &'static str| move |fault: String| format!("decision {}: {name}: {fault}", stored.id);
    let resource_type = ResourceType::parse(&stored.resource_type).map_err(field("resource_type"))?;
    let quotas = facts.quotas.iter().map(|quota| quota.quota(&resource_type));
    Ok(Recalled {
        facts: Facts {
            quotas: Arc::new(quotas.collect::<Result<_, _>>().map_err(field("facts.quotas"))?),
            tier: facts.tier.as_deref().map(Tier::parse).transpose().map_err(field("facts.tier"))?,
            pool: facts.pool.as_deref().map(PoolId::parse).transpose().map_err(field("facts.pool"))?,
            request: Arc::new(Request {
                id: stored.id,
                at: stored.decided_at,
                tenant: TenantId::parse(&stored.tenant_id).map_err(field("tenant_id"))?,
                user: stored.user_id.as_deref().map(UserId::parse).transpose().map_err(field("user_id"))?,
                resource_type,
                estimate: Money::from_nanos(stored.estimate_nanos),
                request_id: stored.request_id.clone(),
                attributes: facts.attributes.into_iter().collect(),
            }),
        },
        settings: facts.settings.into_iter().collect(),
        at_most: facts.at_most_usd.map(amount).transpose().map_err(field("facts.atMostUsd"))?,
        annotations: facts.annotations.into_iter().collect(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredFacts<'a> {
    tier: Option<String>,
    pool: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(borrow)]
    at_most_usd: Option<&'a RawValue>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(borrow)]
    quotas: Vec<StoredQuota<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredQuota<'a> {
    id: Uuid,
    scope: String,
    scope_id: String,
    period: Period,
    window_start: DateTime<Utc>,
    #[serde(borrow)]
    limit_usd: &'a RawValue,
    #[serde(borrow)]
    hard_limit_usd: Option<&'a RawValue>,
    #[serde(borrow)]
    spend_usd: &'a RawValue,
    #[serde(borrow)]
    held_usd: &'a RawValue,
    #[serde(borrow)]
    previous_spend_usd: Option<&'a RawValue>,
    admitted: u64,
}

impl StoredQuota<'_> {
    fn quota(&self, resource_type: &ResourceType) -> Result<Quota, String> {
        Ok(Quota {
            id: self.id,
            key: QuotaKey {
                scope: self.scope.parse::<Scope>()?,
                scope_id: self.scope_id.as_str().into(),
                resource_type: resource_type.clone(),
                period: self.period,
            },
            window: self.period.window(self.window_start),
            limit: amount(self.limit_usd)?,
            hard_limit: self.hard_limit_usd.map(amount).transpose()?,
            spend: amount(self.spend_usd)?,
            held: amount(self.held_usd)?,
            previous_spend: self.previous_spend_usd.map(amount).transpose()?,
            admitted: self.admitted,
        })
    }
}

fn amount(number: &RawValue) -> Result<Money, String> {
    Money::parse_json_number(number.get()).map_err(|fault| fault.to_string())
}
