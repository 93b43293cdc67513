//! Tenants on board and off it: tier, pool and all quotas in one transaction, planned first.
//!
//! 1. `plan` reads how things stand and says, step by step, what would be done;
//! 2. whoever asked sees the plan;
//! 3. `carry_out` locks, plans again, and commits only what was seen.

use sqlx::postgres::PgConnection;

use super::audit::Change;
use super::quotas::{QuotaRule, write_rule};
use super::tenants::{COLUMNS, TenantRow, write_tenant};
use super::{Store, StoreError};
use crate::money::Money;
use crate::period::Period;
use crate::quota::{PoolId, QuotaKey, ResourceType, Scope, TenantId, Tier};

/// How a tenant should stand.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Who.
    pub tenant: TenantId,
    /// Its tier; `None` leaves it.
    pub tier: Option<Tier>,
    /// Its pool; `None` leaves it.
    pub pool: Option<PoolId>,
    /// Its quotas.
    pub quotas: Vec<(ResourceType, Period, Money)>,
    /// What becomes of quotas that are there.
    pub existing: Existing,
}

/// What becomes of quotas that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// They stay: somebody has set them.
    Keep,
    /// Those of the wish get its limits.
    Change,
    /// As `Change`, with hard limits of the same amount, which hold whatever a policy says; overrides end, too.
    Close,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The tenant's row as it is.
    pub tenant: Option<TenantRow>,
    /// Tier and pool as they will be.
    pub becomes: (Option<Tier>, Option<PoolId>),
    /// Each quota of the wish, by resource and period.
    pub steps: Vec<Step>,
}

/// What would be done with one quota.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Which.
    pub key: QuotaKey,
    /// Its limit as it is; `None` where there is no quota.
    pub was: Option<Money>,
    /// Its limit as it will be.
    pub limit: Money,
    /// Whether it is written.
    pub writes: bool,
}

impl Plan {
    /// Whether anything would change.
    pub fn changes_anything(&self) -> bool {
        self.changes_tenant() || self.steps.iter().any(|step| step.writes)
    }

    fn changes_tenant(&self) -> bool {
        let (tier, pool) = &self.becomes;
        self.tenant.as_ref().is_none_or(|row| {
            row.tier.as_deref() != tier.as_ref().map(Tier::as_str)
                || row.pool.as_deref() != pool.as_ref().map(PoolId::as_str)
        })
    }
}

impl Store {
    /// What `wish` would change.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn plan(&self, wish: &Wish) -> Result<Plan, StoreError> {
        plan(&mut *self.pool.acquire().await?, wish).await
    }

    /// Does what `seen` says, all of it or nothing. Tells whether it was done: not where things stand otherwise by now.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn carry_out(&self, wish: &Wish, seen: &Plan, by: Change<'_>) -> Result<bool, StoreError> {
        let mut transaction = self.begin_change(by).await?;
        // The tenant's row first, so that two who take the same tenant on board take turns.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('tollgate tenant ' || $1))")
            .bind(wish.tenant.as_str())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "SELECT id FROM copilot_internal.cost_quotas WHERE scope = 'tenant' AND scope_id = $1 ORDER BY id FOR UPDATE",
        )
        .bind(wish.tenant.as_str())
        .execute(&mut *transaction)
        .await?;
        let plan = plan(&mut transaction, wish).await?;
        if plan != *seen {
            return Ok(false);
        }
        if plan.changes_tenant() {
            let (tier, pool) = &plan.becomes;
            write_tenant(&mut transaction, &wish.tenant, tier.as_ref(), pool.as_ref(), by.at).await?;
        }
        for step in plan.steps.iter().filter(|step| step.writes) {
            if wish.existing == Existing::Close {
                end_override(&mut transaction, &step.key).await?;
            }
            let hard_limit = match wish.existing {
                Existing::Close => Some(step.limit),
                Existing::Keep | Existing::Change => hard_limit(&mut transaction, &step.key).await?,
            };
            let rule = QuotaRule { limit: step.limit, hard_limit, thresholds: None };
            write_rule(&mut transaction, &step.key, &rule, by.at).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

async fn plan(connection: &mut PgConnection, wish: &Wish) -> Result<Plan, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE tenant_id = $1"));
    let tenant: Option<TenantRow> =
        sqlx::query_as(sql).bind(wish.tenant.as_str()).fetch_optional(&mut *connection).await?;
    let rows: Vec<(String, String, i64, bool)> = sqlx::query_as(
        "SELECT resource_type, period, (limit_usd * 1000000000)::bigint,
                hard_limit_usd IS NOT DISTINCT FROM limit_usd AND override_until IS NULL
         FROM copilot_internal.cost_quotas WHERE scope = 'tenant' AND scope_id = $1",
    )
    .bind(wish.tenant.as_str())
    .fetch_all(connection)
    .await?;
    let found = |resource: &ResourceType, period: Period| {
        rows.iter().find(|row| row.0 == resource.as_str() && row.1 == period.as_str())
    };
    let steps = wish.quotas.iter().map(|(resource, period, limit)| {
        let was = found(resource, *period);
        let limit_was = was.map(|row| Money::from_nanos(row.2));
        let writes = match (limit_was, wish.existing) {
            (None, _) => true,
            (Some(_), Existing::Keep) => false,
            (Some(was), Existing::Change) => was != *limit,
            (Some(was_limit), Existing::Close) => was_limit != *limit || !was.is_some_and(|row| row.3),
        };
        let key = QuotaKey {
            scope: Scope::Tenant,
            scope_id: wish.tenant.as_str().into(),
            resource_type: resource.clone(),
            period: *period,
        };
        let limit = if writes { *limit } else { limit_was.unwrap_or(*limit) };
        Step { key, was: limit_was, limit, writes }
    });
    let steps = steps.collect();
    let known = |fault: String| StoreError::Database(sqlx::Error::Decode(fault.into()));
    let tier = tenant.as_ref().and_then(|row| row.tier.as_deref()).map(Tier::parse).transpose().map_err(known)?;
    let pool = tenant.as_ref().and_then(|row| row.pool.as_deref()).map(PoolId::parse).transpose().map_err(known)?;
    Ok(Plan { becomes: (wish.tier.clone().or(tier), wish.pool.clone().or(pool)), tenant, steps })
}

async fn hard_limit(connection: &mut PgConnection, key: &QuotaKey) -> Result<Option<Money>, StoreError> {
    let nanos: Option<Option<i64>> = sqlx::query_scalar(
        "SELECT (hard_limit_usd * 1000000000)::bigint FROM copilot_internal.cost_quotas
         WHERE scope = $1 AND scope_id = $2 AND resource_type = $3 AND period = $4",
    )
    .bind(key.scope.as_str())
    .bind(&*key.scope_id)
    .bind(key.resource_type.as_str())
    .bind(key.period.as_str())
    .fetch_optional(connection)
    .await?;
    Ok(nanos.flatten().map(Money::from_nanos))
}

async fn end_override(connection: &mut PgConnection, key: &QuotaKey) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE copilot_internal.cost_quotas
         SET override_limit_usd = NULL, override_until = NULL, override_reason = NULL
         WHERE scope = $1 AND scope_id = $2 AND resource_type = $3 AND period = $4 AND override_until IS NOT NULL",
    )
    .bind(key.scope.as_str())
    .bind(&*key.scope_id)
    .bind(key.resource_type.as_str())
    .bind(key.period.as_str())
    .execute(connection)
    .await?;
    Ok(())
}
