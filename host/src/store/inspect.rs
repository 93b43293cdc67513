//! What operators look at: how the database is set up, and how tenants stand. Reads only.

mod setup;

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::{Store, StoreError};
use crate::money::Money;
use crate::quota::TenantId;

pub use self::setup::{Setup, inspect};

/// What limits a tenant's spending on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cover {
    /// Nothing: it is unlimited.
    Nothing,
    /// A quota that it shares with others, of its pool or of everybody.
    Shared,
    /// A quota of its own.
    Own,
}

/// A tenant that has a row, a quota, or a decision in the last week of the log.
#[derive(Clone, Debug)]
pub struct KnownTenant {
    /// Who.
    pub tenant_id: String,
    /// Picks the policy.
    pub tier: Option<String>,
    /// Shared with other tenants.
    pub pool: Option<String>,
    /// Model calls.
    pub llm: Cover,
    /// Sandboxes.
    pub e2b: Cover,
}

/// What a tenant has under way and what has crossed.
#[derive(Clone, Debug, FromRow)]
pub struct TenantActivity {
    /// Reservations that hold money.
    pub reservations: i64,
    /// What they hold, in nano-dollars.
    pub held_nanos: i64,
    /// Recorded in the last 30 days, in nano-dollars.
    pub month_nanos: i64,
    /// It has ever recorded a cost without a reservation.
    pub has_costs: bool,
    /// When it was decided about last; allowed checks are stored up to a rate.
    pub last_decision: Option<DateTime<Utc>>,
    /// When a threshold was crossed last.
    pub last_alert: Option<DateTime<Utc>>,
}

impl TenantActivity {
    /// What the reservations hold.
    pub fn held(&self) -> Money {
        Money::from_nanos(self.held_nanos)
    }

    /// Recorded in the last 30 days.
    pub fn month(&self) -> Money {
        Money::from_nanos(self.month_nanos)
    }
}

