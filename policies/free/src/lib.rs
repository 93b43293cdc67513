//! Lets a request through that fits into every quota, is not larger than a maximum, and buys a resource that the tier
//! includes, which is one with at least one quota.
//!
//! The first operations of a window can be free: until a window has admitted that many, its quota does not deny.

use tollgate_sdk::{Description, Facts, NanoUsd, Policy, Settings, Usd, Verdict, exceeded};

/// The policy of the tier `free`.
pub struct Free {
    max_request: NanoUsd,
    free_requests: u64,
}

impl Policy for Free {
    fn describe() -> Description {
        Description::new(
            "free",
            env!("CARGO_PKG_VERSION"),
            "Lets a request through that fits into every quota, up to a maximum each, if a quota includes the resource.",
        )
        .setting(
            "max_request_usd",
            "1.00",
            "The largest estimate that one request may have, in US dollars with at most 9 decimals.",
        )
        .setting(
            "free_requests",
            "0",
            "How many operations a window admits before its quota denies anything, a whole number from 0.",
        )
    }

    fn configure(settings: &mut Settings) -> Self {
        Self { max_request: settings.money("max_request_usd"), free_requests: settings.count("free_requests") }
    }

    fn decide(&self, facts: &Facts) -> Result<Verdict, String> {
        let request = &facts.request;
        if facts.quotas.is_empty() {
            let tier = request.tier.as_deref().map_or("This".to_owned(), |tier| format!("The {tier}"));
            let reason = format!("{tier} tier does not include {}.", request.resource_type);
            return Ok(Verdict::refuse("not_included", reason));
        }
        if request.estimate > self.max_request {
            let resource = request.resource_type.to_ascii_uppercase();
            let (maximum, estimate) = (Usd(self.max_request), Usd(request.estimate));
            let reason = format!("{resource} request too large. Maximum: {maximum}, Requested: {estimate}");
            return Ok(Verdict::refuse("request_too_large", reason));
        }
        let mut over = exceeded(facts, |quota| quota.limit);
        let fits = over.is_empty();
        over.retain(|each| each.quota.admitted >= self.free_requests);
        let verdict = Verdict::unless_exceeded(request, &over);
        Ok(match verdict {
            Verdict::Allow(_) if !fits => verdict.annotate("free_request", "true"),
            _ => verdict,
        })
    }
}

tollgate_sdk::export!(Free);
