//! Makes a case that breaks a law as small as it goes: what can be left out is, and amounts become round.

use super::laws::{Broken, Raise, Suspect, broken};
use super::{Compiled, Money, with_request};
use crate::period::Period;
use crate::quota::{Quota, Scope};

/// Smaller cases that are tried; a policy that is late takes its time for each.
const MOST_TRIES: u32 = 600;

pub(super) fn shrink(
    policy: &Compiled,
    settings: &[(String, String)],
    mut suspect: Suspect,
    mut found: Broken,
) -> (Suspect, Broken) {
    let mut tries = 0;
    'smaller: loop {
        for candidate in smaller(&suspect, settings) {
            tries += 1;
            if tries > MOST_TRIES {
                break 'smaller;
            }
            if let Some(still) = broken(policy, &candidate).filter(|still| still.law == found.law) {
                (suspect, found) = (candidate, still);
                continue 'smaller;
            }
        }
        break;
    }
    (suspect, found)
}

/// Each a little smaller than `suspect`, the largest steps first.
fn smaller(suspect: &Suspect, settings: &[(String, String)]) -> Vec<Suspect> {
    let mut all = Vec::new();
    let facts = &suspect.question.facts;
    let mut with = |change: &dyn Fn(&mut Suspect)| {
        let mut changed = suspect.clone();
        change(&mut changed);
        if changed.is_a_raise() {
            all.push(changed);
        }
    };
    for index in 0..facts.quotas.len() {
        let raise = match suspect.raise {
            Raise::Spend(raised, _) if raised == index => continue,
            Raise::Spend(raised, spend) if raised > index => Raise::Spend(raised - 1, spend),
            other => other,
        };
        with(&|suspect| {
            suspect.question.facts.quotas_mut().remove(index);
            suspect.raise = raise;
        });
    }
    let has = |scope| facts.quotas.iter().any(|quota| quota.key.scope == scope);
    if facts.pool.is_some() && !has(Scope::Pool) {
        with(&|suspect| suspect.question.facts.pool = None);
    }
    if facts.tier.is_some() {
        with(&|suspect| suspect.question.facts.tier = None);
    }
    if suspect.question.settings != settings {
        with(&|suspect| suspect.question.settings = settings.to_vec());
    }
    if facts.request.user.is_some() && !has(Scope::User) {
        with(&|suspect| suspect.question = with_request(&suspect.question, |request| request.user = None));
    }
    for index in 0..facts.request.attributes.len() {
        with(&|suspect| {
            suspect.question = with_request(&suspect.question, |request| drop(request.attributes.remove(index)));
        });
    }
    for simpler in simpler(facts.request.estimate, Money::ZERO) {
        with(&|suspect| suspect.question = with_request(&suspect.question, |request| request.estimate = simpler));
    }
    for (index, quota) in facts.quotas.iter().enumerate() {
        for changed in smaller_quotas(quota, facts.request.at) {
            with(&|suspect| suspect.question.facts.quotas_mut()[index] = changed.clone());
        }
    }
    match suspect.raise {
        Raise::Nothing => {}
        Raise::Estimate(to) => {
            simpler(to, Money::ZERO).for_each(|to| with(&|suspect| suspect.raise = Raise::Estimate(to)));
        }
        Raise::Spend(index, to) => {
            simpler(to, Money::ZERO).for_each(|to| with(&|suspect| suspect.raise = Raise::Spend(index, to)));
        }
    }
    all
}

fn smaller_quotas(quota: &Quota, now: chrono::DateTime<chrono::Utc>) -> Vec<Quota> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Quota)| {
        let mut changed = quota.clone();
        change(&mut changed);
        all.push(changed);
    };
    if quota.hard_limit.is_some() {
        with(&|quota| quota.hard_limit = None);
    }
    if quota.previous_spend.is_some() {
        with(&|quota| quota.previous_spend = None);
    }
    if quota.admitted > 0 {
        with(&|quota| quota.admitted = 0);
    }
    if quota.key.period != Period::Day {
        with(&|quota| {
            quota.key.period = Period::Day;
            quota.window = Period::Day.window(now);
        });
    }
    simpler(quota.held, Money::ZERO).for_each(|amount| with(&|quota| quota.held = amount));
    simpler(quota.spend, Money::ZERO).for_each(|amount| with(&|quota| quota.spend = amount));
    simpler(quota.limit, Money::from_nanos(1)).for_each(|amount| with(&|quota| quota.limit = amount));
    all
}

/// Amounts that are shorter to write, or as short and smaller, but not below `least`.
fn simpler(amount: Money, least: Money) -> impl Iterator<Item = Money> {
    const DOLLAR: i64 = 1_000_000_000;
    let length = |amount: Money| {
        let text = amount.to_decimal();
        (text.len() - usize::from(text.ends_with("00")), amount)
    };
    let nanos = amount.nanos();
    let round = [nanos / 2, nanos / DOLLAR * DOLLAR, nanos / (DOLLAR / 100) * (DOLLAR / 100), nanos - 1];
    let dollars = [0, 1, 2, 3, 5, 10].map(|dollars| dollars * DOLLAR);
    let mut simpler: Vec<Money> = dollars
        .into_iter()
        .chain(round)
        .map(Money::from_nanos)
        .filter(|other| *other >= least && length(*other) < length(amount))
        .collect();
    simpler.sort_by_key(|amount| length(*amount));
    simpler.into_iter()
}
