//! What an outage has left: reservations that were made without asking anybody.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::ledger::{insert_alerts, its_tenant, lock_what_applies, post, quotas_that_apply, stood};
use super::{Link, StoreError, column};
use crate::money::Money;
use crate::quota::{ResourceType, TenantId, UserId};

/// A reservation that was promised while the store could not be reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Promised {
    /// The reservation's id.
    pub id: Uuid,
    /// Who is charged.
    pub tenant: TenantId,
    /// On whose behalf.
    pub user: Option<UserId>,
    /// What is bought.
    pub resource_type: ResourceType,
    /// The caller's idempotency id.
    pub request_id: Option<String>,
    /// Digest of what the caller sent.
    pub body: String,
    /// Expected cost, and what is held.
    pub estimate: Money,
    /// The request's time, in whose windows it holds.
    pub created_at: DateTime<Utc>,
    /// When the host gives it back.
    pub expires_at: DateTime<Utc>,
}

/// Whatever the quotas say: the promise was made. A request id that another host has used meanwhile stays with its
/// first reservation.
const KEEP: &str = concat!(
    "WITH s AS MATERIALIZED (
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                              $8::timestamptz[], $9::timestamptz[])
              AS s (id, tenant_id, user_id, resource_type, request_id, body, nanos, created_at, expires_at)
         WHERE NOT EXISTS (SELECT FROM copilot_internal.reservations r WHERE r.id = s.id)
     ), ",
    lock_what_applies!(),
    ", ",
    stood!("$10"),
    ", hold AS MATERIALIZED (
         SELECT a.operation AS reservation, a.quota,
                least(stood.window_start, copilot_internal.window_start(stood.period, s.created_at)) AS window_start
         FROM applies a JOIN stood ON stood.id = a.quota JOIN s ON s.id = a.operation
     ), reserved AS (
         INSERT INTO copilot_internal.reservations
             (id, tenant_id, user_id, resource_type, request_id, body, estimate_usd, held_usd, created_at, expires_at,
              quota_ids, window_starts, policy_name, policy_digest)
         SELECT s.id, s.tenant_id, s.user_id, s.resource_type,
                CASE WHEN NOT EXISTS (
                    SELECT FROM copilot_internal.reservations r
                    WHERE r.tenant_id = s.tenant_id AND r.request_id = s.request_id) THEN s.request_id END,
                s.body, s.nanos * 0.000000001, s.nanos * 0.000000001, s.created_at, s.expires_at,
                ARRAY(SELECT quota FROM hold WHERE hold.reservation = s.id ORDER BY quota),
                ARRAY(SELECT window_start FROM hold WHERE hold.reservation = s.id ORDER BY quota),
                '', ''
         FROM s
         -- Counting makes the quotas' locks come first.
         WHERE (SELECT count(*) FROM locked) >= 0
         -- Hosts that were promised the same request ids wait for each other, and do not deadlock.
         ORDER BY s.tenant_id, s.request_id
         ON CONFLICT (id) DO NOTHING
         RETURNING id
     ), charge AS MATERIALIZED (
         SELECT hold.quota AS id, hold.window_start, 0::numeric AS usd, -sum(s.nanos * 0.000000001) AS freed,
                count(*) AS operations
         FROM reserved JOIN s USING (id) JOIN hold ON hold.reservation = s.id
         GROUP BY 1, 2
     ), ",
    post!("$10"),
    " SELECT count(*) FROM reserved",
);

impl Link {
    /// Sets aside what was promised, each reservation once, in the windows of its time. No request id may be there twice.
    ///
    /// # Errors
    /// The database does not answer, or a constraint does not hold; then nothing was changed.
    pub async fn keep(&mut self, promised: &[Promised], now: DateTime<Utc>) -> Result<i64, StoreError> {
        let mut connection = self.take().await?;
        let kept = self.guard(keep(&mut connection, promised, now)).await;
        self.give_back(connection, kept)
    }
}

async fn keep(connection: &mut PgConnection, promised: &[Promised], now: DateTime<Utc>) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(KEEP)
        .bind(column(promised, |new| new.id))
        .bind(column(promised, |new| new.tenant.as_str()))
        .bind(column(promised, |new| new.user.as_ref().map(UserId::as_str)))
        .bind(column(promised, |new| new.resource_type.as_str()))
        .bind(column(promised, |new| new.request_id.as_deref()))
        .bind(column(promised, |new| new.body.as_str()))
        .bind(column(promised, |new| new.estimate.nanos()))
        .bind(column(promised, |new| new.created_at))
        .bind(column(promised, |new| new.expires_at))
        .bind(now)
        .fetch_one(connection)
        .await?)
}
