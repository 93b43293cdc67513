//! Which reservations hold money though their time is over.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{End, Ending};
use crate::quota::TenantId;
use crate::store::{Store, StoreError, column};

impl Store {
    /// Reservations that are held though their time is over, the oldest first; but for those of some tenants.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn due(&self, now: DateTime<Utc>, most: i64, but: &[TenantId]) -> Result<Vec<Ending>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, tenant_id FROM copilot_internal.reservations
             WHERE state = 'held' AND expires_at <= $1 AND tenant_id <> ALL ($3) ORDER BY expires_at LIMIT $2",
        )
        .bind(now)
        .bind(most)
        .bind(column(but, TenantId::as_str))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| expiring(row, now)).collect()
    }

    /// As [`Store::due`], of those that one of `quotas` holds.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn due_of(&self, quotas: &[Uuid], now: DateTime<Utc>, most: i64) -> Result<Vec<Ending>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, tenant_id FROM copilot_internal.reservations
             WHERE state = 'held' AND expires_at <= $1 AND quota_ids && $3 ORDER BY expires_at LIMIT $2",
        )
        .bind(now)
        .bind(most)
        .bind(quotas)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| expiring(row, now)).collect()
    }

    /// For each of `quotas` of which reservations hold money in its window that starts then: when the first of them expires.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn first_expiries(
        &self,
        quotas: &[(Uuid, DateTime<Utc>)],
    ) -> Result<Vec<(Uuid, DateTime<Utc>)>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT q.id, first.expires_at
             FROM unnest($1::uuid[], $2::timestamptz[]) AS q (id, window_start), LATERAL (
                 SELECT r.expires_at FROM copilot_internal.reservations r
                 WHERE r.state = 'held' AND r.quota_ids @> ARRAY[q.id]
                   AND (q.id, q.window_start) IN (SELECT * FROM unnest(r.quota_ids, r.window_starts))
                 ORDER BY r.expires_at LIMIT 1
             ) AS first",
        )
        .bind(column(quotas, |(id, _)| *id))
        .bind(column(quotas, |(_, start)| *start))
        .fetch_all(&self.pool)
        .await?)
    }
}

fn expiring(row: &PgRow, at: DateTime<Utc>) -> Result<Ending, StoreError> {
    let tenant = TenantId::parse(row.try_get(1)?).map_err(|fault| sqlx::Error::Decode(fault.into()))?;
    Ok(Ending { id: row.try_get(0)?, tenant, end: End::Expire, at })
}
