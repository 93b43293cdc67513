//! The breaker: a policy that keeps failing for a tenant is not run for it for a while, and then tried again.
//!
//! 1. Five failures in a row stop it; `on_error` applies without running it.
//! 2. After ten seconds one request runs it again, while the others still go without.
//! 3. If that one succeeds everything is as before; if it fails the next ten seconds begin.
//!
//! Time is the requests'. Only what fails is kept, and another component, other settings or other limits start afresh.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use crate::policy::{Edition, PolicyError};
use crate::quota::TenantId;

/// So many failures in a row stop a policy.
const FAILURES: u32 = 5;
/// So long it is not run.
const PAUSE: TimeDelta = TimeDelta::seconds(10);
/// Failures further apart than this are no row.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::minutes(1);
/// What is kept at most; beyond it the oldest are forgotten.
const MOST_KEPT: usize = 10_000;

/// The policy as its files have it, so that the same component under other settings is not blamed.
type Key = (Edition, TenantId);

struct Failing {
    in_a_row: u32,
    last: PolicyError,
    last_at: DateTime<Utc>,
    /// Not run before this.
    paused_until: Option<DateTime<Utc>>,
}

/// Which policies fail for whom.
#[derive(Default)]
pub(super) struct Breaker {
    failing: Mutex<HashMap<Key, Failing>>,
    /// How many that are: where nothing fails, nobody takes the lock.
    kept: AtomicUsize,
}

impl Breaker {
    /// Whether the policy may run for this tenant now; if it is paused, why.
    pub(super) fn admit(&self, policy: &Edition, tenant: &TenantId, now: DateTime<Utc>) -> Result<(), PolicyError> {
        if self.kept.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let mut failing = self.lock();
        let Some(found) = failing.get_mut(&key(policy, tenant)) else { return Ok(()) };
        let Some(until) = found.paused_until else { return Ok(()) };
        // A pause that is longer than a pause was begun by a clock that has since been set back.
        if now < until && until - now <= PAUSE {
            return Err(PolicyError::Paused(Box::new(found.last.clone())));
        }
        // This request tries; until it is answered the others wait on.
        found.paused_until = Some(now + PAUSE);
        Ok(())
    }

    /// The policy answered.
    pub(super) fn succeeded(&self, policy: &Edition, tenant: &TenantId) {
        if self.kept.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut failing = self.lock();
        let was = failing.remove(&key(policy, tenant));
        self.kept.store(failing.len(), Ordering::Relaxed);
        if was.is_some_and(|was| was.paused_until.is_some()) {
            tracing::info!(policy = &*policy.name, tenantId = tenant.as_str(), "Policy runs again");
        }
    }

