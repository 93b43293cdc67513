//! Alerts reach people: what they are told, and each provider's wire. Nothing here knows where alerts come from.
//!
//! Addresses, keys and passwords are [`Secret`]s: no error of this room repeats one, nor what a provider answered.

mod email;
mod notice;
mod pagerduty;
mod slack;
mod webhook;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use self::email::{EmailSettings, Mailbox, Security, mailbox};
pub use self::notice::{Kind, Notice, Share, Subject, Summary};
pub use self::webhook::{Reach, Webhook};

use self::email::Email;
use self::pagerduty::PagerDuty;
use self::slack::Slack;
use self::webhook::Poster;

/// Where alerts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// A Slack webhook, or one that speaks its language.
    Slack,
    /// Mail by SMTP.
    Email,
    /// PagerDuty, Events API v2.
    PagerDuty,
}

impl Channel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Slack, Self::Email, Self::PagerDuty];

    /// As in tables, settings and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Email => "email",
            Self::PagerDuty => "pagerduty",
        }
    }
}

impl FromStr for Channel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|channel| channel.as_str() == text);
        found.ok_or_else(|| format!("one of slack, email, pagerduty, got {text:?}"))
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// How each channel is reached; `None` where it is not used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The webhook.
    pub slack: Option<Webhook>,
    /// The mail server, and from whom to whom.
    pub email: Option<EmailSettings>,
    /// Where events go, and the routing key.
    pub pagerduty: Option<(Webhook, Secret)>,
    /// Which addresses webhooks may have.
    pub reach: Reach,
    /// How long one attempt may take.
    pub timeout: Duration,
}

impl Settings {
    /// How long one attempt may take, usually.
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

impl Default for Settings {
    fn default() -> Self {
        Self { slack: None, email: None, pagerduty: None, reach: Reach::default(), timeout: Self::TIMEOUT }
    }
}

/// What is told beyond thresholds that are crossed; each off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// At this rate a quota ends before its window.
    pub predicted: bool,
    /// What a week came to.
    pub weekly: bool,
    /// What a month came to.
    pub monthly: bool,
}

/// Why a message was not taken. The display is for logs and operators, and holds no secret.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SendError {
    reason: String,
    /// The channel asks for this pause.
    pub retry_after: Option<Duration>,
}

impl SendError {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None }
    }
}

/// The channels that are used.
#[derive(Debug, Default)]
pub struct Channels {
    slack: Option<Slack>,
    email: Option<Email>,
    pagerduty: Option<PagerDuty>,
}

impl Channels {
    /// Prepares them; connects to nothing.
    ///
    /// # Errors
    /// A sentence: TLS could not be set up.
    pub fn open(settings: &Settings) -> Result<Self, String> {
        let Settings { slack, email, pagerduty, reach, timeout } = settings.clone();
        let poster = || Poster::new(&reach, timeout);
        Ok(Self {
            slack: slack.map(|to| Ok::<_, String>(Slack::new(poster()?, to))).transpose()?,
            email: email.map(|email| Email::new(email, timeout)).transpose()?,
            pagerduty: pagerduty.map(|(to, key)| Ok::<_, String>(PagerDuty::new(poster()?, to, key))).transpose()?,
        })
    }

    /// Those that are used.
    pub fn used(&self) -> Vec<Channel> {
        let is_used = |channel: &Channel| match channel {
            Channel::Slack => self.slack.is_some(),
            Channel::Email => self.email.is_some(),
            Channel::PagerDuty => self.pagerduty.is_some(),
        };
        Channel::ALL.into_iter().filter(is_used).collect()
    }

    /// Tells a channel what has begun. The same notice makes the same message, however often it is sent.
    ///
    /// # Errors
    /// The channel did not take it, or is not used.
    pub async fn tell(&self, channel: Channel, notice: &Notice) -> Result<(), SendError> {
        match channel {
            Channel::Slack => self.slack.as_ref().ok_or_else(|| unused(channel))?.tell(notice).await,
            Channel::Email => self.email.as_ref().ok_or_else(|| unused(channel))?.tell(notice).await,
            Channel::PagerDuty => self.pagerduty.as_ref().ok_or_else(|| unused(channel))?.trigger(notice).await,
        }
    }

    /// Tells a channel that it is over; only PagerDuty keeps incidents.
    ///
    /// # Errors
    /// The channel did not take it, or is not used.
    pub async fn resolve(&self, channel: Channel, notice: &Notice) -> Result<(), SendError> {
        match channel {
            Channel::Slack | Channel::Email => Ok(()),
            Channel::PagerDuty => self.pagerduty.as_ref().ok_or_else(|| unused(channel))?.resolve(notice).await,
        }
    }
}

fn unused(channel: Channel) -> SendError {
    SendError::new(format!("alert_channels does not name {channel}"))
}
