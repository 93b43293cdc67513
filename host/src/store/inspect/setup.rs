//! How a database is set up.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::clock::Clock;
use crate::store::{MIGRATIONS, SCHEMA, StoreError, health};

/// How a database is set up, without changing anything.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `15.18 (Debian …)`.
    pub version: String,
    /// 150018.
    pub version_number: i32,
    /// A standby, or set to read-only.
    pub is_read_only: bool,
    /// How far their clock is ahead.
    pub ahead: TimeDelta,
    /// Names of migrations of this version that are not applied.
    pub missing: Vec<String>,
    /// Migrations of a later version.
    pub unknown: Vec<i64>,
    /// `TABLE: RIGHT` that the role has not.
    pub denied: Vec<String>,
    /// Whether `public.application_logs` is there and ours.
    pub has_log_view: bool,
}

/// Looks at a database, beside a clock.
///
/// # Errors
/// It does not answer.
pub async fn inspect(options: &PgConnectOptions, clock: &Clock) -> Result<Setup, StoreError> {
    health::unless_silent(options, look(options, clock)).await
}

async fn look(options: &PgConnectOptions, clock: &Clock) -> Result<Setup, StoreError> {
    let mut connection = options.clone().disable_statement_logging().connect().await?;
    let (version, number, is_read_only, theirs): (String, String, bool, DateTime<Utc>) = sqlx::query_as(
        "SELECT current_setting('server_version'), current_setting('server_version_num'),
                pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', clock_timestamp()",
    )
    .fetch_one(&mut connection)
    .await?;
    let ahead = theirs - clock.now();
    let applied = applied(&mut connection).await?;
    let known: BTreeSet<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
    let missing = MIGRATIONS
        .iter()
        .filter(|migration| !applied.contains(&migration.version))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect();
    let denied: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || ': ' || needed.privilege
         FROM pg_class c, (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS needed (privilege)
         WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p')
           AND c.relname IN ('cost_quotas', 'cost_quota_periods', 'tenants', 'reservations', 'cost_records', 'decisions', 'alerts')
           AND NOT has_table_privilege(c.oid, needed.privilege)
         ORDER BY 1",
    )
    .bind(SCHEMA)
    .fetch_all(&mut connection)
    .await?;
    let has_log_view: Option<bool> = sqlx::query_scalar(
        "SELECT obj_description(oid) = 'Denial log lines of Tollgate.' FROM pg_class WHERE oid = to_regclass('public.application_logs')",
    )
    .fetch_optional(&mut connection)
    .await?
    .flatten();
    connection.close().await?;
    Ok(Setup {
        version,
        version_number: number.parse().unwrap_or_default(),
        is_read_only,
        ahead,
        missing,
        unknown: applied.difference(&known).copied().collect(),
        denied,
        has_log_view: has_log_view.unwrap_or_default(),
    })
}

async fn applied(connection: &mut PgConnection) -> Result<BTreeSet<i64>, StoreError> {
    let has_any: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(format!("{SCHEMA}._sqlx_migrations"))
        .fetch_one(&mut *connection)
        .await?;
    if !has_any {
        return Ok(BTreeSet::new());
    }
    let sql = "SELECT version FROM copilot_internal._sqlx_migrations WHERE success";
    let versions: Vec<i64> = sqlx::query_scalar(sql).fetch_all(connection).await?;
    Ok(versions.into_iter().collect())
}
