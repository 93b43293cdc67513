//! The store: PostgreSQL. The only room with SQL; each function is one transaction.
//!
//! Amounts are `NUMERIC(20,9)` in the tables and nano-dollars here: they are multiplied on the way,
//! never divided, and never pass a float. Instants are arguments: the database's clock decides nothing.

pub mod admission;
mod adoption;
pub mod alerts;
pub mod audit;
pub mod bench;
pub mod costs;
pub mod decisions;
pub mod deliveries;
pub mod embedded;
mod error;
pub mod health;
pub mod inspect;
pub mod ledger;
mod link;
mod migration;
pub mod onboarding;
pub mod outlook;
pub mod overrides;
pub mod quotas;
pub mod replay;
pub mod reservations;
pub mod retention;
pub mod shadows;
pub mod stuck;
pub mod subjects;
pub mod tenants;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgPool, Row as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use self::error::StoreError;
use self::health::Health;
pub use self::link::Link;
use self::link::{IDLE_AT_MOST, STATEMENT_WITHIN};
use self::migration::MIGRATIONS;
pub use self::migration::migrate;
use crate::metrics::StoreGauges;

const SCHEMA: &str = "copilot_internal";
/// How long something waits for one of the pool's connections.
const ACQUIRE_WITHIN: Duration = Duration::from_secs(2);

/// A pool of connections to the migrated database.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// For the decision log.
    log: PgPool,
    /// For lists, whose filters vary.
    readers: PgPool,
    options: PgConnectOptions,
    health: Health,
    /// Of those who look for metrics, one at a time does.
    looks: Arc<Semaphore>,
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
        const READERS: u32 = 4;
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
            // Who has waited for a row goes on with what it is then; the statements are written for that.
            ("default_transaction_isolation", "read committed"),
            ("TimeZone", "UTC"),
            ("application_name", "tollgate"),
        ]);
        let health = Health::default();
        let is_local = options.get_socket().is_some();
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
                    let is_forgotten = !is_local && connection.idle_for > IDLE_AT_MOST;
                    Box::pin(async move { Ok(!is_left_over && !is_forgotten) })
                })
                // One that is dead keeps its place no longer than a statement may; the pool itself would ask it for ever.
                // And one in a transaction, whose start nobody waited for any more, goes: what the next one does would be
                // a part of that.
                .after_release(|connection, _| {
                    Box::pin(async move {
                        // As one message, which has one time; by the extended protocol there are several.
                        let asked = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(connection);
                        let asked = timeout(STATEMENT_WITHIN, asked).await;
                        Ok(matches!(asked, Ok(Ok(row)) if row.try_get(0).unwrap_or(false)))
                    })
                })
        };
        let log = pool(LOG_CONNECTIONS).connect_lazy_with(of_the_log(options.clone()));
        // One plan for every filter reads the whole table, whichever is given.
        let replanned = options.clone().options([("plan_cache_mode", "force_custom_plan")]);
        let readers = pool(READERS).connect_lazy_with(replanned);
        Self {
            readers,
            pool: pool(CONNECTIONS).connect_lazy_with(options.clone()),
            log,
            options,
            health,
            looks: Arc::new(Semaphore::new(1)),
        }
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
        let theirs = async {
            let mut connection = self.options.connect().await?;
            let theirs = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok(theirs)
        };
        let theirs: DateTime<Utc> = health::unless_silent(&self.options, theirs).await?;
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
        // Who asks wants no token: many who do must not take what others need.
        let _one = self.looks.acquire().await;
        let (held, due): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM copilot_internal.reservations WHERE state = 'held'),
                    (SELECT count(*) FROM copilot_internal.alert_deliveries WHERE state = 'due')",
        )
        .fetch_one(&self.readers)
        .await?;
        let count = |count| u64::try_from(count).unwrap_or_default();
        Ok(StoreGauges { reservations_held: count(held), alerts_due: count(due) })
    }

    /// See [`Health::guard_statement`].
    ///
    /// # Errors
    /// Those of `work`, [`StoreError::Unreachable`] and [`StoreError::Slow`].
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.health.guard_statement(work).await
    }

    /// Closes every connection, after what is in flight on it, unless that takes too long.
    pub async fn close(&self) {
        let closed = async { tokio::join!(self.log.close(), self.readers.close(), self.pool.close()) };
        let _ = timeout(ACQUIRE_WITHIN, closed).await;
    }
}

/// The decision log carries no money: its commits do not wait for the disk, and are in its order.
fn of_the_log(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("synchronous_commit", "off")])
}

/// One column of what a statement takes as arrays.
fn column<'a, T, U>(rows: &'a [T], pick: impl Fn(&'a T) -> U) -> Vec<U> {
    rows.iter().map(pick).collect()
}
