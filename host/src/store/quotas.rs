//! Quotas as an administrator sees and sets them.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::audit::Change;
use super::ledger::{post, stood};
use super::subjects::{newest_closed, quota_columns, quota_row};
use super::{Store, StoreError};
use crate::money::Money;
use crate::quota::{QuotaKey, QuotaRow};

/// What an administrator may set.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaRule {
    /// May be spent in a window; above 0.
    pub limit: Money,
    /// A ceiling that the host enforces; above 0.
    pub hard_limit: Option<Money>,
    /// Percents of the limit at which an alert is due; `None` leaves them, or takes 80, 90, 100 for a new quota.
    pub thresholds: Option<Vec<i16>>,
}

/// A quota with its thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedQuota {
    /// The row.
    pub row: QuotaRow,
    /// Percents of the limit, ascending.
    pub thresholds: Vec<i16>,
    /// Why the row's temporary limit is there.
    pub override_reason: Option<String>,
}

/// What a listing is narrowed to; `None` is everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuotaFilter<'a> {
    /// `tenant`, `user`, `pool`, `global`.
    pub scope: Option<&'a str>,
    /// `acme-corp`, `acme-corp/u-42`, `eu-team`, `*`.
    pub scope_id: Option<&'a str>,
    /// `llm`, `e2b`, …
    pub resource_type: Option<&'a str>,
}

/// Alert rows for the quotas `q` (id, window, spend and limit as they are after the statement) that stand at or above a
/// threshold: the unique constraint makes each of them once.
macro_rules! insert_alerts {
    ($quotas:literal, $now:literal) => {
        concat!(
            "INSERT INTO copilot_internal.alerts
                 (quota_id, scope, scope_id, resource_type, period, window_start, threshold, limit_usd, spend_usd, created_at)
             SELECT q.id, q.scope, q.scope_id, q.resource_type, q.period, q.window_start, threshold, q.limit_now, q.spend_usd, ",
            $now,
            " FROM ",
            $quotas,
            " AS q, unnest(q.thresholds) AS threshold
             WHERE q.spend_usd * 100 >= q.limit_now * threshold
             ORDER BY q.id, threshold
             ON CONFLICT ON CONSTRAINT alerts_once_per_crossing DO NOTHING"
        )
    };
}
pub(super) use insert_alerts;

impl Store {
    /// The quotas that match, by key.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn quotas(&self, filter: QuotaFilter<'_>) -> Result<Vec<ListedQuota>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT ARRAY(SELECT unnest(q.thresholds)), q.override_reason, ",
            quota_columns!(),
            " FROM copilot_internal.cost_quotas q ",
            newest_closed!(),
            " WHERE ($1::text IS NULL OR q.scope = $1) AND ($2::text IS NULL OR q.scope_id = $2)
                AND ($3::text IS NULL OR q.resource_type = $3)",
        ))
        .bind(filter.scope)
        .bind(filter.scope_id)
        .bind(filter.resource_type)
        .fetch_all(&self.readers)
        .await?;
        let mut quotas = rows
            .iter()
            .map(|row| {
                Ok(ListedQuota {
                    thresholds: row.try_get(0)?,
                    override_reason: row.try_get(1)?,
                    row: quota_row(row, 2)?,
                })
            })
            .collect::<Result<Vec<_>, sqlx::Error>>()?;
        quotas.sort_by(|a, b| a.row.key.cmp(&b.row.key));
        Ok(quotas)
    }

    /// Creates the quota or changes its rule; spend and holds stay. A limit below what is spent already crosses
    /// thresholds here and now. Tells whether the quota is new.
    ///
    /// # Errors
    /// The database does not answer, or the rule breaks a constraint.
    pub async fn set_quota(&self, key: &QuotaKey, rule: &QuotaRule, by: Change<'_>) -> Result<bool, StoreError> {
        let mut transaction = self.begin_change(by).await?;
        let is_new = write_rule(&mut transaction, key, rule, by.at).await?;
        transaction.commit().await?;
        Ok(is_new)
    }

    /// Brings up to `most` rows to the window that is open now whose own one is over; tells how many there were.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn roll_over(&self, now: DateTime<Utc>, most: i64) -> Result<u64, StoreError> {
        let rolled: i64 = sqlx::query_scalar(concat!(
            "WITH locked AS MATERIALIZED (
                 SELECT * FROM copilot_internal.cost_quotas q
                 WHERE q.id = ANY (ARRAY(
                     SELECT id FROM copilot_internal.cost_quotas
                     WHERE period_start < copilot_internal.window_start('hour', $1)
                       AND period_start < copilot_internal.window_start(period, $1)
                     LIMIT $2))
                 -- What somebody has is for the next time.
                 ORDER BY q.id FOR UPDATE SKIP LOCKED
             ), ",
            stood!("$1"),
            ", charge AS (
                 SELECT id, window_start, 0::numeric AS usd, 0::numeric AS freed, 0::bigint AS operations FROM stood WHERE false
             ), ",
            post!("$1"),
            " SELECT count(*) FROM stood WHERE was < window_start"
        ))
        .bind(now)
        .bind(most)
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(rolled).unwrap_or_default())
    }

    /// Deletes the quota; its windows that are over stay in the books. Tells whether there was one.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete_quota(&self, key: &QuotaKey, by: Change<'_>) -> Result<bool, StoreError> {
        let mut transaction = self.begin_change(by).await?;
        let deleted = delete(&mut transaction, key, by.at).await?;
        transaction.commit().await?;
        Ok(deleted)
    }
}

