//! Facts as the text of a fixture, ready to paste into `NAME.fixtures.toml`.

use std::fmt::Write as _;

use chrono::SecondsFormat;

use crate::decision::Facts;
use crate::money::Money;
use crate::quota::{Quota, UserId};

/// What a fixture's `expect` says; what is `None` is left out, and not checked.
#[derive(Clone, Debug)]
pub enum Expected<'a> {
    /// Yes.
    Allow {
        /// For no more than this.
        at_most: Option<Money>,
    },
    /// No.
    Deny {
        /// The denial's code.
        code: Option<&'a str>,
        /// The denial's sentence.
        reason: Option<&'a str>,
        /// Index of the binding quota.
        quota: Option<usize>,
    },
}

/// One `[[case]]`: `notes` become comments above it.
pub fn case(
    name: &str,
    notes: &[String],
    facts: &Facts,
    settings: &[(String, String)],
    expected: &Expected<'_>,
) -> String {
    let request = &facts.request;
    let mut text = String::from("[[case]]\n");
    for note in notes.iter().cloned().chain(moved_on(facts)) {
        for line in note.lines() {
            let _ = writeln!(text, "# {line}");
        }
    }
    let _ = writeln!(text, "name = {}", quoted(name));
    let _ = writeln!(text, "now = \"{}\"", request.at.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    if !settings.is_empty() {
        let _ = writeln!(text, "settings = {}", pairs(settings));
    }
    let mut fields = vec![format!("tenantId = {}", quoted(request.tenant.as_str()))];
    let mut field = |name: &str, value: Option<&str>| {
        fields.extend(value.map(|value| format!("{name} = {}", quoted(value))));
    };
    field("userId", request.user.as_ref().map(UserId::as_str));
    field("pool", facts.pool.as_ref().map(crate::quota::PoolId::as_str));
    field("tier", facts.tier.as_ref().map(crate::quota::Tier::as_str));
    field("resourceType", Some(request.resource_type.as_str()));
    field("estimatedCostUsd", Some(&request.estimate.to_decimal()));
    if !request.attributes.is_empty() {
        fields.push(format!("attributes = {}", pairs(&request.attributes)));
    }
    let _ = writeln!(text, "request = {{ {} }}", fields.join(", "));
    let quotas: Vec<String> = facts.quotas.iter().map(quota).collect();
    let _ = match quotas.as_slice() {
        [] => writeln!(text, "quotas = []"),
        [one] => writeln!(text, "quotas = [{one}]"),
        many => writeln!(text, "quotas = [\n    {},\n]", many.join(",\n    ")),
    };
    let _ = writeln!(text, "expect = {{ {} }}", expected.fields().join(", "));
    text
}

impl Expected<'_> {
    fn fields(&self) -> Vec<String> {
        match self {
            Self::Allow { at_most } => {
                let at_most = at_most.map(|amount| format!("atMostUsd = \"{}\"", amount.to_decimal()));
                std::iter::once("decision = \"allow\"".to_owned()).chain(at_most).collect()
            }
            Self::Deny { code, reason, quota } => {
                let code = code.map(|code| format!("code = {}", quoted(code)));
                let reason = reason.map(|reason| format!("reason = {}", quoted(reason)));
                let quota = quota.map(|index| format!("quota = {index}"));
                std::iter::once("decision = \"deny\"".to_owned()).chain(code).chain(reason).chain(quota).collect()
            }
        }
    }
}

/// A fixture's windows are those of its `now`; a row may have been moved on by a host whose clock was ahead.
fn moved_on(facts: &Facts) -> Option<String> {
    let elsewhere = |quota: &&Quota| quota.key.period.window(facts.request.at) != quota.window;
    let quota = facts.quotas.iter().find(elsewhere)?;
    Some(format!(
        "The {} quota of {} stood in the window of {}, which a fixture cannot say.",
        quota.key.period,
        quota.key.scope_id.escape_debug(),
        quota.window.start.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    ))
}

fn quota(quota: &Quota) -> String {
    let mut fields = vec![
        format!("scope = \"{}\"", quota.key.scope),
        format!("scopeId = {}", quoted(&quota.key.scope_id)),
        format!("period = \"{}\"", quota.key.period),
    ];
    let mut money = |name: &str, amount: Option<Money>| {
        fields.extend(amount.map(|amount| format!("{name} = \"{}\"", amount.to_decimal())));
    };
    money("limitUsd", Some(quota.limit));
    money("hardLimitUsd", quota.hard_limit);
    money("spendUsd", Some(quota.spend));
    money("heldUsd", Some(quota.held));
    money("previousSpendUsd", quota.previous_spend);
    if quota.admitted > 0 {
        fields.push(format!("admitted = {}", quota.admitted));
    }
    format!("{{ {} }}", fields.join(", "))
}

fn pairs(pairs: &[(String, String)]) -> String {
    let is_bare =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let pair = |(name, value): &(String, String)| {
        let name = if is_bare(name) { name.clone() } else { quoted(name) };
        format!("{name} = {}", quoted(value))
    };
    format!("{{ {} }}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
}

/// A basic string of TOML on one line, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
