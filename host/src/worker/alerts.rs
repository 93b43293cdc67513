//! Alerts become messages. Every host of a database may do so: what one has taken, the others leave.
//!
//! 1. Alerts that go nowhere yet get a delivery for each channel that is used; stale ones get none.
//! 2. Each channel, beside the others, takes the delivery that is due first, for the time of a lease, and sends it.
//! 3. What was taken is sent for good; what was not is due again later, for about a day.
//! 4. An incident that PagerDuty has is resolved when its window has ended or its limit was raised.
//!
//! A host that dies between 2 and 3 has perhaps sent: the lease ends, and another sends it again. At least once.

mod sender;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use self::sender::Sender;
use crate::alert::{Channel, Channels, Extras};
use crate::clock::Clock;
use crate::contained::kept_up;
use crate::gate::Enforcement;
use crate::metrics;
use crate::period::Period;
use crate::store::{Store, StoreError};

const EVERY: Duration = Duration::from_secs(1);
const ROWS_AT_ONCE: i64 = 200;
/// Predictions and summaries read many rows, and are no matter of seconds.
const TICKS_TO_LOOK: u32 = 15;
/// A summary that nobody has made by then is no news.
const SUMMARY_IS_NEWS: TimeDelta = TimeDelta::hours(48);

/// What alerts need.
#[derive(Debug)]
pub struct Alerting {
    /// Where they go.
    pub channels: Channels,
    /// What happens to requests beyond a limit.
    pub enforcement: Enforcement,
    /// What is told beyond thresholds.
    pub extras: Extras,
}

/// Works until `stopped` says so, and never stops within a statement; a message under way is let go of, and is due again.
pub async fn run(store: Store, clock: Clock, alerting: Arc<Alerting>, stopped: watch::Receiver<bool>) {
    let used = alerting.channels.used();
    if used.is_empty() {
        return;
    }
    metrics::alerts_to(used.iter().map(|channel| channel.as_str()));
    let mut tasks = tokio::task::JoinSet::new();
    for channel in &used {
        let sender =
            Sender { store: store.clone(), clock: clock.clone(), alerting: alerting.clone(), channel: *channel };
        let stopped = stopped.clone();
        tasks.spawn(async move { kept_up("a sender of alerts", || sender.run(stopped.clone())).await });
    }
    let names: Vec<&'static str> = used.iter().map(|channel| channel.as_str()).collect();
    let begin = move || prepare(store.clone(), clock.clone(), names.clone(), alerting.extras, stopped.clone());
    tasks.spawn(kept_up("the worker of alerts", begin));
    while tasks.join_next().await.is_some() {}
}

/// Gives up what could not be told in time, also where no host uses its channel any more: nobody is told old news when it
/// comes back.
///
/// # Errors
/// The store did not answer.
pub async fn give_up(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    loop {
        let given_up = store.guard(store.give_up_deliveries(clock.now(), ROWS_AT_ONCE)).await?;
        for channel in &given_up {
            metrics::alert(channel, "gave_up");
        }
        if given_up.is_empty() {
            return Ok(());
        }
        tracing::warn!(deliveries = given_up.len(), "Alerts given up: they could not be sent for a day");
    }
}

/// Makes deliveries and closes incidents; now and then looks ahead and back.
async fn prepare(
    store: Store,
    clock: Clock,
    channels: Vec<&'static str>,
    extras: Extras,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = ticks();
    for tick in 0_u32.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = is_stopped(&mut stopped) => return,
        }
        if store.health().is_down() {
            continue;
        }
        let now = clock.now();
        if tick % TICKS_TO_LOOK == 0
            && let Err(error) = look_ahead_and_back(&store, extras, now).await
        {
            tracing::warn!(reason = %error, "Predictions and summaries not made");
        }
        if let Err(error) = store.guard(store.route_alerts(&channels, now, ROWS_AT_ONCE)).await {
            tracing::warn!(reason = %error, "Alerts not routed");
        }
        if channels.contains(&Channel::PagerDuty.as_str())
            && let Err(error) = store.guard(store.close_incidents(now, ROWS_AT_ONCE)).await
        {
            tracing::warn!(reason = %error, "Incidents that are over not closed");
        }
    }
}

/// Predictions for the open windows, and summaries of the week and month that are over.
async fn look_ahead_and_back(store: &Store, extras: Extras, now: DateTime<Utc>) -> Result<(), StoreError> {
    if extras.predicted {
        store.guard(store.predict(now)).await?;
    }
    for period in [Period::Week, Period::Month] {
        let is_wanted = if period == Period::Week { extras.weekly } else { extras.monthly };
        let start = period.window(now).start;
        if is_wanted
            && now - start < SUMMARY_IS_NEWS
            && let Some(over) = period.window_before(start)
            && let Some(before) = period.window_before(over.start)
        {
            store.guard(store.summarize(period, [before.start, over.start, start], now)).await?;
        }
    }
    Ok(())
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn is_stopped(stopped: &mut watch::Receiver<bool>) {
    // Whoever could say so is gone: that is the end too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
