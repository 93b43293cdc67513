//! `alert list`, on the store directly, and `alert test`, on a channel.

use uuid::Uuid;

use super::say::visible;
use super::{Failure, OpenStore, configured};
use crate::alert::{Channel, Channels, Kind, Notice};
use crate::api::AlertView;
use crate::cli::AlertCommand;
use crate::clock::Clock;
use crate::config::Config;
use crate::quota::Scope;
use crate::store::alerts::{Alert, AlertFilter, Delivery};
use crate::telemetry;

pub(super) async fn run(command: AlertCommand) -> Result<(), Failure> {
    telemetry::to_stderr();
    match command {
        AlertCommand::List { scope, scope_id, state, limit, json, store } => {
            let scope: Option<Scope> = scope
                .map(|text| text.parse())
                .transpose()
                .map_err(|fault| Failure::new(format!("--scope: {fault}")))?;
            let is_filtered = scope.is_some() || scope_id.is_some() || state.is_some();
            let scope = scope.map(|scope| scope.to_string());
            let opened = OpenStore::open(&configured(&store)?).await?;
            let filter = AlertFilter { scope, scope_id, state, since: None, limit };
            let alerts = opened.store.alerts(&filter).await;
            opened.close().await?;
            print(alerts?, is_filtered, json)
        }
        AlertCommand::Test { channel, config } => {
            let config = Config::load(config.as_deref(), &[])?;
            test(&config, channel.parse().map_err(|fault| Failure::new(format!("CHANNEL: {fault}")))?).await
        }
    }
}

/// Sends one message; PagerDuty's incident is resolved at once.
async fn test(config: &Config, channel: Channel) -> Result<(), Failure> {
    let channels = Channels::open(&config.alerts.settings).map_err(Failure::new)?;
    if !channels.used().contains(&channel) {
        return Err(Failure::new(format!("alert_channels does not name {channel}"))
            .hint(format!("set alert_channels = \"{channel}\" in tollgate.toml, or COST_ALERT_CHANNELS={channel}")));
    }
    try_channel(&channels, channel).await?;
    println!("Sent a test message to {channel}.");
    Ok(())
}

pub(super) async fn try_channel(channels: &Channels, channel: Channel) -> Result<(), Failure> {
    let notice = Notice { id: Uuid::now_v7(), at: Clock::System.now(), kind: Kind::Test };
    let sent = match channels.tell(channel, &notice).await {
        Ok(()) => channels.resolve(channel, &notice).await,
        failed => failed,
    };
    sent.map_err(|error| {
        let failure = Failure::new(format!("{channel}: {error}"))
            .hint("docs/configuration.md, Alerts, says what each channel needs");
        Failure { exit: 1, ..failure }
    })
}

fn print(alerts: Vec<(Alert, Vec<Delivery>)>, is_filtered: bool, json: bool) -> Result<(), Failure> {
    if json {
        let views: Vec<AlertView> = alerts.into_iter().map(AlertView::new).collect();
        println!("{}", serde_json::to_string_pretty(&views).map_err(|error| Failure::caused(&error))?);
        return Ok(());
    }
    if alerts.is_empty() {
        println!("{}", if is_filtered { "No alert matches." } else { "No alerts." });
    }
    for (alert, deliveries) in alerts {
        let at = alert.created_at.format("%Y-%m-%d %H:%M:%S");
        let what = match alert.kind.as_str() {
            "threshold" => format!("{}% of {}", alert.threshold, alert.limit),
            "predicted" => format!("predicted to use up {}", alert.limit),
            kind => kind.to_owned(),
        };
        println!(
            "{at}  {} {} {} a {}: {what}, {} spent",
            alert.scope, alert.scope_id, alert.resource_type, alert.period, alert.spend
        );
        if deliveries.is_empty() {
            println!("  sent nowhere");
        }
        for delivery in deliveries {
            println!("  {}", told(&delivery));
        }
    }
    Ok(())
}

/// `slack: trigger due after 3 attempts, next at …: answered 500`
fn told(delivery: &Delivery) -> String {
    let Delivery { channel, action, state, attempts, .. } = delivery;
    let tried = match attempts {
        0 => "not tried yet".to_owned(),
        1 => "1 attempt".to_owned(),
        attempts => format!("{attempts} attempts"),
    };
    let when = match (state.as_str(), delivery.sent_at) {
        ("sent", Some(at)) => format!(" at {}", at.format("%Y-%m-%d %H:%M:%S")),
        ("due", _) => format!(", next at {}", delivery.due_at.format("%Y-%m-%d %H:%M:%S")),
        _ => String::new(),
    };
    let error = delivery.last_error.as_ref().map_or_else(String::new, |error| format!(": {}", visible(error)));
    format!("{channel}: {action} {state} ({tried}){when}{error}")
}
