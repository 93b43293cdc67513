//! Costs without a reservation: check → operate → record.
//!
//! One statement records a batch of costs. It takes its locks in one order, quotas by id first, so that hosts
//! wait for each other and never deadlock:
//!
//! 1. find and lock every quota that applies to a cost;
//! 2. write the cost records: a cost id that is there already changes nothing;
//! 3. bring each locked quota to the window that is open now;
//! 4. add each new cost to the window where it occurred: the open one in the quota's row, an older one in its
//!    closed windows (an upsert: the row may have been written by somebody after our snapshot);
//! 5. write an alert row for each threshold that the open window now stands at.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use uuid::Uuid;

use super::quotas::insert_alerts;
use super::subjects::{newest_closed, quota_columns, quota_row, quotas_that_apply};
use super::{Store, StoreError};
use crate::money::Money;
use crate::quota::{QuotaRow, ResourceType, TenantId, UserId};

/// What an operation really cost.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The record's id, UUID v7.
    pub id: Uuid,
    /// Who is charged.
    pub tenant: TenantId,
    /// On whose behalf.
    pub user: Option<UserId>,
    /// What was bought.
    pub resource_type: ResourceType,
    /// The caller's idempotency id, unique for the tenant.
    pub cost_id: String,
    /// 0 or more.
    pub actual: Money,
    /// Decides the window; not after `recorded_at`.
    pub occurred_at: DateTime<Utc>,
    /// The host's now.
    pub recorded_at: DateTime<Utc>,
    /// The caller's own pairs as a JSON object.
    pub attributes: String,
    /// Digest of what the caller sent.
    pub body: String,
}

/// What became of a cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The same cost was recorded before: this time nothing changed.
    pub duplicate: bool,
    /// The amount in the books under this cost id.
    pub amount: Money,
    /// It was charged to a window that is closed, of at least one quota.
    pub late: bool,
    /// The quotas that it charges, as they stand now, by key.
    pub quotas: Vec<QuotaRow>,
}

const RECORD: &str = concat!(
    "WITH s AS MATERIALIZED (
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                              $7::timestamptz[], $8::text[], $9::text[])
              AS s (id, tenant_id, user_id, resource_type, cost_id, nanos, occurred_at, attributes, body)
     ), applies AS MATERIALIZED (
         SELECT s.id AS cost, q.id AS quota
         FROM s
         LEFT JOIN copilot_internal.tenants t ON t.tenant_id = s.tenant_id
         CROSS JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q
     ), locked AS MATERIALIZED (
         SELECT * FROM copilot_internal.cost_quotas q
         WHERE q.id IN (SELECT quota FROM applies)
         ORDER BY q.id FOR UPDATE
     ), recorded AS (
         INSERT INTO copilot_internal.cost_records
             (id, tenant_id, cost_id, user_id, resource_type, actual_usd, occurred_at, recorded_at, attributes, body)
         SELECT s.id, s.tenant_id, s.cost_id, s.user_id, s.resource_type, s.nanos * 0.000000001, s.occurred_at, $10,
                s.attributes::jsonb, s.body
         FROM s
         -- Counting makes the quotas' locks come first.
         WHERE (SELECT count(*) FROM locked) >= 0
         ORDER BY s.tenant_id, s.cost_id
         ON CONFLICT ON CONSTRAINT cost_records_once_per_cost_id DO NOTHING
         RETURNING id, actual_usd, occurred_at
     ), stood AS MATERIALIZED (
         SELECT locked.*, was.window_start AS was,
                greatest(was.window_start, copilot_internal.window_start(period, $10)) AS window_start
         FROM locked, LATERAL (
             SELECT copilot_internal.window_start(period, coalesce(period_start, $10)) AS window_start
         ) AS was
     ), charge AS MATERIALIZED (
         SELECT stood.id, least(copilot_internal.window_start(stood.period, recorded.occurred_at), stood.window_start) AS window_start,
                sum(recorded.actual_usd) AS usd, count(*) AS operations
         FROM recorded JOIN applies ON applies.cost = recorded.id JOIN stood ON stood.id = applies.quota
         GROUP BY 1, 2
     ), closed AS (
         INSERT INTO copilot_internal.cost_quota_periods AS p
             (quota_id, window_start, scope, scope_id, resource_type, period, limit_usd, spend_usd, held_usd, admitted_count)
         SELECT w.id, w.window_start, q.scope, q.scope_id, q.resource_type, q.period, q.limit_usd,
                sum(w.spend), sum(w.held), sum(w.admitted)
         FROM (
             SELECT id, was AS window_start, current_spend_usd AS spend, held_usd AS held, admitted_count AS admitted
             FROM stood WHERE was < window_start
             UNION ALL
             SELECT charge.id, charge.window_start, charge.usd, 0, charge.operations
             FROM charge JOIN stood USING (id) WHERE charge.window_start < stood.window_start
         ) AS w JOIN stood AS q USING (id)
         GROUP BY w.id, w.window_start, q.scope, q.scope_id, q.resource_type, q.period, q.limit_usd
         ORDER BY 1, 2
         ON CONFLICT (quota_id, window_start) DO UPDATE
         SET spend_usd = p.spend_usd + excluded.spend_usd, held_usd = p.held_usd + excluded.held_usd,
             admitted_count = p.admitted_count + excluded.admitted_count
     ), stands AS MATERIALIZED (
         SELECT q.id, q.scope, q.scope_id, q.resource_type, q.period, q.limit_usd, q.thresholds, q.window_start,
                CASE WHEN q.was < q.window_start THEN 0 ELSE q.current_spend_usd END + coalesce(charge.usd, 0) AS spend_usd,
                CASE WHEN q.was < q.window_start THEN 0 ELSE q.held_usd END AS held_usd,
                CASE WHEN q.was < q.window_start THEN 0 ELSE q.admitted_count END + coalesce(charge.operations, 0) AS admitted_count
         FROM stood AS q LEFT JOIN charge ON charge.id = q.id AND charge.window_start = q.window_start
     ), updated AS (
         UPDATE copilot_internal.cost_quotas q
         SET current_spend_usd = stands.spend_usd, held_usd = stands.held_usd, admitted_count = stands.admitted_count,
             period_start = stands.window_start, updated_at = $10
         FROM stands WHERE q.id = stands.id
     ), alerted AS (",
    // A host whose clock is ahead has closed nothing for the others, but a window of the past alerts nobody.
    insert_alerts!(
        "(SELECT * FROM stands WHERE EXISTS (SELECT FROM charge WHERE charge.id = stands.id AND charge.window_start = stands.window_start))",
        "$10"
    ),
    ") SELECT s.id, recorded.id IS NOT NULL FROM s LEFT JOIN recorded USING (id)",
);

