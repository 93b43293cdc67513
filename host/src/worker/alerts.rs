//! Alerts become messages. Every host of a database may do so: what one has taken, the others leave.
//!
//! 1. Alerts that go nowhere yet get a delivery for each channel that is used; stale ones get none.
//! 2. Each channel, beside the others, takes the delivery that is due first, for the time of a lease, and sends it.
//! 3. What was taken is sent for good; what was not is due again later, for about a day.
//! 4. An incident that PagerDuty has is resolved when its window has ended or its limit was raised.
//!
//! A host that dies between 2 and 3 has perhaps sent: the lease ends, and another sends it again. At least once.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::notices::notice;
use crate::alert::{Channel, Channels, Extras, SendError};
use crate::clock::Clock;
use crate::gate::Enforcement;
use crate::metrics;
use crate::period::Period;
use crate::store::deliveries::Claimed;
use crate::store::{Store, StoreError};

const EVERY: Duration = Duration::from_secs(1);
/// Longer than any attempt takes.
const LEASE: TimeDelta = TimeDelta::seconds(60);
/// An alert that is older when a channel is first used is no news.
const STALE: TimeDelta = TimeDelta::hours(24);
const FIRST_PAUSE: TimeDelta = TimeDelta::seconds(5);
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(15);
/// For what ends an incident, which may be much later than its alert: with these pauses, a little more than a day.
const MOST_ATTEMPTS: i32 = 100;
const ROWS_AT_ONCE: i64 = 200;
/// Predictions and summaries read many rows, and are no matter of seconds.
const TICKS_TO_LOOK: u32 = 15;
/// A summary that nobody has made by then is no news.
const SUMMARY_IS_NEWS: TimeDelta = TimeDelta::hours(48);
/// Messages in one tick; Slack takes one a second.
const AT_ONCE: u32 = 20;

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
        tasks.spawn(sender.run(stopped.clone()));
    }
    let names: Vec<&'static str> = used.iter().map(|channel| channel.as_str()).collect();
    tasks.spawn(prepare(store, clock, names, alerting.extras, stopped));
    while let Some(ended) = tasks.join_next().await {
        if let Err(panic) = ended {
            tracing::error!(reason = %panic, "A sender of alerts ended early");
        }
    }
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
            && let Err(error) = store.guard(look_ahead_and_back(&store, extras, now)).await
        {
            tracing::warn!(reason = %error, "Predictions and summaries not made");
        }
        if let Err(error) = store.guard(store.route_alerts(&channels, now - STALE, ROWS_AT_ONCE)).await {
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
        store.predict(now).await?;
    }
    for period in [Period::Week, Period::Month] {
        let is_wanted = if period == Period::Week { extras.weekly } else { extras.monthly };
        let start = period.window(now).start;
        if is_wanted
            && now - start < SUMMARY_IS_NEWS
            && let Some(over) = period.window_before(start)
            && let Some(before) = period.window_before(over.start)
        {
            store.summarize(period, [before.start, over.start, start], now).await?;
        }
    }
    Ok(())
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// One channel's messages, one after the other.
struct Sender {
    store: Store,
    clock: Clock,
    alerting: Arc<Alerting>,
    channel: Channel,
}

/// What became of an attempt.
enum Attempt {
    /// There is nothing to send.
    Nothing,
    Done,
    /// The channel is in trouble: nothing is sent before this.
    Pause(DateTime<Utc>),
}