impl Store {
    /// Every tenant that anything is known of, by id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn known_tenants(&self, now: DateTime<Utc>) -> Result<Vec<KnownTenant>, StoreError> {
        type Row = (String, Option<String>, Option<String>, i32, i32);
        // Recorded costs and the decision log are read from tenant to tenant by an index, never as a whole; of the log its
        // last week only, since each step asks every day. A row of a clock that was ahead does not say when that is.
        let rows: Vec<Row> = sqlx::query_as(
            "WITH RECURSIVE recent (since) AS (
                 SELECT max(decided_at) - interval '7 days' FROM copilot_internal.decisions WHERE decided_at <= $1
             ), seen AS (
                 (SELECT tenant_id FROM copilot_internal.decisions WHERE decided_at >= (SELECT since FROM recent)
                  ORDER BY tenant_id LIMIT 1)
                 UNION ALL
                 SELECT (SELECT d.tenant_id FROM copilot_internal.decisions d
                         WHERE d.tenant_id > seen.tenant_id AND d.decided_at >= (SELECT since FROM recent)
                         ORDER BY d.tenant_id LIMIT 1)
                 FROM seen WHERE seen.tenant_id IS NOT NULL
             ), spending AS (
                 (SELECT tenant_id FROM copilot_internal.cost_records ORDER BY tenant_id LIMIT 1)
                 UNION ALL
                 SELECT (SELECT c.tenant_id FROM copilot_internal.cost_records c WHERE c.tenant_id > spending.tenant_id
                         ORDER BY c.tenant_id LIMIT 1)
                 FROM spending WHERE spending.tenant_id IS NOT NULL
             ), known AS (
                 SELECT tenant_id FROM copilot_internal.tenants
                 UNION SELECT scope_id FROM copilot_internal.cost_quotas WHERE scope = 'tenant'
                 UNION SELECT regexp_replace(scope_id, '/[^/]*$', '') FROM copilot_internal.cost_quotas WHERE scope = 'user'
                 UNION SELECT tenant_id FROM seen WHERE tenant_id IS NOT NULL
                 UNION SELECT tenant_id FROM spending WHERE tenant_id IS NOT NULL
                     AND NOT EXISTS (SELECT FROM copilot_internal.tenants t WHERE t.tenant_id = spending.tenant_id)
                     -- In the last week; who has recorded a thousand is not read to the end for it.
                     AND (SELECT count(*) = 1000 OR max(costs.recorded_at) >= $1 - interval '7 days'
                          FROM (SELECT recorded_at FROM copilot_internal.cost_records c
                                WHERE c.tenant_id = spending.tenant_id LIMIT 1000) AS costs)
             )
             SELECT known.tenant_id, t.tier, t.pool, llm.cover, e2b.cover
             FROM known LEFT JOIN copilot_internal.tenants t USING (tenant_id)
             CROSS JOIN LATERAL (
                 SELECT coalesce(max(CASE q.scope WHEN 'tenant' THEN 2 ELSE 1 END), 0) FROM copilot_internal.cost_quotas q
                 WHERE q.resource_type = 'llm' AND (q.scope, q.scope_id) IN (('tenant', known.tenant_id), ('pool', t.pool), ('global', '*'))
             ) AS llm (cover)
             CROSS JOIN LATERAL (
                 SELECT coalesce(max(CASE q.scope WHEN 'tenant' THEN 2 ELSE 1 END), 0) FROM copilot_internal.cost_quotas q
                 WHERE q.resource_type = 'e2b' AND (q.scope, q.scope_id) IN (('tenant', known.tenant_id), ('pool', t.pool), ('global', '*'))
             ) AS e2b (cover)
             ORDER BY 1",
        )
        .bind(now)
        .fetch_all(&self.pool)
        .await?;
        let cover = |number: i32| match number {
            0 => Cover::Nothing,
            1 => Cover::Shared,
            _ => Cover::Own,
        };
        let known =
            |(tenant_id, tier, pool, llm, e2b)| KnownTenant { tenant_id, tier, pool, llm: cover(llm), e2b: cover(e2b) };
        Ok(rows.into_iter().map(known).collect())
    }

    /// What a tenant has under way: sums up to what a [`Money`] can be, beyond which somebody has mistaken a unit.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn tenant_activity(&self, tenant: &TenantId, now: DateTime<Utc>) -> Result<TenantActivity, StoreError> {
        Ok(sqlx::query_as(
            "SELECT held.n AS reservations, held.nanos AS held_nanos, month.nanos AS month_nanos,
                    EXISTS (SELECT FROM copilot_internal.cost_records WHERE tenant_id = $1) AS has_costs,
                    (SELECT max(decided_at) FROM copilot_internal.decisions WHERE tenant_id = $1) AS last_decision,
                    (SELECT max(a.created_at) FROM copilot_internal.alerts a
                     WHERE (a.scope = 'tenant' AND a.scope_id = $1) OR (a.scope = 'user' AND left(a.scope_id, length($1) + 1) = $1 || '/')
                    ) AS last_alert
             FROM (SELECT count(*) AS n, (least(coalesce(sum(held_usd), 0), 9223372036) * 1000000000)::bigint AS nanos
                   FROM copilot_internal.reservations WHERE tenant_id = $1 AND state = 'held') AS held,
                  (SELECT (least(coalesce(sum(usd), 0), 9223372036) * 1000000000)::bigint AS nanos FROM (
                      SELECT sum(actual_usd) FROM copilot_internal.cost_records
                      WHERE tenant_id = $1 AND occurred_at >= $2 - interval '30 days'
                      UNION ALL
                      SELECT sum(actual_usd) FROM copilot_internal.reservations
                      WHERE tenant_id = $1 AND created_at >= $2 - interval '30 days' AND state = 'settled'
                  ) AS recorded (usd)) AS month",
        )
        .bind(tenant.as_str())
        .bind(now)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Quotas of the replaced system's resource type for everything together: they limit nothing.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn combined_quotas(&self) -> Result<i64, StoreError> {
        let sql = "SELECT count(*) FROM copilot_internal.cost_quotas WHERE resource_type = 'all'";
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }
}
