//! What can be set, what it is set to, and where that was said.

use std::collections::BTreeMap;
use std::fmt;

use super::ConfigError;
use crate::alert::Reach;

/// Every key of the file; each is `TOLLGATE_` and its upper case in the environment, and some are flags.
pub(super) const KEYS: &[Key] = &[
    Key { name: "listen", default: Some("127.0.0.1:8080"), also: None },
    Key { name: "policies", default: None, also: None },
    Key { name: "data_dir", default: Some(".tollgate"), also: None },
    Key { name: "log_level", default: Some("info"), also: None },
    Key { name: "database_url", default: None, also: Some("DATABASE_URL") },
    Key { name: "store_failure", default: Some("open"), also: None },
    Key { name: "store_failure_bound_usd", default: Some("1.00"), also: None },
    Key { name: "spool_mib", default: Some("256"), also: None },
    Key { name: "decisions_keep_days", default: Some("30"), also: None },
    Key { name: "enforce_cost_quotas", default: Some("true"), also: Some("ENFORCE_COST_QUOTAS") },
    Key { name: "enforce_e2b_quotas", default: Some("true"), also: Some("ENFORCE_E2B_QUOTAS") },
    Key { name: "alert_channels", default: Some("none"), also: Some("COST_ALERT_CHANNELS") },
    Key { name: "alert_slack_webhook_url", default: None, also: Some("COST_ALERT_SLACK_WEBHOOK_URL") },
    Key { name: "alert_email_smtp_host", default: None, also: Some("COST_ALERT_EMAIL_SMTP_HOST") },
    Key { name: "alert_email_smtp_port", default: None, also: Some("COST_ALERT_EMAIL_SMTP_PORT") },
    Key { name: "alert_email_smtp_user", default: None, also: Some("COST_ALERT_EMAIL_SMTP_USER") },
    Key { name: "alert_email_smtp_password", default: None, also: Some("COST_ALERT_EMAIL_SMTP_PASSWORD") },
    Key { name: "alert_email_smtp_security", default: Some("starttls"), also: Some("COST_ALERT_EMAIL_SMTP_SECURITY") },
    Key { name: "alert_email_from", default: None, also: Some("COST_ALERT_EMAIL_FROM") },
    Key { name: "alert_email_to", default: None, also: Some("COST_ALERT_EMAIL_TO") },
    Key { name: "alert_pagerduty_routing_key", default: None, also: Some("COST_ALERT_PAGERDUTY_ROUTING_KEY") },
    Key { name: "alert_pagerduty_url", default: Some("https://events.pagerduty.com/v2/enqueue"), also: None },
    Key { name: "alert_allowed_hosts", default: Some(Reach::HOSTS), also: None },
    Key { name: "alert_allow_private_addresses", default: Some("false"), also: None },
    Key { name: "alert_predicted_exhaustion", default: Some("false"), also: None },
    Key { name: "alert_weekly_summary", default: Some("false"), also: None },
    Key { name: "alert_monthly_summary", default: Some("false"), also: None },
];

/// Keys whose values nobody is shown.
const SECRETS: [&str; 5] = [
    "database_url",
    "alert_slack_webhook_url",
    "alert_email_smtp_password",
    "alert_pagerduty_routing_key",
    // A relay's may hold a key.
    "alert_pagerduty_url",
];

pub(super) struct Key {
    pub(super) name: &'static str,
    default: Option<&'static str>,
    /// A variable of the replaced system, or one that everybody knows; goes over `TOLLGATE_…`.
    pub(super) also: Option<&'static str>,
}

/// A value of the configuration, as people may see it.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The key.
    pub name: &'static str,
    /// The value; of one that holds a secret, only that it is set.
    pub value: String,
    /// `default`, the file, a variable, or a flag.
    pub origin: String,
}

/// Where a value was said: the name by which an error calls it.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Default,
    /// This file.
    File(String),
    /// This variable.
    Variable(String),
    /// `--listen`
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name) | Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone)]
struct Value {
    text: String,
    origin: Origin,
}

/// Every key's value, and where it comes from.
#[derive(Clone)]
pub(super) struct Values(BTreeMap<&'static str, Value>);

impl Values {
    pub(super) fn of_defaults() -> Self {
        let value = |key: &Key| Some((key.name, Value { text: key.default?.to_owned(), origin: Origin::Default }));
        Self(KEYS.iter().filter_map(value).collect())
    }

    /// In place of what was said before.
    pub(super) fn put(&mut self, name: &'static str, text: String, origin: Origin) {
        self.0.insert(name, Value { text, origin });
    }

    /// The text of a key, if anything was said.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.text.as_str())
    }

    /// The text of a key; empty where it has none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.given(name).unwrap_or_default()
    }

    /// The text of a key that has one.
    pub(super) fn set(&self, name: &str) -> Option<&str> {
        Some(self.text(name).trim()).filter(|text| !text.is_empty())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        match self.text(name) {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(self.fault(name, format!("true or false, got {other:?}"))),
        }
    }

    /// An error that names the value once, as whoever set it did: a variable, a flag, or a key and its file.
    pub(super) fn fault(&self, name: &str, fault: impl fmt::Display) -> ConfigError {
        match self.0.get(name).map(|value| &value.origin) {
            Some(Origin::Variable(origin) | Origin::Flag(origin)) => ConfigError::new(origin, fault),
            Some(Origin::File(file)) => ConfigError::new(file, format!("{name}: {fault}")),
            Some(Origin::Default) | None => ConfigError::new(name, fault),
        }
    }

    /// Every key that has a value; a secret is only said to be there.
    pub(super) fn settings(&self) -> impl Iterator<Item = Setting> {
        self.0.iter().map(|(name, value)| Setting {
            name,
            value: if SECRETS.contains(name) { "(set)".to_owned() } else { value.text.clone() },
            origin: value.origin.to_string(),
        })
    }
}
