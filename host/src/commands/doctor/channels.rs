//! Channels of alerts: which there are, and with `--send`, whether they take a message.

use super::super::{Failure, alert};
use super::{Findings, Level};
use crate::alert::Channels;
use crate::config::Config;

const AREA: &str = "alerts";

pub(super) async fn look(config: &Config, send: bool, findings: &mut Findings) {
    let channels = match Channels::open(&config.alerts.settings) {
        Ok(channels) => channels,
        Err(fault) => {
            findings.add(AREA, Level::Error, "").of(Failure::new(fault));
            return;
        }
    };
    let used = channels.used();
    if used.is_empty() {
        let message = "no channel is configured: crossings are rows of copilot_internal.alerts only";
        let hint = "set alert_channels, or COST_ALERT_CHANNELS, to slack, email or pagerduty";
        findings.add(AREA, Level::Warning, message).hint(hint);
    }
    for channel in used {
        if !send {
            findings.add(AREA, Level::Ok, format!("{channel} is configured"));
            continue;
        }
        match alert::try_channel(&channels, channel).await {
            Ok(()) => findings.add(AREA, Level::Ok, format!("{channel} has taken a test message")),
            Err(failure) => {
                let finding = findings.add(AREA, Level::Error, "");
                finding.of(failure);
                finding
            }
        };
    }
}
