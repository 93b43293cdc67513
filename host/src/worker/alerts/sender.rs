//! Sending what is due to one channel.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use super::super::notices::notice;
use super::{Alerting, is_stopped, ticks};
use crate::alert::{Channel, SendError};
use crate::clock::Clock;
use crate::metrics;
use crate::store::deliveries::Claimed;
use crate::store::{Store, StoreError};

/// Longer than any attempt takes.
const LEASE: TimeDelta = TimeDelta::seconds(60);
const FIRST_PAUSE: TimeDelta = TimeDelta::seconds(5);
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(15);
/// For what ends an incident, which may be much later than its alert: with these pauses, a little more than a day.
const MOST_ATTEMPTS: i32 = 100;
/// Messages in one tick; Slack takes one a second.
const AT_ONCE: u32 = 20;

/// One channel's messages, one after the other.
pub(super) struct Sender {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) alerting: Arc<Alerting>,
    pub(super) channel: Channel,
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
    pub(super) async fn run(&self, mut stopped: watch::Receiver<bool>) {
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
