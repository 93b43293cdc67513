//! Tenants on board and off it: tier, pool and all quotas in one transaction, planned first.
//!
//! 1. `plan` reads how things stand and says, step by step, what would be done;
//! 2. whoever asked sees the plan;
//! 3. `carry_out` locks, plans again, and commits only what was seen.

use sqlx::postgres::PgConnection;

use super::audit::Change;
use super::quotas::{self, QuotaRule, write_rule};
use super::tenants::{COLUMNS, TenantRow, write_tenant};
use super::{Store, StoreError};
use crate::money::Money;
use crate::period::Period;
use crate::quota::{PoolId, QuotaKey, ResourceType, Scope, TenantId, Tier};

/// What a tenant that is off board may still spend: limits are above zero.
pub const CLOSED: Money = Money::from_nanos(1);

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
    /// They stay: somebody has set them. Those that were closed are opened, or go where they are not of the wish.
    Keep,
    /// Those of the wish get its limits, and lose a hard limit below them; closed ones as in `Keep`.
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
    /// The tenant's other quotas: they go on limiting it, but for those that [`Plan::removes`].
    pub others: Vec<Found>,
}

/// A quota that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Which.
    pub key: QuotaKey,
    /// Its limit.
    pub limit: Money,
    /// It holds whatever a policy says.
    pub hard_limit: Option<Money>,
    /// Another limit holds for a time.
    pub is_overridden: bool,
}

impl Found {
    /// Whether the tenant was taken off board.
    pub fn is_closed(&self) -> bool {
        self.limit == CLOSED && self.hard_limit == Some(CLOSED) && !self.is_overridden
    }
}

/// What would be done with one quota.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Which.
    pub key: QuotaKey,
    /// As it is; `None` where there is no quota.
    pub was: Option<Found>,
    /// Its limit as it will be.
    pub limit: Money,
    /// Its hard limit as it will be.
    pub hard_limit: Option<Money>,
    /// Whether it is written.
    pub writes: bool,
}

impl Plan {
    /// Whether anything would change.
    pub fn changes_anything(&self) -> bool {
        self.changes_tenant()
            || self.steps.iter().any(|step| step.writes)
            || self.others.iter().any(|other| self.removes(other))
    }

    /// Whether one of the others goes: it was closed, and without it its resource has a quota all the same.
    pub fn removes(&self, other: &Found) -> bool {
        other.is_closed() && self.steps.iter().any(|step| step.key.resource_type == other.key.resource_type)
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
            let rule = QuotaRule { limit: step.limit, hard_limit: step.hard_limit, thresholds: None };
            write_rule(&mut transaction, &step.key, &rule, by.at).await?;
        }
        for closed in plan.others.iter().filter(|other| plan.removes(other)) {
            quotas::delete(&mut transaction, &closed.key, by.at).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

async fn plan(connection: &mut PgConnection, wish: &Wish) -> Result<Plan, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE tenant_id = $1"));
    let tenant: Option<TenantRow> =
        sqlx::query_as(sql).bind(wish.tenant.as_str()).fetch_optional(&mut *connection).await?;
    let mut rows = found(&mut *connection, &wish.tenant).await?;
    let mut steps = Vec::with_capacity(wish.quotas.len());
    for (resource, period, limit) in &wish.quotas {
        let is_it = |found: &Found| found.key.resource_type == *resource && found.key.period == *period;
        let was = rows.iter().position(is_it).map(|place| rows.remove(place));
        let key = QuotaKey {
            scope: Scope::Tenant,
            scope_id: wish.tenant.as_str().into(),
            resource_type: resource.clone(),
            period: *period,
        };
        steps.push(step(key, was, *limit, wish.existing));
    }
    let known = |fault: String| StoreError::Database(sqlx::Error::Decode(fault.into()));
    let tier = tenant.as_ref().and_then(|row| row.tier.as_deref()).map(Tier::parse).transpose().map_err(known)?;
    let pool = tenant.as_ref().and_then(|row| row.pool.as_deref()).map(PoolId::parse).transpose().map_err(known)?;
    Ok(Plan { becomes: (wish.tier.clone().or(tier), wish.pool.clone().or(pool)), tenant, steps, others: rows })
}

fn step(key: QuotaKey, was: Option<Found>, wanted: Money, existing: Existing) -> Step {
    let (limit, hard_limit) = match (&was, existing) {
        (_, Existing::Close) => (wanted, Some(wanted)),
        (None, _) => (wanted, None),
        (Some(was), Existing::Keep) if !was.is_closed() => (was.limit, was.hard_limit),
        // A hard limit below the new limit would be the limit.
        (Some(was), Existing::Keep | Existing::Change) => (wanted, was.hard_limit.filter(|hard| *hard >= wanted)),
    };
    let writes = was.as_ref().is_none_or(|was| {
        (was.limit, was.hard_limit) != (limit, hard_limit) || (existing == Existing::Close && was.is_overridden)
    });
    Step { key, was, limit, hard_limit, writes }
}

/// The tenant's own quotas, by resource and period.
async fn found(connection: &mut PgConnection, tenant: &TenantId) -> Result<Vec<Found>, StoreError> {
    let rows: Vec<(String, String, i64, Option<i64>, bool)> = sqlx::query_as(
        "SELECT resource_type, period, (limit_usd * 1000000000)::bigint, (hard_limit_usd * 1000000000)::bigint,
                override_until IS NOT NULL
         FROM copilot_internal.cost_quotas WHERE scope = 'tenant' AND scope_id = $1 ORDER BY 1, 2",
    )
    .bind(tenant.as_str())
    .fetch_all(connection)
    .await?;
    let read = |(resource, period, limit, hard_limit, is_overridden): (String, String, i64, Option<i64>, bool)| {
        Ok::<_, String>(Found {
            key: QuotaKey {
                scope: Scope::Tenant,
                scope_id: tenant.as_str().into(),
                resource_type: ResourceType::parse(&resource)?,
                period: period.parse()?,
            },
            limit: Money::from_nanos(limit),
            hard_limit: hard_limit.map(Money::from_nanos),
            is_overridden,
        })
    };
    let found: Result<_, String> = rows.into_iter().map(read).collect();
    found.map_err(|fault| StoreError::Database(sqlx::Error::Decode(fault.into())))
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
