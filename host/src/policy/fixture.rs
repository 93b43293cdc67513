//! Fixtures: facts and the decision expected of them, as TOML beside each policy. The command line,
//! the folder and the tests run them through this one runner, on the code that serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, de};
use uuid::Uuid;
use wildmatch::WildMatch;

use super::engine::{Compiled, PolicyError};
use super::explore::Question;
use crate::decision::{Decision, Facts, Outcome, PolicyRef, Request};
use crate::money::Money;
use crate::period::Period;
use crate::quota::{PoolId, Quota, QuotaKey, ResourceType, Scope, TenantId, Tier, UserId};

/// A fixture file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixtures {
    #[serde(default, rename = "case")]
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(deserialize_with = "instant")]
    now: DateTime<Utc>,
    #[serde(default, deserialize_with = "super::manifest::settings")]
    settings: BTreeMap<String, String>,
    request: CaseRequest,
    #[serde(default)]
    quotas: Vec<CaseQuota>,
    expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CaseRequest {
    tenant_id: String,
    user_id: Option<String>,
    pool: Option<String>,
    tier: Option<String>,
    resource_type: String,
    #[serde(deserialize_with = "money")]
    estimated_cost_usd: Money,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CaseQuota {
    scope: String,
    scope_id: String,
    period: Period,
    #[serde(deserialize_with = "money")]
    limit_usd: Money,
    #[serde(default, deserialize_with = "some_money")]
    hard_limit_usd: Option<Money>,
    #[serde(default, deserialize_with = "money")]
    spend_usd: Money,
    #[serde(default, deserialize_with = "money")]
    held_usd: Money,
    #[serde(default, deserialize_with = "some_money")]
    previous_spend_usd: Option<Money>,
    #[serde(default)]
    admitted: u64,
}

/// What is left out is not checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expect {
    decision: Expected,
    code: Option<String>,
    reason: Option<String>,
    retry_after: Option<u64>,
    quota: Option<usize>,
    #[serde(default, deserialize_with = "some_money")]
    at_most_usd: Option<Money>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

/// What one case came to.
#[derive(Debug)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// What differs, a line each; empty where it passed.
    pub differences: Vec<String>,
    /// Whether the policy was late: on a machine that is less busy it might pass.
    pub timed_out: bool,
}

impl Fixtures {
    /// Reads the file's text.
    ///
    /// # Errors
    /// A sentence with the line and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// Runs every case under `settings`, which a case's own go over.
    pub fn run(&self, policy: &Compiled, settings: &[(String, String)]) -> Vec<CaseResult> {
        self.cases
            .iter()
            .map(|case| match case.run(policy, settings) {
                Ok(differences) => CaseResult { name: case.name.clone(), differences, timed_out: false },
                Err(error) => CaseResult {
                    name: case.name.clone(),
                    differences: vec![failure(&error)],
                    timed_out: error.may_pass(),
                },
            })
            .collect()
    }

    /// What the cases ask, under `settings`, which a case's own go over. A case whose facts do not hold asks nothing.
    pub fn questions(&self, settings: &[(String, String)]) -> Vec<Question> {
        let question =
            |case: &Case| Some(Question { facts: case.facts().ok()?, settings: case.settings_over(settings) });
        self.cases.iter().filter_map(question).collect()
    }
}

impl Case {
    fn run(&self, policy: &Compiled, settings: &[(String, String)]) -> Result<Vec<String>, PolicyError> {
        let facts = match self.facts() {
            Ok(facts) => facts,
            Err(fault) => return Ok(vec![fault]),
        };
        let settings = self.settings_over(settings);
        let verdict = policy.decide(&facts, &settings)?;
        let name = PolicyRef { name: "fixture".into(), digest: policy.digest().clone() };
        Ok(self.expect.differences(&Decision::new(facts, name, verdict, true)))
    }

    fn settings_over(&self, settings: &[(String, String)]) -> Vec<(String, String)> {
        let others = settings.iter().filter(|(name, _)| !self.settings.contains_key(name)).cloned();
        others.chain(self.settings.clone()).collect()
    }

