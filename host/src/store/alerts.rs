//! Alerts on their way to people: which go where, who sends them, and how that went.
//!
//! Locks: `route_alerts` takes alerts and skips those that another host has; the rest touch one delivery each. Nothing
//! here waits for a quota.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{Store, StoreError};
use crate::money::Money;

/// An alert as its row stands.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Its id.
    pub id: Uuid,
    /// `threshold`, `predicted`, `summary`.
    pub kind: String,
    /// Of which quota; the nil one for a summary.
    pub quota_id: Uuid,
    /// `tenant`, `user`, `pool`, `global`.
    pub scope: String,
    /// `acme-corp`, `acme-corp/u-42`, `eu-team`, `*`.
    pub scope_id: String,
    /// `llm`, `e2b`, …; `*` for a summary.
    pub resource_type: String,
    /// `hour`, `day`, `week`, `month`, `lifetime`.
    pub period: String,
    /// The window that it is about.
    pub window_start: DateTime<Utc>,
    /// Percent of the limit.
    pub threshold: i16,
    /// The limit that was crossed.
    pub limit: Money,
    /// Spent then.
    pub spend: Money,
    /// When it was crossed.
    pub created_at: DateTime<Utc>,
    /// What a summary tells, as JSON.
    pub detail: Option<String>,
}

/// A delivery that this host is to make.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What is told.
    pub alert: Alert,
    /// An incident that is over, not one that begins.
    pub resolves: bool,
    /// This attempt's number, from 1: whoever has a later one has the delivery.
    pub attempt: i32,
    /// When the quota was made: where a lifetime begins.
    pub quota_since: Option<DateTime<Utc>>,
    /// The incident is over as the quota stands now.
    pub is_over: bool,
}

/// How far an alert is on its way to one channel.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `slack`, `email`, `pagerduty`.
    pub channel: String,
    /// `trigger`, `resolve`.
    pub action: String,
    /// `due`, `sent`, `failed`.
    pub state: String,
    /// So far.
    pub attempts: i32,
    /// When the next attempt may be made.
    pub due_at: DateTime<Utc>,
    /// When the channel took it.
    pub sent_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// What a listing is narrowed to; `None` is everything.
#[derive(Clone, Debug, Default)]
pub struct AlertFilter {
    /// `tenant`, `user`, `pool`, `global`.
    pub scope: Option<String>,
    /// `acme-corp`, `acme-corp/u-42`, `eu-team`, `*`.
    pub scope_id: Option<String>,
    /// Only alerts with a delivery that is in this state.
    pub state: Option<String>,
    /// Not before this.
    pub since: Option<DateTime<Utc>>,
    /// At most so many, newest first.
    pub limit: i64,
}

macro_rules! alert_columns {
    () => {
        "a.id, a.kind, a.quota_id, a.scope, a.scope_id, a.resource_type, a.period, a.window_start, a.threshold,
         (a.limit_usd * 1000000000)::bigint AS limit_nanos, (a.spend_usd * 1000000000)::bigint AS spend_nanos,
         a.created_at, a.detail::text AS detail"
    };
}

/// Whether an alert `a` is over, as its quota `q` (null where it is gone) stands: its window has ended, or the limit was
/// raised.
macro_rules! is_over {
    ($now:literal) => {
        concat!(
            "(q.id IS NULL OR copilot_internal.window_start(a.period, ",
            $now,
            ") > a.window_start
              OR CASE a.kind WHEN 'predicted' THEN q.limit_usd > a.limit_usd
                             ELSE q.current_spend_usd * 100 < q.limit_usd * a.threshold END)"
        )
    };
}

fn alert(row: &PgRow) -> Result<Alert, sqlx::Error> {
    Ok(Alert {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        quota_id: row.try_get("quota_id")?,
        scope: row.try_get("scope")?,
        scope_id: row.try_get("scope_id")?,
        resource_type: row.try_get("resource_type")?,
        period: row.try_get("period")?,
        window_start: row.try_get("window_start")?,
        threshold: row.try_get("threshold")?,
        limit: Money::from_nanos(row.try_get("limit_nanos")?),
        spend: Money::from_nanos(row.try_get("spend_nanos")?),
        created_at: row.try_get("created_at")?,
        detail: row.try_get("detail")?,
    })
}

