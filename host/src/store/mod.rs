//! The store: PostgreSQL. The only room with SQL; each function is one transaction.
//!
//! Amounts are `NUMERIC(20,9)` in the tables and nano-dollars here: they are multiplied on the way,
//! never divided, and never pass a float. Instants are arguments: the database's clock decides nothing.

pub mod admission;
pub mod alerts;
pub mod bench;
pub mod costs;
pub mod decisions;
pub mod deliveries;
pub mod embedded;
pub mod ledger;
pub mod outlook;
pub mod quotas;
pub mod reservations;
pub mod subjects;
pub mod tenants;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres};

use crate::metrics::StoreGauges;

const SCHEMA: &str = "copilot_internal";
static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The same id came with another body.
    #[error("{0}")]
    Conflict(String),
    /// A row would break one of the tables' constraints.
    #[error("{0}")]
    Refused(String),
    /// The migrations could not be applied.
    #[error("cannot migrate the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database did not answer as it should.
    #[error("the database did not answer")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if database.constraint().is_some() => Self::Refused(database.to_string()),
            _ => Self::Database(error),
        }
    }
}

/// A pool of connections to the migrated database.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// For the decision log, which carries no money: its commits do not wait for the disk, and are in its order.
    log: PgPool,
}

impl Store {
    /// Connects, migrates, and creates the log view where it may.
    ///
    /// # Errors
    /// The database does not answer, or a migration does not apply (it is rolled back whole).
    pub async fn open(options: PgConnectOptions) -> Result<Self, StoreError> {
        migrate(&options).await?;
        Self::connect(options).await
    }

    /// Connects to a database that is migrated already.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn connect(options: PgConnectOptions) -> Result<Self, StoreError> {
        const CONNECTIONS: u32 = 16;
        const LOG_CONNECTIONS: u32 = 2;
        let options = options.disable_statement_logging().options([
            // Planning costs more than running these statements, and each has one good plan: by index. A
            // generic plan made while the tables were empty would read them whole ever after.
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("jit", "off"),
            ("synchronous_commit", "on"),
            ("statement_timeout", "5s"),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "5s"),
            ("TimeZone", "UTC"),
            ("application_name", "tollgate"),
        ]);
        // A round trip before every statement would double its price; a dead connection shows in use.
        let pool = |connections| PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
        let log = pool(LOG_CONNECTIONS).connect_lazy_with(options.clone().options([("synchronous_commit", "off")]));
        Ok(Self { pool: pool(CONNECTIONS).connect_with(options).await?, log })
    }

    /// How far the database's clock is ahead of `now`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn clock_difference(&self, now: DateTime<Utc>) -> Result<TimeDelta, StoreError> {
        let theirs: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&self.pool).await?;
        Ok(theirs - now)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// What only the store knows, for metrics.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn gauges(&self) -> Result<StoreGauges, StoreError> {
        let (held, due): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM copilot_internal.reservations WHERE state = 'held'),
                    (SELECT count(*) FROM copilot_internal.alert_deliveries WHERE state = 'due')",
        )
        .fetch_one(&self.pool)
        .await?;
        let count = |count| u64::try_from(count).unwrap_or_default();
        Ok(StoreGauges { reservations_held: count(held), alerts_due: count(due) })
    }

    /// Closes every connection, after what is in flight on it.
    pub async fn close(&self) {
        self.log.close().await;
        self.pool.close().await;
    }
}

/// A connection that its owner keeps from statement to statement: giving one back costs the pool a round trip. The hot
/// path's statements are methods of it. What is under way must not be cancelled.
#[derive(Debug)]
pub struct Link {
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
}

impl Store {
    /// A link that connects when it is used first.
    pub fn link(&self) -> Link {
        Link { pool: self.pool.clone(), connection: None }
    }
}

impl Link {
    async fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.acquire().await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// A connection on which a statement failed may be no more: the next one gets another.
    fn after<T>(&mut self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Database(_)) = &answer
            && let Some(mut connection) = self.connection.take()
        {
            connection.close_on_drop();
        }
        answer
    }
}

/// One column of what a statement takes as arrays.
fn column<'a, T, U>(rows: &'a [T], pick: impl Fn(&'a T) -> U) -> Vec<U> {
    rows.iter().map(pick).collect()
}

/// Brings the database to this version: creates the tables, takes over those of the replaced system,
/// and creates the log view where the role may.
///
/// # Errors
/// The database does not answer, or a migration does not apply (it is rolled back whole).
pub async fn migrate(options: &PgConnectOptions) -> Result<(), StoreError> {
    let options = options.clone().disable_statement_logging().options([("client_min_messages", "warning")]);
    let mut connection = options.connect().await?;
    // Asked first, since creating a schema that exists takes a right that the role may not have.
    let missing: bool =
        sqlx::query_scalar("SELECT to_regnamespace($1) IS NULL").bind(SCHEMA).fetch_one(&mut connection).await?;
    if missing {
        sqlx::query("CREATE SCHEMA IF NOT EXISTS copilot_internal").execute(&mut connection).await?;
    }
    // Where the list of applied migrations goes: not every role may write to schema `public`.
    sqlx::query("SET search_path = copilot_internal").execute(&mut connection).await?;
    MIGRATIONS.run(&mut connection).await?;
    create_log_view(&mut connection).await?;
    report_combined_quotas(&mut connection).await?;
    // Plans are made once and kept, so the first ones should know the tables.
    sqlx::query("ANALYZE").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
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
/// left alone, and so is a schema that the role may not write to; both are reported.
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
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
            tracing::warn!(reason = %error, "public.application_logs not created: denials are in copilot_internal.decisions only");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