    fn facts(&self) -> Result<Facts, String> {
        let request = &self.request;
        let field = |name: &str| {
            let name = name.to_owned();
            move |fault: String| format!("{name}: {fault}")
        };
        let resource_type = ResourceType::parse(&request.resource_type).map_err(field("request.resourceType"))?;
        let quotas = self
            .quotas
            .iter()
            .enumerate()
            .map(|(index, quota)| quota.at(&resource_type, self.now).map_err(field(&format!("quotas[{index}]"))));
        Ok(Facts {
            quotas: quotas.collect::<Result<_, _>>()?,
            tier: request.tier.as_deref().map(Tier::parse).transpose().map_err(field("request.tier"))?,
            pool: request.pool.as_deref().map(PoolId::parse).transpose().map_err(field("request.pool"))?,
            request: Arc::new(Request {
                id: Uuid::nil(),
                at: self.now,
                tenant: TenantId::parse(&request.tenant_id).map_err(field("request.tenantId"))?,
                user: request.user_id.as_deref().map(UserId::parse).transpose().map_err(field("request.userId"))?,
                resource_type: resource_type.clone(),
                estimate: request.estimated_cost_usd,
                request_id: None,
                attributes: request.attributes.clone().into_iter().collect(),
            }),
        })
    }
}

impl CaseQuota {
    fn at(&self, resource_type: &ResourceType, now: DateTime<Utc>) -> Result<Quota, String> {
        let scope: Scope = self.scope.parse().map_err(|fault| format!("scope: {fault}"))?;
        scope.check_id(&self.scope_id).map_err(|fault| format!("scopeId: {fault}"))?;
        if self.limit_usd <= Money::ZERO {
            return Err("limitUsd: above 0".to_owned());
        }
        Ok(Quota {
            id: Uuid::nil(),
            key: QuotaKey {
                scope,
                scope_id: self.scope_id.as_str().into(),
                resource_type: resource_type.clone(),
                period: self.period,
            },
            window: self.period.window(now),
            limit: self.limit_usd,
            hard_limit: self.hard_limit_usd,
            spend: self.spend_usd,
            held: self.held_usd,
            previous_spend: self.previous_spend_usd,
            admitted: self.admitted,
        })
    }
}

impl Expect {
    fn differences(&self, decision: &Decision) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |field: &str, expected: String, actual: String, same: bool| {
            if !same {
                differences.push(format!("{field}: expected {expected}, got {actual}"));
            }
        };
        let denial = decision.denial();
        let actual = if matches!(decision.outcome, Outcome::Allowed) { Expected::Allow } else { Expected::Deny };
        let reason = denial.map_or("", |denial| denial.reason.as_str());
        let word = |expected| match expected {
            Expected::Allow => "allow".to_owned(),
            Expected::Deny => format!("deny ({}: {reason})", denial.map_or("", |denial| denial.code.as_str())),
        };
        let wanted = if self.decision == Expected::Allow { "allow" } else { "deny" };
        compare("decision", wanted.to_owned(), word(actual), self.decision == actual);
        if let Some(code) = &self.code {
            let actual = denial.map_or("", |denial| denial.code.as_str());
            compare("code", format!("{code:?}"), format!("{actual:?}"), code == actual);
        }
        if let Some(pattern) = &self.reason {
            compare("reason", format!("{pattern:?}"), format!("{reason:?}"), WildMatch::new(pattern).matches(reason));
        }
        if let Some(seconds) = self.retry_after {
            let actual = denial.and_then(|denial| denial.retry_after);
            compare("retryAfter", seconds.to_string(), shown(actual), actual == Some(seconds));
        }
        if let Some(index) = self.quota {
            let binding = denial.and_then(|denial| denial.binding.as_ref());
            let actual = decision.facts.quotas.iter().position(|quota| Some(quota) == binding);
            compare("quota", index.to_string(), shown(actual), actual == Some(index));
        }
        if let Some(amount) = self.at_most_usd {
            let actual = decision.at_most;
            compare("atMostUsd", amount.to_string(), shown(actual), actual == Some(amount));
        }
        differences
    }
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn failure(error: &PolicyError) -> String {
    format!("the policy failed ({}): {error}", error.kind())
}

fn money<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Money, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => Money::parse(&text).map_err(de::Error::custom),
        toml::Value::Integer(dollars) => Money::parse(&dollars.to_string()).map_err(de::Error::custom),
        other => Err(de::Error::custom(format!("an amount as text (\"2.00\"), got a {}", other.type_str()))),
    }
}

fn some_money<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Money>, D::Error> {
    money(deserializer).map(Some)
}

fn instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text.parse().map_err(de::Error::custom),
        toml::Value::Datetime(at) => at.to_string().parse().map_err(de::Error::custom),
        other => Err(de::Error::custom(format!("an instant (2026-01-04T12:00:00Z), got a {}", other.type_str()))),
    }
}
