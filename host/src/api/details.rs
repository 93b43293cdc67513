//! How a quota stands, as answers show it.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::decimal::Decimal;
use crate::money::Money;
use crate::period::Period;
use crate::quota::{Quota, ResourceType, Scope};

/// `quotaDetails`: one quota in its open window.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaDetails<'a> {
    scope: Scope,
    scope_id: &'a str,
    resource_type: &'a ResourceType,
    limit_usd: Money,
    current_spend_usd: Money,
    held_usd: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_cost_usd: Option<Money>,
    remaining_usd: Money,
    period: Period,
    utilization_percent: Percent,
    resets_at: Option<Instant>,
}

impl<'a> QuotaDetails<'a> {
    /// `estimate` is the request's, where there is one.
    pub fn new(quota: &'a Quota, estimate: Option<Money>) -> Self {
        Self {
            scope: quota.key.scope,
            scope_id: &quota.key.scope_id,
            resource_type: &quota.key.resource_type,
            limit_usd: quota.limit,
            current_spend_usd: quota.spend,
            held_usd: quota.held,
            estimated_cost_usd: estimate,
            remaining_usd: quota.remaining(),
            period: quota.key.period,
            utilization_percent: Percent(quota.utilization_permille()),
            resets_at: quota.window.end.map(Instant),
        }
    }
}

/// Tenths of a percent as a JSON number with one decimal: `97.0`.
pub struct Percent(pub i64);

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Decimal::of(self.0, 1, 1).serialize(serializer)
    }
}

/// `2026-01-05T00:00:00Z`, with milliseconds only where there are some.
pub struct Instant(pub DateTime<Utc>);

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}
