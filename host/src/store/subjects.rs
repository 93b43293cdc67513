//! What a request is decided on: the tenant's tier and pool, and every quota that applies.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::{Link, StoreError};
use crate::decision::Request;
use crate::money::Money;
use crate::quota::{PoolId, QuotaKey, QuotaRow, ResourceType, TemporaryLimit, TenantId, Tier, UserId};

/// Who asks for what: all requests of one subject are decided on the same rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Who is charged.
    pub tenant: TenantId,
    /// On whose behalf.
    pub user: Option<UserId>,
    /// What is bought.
    pub resource_type: ResourceType,
}

impl Subject {
    /// Who asks for what in `request`.
    pub fn of(request: &Request) -> Self {
        Self {
            tenant: request.tenant.clone(),
            user: request.user.clone(),
            resource_type: request.resource_type.clone(),
        }
    }
}

/// How a subject stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The tenant's tier, if it has a row that names one.
    pub tier: Option<Tier>,
    /// The tenant's pool.
    pub pool: Option<PoolId>,
    /// Every quota that applies: tenant, user, pool, global; within a scope the shortest period first.
    pub quotas: Vec<QuotaRow>,
}

/// The columns of a quota row `q`, in the order in which [`quota_row`] reads them.
macro_rules! quota_columns {
    () => {
        "q.id, q.scope, q.scope_id, q.resource_type, q.period, (q.limit_usd * 1000000000)::bigint,
         (q.hard_limit_usd * 1000000000)::bigint, (q.current_spend_usd * 1000000000)::bigint,
         (q.held_usd * 1000000000)::bigint, q.admitted_count, q.period_start,
         closed.window_start, (closed.spend_usd * 1000000000)::bigint,
         (q.override_limit_usd * 1000000000)::bigint, q.override_until"
    };
}
/// The newest closed window of quota `q`.
macro_rules! newest_closed {
    () => {
        "LEFT JOIN LATERAL (
             SELECT p.window_start, p.spend_usd FROM copilot_internal.cost_quota_periods p
             WHERE p.quota_id = q.id ORDER BY p.window_start DESC LIMIT 1
         ) AS closed ON true"
    };
}
/// The row `t` of a subject's tenant. A look for each subject: how many there are is not known to the planner, which takes
/// a thousand for granted, and while the table has a few thousand rows it would read them all in every statement.
macro_rules! its_tenant {
    () => {
        "LEFT JOIN LATERAL (
             SELECT t.tier, t.pool FROM copilot_internal.tenants t WHERE t.tenant_id = s.tenant_id LIMIT 1
         ) AS t ON true"
    };
}
/// The quotas `q` that apply to a subject `s` of a tenant `t`: one look into the unique index for each scope. It stays a
/// look for each (`OFFSET 0`): joined as a whole, the planner would read the table for a list that it cannot count.
macro_rules! quotas_that_apply {
    () => {
        "SELECT q.*
         FROM (VALUES ('tenant', s.tenant_id), ('user', s.tenant_id || '/' || s.user_id), ('pool', t.pool), ('global', '*'))
              AS rule (scope, scope_id),
              LATERAL (
                  SELECT q.* FROM copilot_internal.cost_quotas q
                  WHERE q.scope = rule.scope AND q.scope_id = rule.scope_id AND q.resource_type = s.resource_type
                  OFFSET 0
              ) AS q"
    };
}
pub(super) use {its_tenant, newest_closed, quota_columns, quotas_that_apply};

impl Link {
    /// How each of `subjects` stands, in their order: one read-only statement for all of them.
    ///
    /// # Errors
    /// The database does not answer, or a row holds what this version does not know.
    pub async fn standings(&mut self, subjects: &[Subject]) -> Result<Vec<Standing>, StoreError> {
        let is_kept = self.connection.is_some();
        let mut connection = self.take().await?;
        let standings = self.guard(read(&mut connection, subjects)).await;
        match self.give_back(connection, standings) {
            // A connection that was kept can have ended without the store: reading twice does no harm.
            Err(error) if error.is_outage() && is_kept => {
                let mut connection = self.take().await?;
                let standings = self.guard(read(&mut connection, subjects)).await;
                self.give_back(connection, standings)
            }
            answer => answer,
        }
    }
}

