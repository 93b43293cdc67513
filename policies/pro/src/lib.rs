//! Lets a request through that fits into every quota, where the limit depends on how urgent the request is: one with
//! the attribute `priority=high` may go a grace percentage above each limit, and a share of each limit can be kept
//! back from all others.

use tollgate_sdk::{Description, Facts, Policy, Settings, Verdict, exceeded, percent_of};

/// The policy of the tier `pro`.
pub struct Pro {
    grace_percent: u32,
    high_priority_share_percent: u32,
}

impl Policy for Pro {
    fn describe() -> Description {
        Description::new(
            "pro",
            env!("CARGO_PKG_VERSION"),
            "Lets a request through that fits into every quota, with grace above the limit for high priority.",
        )
        .setting(
            "grace_percent",
            "10",
            "How far above each limit a request with priority=high may go, in percent of the limit from 0 to 1000.",
        )
        .setting(
            "high_priority_share_percent",
            "0",
            "Share of each limit kept back for requests with priority=high, in percent of the limit from 0 to 100.",
        )
    }

    fn configure(settings: &mut Settings) -> Self {
        Self {
            grace_percent: settings.percent("grace_percent", 0..=1000),
            high_priority_share_percent: settings.percent("high_priority_share_percent", 0..=100),
        }
    }

    fn decide(&self, facts: &Facts) -> Result<Verdict, String> {
        let high = facts.request.attribute("priority") == Some("high");
        let percent = if high { 100 + self.grace_percent } else { 100 - self.high_priority_share_percent };
        let over = exceeded(facts, |quota| percent_of(quota.limit, percent));
        let verdict = Verdict::unless_exceeded(&facts.request, &over);

        let fits_the_limit = exceeded(facts, |quota| quota.limit).is_empty();
        Ok(match verdict {
            Verdict::Allow(_) if !fits_the_limit => verdict.annotate("grace", "true"),
            Verdict::Deny(_) if fits_the_limit => verdict.annotate("kept_back", "true"),
            _ => verdict,
        })
    }
}

tollgate_sdk::export!(Pro);
