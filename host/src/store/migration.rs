//! Bringing a database to this version.

use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::{SCHEMA, StoreError, adoption, health};

/// Ours: others' tables may be large, and are none of our business.
const ANALYZE: &str = "DO $$
    BEGIN
        EXECUTE (SELECT 'ANALYZE ' || string_agg(oid::regclass::text, ', ') FROM pg_class
                 WHERE relnamespace = 'copilot_internal'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition);
    END $$";

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Brings the database to this version: creates the tables, takes over those of the replaced system,
/// and creates the log view where the role may.
///
/// The first time it is one transaction, so that a database which cannot be taken over is left as it was. Afterwards each
/// migration has its own: every version is one that a gate has run on.
///
/// # Errors
/// The database does not answer, a migration does not apply (it is rolled back), or what is there cannot be taken over.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), StoreError> {
    health::unless_silent(options, bring_up(options)).await
}

async fn bring_up(options: &PgConnectOptions) -> Result<(), StoreError> {
    // A request's time is no measure here: a large table takes longer.
    let patient = [("client_min_messages", "warning"), ("statement_timeout", "0")];
    let options = options.clone().disable_statement_logging().options(patient);
    let mut connection = options.connect().await?;
    lock(&mut connection).await?;
    // Where the list of applied migrations goes: not every role may write to schema `public`.
    sqlx::query("SET search_path = copilot_internal").execute(&mut connection).await?;
    let applied = last_applied(&mut connection).await?;
    adoption::nothing_is_in_the_way(&mut connection, applied).await?;
    if applied > 0 {
        apply(&mut connection).await?;
    } else {
        let mut whole = connection.begin().await?;
        apply_first(&mut whole).await?;
        whole.commit().await?;
    }
    create_log_view(&mut connection).await?;
    report_combined_quotas(&mut connection).await?;
    // Plans are made once and kept, so the first ones should know the tables.
    sqlx::raw_sql(ANALYZE).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Lets one host at a time through here, until its connection is closed. It is the lock that `run_direct` takes as well,
/// and gives back before our transaction has ended; a session may hold it twice.
async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    // The other host may have a large table to take over.
    sqlx::query("SET lock_timeout = 0").execute(&mut *connection).await?;
    connection.lock().await.map_err(failed)?;
    sqlx::query("RESET lock_timeout").execute(connection).await?;
    Ok(())
}

/// The last migration that was applied; 0 if none was.
async fn last_applied(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let listed: bool = sqlx::query_scalar("SELECT to_regclass('copilot_internal._sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !listed {
        return Ok(0);
    }
    let last = "SELECT coalesce(max(version), 0) FROM copilot_internal._sqlx_migrations";
    Ok(sqlx::query_scalar(last).fetch_one(connection).await?)
}

async fn apply_first(whole: &mut PgConnection) -> Result<(), StoreError> {
    // Asked first, since creating a schema that exists takes a right that the role may not have.
    let missing: bool =
        sqlx::query_scalar("SELECT to_regnamespace($1) IS NULL").bind(SCHEMA).fetch_one(&mut *whole).await?;
    if missing {
        sqlx::query("CREATE SCHEMA copilot_internal").execute(&mut *whole).await?;
    }
    let finds_quotas = adoption::finds_quotas(whole).await?;
    if finds_quotas {
        adoption::prepare(whole).await?;
    }
    apply(whole).await?;
    if finds_quotas {
        adoption::complete(whole).await?;
    }
    Ok(())
}

async fn apply(connection: &mut PgConnection) -> Result<(), StoreError> {
    // As `run` does, whose bounds keep it out of spawned tasks.
    MIGRATIONS.run_direct(None, connection, false).await.map_err(failed)
}

fn failed(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) => error.into(),
        other => StoreError::Migrate(other),
    }
}

/// The replaced system had quotas for all resource types together. They are kept, and limit nothing: whoever relied on
/// them must hear of it.
async fn report_combined_quotas(connection: &mut PgConnection) -> Result<(), StoreError> {
    let combined: i64 =
        sqlx::query_scalar("SELECT count(*) FROM copilot_internal.cost_quotas WHERE resource_type = 'all'")
            .fetch_one(connection)
            .await?;
    if combined > 0 {
        tracing::warn!(
            combined,
            "Quotas of the resource type \"all\" limit nothing: give each type, llm and e2b, its own"
        );
    }
    Ok(())
}

/// `public.application_logs`: one row for each denial log line. Another system's table of that name is
/// left alone, and so is a schema that the role may not write to or that is not there; each is reported.
async fn create_log_view(connection: &mut PgConnection) -> Result<(), StoreError> {
    let owned: Option<bool> = sqlx::query_scalar(
        "SELECT relkind = 'v' AND obj_description(oid) = 'Denial log lines of Tollgate.'
         FROM pg_class WHERE oid = to_regclass('public.application_logs')",
    )
    .fetch_optional(&mut *connection)
    .await?
    .map(Option::unwrap_or_default);
    if owned == Some(false) {
        tracing::warn!(
            "public.application_logs exists and is not ours: denials are in copilot_internal.decisions only"
        );
        return Ok(());
    }
    match sqlx::raw_sql(include_str!("application_logs.sql")).execute(connection).await {
        Ok(_) => Ok(()),
        // No right; no schema `public`.
        Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("42501" | "3F000")) => {
            tracing::warn!(reason = %error, "public.application_logs not created: denials are in copilot_internal.decisions only");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