impl Store {
    /// Makes a delivery to each of `channels` for up to `most` alerts that have none yet; those from before `not_before`
    /// are stale and go nowhere. Summaries are no incidents: PagerDuty is not told. Tells how many alerts there were.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn route_alerts(
        &self,
        channels: &[&str],
        not_before: DateTime<Utc>,
        most: i64,
    ) -> Result<u64, StoreError> {
        let routed: i64 = sqlx::query_scalar(
            "WITH fresh AS MATERIALIZED (
                 SELECT id, kind, created_at FROM copilot_internal.alerts WHERE NOT routed
                 ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
             ), marked AS (
                 UPDATE copilot_internal.alerts SET routed = true WHERE id = ANY (ARRAY(SELECT id FROM fresh))
             ), made AS (
                 INSERT INTO copilot_internal.alert_deliveries (alert_id, channel, due_at)
                 SELECT fresh.id, channel, fresh.created_at FROM fresh, unnest($1::text[]) AS channel
                 WHERE fresh.created_at >= $2 AND NOT (fresh.kind = 'summary' AND channel = 'pagerduty')
                 ON CONFLICT DO NOTHING
             ) SELECT count(*) FROM fresh",
        )
        .bind(channels)
        .bind(not_before)
        .bind(most)
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(routed).unwrap_or_default())
    }

    /// Takes the delivery to `channel` that is due first, until `lease_until`; nobody else has it before then.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn claim_delivery(
        &self,
        channel: &str,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
    ) -> Result<Option<Claimed>, StoreError> {
        let row = sqlx::query(concat!(
            "WITH next AS MATERIALIZED (
                 SELECT alert_id FROM copilot_internal.alert_deliveries
                 WHERE channel = $1 AND state = 'due' AND due_at <= $2
                 ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
             ), claimed AS (
                 UPDATE copilot_internal.alert_deliveries SET attempts = attempts + 1, due_at = $3
                 WHERE channel = $1 AND alert_id = ANY (ARRAY(SELECT alert_id FROM next))
                 RETURNING alert_id, action, attempts
             ) SELECT ",
            alert_columns!(),
            ", claimed.action = 'resolve' AS resolves, claimed.attempts, q.created_at AS quota_since, ",
            is_over!("$2"),
            " AS is_over
              FROM claimed JOIN copilot_internal.alerts a ON a.id = claimed.alert_id
              LEFT JOIN copilot_internal.cost_quotas q ON q.id = a.quota_id"
        ))
        .bind(channel)
        .bind(now)
        .bind(lease_until)
        .fetch_optional(&self.pool)
        .await?;
        let claimed = row.map(|row| {
            Ok::<_, sqlx::Error>(Claimed {
                alert: alert(&row)?,
                resolves: row.try_get("resolves")?,
                attempt: row.try_get("attempts")?,
                quota_since: row.try_get("quota_since")?,
                is_over: row.try_get("is_over")?,
            })
        });
        Ok(claimed.transpose()?)
    }

    /// The channel has taken it.
    ///
    /// # Errors
    /// The database does not answer; then it is sent again when the lease is over.
    pub async fn delivered(&self, claimed: &Claimed, channel: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE copilot_internal.alert_deliveries SET state = 'sent', sent_at = $4, last_error = NULL
             WHERE alert_id = $1 AND channel = $2 AND state = 'due' AND attempts = $3",
        )
        .bind(claimed.alert.id)
        .bind(channel)
        .bind(claimed.attempt)
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The attempt failed: the next one is due at `again_at`, or never.
    ///
    /// # Errors
    /// The database does not answer; then it is due when the lease is over.
    pub async fn not_delivered(
        &self,
        claimed: &Claimed,
        channel: &str,
        again_at: Option<DateTime<Utc>>,
        error: &str,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE copilot_internal.alert_deliveries
             SET last_error = $5, due_at = coalesce($4, due_at), state = CASE WHEN $4 IS NULL THEN 'failed' ELSE 'due' END
             WHERE alert_id = $1 AND channel = $2 AND state = 'due' AND attempts = $3",
        )
        .bind(claimed.alert.id)
        .bind(channel)
        .bind(claimed.attempt)
        .bind(again_at)
        .bind(error)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// An incident that was to be resolved has begun again: it stays open.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn keep_open(&self, claimed: &Claimed, channel: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE copilot_internal.alert_deliveries SET action = 'trigger', state = 'sent'
             WHERE alert_id = $1 AND channel = $2 AND action = 'resolve' AND state = 'due' AND attempts = $3",
        )
        .bind(claimed.alert.id)
        .bind(channel)
        .bind(claimed.attempt)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Makes a resolution due for up to `most` incidents that PagerDuty has and that are over; tells how many there were.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn close_incidents(&self, now: DateTime<Utc>, most: i64) -> Result<u64, StoreError> {
        let closed = sqlx::query(concat!(
            "UPDATE copilot_internal.alert_deliveries
             SET action = 'resolve', state = 'due', attempts = 0, due_at = $1, sent_at = NULL, last_error = NULL
             WHERE channel = 'pagerduty' AND action = 'trigger' AND state = 'sent' AND alert_id = ANY (ARRAY(
                 SELECT d.alert_id FROM copilot_internal.alert_deliveries d
                 JOIN copilot_internal.alerts a ON a.id = d.alert_id
                 LEFT JOIN copilot_internal.cost_quotas q ON q.id = a.quota_id
                 WHERE d.channel = 'pagerduty' AND d.action = 'trigger' AND d.state = 'sent' AND ",
            is_over!("$1"),
            " LIMIT $2))"
        ))
        .bind(now)
        .bind(most)
        .execute(&self.pool)
        .await?;
        Ok(closed.rows_affected())
    }

    /// The alerts that match, newest first, with their deliveries.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn alerts(&self, filter: &AlertFilter) -> Result<Vec<(Alert, Vec<Delivery>)>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            alert_columns!(),
            ", d.channel, d.action, d.state, d.attempts, d.due_at, d.sent_at, d.last_error
              FROM (
                 SELECT * FROM copilot_internal.alerts
                 WHERE ($1::text IS NULL OR scope = $1) AND ($2::text IS NULL OR scope_id = $2)
                   AND ($3::timestamptz IS NULL OR created_at >= $3)
                   AND ($4::text IS NULL OR EXISTS (
                       SELECT FROM copilot_internal.alert_deliveries WHERE alert_id = alerts.id AND state = $4))
                 ORDER BY created_at DESC, id DESC LIMIT $5
              ) AS a LEFT JOIN copilot_internal.alert_deliveries d ON d.alert_id = a.id
              ORDER BY a.created_at DESC, a.id DESC, d.channel"
        ))
        .bind(&filter.scope)
        .bind(&filter.scope_id)
        .bind(filter.since)
        .bind(&filter.state)
        .bind(filter.limit)
        .fetch_all(&self.pool)
        .await?;
        let mut alerts: Vec<(Alert, Vec<Delivery>)> = Vec::new();
        for row in &rows {
            let next = alert(row)?;
            if alerts.last().is_none_or(|(last, _)| last.id != next.id) {
                alerts.push((next, Vec::new()));
            }
            let Some((_, deliveries)) = alerts.last_mut() else { continue };
            if let Some(channel) = row.try_get("channel")? {
                deliveries.push(Delivery {
                    channel,
                    action: row.try_get("action")?,
                    state: row.try_get("state")?,
                    attempts: row.try_get("attempts")?,
                    due_at: row.try_get("due_at")?,
                    sent_at: row.try_get("sent_at")?,
                    last_error: row.try_get("last_error")?,
                });
            }
        }
        Ok(alerts)
    }
}