const FIND: &str = concat!(
    "SELECT s.id, r.id, (r.actual_usd * 1000000000)::bigint, r.body, r.occurred_at, ",
    quota_columns!(),
    " FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) AS s (id, tenant_id, user_id, resource_type, cost_id)
      JOIN copilot_internal.cost_records r ON r.tenant_id = s.tenant_id AND r.cost_id = s.cost_id
      LEFT JOIN copilot_internal.tenants t ON t.tenant_id = s.tenant_id
      LEFT JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q ON true ",
    newest_closed!(),
);

impl Store {
    /// Records `costs`, each once and in full, in one transaction; answers in their order. The same cost id
    /// twice in one call counts once.
    ///
    /// # Errors
    /// For a cost: [`StoreError::Conflict`], the same cost id was recorded with another body. For all of them: the
    /// database does not answer, or a constraint does not hold; then nothing was recorded.
    pub async fn record_costs(
        &self,
        costs: &[Cost],
        now: DateTime<Utc>,
    ) -> Result<Vec<Result<Recorded, StoreError>>, StoreError> {
        let columns = Columns::of(costs);
        sqlx::query(RECORD)
            .bind(&columns.ids)
            .bind(&columns.tenants)
            .bind(&columns.users)
            .bind(&columns.resources)
            .bind(&columns.cost_ids)
            .bind(costs.iter().map(|cost| cost.actual.nanos()).collect::<Vec<_>>())
            .bind(costs.iter().map(|cost| cost.occurred_at).collect::<Vec<_>>())
            .bind(costs.iter().map(|cost| cost.attributes.as_str()).collect::<Vec<_>>())
            .bind(costs.iter().map(|cost| cost.body.as_str()).collect::<Vec<_>>())
            .bind(now)
            .fetch_all(&self.pool)
            .await?;
        self.find_costs(costs, &columns, now).await
    }

    /// What the books now say of `costs`, all of which are in them.
    async fn find_costs(
        &self,
        costs: &[Cost],
        columns: &Columns<'_>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Result<Recorded, StoreError>>, StoreError> {
        let rows = sqlx::query(FIND)
            .bind(&columns.ids)
            .bind(&columns.tenants)
            .bind(&columns.users)
            .bind(&columns.resources)
            .bind(&columns.cost_ids)
            .fetch_all(&self.pool)
            .await?;
        let mut found: HashMap<Uuid, (String, DateTime<Utc>, Recorded)> = HashMap::with_capacity(costs.len());
        for row in &rows {
            let asked: Uuid = row.try_get(0)?;
            let (record, amount): (Uuid, i64) = (row.try_get(1)?, row.try_get(2)?);
            let first = Recorded {
                duplicate: record != asked,
                amount: Money::from_nanos(amount),
                late: false,
                quotas: Vec::new(),
            };
            let entry = (row.try_get(3)?, row.try_get(4)?, first);
            let (_, _, recorded) = found.entry(asked).or_insert(entry);
            if row.try_get::<Option<Uuid>, _>(5)?.is_some() {
                recorded.quotas.push(quota_row(row, 5)?);
            }
        }
        costs
            .iter()
            .map(|cost| {
                let (body, occurred_at, mut recorded) =
                    found.remove(&cost.id).ok_or_else(|| StoreError::Database(sqlx::Error::RowNotFound))?;
                if body != cost.body {
                    return Ok(Err(StoreError::Conflict(format!(
                        "costId {:?} was recorded with another body",
                        cost.cost_id
                    ))));
                }
                recorded.quotas.sort_by(|a, b| a.key.cmp(&b.key));
                recorded.late = recorded.quotas.iter().any(|row| occurred_at < row.at(now).window.start);
                Ok(Ok(recorded))
            })
            .collect()
    }
}

/// The columns that both statements bind.
struct Columns<'a> {
    ids: Vec<Uuid>,
    tenants: Vec<&'a str>,
    users: Vec<Option<&'a str>>,
    resources: Vec<&'a str>,
    cost_ids: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(costs: &'a [Cost]) -> Self {
        Self {
            ids: costs.iter().map(|cost| cost.id).collect(),
            tenants: costs.iter().map(|cost| cost.tenant.as_str()).collect(),
            users: costs.iter().map(|cost| cost.user.as_ref().map(UserId::as_str)).collect(),
            resources: costs.iter().map(|cost| cost.resource_type.as_str()).collect(),
            cost_ids: costs.iter().map(|cost| cost.cost_id.as_str()).collect(),
        }
    }
}