impl Sender {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut ticks = ticks();
        let mut not_before = DateTime::<Utc>::MIN_UTC;
        let at_once = if self.channel == Channel::Slack { 1 } else { AT_ONCE };
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = is_stopped(&mut stopped) => return,
            }
            if self.store.health().is_down() {
                continue;
            }
            for _ in 0..at_once {
                if *stopped.borrow() || self.clock.now() < not_before {
                    break;
                }
                match self.send_next(&mut stopped).await {
                    Ok(Attempt::Done) => {}
                    Ok(Attempt::Nothing) => break,
                    Ok(Attempt::Pause(until)) => not_before = until,
                    Err(error) => {
                        tracing::warn!(channel = self.channel.as_str(), reason = %error, "Alerts not sent: no store");
                        break;
                    }
                }
            }
        }
    }

    async fn send_next(&self, stopped: &mut watch::Receiver<bool>) -> Result<Attempt, StoreError> {
        let (store, now, channel) = (&self.store, self.clock.now(), self.channel.as_str());
        let Some(claimed) = store.guard(store.claim_delivery(channel, now, LEASE)).await? else {
            return Ok(Attempt::Nothing);
        };
        if claimed.resolves && !claimed.is_over {
            store.guard(store.keep_open(&claimed, channel)).await?;
            return Ok(Attempt::Done);
        }
        if !claimed.resolves && !claimed.is_news {
            store.guard(store.not_delivered(&claimed, channel, now, None, "given up after a day")).await?;
            metrics::alert(channel, "gave_up");
            return Ok(Attempt::Done);
        }
        let Some(notice) = notice(&claimed, self.alerting.enforcement) else {
            let why = "no message can be made of this alert";
            store.guard(store.not_delivered(&claimed, channel, now, None, why)).await?;
            return Ok(Attempt::Done);
        };
        let channels = &self.alerting.channels;
        let sending = async {
            if claimed.resolves {
                channels.resolve(self.channel, &notice).await
            } else {
                channels.tell(self.channel, &notice).await
            }
        };
        let sent = tokio::select! {
            sent = sending => sent,
            () = is_stopped(stopped) => {
                let why = "the host stopped while it sent";
                store.guard(store.not_delivered(&claimed, channel, now, Some(TimeDelta::zero()), why)).await?;
                return Ok(Attempt::Done);
            }
        };
        match sent {
            Ok(()) => {
                store.guard(store.delivered(&claimed, channel, self.clock.now())).await?;
                metrics::alert(channel, "sent");
                tracing::info!(channel, alert = %claimed.alert.id, "Alert sent");
                Ok(Attempt::Done)
            }
            Err(error) => self.put_off(&claimed, &error).await,
        }
    }

    /// The next attempt comes after a pause, which the channel may name; at some time there is none.
    async fn put_off(&self, claimed: &Claimed, error: &SendError) -> Result<Attempt, StoreError> {
        let (store, now, channel) = (&self.store, self.clock.now(), self.channel.as_str());
        let asked = error.retry_after.and_then(|pause| TimeDelta::from_std(pause).ok());
        // A trigger is tried until it is no news any more.
        let is_tried_again = !claimed.resolves || claimed.attempt < MOST_ATTEMPTS;
        let again_in = is_tried_again.then(|| pause(claimed.attempt).max(asked.unwrap_or_default()));
        store.guard(store.not_delivered(claimed, channel, now, again_in, &error.to_string())).await?;
        metrics::alert(channel, if again_in.is_some() { "failed" } else { "gave_up" });
        tracing::warn!(
            channel,
            alert = %claimed.alert.id,
            attempt = claimed.attempt,
            last = again_in.is_none(),
            reason = %error,
            "Alert not sent"
        );
        // What fails for one message fails for the next one too, most of the time.
        Ok(Attempt::Pause(now + asked.unwrap_or(FIRST_PAUSE)))
    }
}

async fn is_stopped(stopped: &mut watch::Receiver<bool>) {
    // Whoever could say so is gone: that is the end too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Twice as long after each attempt.
fn pause(attempt: i32) -> TimeDelta {
    let doublings = u32::try_from(attempt - 1).unwrap_or_default().min(10);
    (FIRST_PAUSE * 2_i32.pow(doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour() {
        let seconds: Vec<i64> = [1, 2, 3, 8, 9, 100].into_iter().map(|attempt| pause(attempt).num_seconds()).collect();
        assert_eq!(seconds, [5, 10, 20, 640, 900, 900]);
    }
}
