//! Overrides: limits that hold for a time and end by themselves. Which limit holds is a function of time
//! (`QuotaRow::at`, and `copilot_internal.limit_at`); the worker only takes away what is over.

use chrono::{DateTime, Utc};

use super::audit::Change;
use super::quotas::insert_alerts;
use super::{Store, StoreError};
use crate::money::Money;
use crate::quota::{QuotaKey, TemporaryLimit};

/// What became of an override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overridden {
    /// It holds.
    Yes,
    /// There is no such quota.
    NoQuota,
    /// The quota has a hard limit below it, which holds whatever the limit is.
    AboveHardLimit(Money),
}

impl Store {
    /// Sets a temporary limit, in place of one that is there; `None` ends it. A limit below what is spent already
    /// crosses thresholds here and now.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn override_quota(
        &self,
        key: &QuotaKey,
        temporary: Option<TemporaryLimit>,
        by: Change<'_>,
    ) -> Result<Overridden, StoreError> {
        let mut transaction = self.begin_change(by).await?;
        let hard_limit: Option<Option<i64>> = sqlx::query_scalar(
            "SELECT (hard_limit_usd * 1000000000)::bigint FROM copilot_internal.cost_quotas
             WHERE scope = $1 AND scope_id = $2 AND resource_type = $3 AND period = $4 FOR UPDATE",
        )
        .bind(key.scope.as_str())
        .bind(&*key.scope_id)
        .bind(key.resource_type.as_str())
        .bind(key.period.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(hard_limit) = hard_limit.map(|nanos| nanos.map(Money::from_nanos)) else {
            return Ok(Overridden::NoQuota);
        };
        if let (Some(hard_limit), Some(temporary)) = (hard_limit, temporary)
            && hard_limit < temporary.limit
        {
            return Ok(Overridden::AboveHardLimit(hard_limit));
        }
        sqlx::query(concat!(
            "WITH written AS (
                 UPDATE copilot_internal.cost_quotas
                 SET override_limit_usd = $5::bigint * 0.000000001, override_until = $6, override_reason = $7, updated_at = $8
                 WHERE scope = $1 AND scope_id = $2 AND resource_type = $3 AND period = $4
                 RETURNING *
             ), open AS (
                 SELECT id, scope, scope_id, resource_type, period, thresholds, current_spend_usd AS spend_usd,
                        copilot_internal.limit_at(limit_usd, override_limit_usd, override_until, $8) AS limit_now,
                        copilot_internal.window_start(period, coalesce(period_start, $8)) AS window_start
                 FROM written
             )",
            insert_alerts!("(SELECT * FROM open WHERE window_start >= copilot_internal.window_start(period, $8))", "$8"),
        ))
        .bind(key.scope.as_str())
        .bind(&*key.scope_id)
        .bind(key.resource_type.as_str())
        .bind(key.period.as_str())
        .bind(temporary.map(|temporary| temporary.limit.nanos()))
        .bind(temporary.map(|temporary| temporary.until))
        .bind(temporary.and(by.reason))
        .bind(by.at)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Overridden::Yes)
    }

    /// Takes away the overrides that are over; thresholds of the limits that hold again are crossed here and now. Tells
    /// how many there were.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn end_overrides(&self, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let over: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM copilot_internal.cost_quotas WHERE override_until <= $1)")
                .bind(now)
                .fetch_one(&self.pool)
                .await?;
        if !over {
            return Ok(0);
        }
        let by = Change { actor: "worker", reason: Some("it was until then"), at: now };
        let mut transaction = self.begin_change(by).await?;
        let ended: i64 = sqlx::query_scalar(concat!(
            "WITH locked AS MATERIALIZED (
                 SELECT id FROM copilot_internal.cost_quotas
                 WHERE id = ANY (ARRAY(SELECT id FROM copilot_internal.cost_quotas WHERE override_until <= $1 LIMIT 500))
                   AND override_until <= $1
                 -- What somebody has is for the next time.
                 ORDER BY id FOR UPDATE SKIP LOCKED
             ), written AS (
                 UPDATE copilot_internal.cost_quotas
                 SET override_limit_usd = NULL, override_until = NULL, override_reason = NULL, updated_at = $1
                 WHERE id = ANY (ARRAY(SELECT id FROM locked))
                 RETURNING *
             ), open AS (
                 SELECT id, scope, scope_id, resource_type, period, thresholds, current_spend_usd AS spend_usd,
                        limit_usd AS limit_now,
                        copilot_internal.window_start(period, coalesce(period_start, $1)) AS window_start
                 FROM written
             ), alerted AS (",
            insert_alerts!("(SELECT * FROM open WHERE window_start >= copilot_internal.window_start(period, $1))", "$1"),
            ") SELECT count(*) FROM written"
        ))
        .bind(now)
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(u64::try_from(ended).unwrap_or_default())
    }
}
