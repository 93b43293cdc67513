//! Building what a policy answers.

use std::fmt::Write;

use crate::{Allowance, Denial, Description, Exceeded, Pair, Request, SettingSpec, Usd, Verdict, binding};

impl Description {
    /// A policy without settings. `summary` is one sentence: whom it lets through.
    pub fn new(name: &str, version: &str, summary: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            summary: summary.to_owned(),
            settings: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// Adds a setting that the operator may leave out. `summary` is one sentence: what it does, its unit and range.
    #[must_use]
    pub fn setting(self, name: &str, default: &str, summary: &str) -> Self {
        self.with(name, Some(default), summary)
    }

    /// Adds a setting without which the policy does not load.
    #[must_use]
    pub fn required(self, name: &str, summary: &str) -> Self {
        self.with(name, None, summary)
    }

    fn with(mut self, name: &str, default: Option<&str>, summary: &str) -> Self {
        self.settings.push(SettingSpec {
            name: name.to_owned(),
            summary: summary.to_owned(),
            default_value: default.map(str::to_owned),
        });
        self
    }
}

impl Verdict {
    /// Yes, for the whole estimate.
    pub fn allow() -> Self {
        Self::Allow(Allowance { at_most: None, annotations: Vec::new() })
    }

    /// No, for a reason that no quota gives: waiting does not help. `code` is a stable word for programs,
    /// `[a-z][a-z0-9_]*`; `reason` is a sentence for people.
    pub fn refuse(code: &str, reason: impl Into<String>) -> Self {
        Self::Deny(Denial {
            code: code.to_owned(),
            reason: reason.into(),
            quota: None,
            retry_after_s: None,
            annotations: Vec::new(),
        })
    }

    /// Yes if nothing is exceeded; otherwise a denial by the [`binding`] quota.
    ///
    /// Its code is `capacity_held` where only held money stands in the way of every quota, else `limit_exceeded`.
    /// When to come back is left to the host, which knows the windows and when reservations expire.
    pub fn unless_exceeded(request: &Request, exceeded: &[Exceeded<'_>]) -> Self {
        let Some(binding) = binding(exceeded) else {
            return Self::allow();
        };
        let only_held = exceeded.iter().all(|each| each.quota.fits_unheld(each.limit, request.estimate));
        Self::Deny(Denial {
            code: if only_held { "capacity_held" } else { "limit_exceeded" }.to_owned(),
            reason: reason(request, binding),
            quota: Some(binding.index),
            retry_after_s: None,
            annotations: Vec::new(),
        })
    }

    /// Adds a note for the decision log; the caller does not see it.
    #[must_use]
    pub fn annotate(mut self, name: &str, value: &str) -> Self {
        let (Self::Allow(Allowance { annotations, .. }) | Self::Deny(Denial { annotations, .. })) = &mut self;
        annotations.push(Pair { name: name.to_owned(), value: value.to_owned() });
        self
    }
}

/// The sentence that the replaced system's callers parse; only what is reserved is new, so it comes last.
fn reason(request: &Request, Exceeded { quota, limit, .. }: Exceeded<'_>) -> String {
    let mut reason = request.resource_type.to_ascii_uppercase();
    let (current, requested) = (Usd(quota.spend), Usd(request.estimate));
    // Writing to a String cannot fail.
    let _ = write!(reason, " quota exceeded. Limit: {}, Current: {current}, Requested: {requested}", Usd(limit));
    if quota.held > 0 {
        let _ = write!(reason, ", Reserved: {}", Usd(quota.held));
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::tests::{facts, quota};
    use crate::{Facts, exceeded};

    const CENT: i64 = 10_000_000;

    fn verdict(facts: &Facts) -> Verdict {
        Verdict::unless_exceeded(&facts.request, &exceeded(facts, |quota| quota.limit))
    }

    fn denial(facts: &Facts) -> Denial {
        match verdict(facts) {
            Verdict::Deny(denial) => denial,
            Verdict::Allow(_) => panic!("allowed"),
        }
    }

    #[test]
    fn nothing_exceeded_is_a_plain_yes() {
        assert_eq!(verdict(&facts(200 * CENT, &[])), Verdict::allow());
    }

    #[test]
    fn a_denial_reads_as_in_the_replaced_system() {
        let denial = denial(&facts(200 * CENT, &[quota(5000 * CENT, 4850 * CENT, 0, Some(1))]));
        assert_eq!(denial.code, "limit_exceeded");
        assert_eq!(denial.reason, "LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00");
        assert_eq!((denial.quota, denial.retry_after_s), (Some(0), None));
    }

    #[test]
    fn held_money_is_named_at_the_end() {
        let denial = denial(&facts(200 * CENT, &[quota(5000 * CENT, 4850 * CENT, 100 * CENT, Some(1))]));
        assert_eq!(
            denial.reason,
            "LLM quota exceeded. Limit: $50.00, Current: $48.50, Requested: $2.00, Reserved: $1.00"
        );
        assert_eq!(denial.code, "limit_exceeded", "it would not fit with nothing held either");
    }

    #[test]
    fn the_code_is_capacity_held_only_where_held_money_alone_stands_in_every_way() {
        let held = quota(5000 * CENT, 4000 * CENT, 900 * CENT, Some(2));
        let spent = quota(5000 * CENT, 5000 * CENT, 0, Some(1));
        assert_eq!(denial(&facts(200 * CENT, std::slice::from_ref(&held))).code, "capacity_held");
        assert_eq!(denial(&facts(200 * CENT, &[held.clone(), held.clone()])).code, "capacity_held");
        let both = denial(&facts(200 * CENT, &[held, spent]));
        assert_eq!((both.code.as_str(), both.quota), ("limit_exceeded", Some(0)));
    }

    #[test]
    fn notes_go_on_either_answer() {
        let note = [Pair { name: "grace".to_owned(), value: "true".to_owned() }];
        let Verdict::Allow(allowance) = Verdict::allow().annotate("grace", "true") else { panic!("denied") };
        assert_eq!(allowance.annotations, note);
        let Verdict::Deny(denial) = Verdict::refuse("no", "No.").annotate("grace", "true") else { panic!("allowed") };
        assert_eq!(denial.annotations, note);
    }
}
