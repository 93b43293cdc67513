//! The store: PostgreSQL. The only room with SQL; each function is one transaction.
//!
//! Amounts are `NUMERIC(20,9)` in the tables and nano-dollars here: they are multiplied on the way,
//! never divided, and never pass a float. Instants are arguments: the database's clock decides nothing.

pub mod admission;
pub mod alerts;
pub mod audit;
pub mod bench;
pub mod costs;
pub mod decisions;
pub mod deliveries;
pub mod embedded;
pub mod health;
pub mod inspect;
pub mod ledger;
pub mod onboarding;
pub mod outlook;
pub mod overrides;
pub mod quotas;
pub mod replay;
pub mod reservations;
pub mod retention;
pub mod shadows;
pub mod subjects;
pub mod tenants;

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool};

use self::health::Health;

use crate::metrics::StoreGauges;

const SCHEMA: &str = "copilot_internal";
/// The server ends a statement after 5 s; one that takes longer is not heard any more.
const STATEMENT_WITHIN: Duration = Duration::from_secs(8);
/// How long the end of an outage waits for a connection: nobody waits for it meanwhile, and a server to which everybody
/// connects again at once may take longer than a request can wait.
const CONNECT_IN_OUTAGE: Duration = Duration::from_secs(4);
/// How long something waits for one of the pool's connections.
const ACQUIRE_WITHIN: Duration = Duration::from_secs(2);
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
    Migrate(#[source] MigrateError),
    /// It cannot be reached: refused, reset, shutting down, read-only, or silent.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// It is there, and did not answer in time.
    #[error("the database did not answer in time")]
    Slow(#[source] sqlx::Error),
    /// The database did not answer as it should.
    #[error("the database did not answer")]
    Database(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the store counts as down: what a request then gets is the operator's choice.
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if database.constraint().is_some() => Self::Refused(database.to_string()),
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // Read-only: a standby. Shutting down, crashed, starting up. And whatever concerns the connection.
                Some("25006" | "57P01" | "57P02" | "57P03") => Self::Unreachable(database.to_string()),
                Some(code) if code.starts_with("08") => Self::Unreachable(database.to_string()),
                // Cancelled after `statement_timeout`, no lock in time, no more connections.
                Some("57014" | "55P03" | "53300") => Self::Slow(error),
                _ => Self::Database(error),
            },
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::Unreachable(error.to_string())
            }
            sqlx::Error::PoolTimedOut => Self::Slow(error),
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
    options: PgConnectOptions,
    health: Health,
}

impl Store {
    /// Connects, migrates, and creates the log view where it may.
    ///
    /// # Errors
    /// The database does not answer, or a migration does not apply (it is rolled back whole).
    pub async fn open(options: PgConnectOptions) -> Result<Self, StoreError> {
        migrate(&options).await?;
        let store = Self::new(options);
        store.ping().await?;
        Ok(store)
    }

    /// A store that connects when it is used first; [`Store::migrate`] has to come before that, once.
    pub fn new(options: PgConnectOptions) -> Self {
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
        let health = Health::default();
        let pool = |connections| {
            let health = health.clone();
            // A round trip before every statement would double its price; a dead connection shows in use.
            PgPoolOptions::new()
                .max_connections(connections)
                .test_before_acquire(false)
                .acquire_timeout(ACQUIRE_WITHIN)
                // What an outage has left may lead to a server that is no primary any more, or nowhere.
                .before_acquire(move |_, connection| {
                    let is_left_over = health.back_for().is_some_and(|back_for| connection.age > back_for);
                    Box::pin(async move { Ok(!is_left_over) })
                })
        };
        let log = pool(LOG_CONNECTIONS).connect_lazy_with(options.clone().options([("synchronous_commit", "off")]));
        Self { pool: pool(CONNECTIONS).connect_lazy_with(options.clone()), log, options, health }
    }

