//! What becomes due, and what is due no more.

use chrono::{DateTime, Utc};

use super::{at_most_now, is_over, oldest_news};
use crate::store::{Store, StoreError};

impl Store {
    /// Makes a delivery to each of `channels` for up to `most` alerts that have none yet; those that are older than a day are
    /// stale and go nowhere. Summaries are no incidents: PagerDuty is not told. Tells how many alerts there were.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn route_alerts(&self, channels: &[&str], now: DateTime<Utc>, most: i64) -> Result<u64, StoreError> {
        let routed: i64 = sqlx::query_scalar(concat!(
            "WITH fresh AS MATERIALIZED (
                 -- The newest first: nobody waits for what has come long before a channel was used.
                 SELECT id, kind, created_at FROM copilot_internal.alerts WHERE NOT routed
                 ORDER BY created_at DESC LIMIT $3 FOR UPDATE SKIP LOCKED
             ), marked AS (
                 UPDATE copilot_internal.alerts SET routed = true WHERE id = ANY (ARRAY(SELECT id FROM fresh))
             ), made AS (
                 INSERT INTO copilot_internal.alert_deliveries (alert_id, channel, due_at)
                 SELECT fresh.id, channel, ",
            at_most_now!("fresh.created_at"),
            " FROM fresh, unnest($1::text[]) AS channel
                 WHERE NOT (fresh.kind = 'summary' AND channel = 'pagerduty') AND fresh.created_at >= ",
            at_most_now!("$2"),
            " - interval '24 hours'
                 ON CONFLICT DO NOTHING
             ) SELECT count(*) FROM fresh",
        ))
        .bind(channels)
        .bind(now)
        .bind(most)
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(routed).unwrap_or_default())
    }

    /// Makes a resolution due for up to `most` incidents that PagerDuty has and that are over; tells how many there were.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn close_incidents(&self, now: DateTime<Utc>, most: i64) -> Result<u64, StoreError> {
        let closed = sqlx::query(concat!(
            "UPDATE copilot_internal.alert_deliveries
             SET action = 'resolve', state = 'due', attempts = 0, sent_at = NULL, last_error = NULL, due_at = ",
            at_most_now!("$1"),
            " WHERE channel = 'pagerduty' AND action = 'trigger' AND state = 'sent' AND alert_id = ANY (ARRAY(
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

    /// Gives up the deliveries, at most `most` of them, whose alert is no news any more, and those of an incident's end that
    /// have been due for so long; tells their channels.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn give_up_deliveries(&self, now: DateTime<Utc>, most: i64) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(concat!(
            "UPDATE copilot_internal.alert_deliveries
             SET state = 'failed', last_error = coalesce(last_error || '; ', '') || 'given up after a day'
             WHERE ctid = ANY (ARRAY(
                 SELECT d.ctid FROM copilot_internal.alert_deliveries d
                 JOIN copilot_internal.alerts a ON a.id = d.alert_id
                 WHERE d.state = 'due' AND CASE d.action WHEN 'resolve' THEN d.due_at ELSE a.created_at END < ",
            oldest_news!("$1"),
            "    LIMIT $2 FOR UPDATE OF d SKIP LOCKED))
             RETURNING channel",
        ))
        .bind(now)
        .bind(most)
        .fetch_all(&self.pool)
        .await?)
    }
}
