//! The decision log's days: those to come are made ahead of time, and those that are kept no longer are dropped.
//!
//! Once for each day of the clock, and at each start. What cannot be had at once is tried again: meanwhile decisions
//! of a day without a partition are in the default one, and move when their day is made.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};

use crate::store::{Store, StoreError};

/// Days that are made before they come.
const AHEAD: u64 = 3;
/// How many ticks pass before what failed is tried again: who has waited for a lock has kept others waiting.
const TICKS_TO_TRY_AGAIN: u32 = 15;
const ROWS_AT_ONCE: i64 = 1_000;

/// How long decisions are kept, and how far that is done.
pub struct Retention {
    /// Days; for ever, where there is no number.
    keep: Option<u32>,
    done_on: Option<NaiveDate>,
    ticks_to_wait: u32,
}

impl Retention {
    /// Nothing is done yet. `keep`: the days that decisions are kept; `None` is for ever.
    pub const fn new(keep: Option<u32>) -> Self {
        Self { keep, done_on: None, ticks_to_wait: 0 }
    }

    /// Does what is due at `now`; nothing on most ticks.
    ///
    /// # Errors
    /// The store did not answer, or not before somebody would have waited for this.
    pub async fn tick(&mut self, store: &Store, now: DateTime<Utc>) -> Result<(), StoreError> {
        let today = now.date_naive();
        if self.done_on == Some(today) {
            return Ok(());
        }
        if self.ticks_to_wait > 0 {
            self.ticks_to_wait -= 1;
            return Ok(());
        }
        // Either is tried, whatever has become of the other.
        let (made, dropped) = (make_days(store, today).await, self.drop_days(store, today).await);
        if made.is_err() || dropped.is_err() {
            self.ticks_to_wait = TICKS_TO_TRY_AGAIN;
        }
        if made? && dropped? {
            self.done_on = Some(today);
        }
        Ok(())
    }

    /// Whether it is done; otherwise another host is at it. By no clock that is ahead of the database's: what is dropped
    /// does not come back.
    async fn drop_days(&self, store: &Store, today: NaiveDate) -> Result<bool, StoreError> {
        let today = today.min(store.guard(store.today()).await?);
        let first_kept = self.keep.and_then(|keep| today.checked_sub_days(Days::new(keep.into())));
        let Some(first_kept) = first_kept else { return Ok(true) };
        for day in store.guard(store.days_of_decisions()).await?.into_iter().take_while(|day| *day < first_kept) {
            if !store.guard(store.drop_day_of_decisions(day)).await? {
                return Ok(false);
            }
            tracing::info!(%day, "Decisions of a day dropped");
        }
        let before = first_kept.and_time(NaiveTime::MIN).and_utc();
        while store.guard(store.delete_old_decisions(before, ROWS_AT_ONCE)).await? > 0 {}
        Ok(true)
    }
}

/// Makes the partitions of `today` and the days after it. Tells whether that is done; otherwise another host is at it.
///
/// # Errors
/// The store did not answer, or not before somebody would have waited for this.
pub(super) async fn make_days(store: &Store, today: NaiveDate) -> Result<bool, StoreError> {
    let there = store.guard(store.days_of_decisions()).await?;
    let wanted = (0..=AHEAD).filter_map(|ahead| today.checked_add_days(Days::new(ahead)));
    for day in wanted.filter(|day| !there.contains(day)) {
        if !store.guard(store.make_day_of_decisions(day)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}
