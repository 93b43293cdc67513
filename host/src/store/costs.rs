//! Costs without a reservation: check → operate → record.
//!
//! One statement records a batch of costs: it finds and locks every quota that applies, writes the cost records (a cost
//! id that is there already changes nothing), and charges each new cost to the window where it occurred.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::ledger::{
    Posted, insert_alerts, its_tenant, lock_what_applies, post, posted, quotas_that_apply, stands_columns, stood,
};
use super::{Link, StoreError, column};
use crate::money::Money;
use crate::quota::{ResourceType, TenantId, UserId};

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
    pub quotas: Vec<Posted>,
}

const RECORD: &str = concat!(
    "WITH s AS MATERIALIZED (
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                              $7::timestamptz[], $8::text[], $9::text[])
              AS s (id, tenant_id, user_id, resource_type, cost_id, nanos, occurred_at, attributes, body)
     ), ",
    lock_what_applies!(),
    ", recorded AS (
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
     ), ",
    stood!("$10"),
    ", charge AS MATERIALIZED (
         SELECT stood.id,
                least(copilot_internal.window_start(stood.period, recorded.occurred_at), stood.window_start) AS window_start,
                sum(recorded.actual_usd) AS usd, 0::numeric AS freed, count(*) AS operations
         FROM recorded JOIN applies ON applies.operation = recorded.id JOIN stood ON stood.id = applies.quota
         GROUP BY 1, 2
     ), ",
    post!("$10"),
    " SELECT s.id, recorded.id IS NOT NULL, ",
    stands_columns!(),
    " FROM s LEFT JOIN recorded USING (id) LEFT JOIN applies ON applies.operation = s.id LEFT JOIN stands ON stands.id = applies.quota",
);

/// What the books say under cost ids that were there already.
const FIND: &str = "SELECT s.id, (r.actual_usd * 1000000000)::bigint, r.body, r.occurred_at
     FROM unnest($1::uuid[], $2::text[], $3::text[]) AS s (id, tenant_id, cost_id) CROSS JOIN LATERAL (
         SELECT * FROM copilot_internal.cost_records r WHERE r.tenant_id = s.tenant_id AND r.cost_id = s.cost_id LIMIT 1
     ) AS r";

impl Link {
    /// Records `costs`, each once and in full, in one transaction; answers in their order. The same cost id
    /// twice in one call counts once.
    ///
    /// # Errors
    /// For a cost: [`StoreError::Conflict`], the same cost id was recorded with another body. For all of them: the
    /// database does not answer, or a constraint does not hold; then nothing was recorded.
    pub async fn record_costs(
        &mut self,
        costs: &[Cost],
        now: DateTime<Utc>,
    ) -> Result<Vec<Result<Recorded, StoreError>>, StoreError> {
        let mut connection = self.take().await?;
        let recorded = self.guard(record_costs(&mut connection, costs, now)).await;
        self.give_back(connection, recorded)
    }
}

async fn record_costs(
    connection: &mut PgConnection,
    costs: &[Cost],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Recorded, StoreError>>, StoreError> {
    let rows = sqlx::query(RECORD)
        .bind(column(costs, |cost| cost.id))
        .bind(column(costs, |cost| cost.tenant.as_str()))
        .bind(column(costs, |cost| cost.user.as_ref().map(UserId::as_str)))
        .bind(column(costs, |cost| cost.resource_type.as_str()))
        .bind(column(costs, |cost| cost.cost_id.as_str()))
        .bind(column(costs, |cost| cost.actual.nanos()))
        .bind(column(costs, |cost| cost.occurred_at))
        .bind(column(costs, |cost| cost.attributes.as_str()))
        .bind(column(costs, |cost| cost.body.as_str()))
        .bind(now)
        .fetch_all(&mut *connection)
        .await?;
    let mut answers: HashMap<Uuid, (bool, Vec<Posted>)> = HashMap::with_capacity(costs.len());
    for row in &rows {
        let (_, quotas) = answers.entry(row.try_get(0)?).or_insert((row.try_get(1)?, Vec::new()));
        quotas.extend(posted(row, 2)?);
    }
    let repeated: Vec<&Cost> =
        costs.iter().filter(|cost| answers.get(&cost.id).is_none_or(|(is_new, _)| !is_new)).collect();
    let mut found = find_costs(connection, &repeated).await?;
    costs
        .iter()
        .map(|cost| {
            let (is_new, mut quotas) = answers.remove(&cost.id).unwrap_or_default();
            quotas.sort_by(|a, b| a.row.key.cmp(&b.row.key));
            let (amount, occurred_at) = if is_new {
                (cost.actual, cost.occurred_at)
            } else {
                let missing = || StoreError::Database(sqlx::Error::RowNotFound);
                let (amount, body, occurred_at) = found.remove(&cost.id).ok_or_else(missing)?;
                if body != cost.body {
                    let conflict = format!("costId {:?} was recorded with another body", cost.cost_id);
                    return Ok(Err(StoreError::Conflict(conflict)));
                }
                (amount, occurred_at)
            };
            let late = quotas.iter().any(|quota| occurred_at < quota.row.at(now).window.start);
            Ok(Ok(Recorded { duplicate: !is_new, amount, late, quotas }))
        })
        .collect()
}

/// Amount, body and time in the books under the cost ids of `costs`, by the costs' own ids.
async fn find_costs(
    connection: &mut PgConnection,
    costs: &[&Cost],
) -> Result<HashMap<Uuid, (Money, String, DateTime<Utc>)>, StoreError> {
    if costs.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(FIND)
        .bind(column(costs, |cost| cost.id))
        .bind(column(costs, |cost| cost.tenant.as_str()))
        .bind(column(costs, |cost| cost.cost_id.as_str()))
        .fetch_all(&mut *connection)
        .await?;
    rows.iter()
        .map(|row| {
            let amount = Money::from_nanos(row.try_get(1)?);
            Ok((row.try_get(0)?, (amount, row.try_get(2)?, row.try_get(3)?)))
        })
        .collect()
}
