//! What a replay came to, for people and for programs.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::super::source::Ready;
use super::super::{Failure, table};
use super::tally::{Moved, Tallies, Tally};
use crate::store::decisions::Span;

/// Tenants that are shown; `--json` has them all.
const SHOWN: usize = 20;

pub(super) fn print(candidate: &str, ready: &Ready, span: &Span, tallies: &Tallies, took: Duration) {
    let total = tallies.total();
    println!("{candidate}  {}", ready.reference.digest);
    println!(
        "{} decisions since {} again, in {}.{} s",
        total.decisions,
        span.since.format("%Y-%m-%d %H:%M:%S"),
        took.as_secs(),
        took.subsec_millis() / 100
    );
    println!("  the same        {}", total.same());
    for (name, moved) in [
        ("now denied", total.now_denied),
        ("now allowed", total.now_allowed),
        ("another amount", total.other_amount),
        ("now failing", total.now_failing),
    ] {
        println!("  {name:<14}  {}", moved.shown());
    }
    for (kind, (count, first)) in &tallies.failures {
        println!("  {count} × {kind}: {first}");
    }
    if let Some((count, why)) = &tallies.unreadable {
        println!("  {count} cannot be read: {why}");
    }
    if total.same() == total.decisions {
        return;
    }
    let header = ["TIER", "DECISIONS", "NOW DENIED", "NOW ALLOWED", "ANOTHER AMOUNT", "NOW FAILING"];
    let row = |(tier, tally): (&str, Tally)| {
        let [denied, allowed, other, failing] = kinds(&tally);
        [named(tier), tally.decisions.to_string(), denied, allowed, other, failing]
    };
    println!();
    table::print(header, tallies.tiers().into_iter().map(row).collect(), &[1, 2, 3, 4, 5]);
    let mut changed: Vec<_> = tallies.groups.iter().filter(|(_, tally)| tally.same() < tally.decisions).collect();
    changed.sort_by_key(|(_, tally)| std::cmp::Reverse((tally.now_denied, tally.now_failing, tally.now_allowed)));
    let header =
        ["TIER", "TENANT", "DECISIONS", "NOW DENIED", "NOW ALLOWED", "ANOTHER AMOUNT", "NOW FAILING", "SUCH AS"];
    let rows = changed.iter().take(SHOWN).map(|((tier, tenant), tally)| {
        let [denied, allowed, other, failing] = kinds(tally);
        let example = tally.example.map(|id| id.to_string()).unwrap_or_default();
        [named(tier), tenant.clone(), tally.decisions.to_string(), denied, allowed, other, failing, example]
    });
    println!();
    table::print(header, rows.collect(), &[2, 3, 4, 5, 6]);
    if changed.len() > SHOWN {
        println!("… and {} more tenants; --json has them all", changed.len() - SHOWN);
    }
}

fn kinds(tally: &Tally) -> [String; 4] {
    [tally.now_denied, tally.now_allowed, tally.other_amount, tally.now_failing].map(Moved::shown)
}

fn named(tier: &str) -> String {
    if tier.is_empty() { "-".to_owned() } else { tier.to_owned() }
}

/// The tenants of a tier, or one of them.
#[derive(Serialize)]
struct Group<'a> {
    tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(flatten)]
    tally: &'a Tally,
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    #[serde(flatten)]
    about: serde_json::Value,
    #[serde(flatten)]
    total: &'a Tally,
    by_tier: Vec<Group<'a>>,
    by_tenant: Vec<Group<'a>>,
}

pub(super) fn print_json(ready: &Ready, span: &Span, tallies: &Tallies) -> Result<(), Failure> {
    let total = tallies.total();
    let some = |tier: &str| (!tier.is_empty()).then(|| tier.to_owned());
    let tiers = tallies.tiers();
    let about = json!({
        "policy": ready.reference,
        "since": span.since,
        "until": span.until,
        "same": total.same(),
        "unreadable": tallies.unreadable.as_ref().map_or(0, |(count, _)| *count),
        "failures": tallies.failures.iter().map(|(kind, (count, first))| json!({
            "kind": kind, "decisions": count, "first": first,
        })).collect::<Vec<_>>(),
    });
    let report = Report {
        about,
        total: &total,
        by_tier: tiers.iter().map(|(tier, tally)| Group { tier: some(tier), tenant: None, tally }).collect(),
        by_tenant: tallies
            .groups
            .iter()
            .map(|((tier, tenant), tally)| Group { tier: some(tier), tenant: Some(tenant), tally })
            .collect(),
    };
    println!("{}", serde_json::to_string_pretty(&report).map_err(|error| Failure::caused(&error))?);
    Ok(())
}
