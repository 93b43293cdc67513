//! What a request exceeds, and which of it binds.

use crate::{Facts, NanoUsd, Quota};

impl Quota {
    /// Whether the estimate fits under `limit` beside what is spent and held; reaching the limit exactly fits.
    ///
    /// `limit` is the one that the policy applies, often `self.limit`.
    pub fn fits(&self, limit: NanoUsd, estimate: NanoUsd) -> bool {
        self.remaining(limit) >= i128::from(estimate)
    }

    /// Whether the estimate would fit if nothing were held, so that waiting for reservations to end may help.
    pub fn fits_unheld(&self, limit: NanoUsd, estimate: NanoUsd) -> bool {
        self.remaining(limit) + i128::from(self.held) >= i128::from(estimate)
    }

    /// What is left under `limit`: below 0 when more is spent and held. Wide, so that no `i64` can overflow it.
    pub fn remaining(&self, limit: NanoUsd) -> i128 {
        i128::from(limit) - i128::from(self.spend) - i128::from(self.held)
    }
}

/// A quota that a request does not fit into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded<'a> {
    /// Its index in `facts.quotas`.
    pub index: u32,
    /// The quota.
    pub quota: &'a Quota,
    /// The limit that was applied.
    pub limit: NanoUsd,
}

/// The quotas that the request does not fit into, in their order, each under the limit that `limit` gives it.
pub fn exceeded(facts: &Facts, limit: impl Fn(&Quota) -> NanoUsd) -> Vec<Exceeded<'_>> {
    (0..)
        .zip(&facts.quotas)
        .map(|(index, quota)| Exceeded { index, quota, limit: limit(quota) })
        .filter(|exceeded| !exceeded.quota.fits(exceeded.limit, facts.request.estimate))
        .collect()
}

/// The binding quota: of those that deny, the one that resets last, `lifetime` after all others. Of those that reset
/// together, the one with the least remaining, and then the first.
pub fn binding<'a>(exceeded: &[Exceeded<'a>]) -> Option<Exceeded<'a>> {
    exceeded.iter().copied().min_by_key(|exceeded| {
        let resets = exceeded.quota.window_end.map_or((0, 0), |end| (1, u64::MAX - end));
        (resets, exceeded.quota.remaining(exceeded.limit))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Request;

    pub(crate) fn quota(limit: NanoUsd, spend: NanoUsd, held: NanoUsd, window_end: Option<u64>) -> Quota {
        Quota {
            scope: "tenant".to_owned(),
            scope_id: "acme-corp".to_owned(),
            period: "day".to_owned(),
            window_start: 0,
            window_end,
            limit,
            hard_limit: None,
            spend,
            held,
            previous_spend: None,
            admitted: 0,
            extra: Vec::new(),
        }
    }

    pub(crate) fn facts(estimate: NanoUsd, quotas: &[Quota]) -> Facts {
        let request = Request {
            id: "d-1".to_owned(),
            now: 0,
            tenant: "acme-corp".to_owned(),
            user: None,
            pool: None,
            tier: None,
            resource_type: "llm".to_owned(),
            estimate,
            attributes: Vec::new(),
        };
        Facts { request, quotas: quotas.to_vec(), settings: Vec::new(), extra: Vec::new() }
    }

    fn binding_index(quotas: &[Quota]) -> Option<u32> {
        let facts = facts(1, quotas);
        binding(&exceeded(&facts, |quota| quota.limit)).map(|exceeded| exceeded.index)
    }

    #[test]
    fn reaching_the_limit_exactly_fits_and_a_nano_dollar_more_does_not() {
        let quota = quota(50, 40, 5, Some(1));
        assert!(quota.fits(50, 5));
        assert!(!quota.fits(50, 6));
        assert!(quota.fits_unheld(50, 10));
        assert!(!quota.fits_unheld(50, 11));
        assert!(quota.fits(45, 0));
        assert!(!quota.fits(44, 0), "an overrun denies even what costs nothing");
    }

    #[test]
    fn no_amount_overflows() {
        let full = quota(i64::MAX, i64::MAX, i64::MAX, None);
        assert!(!full.fits(i64::MAX, i64::MAX));
        assert!(full.fits_unheld(i64::MAX, 0));
        let debt = quota(i64::MIN, i64::MAX, i64::MAX, None);
        assert!(!debt.fits(i64::MIN, i64::MAX));
        let credit = quota(i64::MAX, i64::MIN, i64::MIN, None);
        assert!(credit.fits(i64::MAX, i64::MAX));
    }

    #[test]
    fn what_fits_does_not_bind() {
        assert_eq!(binding_index(&[]), None);
        assert_eq!(binding_index(&[quota(10, 9, 0, Some(1))]), None);
        assert_eq!(binding_index(&[quota(10, 9, 0, None), quota(10, 10, 0, Some(1))]), Some(1));
    }

    #[test]
    fn the_quota_that_resets_last_binds_and_lifetime_is_last_of_all() {
        assert_eq!(binding_index(&[quota(10, 10, 0, Some(1)), quota(10, 10, 0, Some(2))]), Some(1));
        assert_eq!(binding_index(&[quota(10, 10, 0, Some(2)), quota(10, 99, 0, Some(1))]), Some(0));
        assert_eq!(binding_index(&[quota(10, 10, 0, None), quota(10, 10, 0, Some(u64::MAX))]), Some(0));
    }

    #[test]
    fn of_those_that_reset_together_the_least_remaining_binds_and_then_the_first() {
        assert_eq!(binding_index(&[quota(10, 10, 0, Some(1)), quota(10, 10, 1, Some(1))]), Some(1));
        assert_eq!(binding_index(&[quota(10, 11, 0, Some(1)), quota(20, 20, 0, Some(1))]), Some(0));
        assert_eq!(binding_index(&[quota(10, 10, 0, None), quota(20, 20, 0, None)]), Some(0));
    }

    #[test]
    fn remaining_counts_under_the_limit_that_was_applied() {
        let facts = facts(1, &[quota(10, 10, 0, Some(1)), quota(20, 20, 0, Some(1))]);
        let exceeded = exceeded(&facts, |quota| if quota.limit == 20 { 15 } else { 10 });
        assert_eq!(binding(&exceeded).map(|exceeded| (exceeded.index, exceeded.limit)), Some((1, 15)));
    }
}
