//! What `bench` needs of the store: tenants with quotas, and statements to compare with.

use super::{Store, StoreError};

/// Gives `many` tenants a row, and `hot`, `exhausted`, `t-0` … and, in a pool, `p-0` … three quotas each.
///
/// # Errors
/// The database does not answer.
pub async fn populate(store: &Store, many: usize, pooled: usize) -> Result<(), StoreError> {
    /// Tenants of one statement, so that it ends in time.
    const CHUNK: usize = 10_000;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    // Nobody audits these, and that takes ten times as long as they do.
    audits(store, "DISABLE").await?;
    for first in (0..many).step_by(CHUNK) {
        sqlx::query(
            "INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, period, limit_usd)
             SELECT 'tenant', 't-' || n, 'llm', period, 1000000000
             FROM generate_series($1, $2 - 1) AS n, unnest(ARRAY['day', 'week', 'month']) AS period",
        )
        .bind(count(first))
        .bind(count((first + CHUNK).min(many)))
        .execute(&store.pool)
        .await?;
        sqlx::query(
            "INSERT INTO copilot_internal.tenants (tenant_id) SELECT 't-' || n FROM generate_series($1, $2 - 1) AS n",
        )
        .bind(count(first))
        .bind(count((first + CHUNK).min(many)))
        .execute(&store.pool)
        .await?;
    }
    sqlx::query(
        "INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, period, limit_usd, current_spend_usd)
         SELECT 'tenant', tenant, 'llm', period, CASE tenant WHEN 'exhausted' THEN 1 ELSE 1000000000 END,
                CASE tenant WHEN 'exhausted' THEN 1 ELSE 0 END
         FROM (SELECT 'hot' AS tenant UNION ALL SELECT 'exhausted'
               UNION ALL SELECT 'p-' || n FROM generate_series(0, $1 - 1) AS n) AS tenants,
              unnest(ARRAY['day', 'week', 'month']) AS period
         WHERE NOT (tenant LIKE 'p-%' AND period = 'month')
         UNION ALL
         SELECT 'pool', 'bench', 'llm', 'month', 1000000000, 0",
    )
    .bind(count(pooled))
    .execute(&store.pool)
    .await?;
    audits(store, "ENABLE").await?;
    sqlx::query(
        "INSERT INTO copilot_internal.tenants (tenant_id, pool)
         SELECT 'p-' || n, 'bench' FROM generate_series(0, $1 - 1) AS n",
    )
    .bind(count(pooled))
    .execute(&store.pool)
    .await?;
    sqlx::raw_sql(
        "CREATE TABLE public.bench (id int PRIMARY KEY, n bigint); INSERT INTO public.bench VALUES (1, 0); ANALYZE",
    )
    .execute(&store.pool)
    .await?;
    Ok(())
}

async fn audits(store: &Store, whether: &'static str) -> Result<(), StoreError> {
    let statement = format!(
        "ALTER TABLE copilot_internal.cost_quotas {whether} TRIGGER audit_quota;
         ALTER TABLE copilot_internal.tenants {whether} TRIGGER audit_tenant"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&store.pool).await?;
    Ok(())
}

/// The shortest round trip.
///
/// # Errors
/// The database does not answer.
pub async fn select_one(store: Store) -> Result<(), StoreError> {
    store.ping().await
}

/// The shortest durable change.
///
/// # Errors
/// The database does not answer.
pub async fn update_one(store: Store) -> Result<(), StoreError> {
    sqlx::query("UPDATE public.bench SET n = n + 1 WHERE id = 1").execute(&store.pool).await?;
    Ok(())
}