/// The columns in which statements take subjects: tenants, users, resource types.
pub(super) fn columns(subjects: &[Subject]) -> (Vec<&str>, Vec<Option<&str>>, Vec<&str>) {
    (
        subjects.iter().map(|subject| subject.tenant.as_str()).collect(),
        subjects.iter().map(|subject| subject.user.as_ref().map(UserId::as_str)).collect(),
        subjects.iter().map(|subject| subject.resource_type.as_str()).collect(),
    )
}

pub(super) async fn read(connection: &mut PgConnection, subjects: &[Subject]) -> Result<Vec<Standing>, StoreError> {
    let (tenants, users, resources) = columns(subjects);
    let rows = sqlx::query(concat!(
        "SELECT s.n, t.tier, t.pool, ",
        quota_columns!(),
        " FROM (SELECT n, ($1::text[])[n] AS tenant_id, ($2::text[])[n] AS user_id, ($3::text[])[n] AS resource_type
                FROM generate_series(1, cardinality($1)) AS n) AS s ",
        its_tenant!(),
        " LEFT JOIN LATERAL (",
        quotas_that_apply!(),
        ") AS q ON true ",
        newest_closed!(),
    ))
    .bind(tenants)
    .bind(users)
    .bind(resources)
    .fetch_all(connection)
    .await?;
    let mut standings = vec![Standing::default(); subjects.len()];
    for row in &rows {
        let n = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or_default();
        let Some(standing) = n.checked_sub(1).and_then(|index| standings.get_mut(index)) else { continue };
        standing.tier = parsed(row.try_get(1)?, Tier::parse)?;
        standing.pool = parsed(row.try_get(2)?, PoolId::parse)?;
        if row.try_get::<Option<Uuid>, _>(3)?.is_some() {
            standing.quotas.push(quota_row(row, 3)?);
        }
    }
    for standing in &mut standings {
        standing.quotas.sort_by(|a, b| a.key.cmp(&b.key));
    }
    Ok(standings)
}

fn parsed<T>(text: Option<&str>, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, sqlx::Error> {
    text.map(parse).transpose().map_err(|fault| sqlx::Error::Decode(fault.into()))
}

/// Reads [`quota_columns`] from column `first` on.
pub(super) fn quota_row(row: &PgRow, first: usize) -> Result<QuotaRow, sqlx::Error> {
    let unknown = |fault: String| sqlx::Error::Decode(fault.into());
    let money = |column: usize| row.try_get::<i64, _>(first + column).map(Money::from_nanos);
    let some_money =
        |column: usize| row.try_get::<Option<i64>, _>(first + column).map(|nanos| nanos.map(Money::from_nanos));
    let newest_closed: Option<DateTime<Utc>> = row.try_get(first + 11)?;
    let until: Option<DateTime<Utc>> = row.try_get(first + 14)?;
    Ok(QuotaRow {
        id: row.try_get(first)?,
        key: QuotaKey {
            scope: row.try_get::<&str, _>(first + 1)?.parse().map_err(unknown)?,
            scope_id: row.try_get::<&str, _>(first + 2)?.into(),
            resource_type: ResourceType::parse(row.try_get(first + 3)?).map_err(unknown)?,
            period: row.try_get::<&str, _>(first + 4)?.parse().map_err(unknown)?,
        },
        limit: money(5)?,
        temporary: some_money(13)?.zip(until).map(|(limit, until)| TemporaryLimit { limit, until }),
        hard_limit: some_money(6)?,
        spend: money(7)?,
        held: money(8)?,
        admitted: u64::try_from(row.try_get::<i64, _>(first + 9)?).unwrap_or_default(),
        period_start: row.try_get(first + 10)?,
        newest_closed: newest_closed.zip(some_money(12)?),
    })
}
