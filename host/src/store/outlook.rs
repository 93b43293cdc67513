//! Alerts that no posting writes: what will happen at this rate, and what a week or month came to.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::{Store, StoreError};
use crate::period::Period;

/// What a summary tells: everybody's spend in nano-dollars, that of the window before, and who spent most.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spent {
    /// In the window.
    pub nanos: i64,
    /// In the one before.
    pub before_nanos: i64,
    /// The tenants with the highest spend, highest first.
    pub most: Vec<SpentBy>,
}

/// One tenant's spend on one resource.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpentBy {
    /// The tenant.
    pub scope_id: String,
    /// On what.
    pub resource_type: String,
    /// In the window.
    pub nanos: i64,
    /// In the one before.
    pub before_nanos: i64,
}

impl Spent {
    /// Reads an alert's detail.
    pub fn read(detail: &str) -> Option<Self> {
        serde_json::from_str(detail).ok()
    }
}

/// Periods that fit into a week or month without a rest, so that their windows add up to it.
fn parts(period: Period) -> &'static [&'static str] {
    if period == Period::Week { &["hour", "day", "week"] } else { &["hour", "day", "month"] }
}

impl Store {
    /// Writes an alert for each quota whose limit, as it holds now, ends before its window at the rate so far: once a tenth of the window is
    /// over, and once for each quota, window and limit. Tells how many are new.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn predict(&self, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let predicted = sqlx::query(
            "INSERT INTO copilot_internal.alerts
                 (quota_id, scope, scope_id, resource_type, period, window_start, kind, threshold, limit_usd, spend_usd, created_at)
             SELECT q.id, q.scope, q.scope_id, q.resource_type, q.period, window_start, 'predicted', 100, limit_now,
                    q.current_spend_usd, $1
             FROM copilot_internal.cost_quotas q,
                  LATERAL (SELECT copilot_internal.window_start(q.period, $1) AS window_start) AS w,
                  copilot_internal.limit_at(q.limit_usd, q.override_limit_usd, q.override_until, $1) AS limit_now,
                  LATERAL (SELECT extract(epoch FROM $1 - window_start) AS over,
                                  extract(epoch FROM window_start + ('1 ' || q.period)::interval - window_start) AS whole) AS t
             WHERE q.period <> 'lifetime' AND coalesce(q.period_start, $1) >= window_start
               AND q.current_spend_usd > 0 AND q.current_spend_usd < limit_now
               AND over * 10 >= whole AND q.current_spend_usd * whole > limit_now * over
             ORDER BY q.id
             ON CONFLICT ON CONSTRAINT alerts_once_per_crossing DO NOTHING",
        )
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(predicted.rows_affected())
    }

    /// Writes what tenants spent between the second and the third of `instants`, and between the first and the second to
    /// compare with, once. A tenant's spend on a resource is that of its quotas; where it has several, of the one that
    /// counted most. Tells whether it is new.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn summarize(
        &self,
        period: Period,
        [before, start, end]: [DateTime<Utc>; 3],
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let summed = sqlx::query(
            "WITH by_period AS (
                 SELECT scope_id, resource_type, coalesce(sum(spend_usd) FILTER (WHERE window_start >= $3), 0) AS usd,
                        coalesce(sum(spend_usd) FILTER (WHERE window_start < $3), 0) AS before_usd
                 FROM copilot_internal.cost_quota_periods
                 WHERE scope = 'tenant' AND period = ANY ($1) AND window_start >= $2 AND window_start < $4
                 GROUP BY scope_id, resource_type, period
             ), spent AS (
                 SELECT scope_id, resource_type, max(usd) AS usd, max(before_usd) AS before_usd
                 FROM by_period GROUP BY scope_id, resource_type
             ), most AS (
                 SELECT * FROM spent WHERE usd > 0 ORDER BY usd DESC, scope_id, resource_type LIMIT 10
             )
             INSERT INTO copilot_internal.alerts
                 (quota_id, scope, scope_id, resource_type, period, window_start, kind, threshold, limit_usd, spend_usd, created_at, detail)
             SELECT $5, 'global', '*', '*', $6, $3, 'summary', 0, 0, least(total.usd, 9223372036), $7, json_build_object(
                 'nanos', (least(total.usd, 9223372036) * 1000000000)::bigint, 'beforeNanos', (least(total.before_usd, 9223372036) * 1000000000)::bigint,
                 'most', (SELECT coalesce(json_agg(json_build_object(
                     'scopeId', scope_id, 'resourceType', resource_type, 'nanos', (least(usd, 9223372036) * 1000000000)::bigint,
                     'beforeNanos', (least(before_usd, 9223372036) * 1000000000)::bigint) ORDER BY usd DESC, scope_id, resource_type), '[]') FROM most))
             FROM (SELECT coalesce(sum(usd), 0) AS usd, coalesce(sum(before_usd), 0) AS before_usd FROM spent) AS total
             WHERE NOT EXISTS (
                 SELECT FROM copilot_internal.alerts WHERE quota_id = $5 AND window_start = $3 AND kind = 'summary' AND period = $6)
               AND NOT EXISTS (
                 SELECT FROM copilot_internal.cost_quotas
                 WHERE period = ANY ($1) AND period_start < copilot_internal.window_start(period, $4))
             ON CONFLICT ON CONSTRAINT alerts_once_per_crossing DO NOTHING",
        )
        .bind(parts(period))
        .bind(before)
        .bind(start)
        .bind(end)
        .bind(Uuid::nil())
        .bind(period.as_str())
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(summed.rows_affected() == 1)
    }
}