    /// The policy failed.
    pub(super) fn failed(&self, policy: &Edition, tenant: &TenantId, error: &PolicyError, now: DateTime<Utc>) {
        let mut failing = self.lock();
        if failing.len() >= MOST_KEPT {
            make_room(&mut failing, now);
        }
        let new = || Failing { in_a_row: 0, last: error.clone(), last_at: now, paused_until: None };
        let found = failing.entry(key(policy, tenant)).or_insert_with(new);
        if found.paused_until.is_none() && now - found.last_at > FORGOTTEN_AFTER {
            found.in_a_row = 0;
        }
        found.in_a_row = found.in_a_row.saturating_add(1);
        found.last = error.clone();
        found.last_at = now;
        if found.in_a_row >= FAILURES {
            let is_new = found.paused_until.replace(now + PAUSE).is_none();
            if is_new {
                tracing::error!(
                    policy = &*policy.name,
                    tenantId = tenant.as_str(),
                    kind = error.kind(),
                    reason = %error,
                    "Policy paused"
                );
            }
        }
        self.kept.store(failing.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(policy: &Edition, tenant: &TenantId) -> Key {
    (policy.clone(), tenant.clone())
}

/// Forgets what failed long ago; where that is not enough, everything: who keeps failing is soon known again.
fn make_room(failing: &mut HashMap<Key, Failing>, now: DateTime<Utc>) {
    failing.retain(|_, failing| (now - failing.last_at).abs() <= FORGOTTEN_AFTER);
    if failing.len() > MOST_KEPT / 2 {
        failing.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).expect("a time")
    }

    fn policy(files: &str) -> Edition {
        Edition { name: "pro".into(), files: files.into() }
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    fn stopped(breaker: &Breaker) {
        for _ in 0..FAILURES {
            assert!(breaker.admit(&policy("a"), &tenant("acme"), at(0)).is_ok());
            breaker.failed(&policy("a"), &tenant("acme"), &PolicyError::Output, at(0));
        }
    }

    #[test]
    fn a_row_of_failures_pauses_it_for_that_tenant_and_that_component_only() {
        let breaker = Breaker::default();
        stopped(&breaker);
        let paused = PolicyError::Paused(Box::new(PolicyError::Output));
        assert_eq!(breaker.admit(&policy("a"), &tenant("acme"), at(9)), Err(paused));
        assert!(breaker.admit(&policy("a"), &tenant("globex"), at(9)).is_ok());
        assert!(breaker.admit(&policy("b"), &tenant("acme"), at(9)).is_ok());
    }

    #[test]
    fn after_the_pause_one_tries_and_the_others_wait_for_how_it_ends() {
        let (breaker, policy, tenant) = (Breaker::default(), policy("a"), tenant("acme"));
        stopped(&breaker);
        assert!(breaker.admit(&policy, &tenant, at(10)).is_ok());
        assert!(breaker.admit(&policy, &tenant, at(10)).is_err());
        breaker.failed(&policy, &tenant, &PolicyError::Output, at(10));
        assert!(breaker.admit(&policy, &tenant, at(19)).is_err());
        assert!(breaker.admit(&policy, &tenant, at(20)).is_ok());
        breaker.succeeded(&policy, &tenant);
        // Afresh: it takes a row again.
        breaker.failed(&policy, &tenant, &PolicyError::Output, at(20));
        assert!(breaker.admit(&policy, &tenant, at(20)).is_ok());
    }

    #[test]
    fn a_try_that_was_never_answered_does_not_pause_it_for_ever() {
        let breaker = Breaker::default();
        stopped(&breaker);
        assert!(breaker.admit(&policy("a"), &tenant("acme"), at(10)).is_ok());
        assert!(breaker.admit(&policy("a"), &tenant("acme"), at(20)).is_ok());
    }

    #[test]
    fn a_success_between_and_failures_far_apart_are_no_row() {
        let (breaker, policy, tenant) = (Breaker::default(), policy("a"), tenant("acme"));
        for n in 0..20 {
            breaker.failed(&policy, &tenant, &PolicyError::Output, at(n));
            if n % 4 == 3 {
                breaker.succeeded(&policy, &tenant);
            }
        }
        for n in 1..20 {
            breaker.failed(&policy, &tenant, &PolicyError::Output, at(61 * n));
            assert!(breaker.admit(&policy, &tenant, at(61 * n)).is_ok());
        }
    }

    #[test]
    fn a_clock_that_was_set_back_prolongs_no_pause() {
        let breaker = Breaker::default();
        stopped(&breaker);
        assert!(breaker.admit(&policy("a"), &tenant("acme"), at(-3_600)).is_ok());
    }

    #[test]
    fn it_keeps_what_fails_and_no_more_than_so_many() {
        let breaker = Breaker::default();
        breaker.succeeded(&policy("a"), &tenant("acme"));
        assert_eq!(breaker.lock().len(), 0);
        for n in 0..2 * MOST_KEPT {
            breaker.failed(
                &policy("a"),
                &tenant(&format!("t-{n}")),
                &PolicyError::Output,
                at(i64::try_from(n).unwrap()),
            );
        }
        assert!(breaker.lock().len() <= MOST_KEPT);
        let newest = (policy("a"), tenant(&format!("t-{}", 2 * MOST_KEPT - 1)));
        assert!(breaker.lock().contains_key(&newest));
        for n in 0..2 * MOST_KEPT {
            breaker.failed(&policy("a"), &tenant(&format!("t-{n}")), &PolicyError::Output, at(0));
        }
        assert!(breaker.lock().len() <= MOST_KEPT);
    }
}
