//! Alerts as an administrator sees them: what was crossed, and how far its messages are.

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

pub(super) use alert_columns;

/// Reads [`alert_columns`].
pub(super) fn alert(row: &PgRow) -> Result<Alert, sqlx::Error> {
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
        .fetch_all(&self.readers)
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
