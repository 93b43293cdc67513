//! Lets a request through that fits into every quota: spend, what is held and the estimate together stay within the
//! limit. Where no quota applies, nothing limits the request.

use tollgate_sdk::{Description, Facts, Policy, Settings, Verdict, exceeded};

/// The policy of every tenant without a tier, and of every tier without a policy of its own.
pub struct Standard;

impl Policy for Standard {
    fn describe() -> Description {
        Description::new(
            "standard",
            env!("CARGO_PKG_VERSION"),
            "Lets a request through that fits into every quota; without a quota, everything.",
        )
    }

    fn configure(_: &mut Settings) -> Self {
        Self
    }

    fn decide(&self, facts: &Facts) -> Result<Verdict, String> {
        Ok(Verdict::unless_exceeded(&facts.request, &exceeded(facts, |quota| quota.limit)))
    }
}

tollgate_sdk::export!(Standard);
