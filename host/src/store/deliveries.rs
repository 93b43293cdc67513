//! Alerts on their way to people: which go where, who sends them, and how that went.
//!
//! Locks: `route_alerts` takes alerts and skips those that another host has; the rest touch one delivery each. Nothing
//! here waits for a quota.

mod routing;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row as _;

use super::alerts::{Alert, alert, alert_columns};
use super::{Store, StoreError};

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
    /// It is not too late to tell of it.
    pub is_news: bool,
}

/// Whether an alert `a` is over, as its quota `q` (null where it is gone) stands: its window has ended, or the limit that
/// holds now was raised.
macro_rules! is_over {
    ($now:literal) => {
        concat!(
            "(SELECT q.id IS NULL OR copilot_internal.window_start(a.period, ",
            $now,
            ") > a.window_start
                  OR CASE a.kind WHEN 'predicted' THEN limit_now > a.limit_usd
                                 ELSE q.current_spend_usd * 100 < limit_now * a.threshold END
              FROM copilot_internal.limit_at(q.limit_usd, q.override_limit_usd, q.override_until, ",
            $now,
            ") AS limit_now)"
        )
    };
}

/// By no clock that is ahead of the database's: it would swallow what other hosts tell, or put it off for years.
macro_rules! at_most_now {
    ($now:literal) => {
        concat!("least(", $now, ", now())")
    };
}

/// An alert from before this could not be told in time.
macro_rules! oldest_news {
    ($now:literal) => {
        concat!(at_most_now!($now), " - interval '25 hours'")
    };
}

use {at_most_now, is_over, oldest_news};

impl Store {
    /// Takes the delivery to `channel` that is due first, for the time of `lease`; nobody else has it before then.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn claim_delivery(
        &self,
        channel: &str,
        now: DateTime<Utc>,
        lease: TimeDelta,
    ) -> Result<Option<Claimed>, StoreError> {
        let row = sqlx::query(concat!(
            "WITH next AS MATERIALIZED (
                 SELECT alert_id FROM copilot_internal.alert_deliveries
                 WHERE channel = $1 AND state = 'due' AND due_at <= ",
            at_most_now!("$2"),
            "    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
             ), claimed AS (
                 UPDATE copilot_internal.alert_deliveries
                 SET attempts = attempts + 1, due_at = ",
            at_most_now!("$2"),
            " + $3::bigint * interval '1 second'
                 WHERE channel = $1 AND alert_id = ANY (ARRAY(SELECT alert_id FROM next))
                 RETURNING alert_id, action, attempts
             ) SELECT ",
            alert_columns!(),
            ", claimed.action = 'resolve' AS resolves, claimed.attempts, q.created_at AS quota_since, ",
            is_over!("$2"),
            " AS is_over, a.created_at >= ",
            oldest_news!("$2"),
            " AS is_news
              FROM claimed JOIN copilot_internal.alerts a ON a.id = claimed.alert_id
              LEFT JOIN copilot_internal.cost_quotas q ON q.id = a.quota_id"
        ))
        .bind(channel)
        .bind(now)
        .bind(seconds(lease))
        .fetch_optional(&self.pool)
        .await?;
        let claimed = row.map(|row| {
            Ok::<_, sqlx::Error>(Claimed {
                alert: alert(&row)?,
                resolves: row.try_get("resolves")?,
                attempt: row.try_get("attempts")?,
                quota_since: row.try_get("quota_since")?,
                is_over: row.try_get("is_over")?,
                is_news: row.try_get("is_news")?,
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

    /// The attempt failed: the next one is due after a pause, or never.
    ///
    /// # Errors
    /// The database does not answer; then it is due when the lease is over.
    pub async fn not_delivered(
        &self,
        claimed: &Claimed,
        channel: &str,
        now: DateTime<Utc>,
        again_in: Option<TimeDelta>,
        error: &str,
    ) -> Result<(), StoreError> {
        sqlx::query(concat!(
            "UPDATE copilot_internal.alert_deliveries
             SET last_error = $5, state = CASE WHEN $4 IS NULL THEN 'failed' ELSE 'due' END,
                 due_at = coalesce(",
            at_most_now!("$6"),
            " + $4::bigint * interval '1 second', due_at)
             WHERE alert_id = $1 AND channel = $2 AND state = 'due' AND attempts = $3",
        ))
        .bind(claimed.alert.id)
        .bind(channel)
        .bind(claimed.attempt)
        .bind(again_in.map(seconds))
        .bind(error)
        .bind(now)
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
}

/// Whole seconds, as the statements take them.
fn seconds(pause: TimeDelta) -> i64 {
    pause.num_seconds()
}
