//! Hard limits: they hold whatever the policy says.

use chrono::{DateTime, Utc};

use super::{CAPACITY_HELD, Denial, Facts, seconds_until};
use crate::money::Money;
use crate::quota::Quota;

const LIMIT_EXCEEDED: &str = "limit_exceeded";
const HARD_LIMIT_EXCEEDED: &str = "hard_limit_exceeded";

/// Of a policy's denial and that of a hard limit the one whose quota resets last, as of any quotas that deny. Where the
/// policy names no quota, waiting for one does not help. Held money alone stands in the way only if it does for both.
pub(super) fn binding_of_both(policys: Denial, hard: Option<Denial>, now: DateTime<Utc>) -> Denial {
    let resets_at = |denial: &Denial| denial.binding.as_ref().map(Quota::resets_at);
    match hard {
        Some(hard) if policys.binding.is_some() && resets_at(&policys) < resets_at(&hard) => {
            let is_held = policys.code == CAPACITY_HELD && hard.code == CAPACITY_HELD;
            let code = if is_held { CAPACITY_HELD } else { HARD_LIMIT_EXCEEDED };
            Denial { code: code.to_owned(), ..hard }
        }
        Some(hard) if policys.code == CAPACITY_HELD && hard.code != CAPACITY_HELD => {
            let end = policys.binding.as_ref().and_then(|quota| quota.window.end);
            let retry_after = end.and_then(|end| seconds_until(now, end));
            Denial { code: LIMIT_EXCEEDED.to_owned(), retry_after, ..policys }
        }
        _ => policys,
    }
}

/// The denial of the hard limits that `amount` would pass, if it would pass any.
pub(super) fn exceeded(facts: &Facts, amount: Money) -> Option<Denial> {
    let over = |quota: &&Quota| quota.hard_limit.is_some_and(|ceiling| quota.spend + quota.held + amount > ceiling);
    let without_held = |quota: &Quota| quota.hard_limit.is_some_and(|ceiling| quota.spend + amount <= ceiling);
    let binding = facts.quotas.iter().filter(over).max_by_key(|quota| quota.resets_at())?;
    let is_held = facts.quotas.iter().filter(over).all(without_held);
    let reason = format!(
        "{} quota exceeded. Hard limit: {}, Current: {}, Requested: {amount}{}",
        facts.request.resource_type.upper(),
        binding.hard_limit.unwrap_or(binding.limit),
        binding.spend,
        if binding.held > Money::ZERO { format!(", Reserved: {}", binding.held) } else { String::new() },
    );
    Some(Denial {
        code: if is_held { CAPACITY_HELD } else { HARD_LIMIT_EXCEEDED }.to_owned(),
        reason,
        binding: Some(binding.clone()),
        retry_after: binding.window.end.and_then(|end| seconds_until(facts.request.at, end)),
    })
}
