//! Lets a request through that fits into every quota, and beyond the quotas of its own tenant and user while it has a
//! pool, and every pool and global quota still fits: the pool's members lend each other what is not used.
//!
//! A limit grows by a percentage in a window that follows a quiet one, whose spend stayed below half of the limit.

use tollgate_sdk::{Description, Facts, NanoUsd, Policy, Quota, Settings, Verdict, exceeded, percent_of};

/// The policy of the tier `enterprise`.
pub struct Enterprise {
    pool_overflow: bool,
    growth_percent: u32,
}

impl Policy for Enterprise {
    fn describe() -> Description {
        Description::new(
            "enterprise",
            env!("CARGO_PKG_VERSION"),
            "Lets a request through that fits into every quota, or over its own ones while its pool has room.",
        )
        .setting(
            "pool_overflow",
            "true",
            "Whether tenant and user quotas give way while every pool and global quota fits, true or false.",
        )
        .setting(
            "growth_percent",
            "10",
            "How much a limit grows after a window that spent less than half of it, in percent from 0 to 1000.",
        )
    }

    fn configure(settings: &mut Settings) -> Self {
        Self {
            pool_overflow: settings.flag("pool_overflow"),
            growth_percent: settings.percent("growth_percent", 0..=1000),
        }
    }

    fn decide(&self, facts: &Facts) -> Result<Verdict, String> {
        let over = exceeded(facts, |quota| self.limit(quota));
        let overflows = self.pool_overflow && has_pool(facts) && over.iter().all(|each| own(each.quota));
        if overflows && !over.is_empty() {
            return Ok(Verdict::allow().annotate("pool_overflow", "true"));
        }
        let verdict = Verdict::unless_exceeded(&facts.request, &over);
        let fits_ungrown = exceeded(facts, |quota| quota.limit).is_empty();
        Ok(match verdict {
            Verdict::Allow(_) if !fits_ungrown => verdict.annotate("growth", "true"),
            _ => verdict,
        })
    }
}

impl Enterprise {
    fn limit(&self, quota: &Quota) -> NanoUsd {
        // Half of an odd limit is no whole number, so the previous spend is doubled instead.
        let quiet = quota.previous_spend.is_some_and(|spend| spend.saturating_mul(2) < quota.limit);
        if quiet { percent_of(quota.limit, 100 + self.growth_percent) } else { quota.limit }
    }
}

fn has_pool(facts: &Facts) -> bool {
    facts.quotas.iter().any(|quota| quota.scope == "pool")
}

/// Only these scopes give way; one that this policy does not know denies like a global one.
fn own(quota: &Quota) -> bool {
    matches!(quota.scope.as_str(), "tenant" | "user")
}

tollgate_sdk::export!(Enterprise);