    /// Brings the database to this version.
    ///
    /// # Errors
    /// The database does not answer, or a migration does not apply (it is rolled back whole).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        migrate(&self.options).await
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

    /// Closes every connection, after what is in flight on it, unless that takes too long.
    pub async fn close(&self) {
        let closed = async { tokio::join!(self.log.close(), self.pool.close()) };
        let _ = tokio::time::timeout(ACQUIRE_WITHIN, closed).await;
    }
}

/// A connection that its owner keeps from statement to statement: giving one back costs the pool a round trip. The hot
/// path's statements are methods of it. What is under way must not be cancelled.
#[derive(Debug)]
pub struct Link {
    options: PgConnectOptions,
    /// Where a statement ends early when the store is known to be down.
    health: Option<Health>,
    connection: Option<PgConnection>,
    connected: Instant,
}

impl Store {
    /// A link that connects when it is used first.
    pub fn link(&self) -> Link {
        Link::new(self.options.clone(), Some(self.health.clone()))
    }

    /// A link for what is done while the store still counts as down: bringing it up to date.
    pub fn link_in_outage(&self) -> Link {
        Link::new(self.options.clone(), None)
    }

    /// See [`Health::guard`].
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError::Unreachable`].
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.health.guard(work).await
    }
}

impl Link {
    fn new(options: PgConnectOptions, health: Option<Health>) -> Self {
        Self { options, health, connection: None, connected: Instant::now() }
    }

    /// Its connection; [`Link::give_back`] it, or it is closed.
    async fn take(&mut self) -> Result<PgConnection, StoreError> {
        // What an outage has left leads nowhere, or to a server that is no primary any more.
        let back_for = self.health.as_ref().and_then(Health::back_for);
        let is_left_over = back_for.is_some_and(|back_for| self.connected.elapsed() > back_for);
        if let Some(connection) = self.connection.take().filter(|_| !is_left_over) {
            return Ok(connection);
        }
        self.connected = Instant::now();
        // Rare and large: not within every future that may connect.
        let within = if self.health.is_some() { health::SILENCE } else { CONNECT_IN_OUTAGE };
        let connected = Box::pin(tokio::time::timeout(within, self.options.connect()));
        self.guard(async {
            let silent = |_| StoreError::Unreachable(format!("no connection within {within:?}"));
            Ok(connected.await.map_err(silent)??)
        })
        .await
    }

    async fn guard<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if let Some(health) = &self.health {
            return health.guard(work).await;
        }
        // Nobody would say so: the probe waits for what is done here.
        let silent = |_| StoreError::Unreachable("it was silent in the middle of a statement".to_owned());
        tokio::time::timeout(STATEMENT_WITHIN, work).await.map_err(silent)?
    }

    /// A connection on which a statement failed may be no more: the next one gets another.
    fn give_back<T>(&mut self, connection: PgConnection, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(answer, Ok(_) | Err(StoreError::Conflict(_) | StoreError::Refused(_) | StoreError::Slow(_))) {
            self.connection = Some(connection);
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
    // A request's time is no measure here: a large table takes longer, and so does another host that is at it.
    let patient = [("client_min_messages", "warning"), ("statement_timeout", "0")];
    let options = options.clone().disable_statement_logging().options(patient);
    let mut connection = options.connect().await?;
    // Asked first, since creating a schema that exists takes a right that the role may not have.
    let missing: bool =
        sqlx::query_scalar("SELECT to_regnamespace($1) IS NULL").bind(SCHEMA).fetch_one(&mut connection).await?;
    if missing {
        sqlx::query("CREATE SCHEMA IF NOT EXISTS copilot_internal").execute(&mut connection).await?;
    }
    // Where the list of applied migrations goes: not every role may write to schema `public`.
    sqlx::query("SET search_path = copilot_internal").execute(&mut connection).await?;
    // As `run` does, whose bounds keep it out of spawned tasks.
    MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) => error.into(),
        other => StoreError::Migrate(other),
    })?;
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
