//! What a decision was made of, as the decision log keeps it.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::decision::{Decision, Outcome};
use crate::money::Money;
use crate::period::Period;
use crate::policy::PolicyError;
use crate::quota::{PoolId, Quota, Scope, Tier, UserId};
use crate::store::decisions::DecisionRow;

/// The row of a decision; `settings` are those that its policy had.
pub(super) fn row(decision: &Decision, settings: &[(String, String)]) -> DecisionRow {
    let request = &decision.facts.request;
    let denial = decision.denial();
    DecisionRow {
        id: request.id,
        decided_at: request.at,
        tenant_id: request.tenant.to_string(),
        user_id: request.user.as_ref().map(UserId::to_string),
        resource_type: request.resource_type.to_string(),
        estimate: request.estimate,
        request_id: request.request_id.clone(),
        outcome: match decision.outcome {
            Outcome::Allowed => "allowed",
            Outcome::Denied(_) => "denied",
            Outcome::Unenforced(_) => "unenforced",
        },
        code: denial.map(|denial| denial.code.clone()),
        reason: denial.map(|denial| denial.reason.clone()),
        quota_id: denial.and_then(|denial| denial.binding.as_ref()).map(|quota| quota.id),
        policy_name: decision.policy.name.to_string(),
        policy_digest: decision.policy.digest.to_string(),
        facts: facts(decision, settings),
    }
}

/// The row of a request that its policy did not decide.
pub(super) fn failed(undecided: &Decision, settings: &[(String, String)], error: &PolicyError) -> DecisionRow {
    DecisionRow {
        outcome: "failed",
        code: Some(error.kind().to_owned()),
        reason: Some(error.to_string()),
        ..row(undecided, settings)
    }
}

/// What a policy saw: enough to ask another policy the same question.
fn facts(decision: &Decision, settings: &[(String, String)]) -> String {
    let request = &decision.facts.request;
    let facts = StoredFacts {
        tier: decision.facts.tier.as_ref(),
        pool: decision.facts.pool.as_ref(),
        attributes: Pairs(&request.attributes),
        settings: Pairs(settings),
        at_most_usd: decision.at_most,
        annotations: Pairs(&decision.annotations),
        quotas: decision.facts.quotas.iter().map(StoredQuota::of).collect(),
    };
    serde_json::to_string(&facts).unwrap_or_else(|_| "{}".to_owned())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoredFacts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'a Tier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'a PoolId>,
    attributes: Pairs<'a>,
    settings: Pairs<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most_usd: Option<Money>,
    annotations: Pairs<'a>,
    quotas: Vec<StoredQuota<'a>>,
}

/// As in a fixture, so that one can be made of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoredQuota<'a> {
    id: Uuid,
    scope: Scope,
    scope_id: &'a str,
    period: Period,
    window_start: DateTime<Utc>,
    limit_usd: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    hard_limit_usd: Option<Money>,
    spend_usd: Money,
    held_usd: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_spend_usd: Option<Money>,
    admitted: u64,
}

impl<'a> StoredQuota<'a> {
    fn of(quota: &'a Quota) -> Self {
        Self {
            id: quota.id,
            scope: quota.key.scope,
            scope_id: &quota.key.scope_id,
            period: quota.key.period,
            window_start: quota.window.start,
            limit_usd: quota.limit,
            hard_limit_usd: quota.hard_limit,
            spend_usd: quota.spend,
            held_usd: quota.held,
            previous_spend_usd: quota.previous_spend,
            admitted: quota.admitted,
        }
    }
}

/// Pairs as a JSON object.
struct Pairs<'a>(&'a [(String, String)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
