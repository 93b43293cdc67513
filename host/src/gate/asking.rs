//! How many checks wait for their answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::LANES;

/// So many share one lane: with two, each statement would read for half as many, and cost nearly the same.
const FEW: usize = 64;

/// Counts the checks that wait for their answers.
#[derive(Debug, Default)]
pub(super) struct Asking(AtomicUsize);

/// One of them, until it is dropped: with its answer, or with the caller who has gone away.
pub(super) struct Asked<'a>(&'a Asking);

impl Asking {
    pub(super) fn one_more(&self) -> Asked<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Asked(self)
    }

    /// Where a check goes whose rows are `own` lane's: it locks none of them, so that few share the first lane. Those of
    /// tenants with slow policies stay where they are.
    pub(super) fn lane(&self, own: usize) -> usize {
        let are_few = self.0.load(Ordering::Relaxed) <= FEW;
        if are_few && own < LANES { 0 } else { own }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_share_the_first_lane_but_for_those_of_slow_policies_and_who_has_gone_away_is_no_more_counted() {
        let (asking, slow) = (Asking::default(), LANES);
        let mut asked: Vec<Asked<'_>> = (0..FEW).map(|_| asking.one_more()).collect();
        assert_eq!((asking.lane(1), asking.lane(slow)), (0, slow));
        asked.push(asking.one_more());
        assert_eq!((asking.lane(1), asking.lane(slow)), (1, slow));
        asked.pop();
        assert_eq!((asking.lane(1), asking.lane(slow)), (0, slow));
    }
}
