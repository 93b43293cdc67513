//! What happens without a request: what has expired is given back, overrides that are over are taken away, rows whose
//! window is over are brought to the open one, so that readers of the tables see no stale spend, and the decision log gets its
//! coming days and loses its oldest.

pub mod alerts;
mod notices;
mod retention;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use self::retention::Retention;
use crate::causes;
use crate::clock::Clock;
use crate::contained::kept_up;
use crate::gate::{Gate, GateError};
use crate::store::{Store, StoreError};

/// How often the store is asked whether it is there.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// The same complaint about it is logged no more often than this.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(1);
/// Rows roll over when they are touched; those that nobody touches, within this many ticks.
const TICKS_TO_ROLL_OVER: u32 = 15;
const ROWS_AT_ONCE: i64 = 500;
/// How long nobody tries again what waits for a row that somebody else has.
const AFTER_A_LOCKED_ROW: Duration = Duration::from_secs(10);

/// Works until `stopped` says so, and never stops within a statement. Every host of a database may have one: what one
/// does, another finds done. `keep_days`: how long decisions are kept; `None` is for ever.
pub async fn run(gate: Arc<Gate>, store: Store, clock: Clock, keep_days: Option<u32>, stopped: watch::Receiver<bool>) {
    kept_up("the worker", || work(&gate, &store, &clock, keep_days, stopped.clone())).await;
}

async fn work(gate: &Gate, store: &Store, clock: &Clock, keep_days: Option<u32>, mut stopped: watch::Receiver<bool>) {
    let mut retention = Retention::new(keep_days);
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0_u32.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        if store.health().is_down() {
            continue;
        }
        if let Err(error) = expire(gate).await {
            tracing::warn!(reason = causes::chain(&error), "Expired reservations not given back");
        }
        if let Err(error) = end_overrides(store, clock).await {
            tracing::warn!(reason = causes::chain(&error), "Overrides that are over not taken away");
        }
        if tick % TICKS_TO_ROLL_OVER == 0
            && let Err(error) = alerts::give_up(store, clock).await
        {
            tracing::warn!(reason = causes::chain(&error), "Alerts that are no news any more not given up");
        }
        if tick % TICKS_TO_ROLL_OVER == 0
            && let Err(error) = roll_over(store, clock).await
        {
            tracing::warn!(reason = causes::chain(&error), "Windows not rolled over");
        }
        if let Err(error) = retention.tick(store, clock.now()).await {
            tracing::warn!(
                reason = causes::chain(&error),
                "Days of the decision log not made or dropped; tried again later"
            );
        }
    }
}

/// Brings into the books what waits for reservations that another host has promised, as soon as they are there. Beside
/// [`run`], in which a statement may wait for the lock of another tenant's quota.
pub async fn try_waiting(gate: Arc<Gate>, stopped: watch::Receiver<bool>) {
    kept_up("the worker of what waits", || wait(&gate, stopped.clone())).await;
}

async fn wait(gate: &Gate, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        match gate.try_waiting().await {
            Ok(false) => {}
            // Whoever waits for a row has others meanwhile.
            Ok(true) => ticks.reset_after(AFTER_A_LOCKED_ROW),
            Err(error) => {
                tracing::warn!(
                    reason = causes::chain(&error),
                    "What waits for promised reservations is not in the books"
                );
            }
        }
    }
}

/// Asks the store, again and again, whether it is there: tells the gate when it is not, and brings the books up to date
/// when it is again. `is_migrated`: the database is at this version; otherwise it is brought to it first.
pub async fn watch_store(gate: Arc<Gate>, store: Store, is_migrated: bool, stopped: watch::Receiver<bool>) {
    kept_up("the watch of the store", || watch(&gate, &store, is_migrated, stopped.clone())).await;
}

async fn watch(gate: &Gate, store: &Store, mut is_migrated: bool, mut stopped: watch::Receiver<bool>) {
    let mut probe = store.probe();
    let mut complaint = Complaint::default();
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        match probe.ask().await {
            Ok(()) if store.health().is_down() => {
                if let Err(reason) = recover(gate, store, &mut is_migrated).await
                    && complaint.is_news(&reason)
                {
                    tracing::error!(reason, "The books are not up to date yet");
                }
            }
            Ok(()) => complaint = Complaint::default(),
            Err(error) if error.is_outage() => gate.lost(&error),
            // It is there, and refuses us: its administrator's business. Whoever asks for a decision is told.
            Err(error) => {
                let reason = causes::chain(&error);
                if complaint.is_news(&reason) {
                    tracing::warn!(reason, "The store does not answer a probe as it should");
                }
            }
        }
    }
}

async fn recover(gate: &Gate, store: &Store, is_migrated: &mut bool) -> Result<(), String> {
    if !*is_migrated {
        store.migrate().await.map_err(|error| causes::chain(&error))?;
        *is_migrated = true;
    }
    gate.recover().await.map_err(|error| causes::chain(&error))
}

/// What was logged last, and when: a store is asked four times a second, and the log is not to fill with one answer.
#[derive(Default)]
struct Complaint(Option<(String, Instant)>);

impl Complaint {
    /// Whether to log it: it is another one, or was logged a while ago.
    fn is_news(&mut self, reason: &str) -> bool {
        let was_said = |(said, at): &(String, Instant)| said == reason && at.elapsed() < COMPLAIN_EVERY;
        let is_news = !self.0.as_ref().is_some_and(was_said);
        if is_news {
            self.0 = Some((reason.to_owned(), Instant::now()));
        }
        is_news
    }
}

/// Makes the decision log's partitions of today and the days to come.
///
/// # Errors
/// The store did not answer, or not before somebody would have waited for this.
pub async fn make_days(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    retention::make_days(store, clock.now().date_naive()).await.map(drop)
}

/// Gives back everything that is due.
///
/// # Errors
/// The store did not answer.
pub async fn expire(gate: &Gate) -> Result<(), GateError> {
    gate.expire_due().await
}

/// Takes away every override that is over: it has not held since, and now nobody sees it in the table.
///
/// # Errors
/// The store did not answer.
pub async fn end_overrides(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    while store.guard(store.end_overrides(clock.now())).await? > 0 {}
    Ok(())
}

/// Brings every row to the window that is open now.
///
/// # Errors
/// The store did not answer.
pub async fn roll_over(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    while store.guard(store.roll_over(clock.now(), ROWS_AT_ONCE)).await? > 0 {}
    Ok(())
}
