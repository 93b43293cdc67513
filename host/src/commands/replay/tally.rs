//! What a replay came to: how many decisions would be others, and how much money that is, by tier and tenant.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::decision::{Decision, Outcome};
use crate::money::Money;
use crate::policy::PolicyError;
use crate::store::decisions::StoredDecision;

/// A sum of nano-dollars, which may be above what one amount can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sum(i128);

/// Decisions of one kind, and the money that they asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Moved {
    usd: Sum,
    decisions: u64,
}

/// The decisions of one tenant, one tier or all.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tally {
    pub(super) decisions: u64,
    /// Allowed then, denied now.
    pub(super) now_denied: Moved,
    /// Denied or failed then, allowed now.
    pub(super) now_allowed: Moved,
    /// Allowed then and now, for another amount; the money is by how much more.
    pub(super) other_amount: Moved,
    /// The candidate gave no verdict.
    pub(super) now_failing: Moved,
    /// The first decision that is another one now.
    pub(super) example: Option<Uuid>,
}

/// All that was counted.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    /// By tier (empty for none) and tenant.
    pub(super) groups: BTreeMap<(String, String), Tally>,
    /// How many failed so, and the first one's sentence.
    pub(super) failures: BTreeMap<&'static str, (u64, String)>,
    /// Rows whose facts cannot be read, and why the first one cannot.
    pub(super) unreadable: Option<(u64, String)>,
}

impl Tallies {
    /// Counts a decision whose facts cannot be read.
    pub(super) fn unreadable(&mut self, why: String) {
        self.unreadable.get_or_insert((0, why)).0 += 1;
    }

    /// Counts a decision and what the candidate makes of it; `allowed` is the amount that stood then, if any did.
    pub(super) fn count(
        &mut self,
        tier: String,
        stored: &StoredDecision,
        allowed: Money,
        now: &Result<Decision, PolicyError>,
    ) {
        let tally = self.groups.entry((tier, stored.tenant_id.clone())).or_default();
        tally.decisions += 1;
        let was_allowed = stored.outcome == "allowed";
        let estimate = i128::from(stored.estimate_nanos);
        let (kind, money) = match now {
            Err(error) => {
                let failure = self.failures.entry(error.kind()).or_insert_with(|| (0, error.to_string()));
                failure.0 += 1;
                (&mut tally.now_failing, estimate)
            }
            Ok(decision) if !matches!(decision.outcome, Outcome::Allowed) => {
                if !was_allowed {
                    return;
                }
                (&mut tally.now_denied, estimate)
            }
            Ok(_) if !was_allowed => (&mut tally.now_allowed, estimate),
            Ok(decision) => {
                let now = decision.at_most.unwrap_or(decision.facts.request.estimate);
                if now == allowed {
                    return;
                }
                (&mut tally.other_amount, i128::from(now.nanos()) - i128::from(allowed.nanos()))
            }
        };
        kind.decisions += 1;
        kind.usd.0 += money;
        let first = tally.example.get_or_insert(stored.id);
        *first = stored.id.min(*first);
    }

    /// Takes another's counts over.
    pub(super) fn absorb(&mut self, other: Self) {
        for (group, tally) in other.groups {
            self.groups.entry(group).or_default().add(&tally);
        }
        for (kind, (count, sentence)) in other.failures {
            self.failures.entry(kind).or_insert((0, sentence)).0 += count;
        }
        if let Some((count, why)) = other.unreadable {
            self.unreadable.get_or_insert((0, why)).0 += count;
        }
    }

    /// Everything together.
    pub(super) fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.groups.values().for_each(|tally| total.add(tally));
        total
    }

    /// By tier.
    pub(super) fn tiers(&self) -> BTreeMap<&str, Tally> {
        let mut tiers = BTreeMap::<&str, Tally>::new();
        for ((tier, _), tally) in &self.groups {
            tiers.entry(tier).or_default().add(tally);
        }
        tiers
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.decisions += other.decisions;
        for (mine, theirs) in [
            (&mut self.now_denied, other.now_denied),
            (&mut self.now_allowed, other.now_allowed),
            (&mut self.other_amount, other.other_amount),
            (&mut self.now_failing, other.now_failing),
        ] {
            mine.decisions += theirs.decisions;
            mine.usd.0 += theirs.usd.0;
        }
        self.example = self.example.into_iter().chain(other.example).min();
    }

    /// Decisions that stay what they are.
    pub(super) fn same(&self) -> u64 {
        let moved = [self.now_denied, self.now_allowed, self.other_amount, self.now_failing];
        self.decisions - moved.iter().map(|moved| moved.decisions).sum::<u64>()
    }
}

impl Moved {
    pub(super) fn is_some(self) -> bool {
        self.decisions > 0
    }

    /// `12 ($3.50)`, or `-` for none.
    pub(super) fn shown(self) -> String {
        if self.is_some() { format!("{} (${})", self.decisions, self.usd.decimal()) } else { "-".to_owned() }
    }
}

impl Sum {
    /// As [`Money::to_decimal`] writes it.
    fn decimal(self) -> String {
        const NANOS_PER_USD: u128 = 1_000_000_000;
        let magnitude = self.0.unsigned_abs();
        let rest = i64::try_from(magnitude % NANOS_PER_USD).unwrap_or_default();
        // The decimals are those of an amount below a dollar, after its zero.
        let decimals = Money::from_nanos(rest).to_decimal();
        let sign = if self.0 < 0 { "-" } else { "" };
        format!("{sign}{}{}", magnitude / NANOS_PER_USD, decimals.trim_start_matches('0'))
    }
}

impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.decimal()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}