/// Deletes the quota; a window of it that is over keeps its total. Tells whether it was there.
pub(super) async fn delete(
    connection: &mut PgConnection,
    key: &QuotaKey,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let deleted: i64 = sqlx::query_scalar(
        "WITH gone AS (
             DELETE FROM copilot_internal.cost_quotas
             WHERE scope = $1 AND scope_id = $2 AND resource_type = $3 AND period = $4
             RETURNING *, copilot_internal.window_start(period, coalesce(period_start, $5)) AS window_start
         ), closed AS (
             INSERT INTO copilot_internal.cost_quota_periods AS p
                 (quota_id, window_start, scope, scope_id, resource_type, period, limit_usd, spend_usd, held_usd, admitted_count)
             SELECT id, window_start, scope, scope_id, resource_type, period, limit_usd, current_spend_usd, held_usd, admitted_count
             FROM gone WHERE window_start < copilot_internal.window_start(period, $5)
             ON CONFLICT (quota_id, window_start) DO UPDATE
             SET spend_usd = least(p.spend_usd + excluded.spend_usd, 1000000000),
                 held_usd = least(p.held_usd + excluded.held_usd, 1000000000),
                 admitted_count = p.admitted_count + excluded.admitted_count
         )
         SELECT count(*) FROM gone",
    )
    .bind(key.scope.as_str())
    .bind(&*key.scope_id)
    .bind(key.resource_type.as_str())
    .bind(key.period.as_str())
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(deleted == 1)
}

/// Creates the quota or changes its rule; tells whether it is new.
pub(super) async fn write_rule(
    connection: &mut PgConnection,
    key: &QuotaKey,
    rule: &QuotaRule,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let row = sqlx::query(concat!(
        "WITH written AS (
             INSERT INTO copilot_internal.cost_quotas AS q
                 (scope, scope_id, resource_type, period, limit_usd, hard_limit_usd, thresholds, period_start, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5::bigint * 0.000000001, $6::bigint * 0.000000001, coalesce($7, '{80,90,100}'),
                     copilot_internal.window_start($4, $8), $8, $8)
             ON CONFLICT ON CONSTRAINT cost_quotas_one_per_rule DO UPDATE
             SET limit_usd = excluded.limit_usd, hard_limit_usd = excluded.hard_limit_usd,
                 thresholds = coalesce($7, q.thresholds), updated_at = $8
             RETURNING q.*, q.xmax = 0 AS is_new
         ), open AS (
             SELECT id, scope, scope_id, resource_type, period, thresholds, current_spend_usd AS spend_usd,
                    copilot_internal.limit_at(limit_usd, override_limit_usd, override_until, $8) AS limit_now,
                    copilot_internal.window_start(period, coalesce(period_start, $8)) AS window_start
             FROM written
         ), alerted AS (",
        insert_alerts!("(SELECT * FROM open WHERE window_start >= copilot_internal.window_start(period, $8))", "$8"),
        ") SELECT is_new FROM written",
    ))
    .bind(key.scope.as_str())
    .bind(&*key.scope_id)
    .bind(key.resource_type.as_str())
    .bind(key.period.as_str())
    .bind(rule.limit.nanos())
    .bind(rule.hard_limit.map(Money::nanos))
    .bind(rule.thresholds.as_deref())
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(row.try_get(0)?)
}
