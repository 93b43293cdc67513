//! What happens without a request: what has expired is given back, and rows whose window is over are brought to the
//! open one, so that readers of the tables see no stale spend.

pub mod alerts;
mod notices;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::gate::Gate;
use crate::store::{Store, StoreError};

const EVERY: Duration = Duration::from_secs(1);
/// Rows roll over when they are touched; those that nobody touches, within this many ticks.
const TICKS_TO_ROLL_OVER: u32 = 15;
const ROWS_AT_ONCE: i64 = 500;

/// Works until `stopped` says so, and never stops within a statement. Every host of a database may have one: what one
/// does, another finds done.
pub async fn run(gate: Arc<Gate>, store: Store, clock: Clock, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0_u32.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        if let Err(error) = expire(&gate).await {
            tracing::warn!(reason = %error, "Expired reservations not given back");
        }
        if tick % TICKS_TO_ROLL_OVER == 0
            && let Err(error) = roll_over(&store, &clock).await
        {
            tracing::warn!(reason = %error, "Windows not rolled over");
        }
    }
}

/// Gives back everything that is due.
///
/// # Errors
/// The store did not answer.
pub async fn expire(gate: &Gate) -> Result<(), StoreError> {
    while gate.expire_due().await? > 0 {}
    Ok(())
}

/// Brings every row to the window that is open now.
///
/// # Errors
/// The store did not answer.
pub async fn roll_over(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    while store.roll_over(clock.now(), ROWS_AT_ONCE).await? > 0 {}
    Ok(())
}
