//! A connection of one owner.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

use super::health::{self, Health};
use super::{Store, StoreError, of_the_log};

/// The server ends a statement after 5 s; one that takes longer is not heard any more.
pub(super) const STATEMENT_WITHIN: Duration = Duration::from_secs(8);
/// How long the end of an outage waits for a connection: nobody waits for it meanwhile, and a server to which everybody
/// connects again at once may take longer than a request can wait.
const CONNECT_IN_OUTAGE: Duration = Duration::from_secs(4);

/// A connection that its owner keeps from statement to statement: giving one back costs the pool a round trip. The hot
/// path's statements are methods of it. What is under way must not be cancelled.
#[derive(Debug)]
pub struct Link {
    options: PgConnectOptions,
    /// Where a statement ends early when the store is known to be down.
    health: Option<Health>,
    pub(super) connection: Option<PgConnection>,
    connected: Instant,
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
        Self { options, health, connection: None, connected: Instant::now() }
    }

    /// Its connection; [`Link::give_back`] it, or it is closed.
    pub(super) async fn take(&mut self) -> Result<PgConnection, StoreError> {
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

    pub(super) async fn guard<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if let Some(health) = &self.health {
            return health.guard(work).await;
        }
        // Nobody would say so: the probe waits for what is done here.
        let silent = |_| StoreError::Unreachable("it was silent in the middle of a statement".to_owned());
        tokio::time::timeout(STATEMENT_WITHIN, work).await.map_err(silent)?
    }

    /// A connection on which a statement failed may be no more: the next one gets another.
    pub(super) fn give_back<T>(
        &mut self,
        connection: PgConnection,
        answer: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if matches!(answer, Ok(_) | Err(StoreError::Conflict(_) | StoreError::Refused(_) | StoreError::Slow(_))) {
            self.connection = Some(connection);
        }
        answer
    }
}
