//! The typed door between host and guest: `wit/policy.wit` as Rust, and the words translated.

use crate::decision::{Facts, Verdict};
use crate::money::Money;
use crate::quota::Quota;

#[allow(missing_docs, clippy::pedantic, reason = "generated from the WIT, which has the documentation")]
mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "policy",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use generated::exports::tollgate::policy::decider as wit;
pub(super) use generated::{Policy, PolicyPre};
pub use wit::Description;
pub(super) use wit::{PairParam as Pair, SettingSpec};

/// Names and values, as the guest's list of pairs.
pub(super) fn pairs(list: &[(String, String)]) -> Vec<Pair<'_>> {
    list.iter().map(|(name, value)| Pair { name, value }).collect()
}

/// What the guest is given: everything of `facts`, borrowed.
pub(super) fn with_facts<T>(facts: &Facts, settings: &[Pair<'_>], call: impl FnOnce(wit::Facts<'_>) -> T) -> T {
    let request = &facts.request;
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = request.id.hyphenated().encode_lower(&mut id);
    let attributes = pairs(&request.attributes);
    let quotas: Vec<wit::Quota<'_>> = facts.quotas.iter().map(quota).collect();
    call(wit::Facts {
        request: wit::Request {
            id,
            now: instant(request.at),
            tenant: request.tenant.as_str(),
            user: request.user.as_ref().map(crate::quota::UserId::as_str),
            pool: facts.pool.as_ref().map(crate::quota::PoolId::as_str),
            tier: facts.tier.as_ref().map(crate::quota::Tier::as_str),
            resource_type: request.resource_type.as_str(),
            estimate: request.estimate.nanos(),
            attributes: &attributes,
        },
        quotas: &quotas,
        settings,
        extra: &[],
    })
}

fn quota(quota: &Quota) -> wit::Quota<'_> {
    wit::Quota {
        scope: quota.key.scope.as_str(),
        scope_id: &quota.key.scope_id,
        period: quota.key.period.as_str(),
        window_start: instant(quota.window.start),
        window_end: quota.window.end.map(instant),
        limit: quota.limit.nanos(),
        hard_limit: quota.hard_limit.map(Money::nanos),
        spend: quota.spend.nanos(),
        held: quota.held.nanos(),
        previous_spend: quota.previous_spend.map(Money::nanos),
        admitted: quota.admitted,
        extra: &[],
    }
}

fn instant(at: chrono::DateTime<chrono::Utc>) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or(0)
}

/// The guest's answer in our words, or a sentence that says why it is none.
pub(super) fn verdict(answer: Result<wit::Verdict, String>, facts: &Facts) -> Result<Verdict, String> {
    match answer {
        Err(sentence) => Err(format!("the policy could not decide: {sentence}")),
        Ok(wit::Verdict::Allow(allowance)) => {
            let at_most = allowance.at_most.map(Money::from_nanos);
            if let Some(amount) = at_most
                && !(Money::ZERO..=facts.request.estimate).contains(&amount)
            {
                return Err(format!("at-most must be 0 to the estimate of {}, got {amount}", facts.request.estimate));
            }
            // All of it is no cap.
            let at_most = at_most.filter(|amount| *amount < facts.request.estimate);
            Ok(Verdict::Allow { at_most, annotations: owned(allowance.annotations) })
        }
        Ok(wit::Verdict::Deny(denial)) => {
            let quota = denial.quota.map(|index| index as usize);
            if let Some(index) = quota
                && index >= facts.quotas.len()
            {
                return Err(format!("quota must be an index below {}, got {index}", facts.quotas.len()));
            }
            if !is_code(&denial.code) {
                return Err(format!("code must be 1 to 64 of a-z, 0-9 and _, got {:?}", denial.code));
            }
            if denial.reason.is_empty() {
                return Err("reason must be a sentence for people, got an empty text".to_owned());
            }
            Ok(Verdict::Deny {
                code: denial.code,
                reason: denial.reason,
                quota,
                retry_after_s: denial.retry_after_s,
                annotations: owned(denial.annotations),
            })
        }
    }
}

fn is_code(code: &str) -> bool {
    (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn owned(pairs: Vec<wit::PairResult>) -> Vec<(String, String)> {
    pairs.into_iter().map(|pair| (pair.name, pair.value)).collect()
}
