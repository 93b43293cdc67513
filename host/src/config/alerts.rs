//! The keys of alerts: which channels, and how each is reached.

use super::ConfigError;
use super::keys::Values;
use crate::alert::{Channel, EmailSettings, Extras, Mailbox, Reach, Secret, Security, Settings, Webhook, mailbox};

/// What a deployment is told, and how.
#[derive(Clone, Debug, Default)]
pub struct AlertConfig {
    /// How each channel is reached.
    pub settings: Settings,
    /// Alerts beyond thresholds, each off by default.
    pub extras: Extras,
}

/// Reads them. What a channel needs is wanted where `alert_channels` names it; what is there is checked in any case.
pub(super) fn read(values: &Values) -> Result<AlertConfig, ConfigError> {
    let reach = Reach {
        hosts: list(values.text("alert_allowed_hosts")).map(str::to_ascii_lowercase).collect(),
        private: values.flag("alert_allow_private_addresses")?,
    };
    let names = values.text("alert_channels");
    let channels = list(names).filter(|name| *name != "none").map(str::parse).collect::<Result<Vec<Channel>, _>>();
    let channels = channels.map_err(|fault| values.fault("alert_channels", format!("none, or a list: {fault}")))?;
    let slack = webhook(values, "alert_slack_webhook_url", &reach)?;
    let events = webhook(values, "alert_pagerduty_url", &reach)?;
    let key = values.set("alert_pagerduty_routing_key").map(Secret::new);
    let email = email(values, channels.contains(&Channel::Email))?;
    let wanted = |channel, key| values.fault(key, format!("required, since alert_channels names {channel}"));
    let mut settings = Settings { reach, ..Settings::default() };
    for channel in channels {
        match channel {
            Channel::Slack => {
                let to = slack.clone().ok_or_else(|| wanted(channel, "alert_slack_webhook_url"))?;
                settings.slack = Some(to);
            }
            Channel::PagerDuty => {
                let to = events.clone().ok_or_else(|| wanted(channel, "alert_pagerduty_url"))?;
                let key = key.clone().ok_or_else(|| wanted(channel, "alert_pagerduty_routing_key"))?;
                settings.pagerduty = Some((to, key));
            }
            Channel::Email => {
                let email = email.clone().ok_or_else(|| wanted(channel, "alert_email_smtp_host"))?;
                settings.email = Some(email);
            }
        }
    }
    let extras = Extras {
        predicted: values.flag("alert_predicted_exhaustion")?,
        weekly: values.flag("alert_weekly_summary")?,
        monthly: values.flag("alert_monthly_summary")?,
    };
    Ok(AlertConfig { settings, extras })
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn webhook(values: &Values, key: &str, reach: &Reach) -> Result<Option<Webhook>, ConfigError> {
    let parsed = values.set(key).map(|text| Webhook::parse(text, reach)).transpose();
    parsed.map_err(|fault| values.fault(key, fault))
}

/// `None` where the channel is not used, and then nothing is required.
fn email(values: &Values, is_used: bool) -> Result<Option<EmailSettings>, ConfigError> {
    let of = |key: &'static str, fault: String| values.fault(key, fault);
    let host = values.set("alert_email_smtp_host");
    let security: Security =
        values.text("alert_email_smtp_security").parse().map_err(|fault| of("alert_email_smtp_security", fault))?;
    let is_elsewhere = host.is_some_and(|host| !["localhost", "127.0.0.1", "::1"].contains(&host));
    if security == Security::None && is_elsewhere {
        let fault = "starttls or tls; none is for a mail server on this machine (localhost)";
        return Err(of("alert_email_smtp_security", fault.to_owned()));
    }
    let port = match values.set("alert_email_smtp_port") {
        None => security.port(),
        Some(text) => text
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| of("alert_email_smtp_port", format!("a port from 1 to 65535, got {text:?}")))?,
    };
    let from =
        values.set("alert_email_from").map(mailbox).transpose().map_err(|fault| of("alert_email_from", fault))?;
    let to = values.set("alert_email_to").map(mailboxes).transpose().map_err(|fault| of("alert_email_to", fault))?;
    if !is_used {
        return Ok(None);
    }
    let required = |key| of(key, format!("required, since alert_channels names {}", Channel::Email));
    let login = match (values.set("alert_email_smtp_user"), values.set("alert_email_smtp_password")) {
        (Some(user), Some(password)) => Some((user.to_owned(), Secret::new(password))),
        (None, None) => None,
        (Some(_), None) => return Err(of("alert_email_smtp_password", "required, since there is a user".to_owned())),
        (None, Some(_)) => return Err(of("alert_email_smtp_user", "required, since there is a password".to_owned())),
    };
    Ok(Some(EmailSettings {
        host: host.ok_or_else(|| required("alert_email_smtp_host"))?.to_owned(),
        port,
        security,
        login,
        from: from.ok_or_else(|| required("alert_email_from"))?,
        to: to.ok_or_else(|| required("alert_email_to"))?,
    }))
}

/// At least one: a list of nobody would send every alert nowhere.
fn mailboxes(text: &str) -> Result<Vec<Mailbox>, String> {
    let mailboxes = list(text).map(mailbox).collect::<Result<Vec<_>, _>>()?;
    if mailboxes.is_empty() { Err(format!("at least one address, got {text:?}")) } else { Ok(mailboxes) }
}
