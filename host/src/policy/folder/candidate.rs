//! A candidate: `NAME.next.wasm`, which passed the same gate, runs in shadow beside the live policy, and changes nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::policy::Policy;
use crate::policy::engine::PolicyError;

/// A policy that runs in shadow, and what has been seen of it. Clones share the counts.
#[derive(Clone)]
pub struct Candidate {
    pub(super) policy: Arc<Policy>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Tally {
    compared: AtomicU64,
    disagreed: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<PolicyError>>,
}

impl Candidate {
    pub(super) fn new(policy: Arc<Policy>) -> Self {
        Self { policy, tally: Arc::default() }
    }

    /// The candidate itself.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// It was asked what the live policy was asked; tells how often the two have disagreed, if they did this time.
    pub fn compared(&self, agreed: bool) -> Option<u64> {
        self.tally.compared.fetch_add(1, Ordering::Relaxed);
        (!agreed).then(|| self.tally.disagreed.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// It did not answer.
    pub fn failed(&self, error: PolicyError) {
        *self.tally.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// It was not asked: shadows lag, and the gate does not wait for them.
    pub fn dropped(&self) {
        self.tally.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> CandidateStatus {
        CandidateStatus {
            digest: Some(self.policy.reference.digest.clone()),
            since: Some(self.policy.since),
            compared: self.tally.compared.load(Ordering::Relaxed),
            disagreed: self.tally.disagreed.load(Ordering::Relaxed),
            dropped: self.tally.dropped.load(Ordering::Relaxed),
            last_error: self.tally.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// How a candidate stands, since this host runs it.
pub struct CandidateStatus {
    /// Of the component's bytes; none where it was refused.
    pub digest: Option<Arc<str>>,
    /// Since when it runs in shadow.
    pub since: Option<DateTime<Utc>>,
    /// Decisions that it was asked for too.
    pub compared: u64,
    /// Those in which it did not say the same.
    pub disagreed: u64,
    /// Those that it was not asked for, since shadows lagged.
    pub dropped: u64,
    /// Why it was refused, or how it last failed.
    pub last_error: Option<PolicyError>,
}

impl CandidateStatus {
    pub(super) fn refused(error: PolicyError) -> Self {
        Self { digest: None, since: None, compared: 0, disagreed: 0, dropped: 0, last_error: Some(error) }
    }
}
