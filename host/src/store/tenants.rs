//! Tenants: tier and pool.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use sqlx::postgres::PgConnection;

use super::audit::Change;
use super::{Store, StoreError};
use crate::quota::{PoolId, TenantId, Tier};

/// A tenant's row.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct TenantRow {
    /// Who is charged.
    pub tenant_id: String,
    /// Picks the policy; `None` is the standard one.
    pub tier: Option<String>,
    /// Shared with other tenants.
    pub pool: Option<String>,
    /// When the row was written first.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

pub(super) const COLUMNS: &str = "SELECT tenant_id, tier, pool, created_at, updated_at FROM copilot_internal.tenants";

impl Store {
    /// Every tenant that has a row, by id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} ORDER BY tenant_id"));
        Ok(sqlx::query_as(sql).fetch_all(&self.readers).await?)
    }

    /// One tenant's row.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn tenant(&self, tenant: &TenantId) -> Result<Option<TenantRow>, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE tenant_id = $1"));
        Ok(sqlx::query_as(sql).bind(tenant.as_str()).fetch_optional(&self.pool).await?)
    }

    /// Writes the tenant's tier and pool. Tells whether the tenant is new.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn set_tenant(
        &self,
        tenant: &TenantId,
        tier: Option<&Tier>,
        pool: Option<&PoolId>,
        by: Change<'_>,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin_change(by).await?;
        let is_new = write_tenant(&mut transaction, tenant, tier, pool, by.at).await?;
        transaction.commit().await?;
        Ok(is_new)
    }

    /// Deletes the tenant's row; quotas and books stay. Tells whether there was one.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete_tenant(&self, tenant: &TenantId, by: Change<'_>) -> Result<bool, StoreError> {
        let mut transaction = self.begin_change(by).await?;
        let deleted = sqlx::query("DELETE FROM copilot_internal.tenants WHERE tenant_id = $1")
            .bind(tenant.as_str())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(deleted.rows_affected() == 1)
    }
}

/// Writes the tenant's tier and pool; tells whether the tenant is new.
pub(super) async fn write_tenant(
    connection: &mut PgConnection,
    tenant: &TenantId,
    tier: Option<&Tier>,
    pool: Option<&PoolId>,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let is_new = sqlx::query_scalar(
        "INSERT INTO copilot_internal.tenants AS t (tenant_id, tier, pool, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $4)
         ON CONFLICT (tenant_id) DO UPDATE SET tier = excluded.tier, pool = excluded.pool, updated_at = $4
         RETURNING t.xmax = 0",
    )
    .bind(tenant.as_str())
    .bind(tier.map(Tier::as_str))
    .bind(pool.map(PoolId::as_str))
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(is_new)
}
