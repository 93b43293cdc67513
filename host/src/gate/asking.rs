//! How many checks wait for their answers.

use std::sync::atomic::{AtomicUsize, Ordering};

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

    pub(super) fn are_few(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= FEW
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
    fn who_has_an_answer_or_has_gone_away_is_counted_no_more() {
        let asking = Asking::default();
        let asked: Vec<Asked<'_>> = (0..=FEW).map(|_| asking.one_more()).collect();
        assert!(!asking.are_few());
        drop(asked);
        assert!(asking.are_few());
        assert_eq!(asking.0.into_inner(), 0);
    }
}
