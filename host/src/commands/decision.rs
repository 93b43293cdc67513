//! `decision list` and `explain`: from the store directly.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::say::visible;
use super::since::since;
use super::{Failure, OpenStore, configured, table};
use crate::api::DecisionView;
use crate::cli::{DecisionCommand, StoreArgs};
use crate::clock::Clock;
use crate::gate::recall::{Recalled, recall};
use crate::money::Money;
use crate::nearest;
use crate::policy::paste::{self, Expected};
use crate::store::decisions::{DecisionFilter, StoredDecision};
use crate::store::reservations::Reservation;
use crate::telemetry;

const OUTCOMES: [&str; 4] = ["allowed", "denied", "unenforced", "failed"];

pub(super) async fn run(command: DecisionCommand) -> Result<(), Failure> {
    telemetry::to_stderr();
    match command {
        DecisionCommand::List { tenant, outcome, since: from, limit, json, store } => {
            if let Some(outcome) = outcome.as_deref().filter(|outcome| !OUTCOMES.contains(outcome)) {
                let hint = nearest::hint(outcome, OUTCOMES.into_iter());
                return Err(Failure::new(format!("--outcome: one of {}, got {outcome:?}{hint}", OUTCOMES.join(", "))));
            }
            let from = from.map(|text| since(&text, Clock::System.now())).transpose()?;
            let opened = OpenStore::open(&configured(&store)?).await?;
            let filter = DecisionFilter { tenant_id: tenant, outcome, since: from, limit };
            let decisions = opened.store.decisions(&filter).await;
            opened.close().await?;
            list(decisions?, json)
        }
        DecisionCommand::Explain { id, fixture, store } => explain(&id, fixture, &store).await,
    }
}

fn list(decisions: Vec<StoredDecision>, json: bool) -> Result<(), Failure> {
    if json {
        let views: Vec<DecisionView> = decisions.into_iter().map(DecisionView::from).collect();
        println!("{}", serde_json::to_string_pretty(&views).map_err(|error| Failure::caused(&error))?);
        return Ok(());
    }
    if decisions.is_empty() {
        println!("No decisions; allowed checks are stored up to a rate.");
        return Ok(());
    }
    let header = ["DECIDED AT", "DECISION", "TENANT", "RESOURCE", "ESTIMATE", "OUTCOME", "CODE", "POLICY"];
    let row = |decision: StoredDecision| {
        [
            when(decision.decided_at),
            decision.id.to_string(),
            decision.tenant_id,
            decision.resource_type,
            Money::from_nanos(decision.estimate_nanos).to_string(),
            decision.outcome,
            decision.code.unwrap_or_default(),
            decision.policy_name,
        ]
    };
    table::print(header, decisions.into_iter().map(row).collect(), &[4]);
    Ok(())
}

async fn explain(id: &str, fixture: bool, store: &StoreArgs) -> Result<(), Failure> {
    let id: Uuid = id
        .parse()
        .map_err(|_| Failure::new(format!("ID: the decisionId of an answer or a log line, a UUID, got {id:?}")))?;
    let opened = OpenStore::open(&configured(store)?).await?;
    let decision = opened.store.decision(id).await;
    let reservation = opened.store.reservation_of(id).await;
    opened.close().await?;
    let stored = decision?.ok_or_else(|| {
        Failure::new(format!("there is no decision {id}"))
            .hint("`tollgate decision list` shows those that there are; allowed checks are stored up to a rate")
    })?;
    let recalled = recall(&stored).map_err(Failure::new)?;
    if fixture {
        print!("{}", as_fixture(&stored, &recalled));
    } else {
        print_decision(&stored, &recalled);
        print_reservation(reservation?.as_ref());
    }
    Ok(())
}

