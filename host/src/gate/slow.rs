//! Whose policy takes long: those tenants have a lane of their own, so that nobody else waits for it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::quota::TenantId;

/// A decision that takes longer is slow.
const SLOW: Duration = Duration::from_millis(2);
/// One that takes less than this is not, any more.
const QUICK: Duration = Duration::from_millis(1);
/// So many are kept; then all are forgotten, and learned again.
const MOST_KEPT: usize = 10_000;

/// The tenants whose last decision took long.
#[derive(Default)]
pub(super) struct Slow {
    tenants: Mutex<HashSet<TenantId>>,
    /// How many that are: where none are, nobody takes the lock.
    kept: AtomicUsize,
}

impl Slow {
    pub(super) fn contains(&self, tenant: &TenantId) -> bool {
        self.kept.load(Ordering::Relaxed) > 0 && self.lock().contains(tenant)
    }

    /// What a decision took, and how long its thread worked on it: a quick one that had to wait for the processor is not
    /// slow, and a lane that it changes for no reason knows nothing of its rows.
    pub(super) fn learn(&self, tenant: &TenantId, took: Duration, worked: impl FnOnce() -> Duration) {
        if took < SLOW && (took > QUICK || self.kept.load(Ordering::Relaxed) == 0) {
            return;
        }
        let took = if took < SLOW { took } else { worked() };
        let mut tenants = self.lock();
        if took >= SLOW {
            if tenants.len() >= MOST_KEPT {
                tenants.clear();
            }
            tenants.insert(tenant.clone());
        } else if took <= QUICK {
            tenants.remove(tenant);
        }
        self.kept.store(tenants.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<TenantId>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_decision_is_remembered_until_a_quick_one() {
        let (slow, acme) = (Slow::default(), TenantId::parse("acme").expect("a tenant"));
        let learn = |took: Duration, worked: Duration| slow.learn(&acme, took, || worked);
        learn(QUICK, QUICK);
        assert!(!slow.contains(&acme));
        learn(SLOW, SLOW);
        assert!(slow.contains(&acme));
        learn(Duration::from_micros(1_500), Duration::from_micros(1_500));
        assert!(slow.contains(&acme));
        learn(Duration::from_micros(20), Duration::from_micros(20));
        assert!(!slow.contains(&acme));
    }

    #[test]
    fn one_that_waited_for_the_processor_is_not_slow() {
        let (slow, acme) = (Slow::default(), TenantId::parse("acme").expect("a tenant"));
        slow.learn(&acme, 4 * SLOW, || QUICK);
        assert!(!slow.contains(&acme));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let slow = Slow::default();
        for n in 0..3 * MOST_KEPT {
            slow.learn(&TenantId::parse(&format!("t-{n}")).expect("a tenant"), SLOW, || SLOW);
        }
        assert!(slow.lock().len() <= MOST_KEPT);
    }
}
