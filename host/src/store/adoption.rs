//! Tables that are there already. The replaced system's `cost_quotas` is taken over by the first migration, and what that
//! one does not know of it by the statements here, around it; any other table with a name of ours stands in the way.

use sqlx::PgConnection;
use sqlx::postgres::PgDatabaseError;

use super::StoreError;

/// Our tables beside `cost_quotas`, each with the migration that makes it.
const TABLES: [(&str, i64); 10] = [
    ("cost_quota_periods", 1),
    ("tenants", 2),
    ("cost_records", 2),
    ("decisions", 2),
    ("alerts", 2),
    ("reservations", 3),
    ("policy_disagreements", 4),
    ("alert_deliveries", 6),
    ("audit", 7),
    ("decisions_default", 8),
];

/// Looks for tables that have a name of ours before a migration of ours has made them. `applied` is the last one that was
/// applied; 0 if none was.
pub(super) async fn nothing_is_in_the_way(connection: &mut PgConnection, applied: i64) -> Result<(), StoreError> {
    let (names, migrations): (Vec<&str>, Vec<i64>) = TABLES.into_iter().unzip();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT 'copilot_internal.' || name FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS ours (name, made_by, n)
         WHERE made_by > $3 AND to_regclass('copilot_internal.' || name) IS NOT NULL ORDER BY n",
    )
    .bind(names)
    .bind(migrations)
    .bind(applied)
    .fetch_all(connection)
    .await?;
    if tables.is_empty() { Ok(()) } else { Err(StoreError::InTheWay(tables)) }
}

/// Whether there is a table to take over.
pub(super) async fn finds_quotas(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let finds = "SELECT to_regclass('copilot_internal.cost_quotas') IS NOT NULL";
    Ok(sqlx::query_scalar(finds).fetch_one(connection).await?)
}

/// Before the first migration: names what cannot be taken over, and sets aside what would stop it.
pub(super) async fn prepare(connection: &mut PgConnection) -> Result<(), StoreError> {
    run(connection, include_str!("adoption/check.sql")).await?;
    run(connection, include_str!("adoption/before.sql")).await
}

/// After the migrations: brings back what was set aside, and reports what does not come back.
pub(super) async fn complete(connection: &mut PgConnection) -> Result<(), StoreError> {
    run(connection, include_str!("adoption/after.sql")).await?;
    let lost: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT name, on_table, head || rule, lost_because FROM policies_set_aside WHERE lost_because IS NOT NULL",
    )
    .fetch_all(connection)
    .await?;
    for (policy, table, definition, reason) in lost {
        tracing::warn!(
            policy,
            table,
            definition,
            reason,
            "A row-level-security policy does not fit the new table and was dropped: create it anew for ids as text"
        );
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<(), StoreError> {
    let Err(error) = sqlx::raw_sql(sql).execute(connection).await else { return Ok(()) };
    match error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) {
        // What the statements themselves say (`RAISE`).
        Some(said) if said.code() == "P0001" => {
            Err(StoreError::NotTakenOver(said.message().to_owned(), said.hint().map(str::to_owned)))
        }
        _ => Err(error.into()),
    }
}
