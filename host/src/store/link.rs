//! A connection of one owner.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

use super::health::Health;
use super::{Store, StoreError, of_the_log};

/// The server ends a statement after 5 s; one that takes longer is not heard any more.
pub(super) const STATEMENT_WITHIN: Duration = Duration::from_secs(8);
/// A server to which everybody connects at once takes its time; whether it is there at all, the probe says sooner.
const CONNECT_WITHIN: Duration = Duration::from_secs(4);
/// What is between may have forgotten a connection that nobody has used for so long, and say nothing of it. On this machine
/// there is nothing between.
pub(super) const IDLE_AT_MOST: Duration = Duration::from_mins(2);

/// A connection that its owner keeps from statement to statement: giving one back costs the pool a round trip. The hot
/// path's statements are methods of it. What is under way must not be cancelled.
#[derive(Debug)]
pub struct Link {
    options: PgConnectOptions,
    /// Where a statement ends early when the store is known to be down.
    health: Option<Health>,
    pub(super) connection: Option<PgConnection>,
    connected: Instant,
    used: Instant,
}

impl Store {
    /// A link that connects when it is used first.
    pub fn link(&self) -> Link {
        Link::new(self.options.clone(), Some(self.health.clone()))
    }

    /// A link for the decision log.
    pub fn log_link(&self) -> Link {
        Link::new(of_the_log(self.options.clone()), Some(self.health.clone()))
    }

    /// A link for what is done while the store still counts as down: bringing it up to date.
    pub fn link_in_outage(&self) -> Link {
        Link::new(self.options.clone(), None)
    }
}

impl Link {
    fn new(options: PgConnectOptions, health: Option<Health>) -> Self {
        let now = Instant::now();
        Self { options, health, connection: None, connected: now, used: now }
    }

    /// Its connection; [`Link::give_back`] it, or it is closed.
    pub(super) async fn take(&mut self) -> Result<PgConnection, StoreError> {
        // What an outage has left leads nowhere, or to a server that is no primary any more.
        let back_for = self.health.as_ref().and_then(Health::back_for);
        let is_left_over = back_for.is_some_and(|back_for| self.connected.elapsed() > back_for);
        let is_local = self.options.get_socket().is_some();
        let is_forgotten = !is_local && self.used.elapsed() > IDLE_AT_MOST;
        if let Some(connection) = self.connection.take().filter(|_| !is_left_over && !is_forgotten) {
            return Ok(connection);
        }
        self.connected = Instant::now();
        // Rare and large: not within every future that may connect.
        let connected = Box::pin(tokio::time::timeout(CONNECT_WITHIN, self.options.connect()));
        self.guard(async { Ok(connected.await.map_err(|_| self.silent())??) }).await
    }

    pub(super) async fn guard<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match &self.health {
            Some(health) => health.guard_statement(work).await,
            None => tokio::time::timeout(STATEMENT_WITHIN, work).await.map_err(|_| self.silent())?,
        }
    }

    /// Where the probe says whether the store is there, a silence does not; in an outage the probe waits for what is done here.
    fn silent(&self) -> StoreError {
        if self.health.is_some() {
            return StoreError::too_late();
        }
        StoreError::Unreachable("it was silent in the middle of what it was asked".to_owned())
    }

    /// A connection on which a statement failed may be no more: the next one gets another.
    pub(super) fn give_back<T>(
        &mut self,
        connection: PgConnection,
        answer: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let is_answered = match &answer {
            Ok(_) | Err(StoreError::Conflict(_) | StoreError::Refused(_)) => true,
            Err(StoreError::Slow(error)) => error.as_database_error().is_some(),
            Err(_) => false,
        };
        if is_answered {
            self.connection = Some(connection);
            self.used = Instant::now();
        }
        answer
    }
}