fn as_fixture(stored: &StoredDecision, recalled: &Recalled) -> String {
    let name = format!("decision {}", stored.id);
    let mut notes = vec![format!("{} answered this, {}.", stored.policy_name, stored.policy_digest)];
    let expected = match stored.outcome.as_str() {
        "allowed" => Expected::Allow { at_most: recalled.at_most },
        "failed" => {
            let why = stored.reason.as_deref().unwrap_or("it did not say why");
            notes.push(format!("It failed: {why}. Say here what it should answer."));
            Expected::Deny { code: None, reason: None, quota: None }
        }
        _ => Expected::Deny {
            code: stored.code.as_deref(),
            reason: stored.reason.as_deref(),
            quota: recalled.position(stored.quota_id),
        },
    };
    paste::case(&name, &notes, &recalled.facts, &recalled.settings, &expected)
}

fn print_decision(stored: &StoredDecision, recalled: &Recalled) {
    let facts = &recalled.facts;
    let code = stored.code.as_ref().map_or_else(String::new, |code| format!(" ({})", visible(code)));
    println!("{} {}{code}", stored.id, stored.outcome);
    let line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            println!("  {name:<12}{}", visible(&value));
        }
    };
    line("at", Some(when(stored.decided_at)));
    line("tenant", Some(stored.tenant_id.clone()));
    line("user", stored.user_id.clone());
    line("tier", facts.tier.as_ref().map(ToString::to_string));
    line("pool", facts.pool.as_ref().map(ToString::to_string));
    line("asked for", Some(format!("{} of {}", facts.request.estimate, stored.resource_type)));
    line("request id", stored.request_id.clone());
    line("attributes", Some(listed(&facts.request.attributes)));
    line("policy", Some(format!("{} {}", stored.policy_name, stored.policy_digest)));
    line("settings", Some(listed(&recalled.settings)));
    line("reason", stored.reason.clone());
    line("at most", recalled.at_most.map(|amount| amount.to_string()));
    line("notes", Some(listed(&recalled.annotations)));
    if facts.quotas.is_empty() {
        println!("\nNo quota applied.");
        return;
    }
    println!();
    let binding = recalled.position(stored.quota_id);
    let header = ["", "SCOPE", "SCOPE ID", "PERIOD", "LIMIT", "HARD LIMIT", "SPEND", "HELD", "REMAINING", "WINDOW"];
    let rows = facts.quotas.iter().enumerate().map(|(index, quota)| {
        [
            if Some(index) == binding { "*" } else { "" }.to_owned(),
            quota.key.scope.to_string(),
            quota.key.scope_id.to_string(),
            quota.key.period.to_string(),
            quota.limit.to_string(),
            quota.hard_limit.map_or_else(|| "-".to_owned(), |amount| amount.to_string()),
            quota.spend.to_string(),
            quota.held.to_string(),
            quota.remaining().to_string(),
            window(quota.window.start, quota.window.end),
        ]
    });
    table::print(header, rows.collect(), &[4, 5, 6, 7, 8]);
    if binding.is_some() {
        println!("* the quota that bound");
    }
}

/// What happened later to the money that this decision has set aside.
fn print_reservation(reservation: Option<&Reservation>) {
    let Some(reservation) = reservation else {
        println!("\nNothing was set aside: it was a check, or was not allowed.");
        return;
    };
    let (held, expires) = (reservation.held, when(reservation.expires_at));
    let became = match (reservation.state.as_str(), reservation.actual) {
        ("held", _) => format!("still held; it expires at {expires}"),
        ("settled", Some(actual)) => {
            let late = if reservation.late { ", late: after it had ended" } else { "" };
            let over = actual - held;
            let over = if over > Money::ZERO { format!(", {over} above what was held") } else { String::new() };
            format!("settled at {actual}{over}{late}")
        }
        ("expired", _) => format!("expired at {expires}, and given back"),
        (state, _) => format!("{state}, and given back"),
    };
    println!("\nreservation  {held} set aside, {became}");
}

fn listed(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

fn when(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

fn window(start: DateTime<Utc>, end: Option<DateTime<Utc>>) -> String {
    end.map_or_else(
        || "for ever".to_owned(),
        |end| format!("{} to {}", start.format("%Y-%m-%d %H:%M"), end.format("%Y-%m-%d %H:%M")),
    )
}
