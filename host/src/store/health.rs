//! Whether the store can be reached, as far as this host knows; and the question that finds out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::watch;
use tokio::time::timeout;

use super::link::STATEMENT_WITHIN;
use super::{Store, StoreError};

/// A store that says nothing for so long is down; one that is slow answers this small question in time.
pub(super) const SILENCE: Duration = Duration::from_secs(1);

/// Work that may be heavy is given up after so many silences in a row: it may be what keeps the server busy.
const SILENCES: u32 = 5;

/// What this host knows of the store. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Why it counts as down.
    down: Option<Arc<str>>,
    /// When it came back last.
    back: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }
}

impl Health {
    /// Whether it counts as down.
    pub fn is_down(&self) -> bool {
        self.state.borrow().down.is_some()
    }

    /// Why it counts as down.
    pub fn why(&self) -> Option<Arc<str>> {
        self.state.borrow().down.clone()
    }

    /// It is down from now on; tells whether that is news. Whatever waits for it is told at once.
    pub fn is_lost(&self, why: &str) -> bool {
        self.state.send_if_modified(|state| {
            let is_news = state.down.is_none();
            if is_news {
                state.down = Some(why.into());
            }
            is_news
        })
    }

    /// It is up from now on.
    pub fn is_back(&self) {
        self.state.send_modify(|state| *state = State { down: None, back: Some(Instant::now()) });
    }

    /// Ready when it does not count as down.
    pub async fn is_up(&self) {
        let _ = self.state.subscribe().wait_for(|state| state.down.is_none()).await;
    }

    /// How long it has been up since the last outage; `None` where there was none.
    pub(super) fn back_for(&self) -> Option<Duration> {
        self.state.borrow().back.map(|back| back.elapsed())
    }

    /// What `work` comes to, or that the store is down, as soon as that is known: a connection can be silent for ever.
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError::Unreachable`].
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            down = self.goes_down() => Err(down),
            answer = work => answer,
        }
    }

    /// As [`Health::guard`], for one statement: more than that takes is not waited for, since the connection that it is on may
    /// be dead while the store is there.
    ///
    /// # Errors
    /// Those of `work`, [`StoreError::Unreachable`] and [`StoreError::Slow`].
    pub async fn guard_statement<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            down = self.goes_down() => Err(down),
            answer = work => answer,
            () = tokio::time::sleep(STATEMENT_WITHIN) => Err(StoreError::too_late()),
        }
    }

    async fn goes_down(&self) -> StoreError {
        let mut state = self.state.subscribe();
        let down = state.wait_for(|state| state.down.is_some()).await;
        let why = down.ok().and_then(|state| state.down.clone());
        StoreError::Unreachable(why.unwrap_or_default().to_string())
    }
}

/// Asks the store whether it is there, on a connection of its own.
#[derive(Debug)]
pub struct Probe {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Store {
    /// What this host knows of it.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// A probe that connects when it is used first.
    pub fn probe(&self) -> Probe {
        Probe { options: self.options.clone(), connection: None }
    }
}

impl Probe {
    /// Whether the store is there and takes writes.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`]: it is down. Any other error: it is there, and something else is wrong.
    pub async fn ask(&mut self) -> Result<(), StoreError> {
        let connection = self.connection.take();
        let asked = timeout(SILENCE, ask(&self.options, connection)).await;
        let (connection, is_read_only) =
            asked.map_err(|_| StoreError::Unreachable("it was silent for a second".to_owned()))??;
        if is_read_only {
            // A standby, or a primary that has become one: the next question may reach another server.
            return Err(StoreError::Unreachable("it is read-only".to_owned()));
        }
        self.connection = Some(connection);
        Ok(())
    }
}

/// What `work` comes to, unless the store falls silent meanwhile, or is so from the first. Work may take long: a store that
/// is there answers a small question beside it.
///
/// # Errors
/// Those of `work`, and [`StoreError::Unreachable`].
pub(super) async fn unless_silent<T>(
    options: &PgConnectOptions,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    // Rare and large: not within every future that may begin with it.
    let (work, silence) = (Box::pin(work), Box::pin(falls_silent(options)));
    tokio::select! {
        biased;
        done = work => done,
        () = silence => {
            let silent_for = SILENCE * SILENCES;
            Err(StoreError::Unreachable(format!("it was silent for {silent_for:?}")))
        }
    }
}

/// Ready when so many questions in a row were not answered.
async fn falls_silent(options: &PgConnectOptions) {
    let mut unanswered = 0;
    while unanswered < SILENCES {
        // Most work is done before the first question.
        tokio::time::sleep(if unanswered == 0 { SILENCE } else { Duration::ZERO }).await;
        unanswered = if timeout(SILENCE, ask(options, None)).await.is_err() { unanswered + 1 } else { 0 };
    }
}

async fn ask(options: &PgConnectOptions, connection: Option<PgConnection>) -> Result<(PgConnection, bool), StoreError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => options.connect().await?,
    };
    let question = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";
    let is_read_only = sqlx::query_scalar(question).fetch_one(&mut connection).await?;
    Ok((connection, is_read_only))
}
