//! While the store cannot be reached: what is allowed without asking, and what is kept for the books.
//!
//! 1. An outage begins with the first answer that says so, or with a probe that is not answered; whatever waits for the
//!    store is told at once.
//! 2. Checks and reservations are allowed, up to a bound, or refused, as the operator chose: `StoreFailure`.
//! 3. Reservations, settles, releases, extensions and costs go to the spool, and are on the disk before the answer.
//! 4. When a probe is answered, the spool is replayed (`replay`); with its last record the store counts as up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::entry::Entry;
use super::once::{Heard, Kept};
use super::promise::Made;
use super::{GateError, World};
use crate::decision::{Decision, Request};
use crate::money::Money;
use crate::spool::{MOST_WAITING, Spool, SpoolError};
use crate::store::StoreError;
use crate::store::replay::Promised;

/// What a request gets while the store cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFailure {
    /// It is allowed, whatever it costs.
    Open,
    /// It is allowed, up to this amount for each tenant and outage.
    Bounded(Money),
    /// It is refused with 503.
    Closed,
}

/// What the gate does in an outage.
#[derive(Debug)]
pub struct Outages {
    mode: StoreFailure,
    pub(super) spool: Spool,
    current: Mutex<Current>,
}

/// Of the outage that lasts, or of the last one.
#[derive(Debug, Default)]
pub(super) struct Current {
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) allowed: u64,
    pub(super) refused: u64,
    pub(super) amount: Money,
    by_tenant: HashMap<String, Money>,
    pub(super) heard: Heard,
}

impl Outages {
    /// With a spool that is open.
    pub fn new(mode: StoreFailure, spool: Spool) -> Self {
        Self { mode, spool, current: Mutex::default() }
    }

    /// What a request gets.
    pub fn mode(&self) -> StoreFailure {
        self.mode
    }

    /// Where costs wait for the store.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    pub(super) fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// Counts a request that is allowed without a decision.
    pub(super) fn allow(&mut self, mode: StoreFailure, tenant: &str, estimate: Money) -> Result<(), GateError> {
        let so_far = self.by_tenant.get(tenant).copied().unwrap_or_default();
        let allowed = match mode {
            StoreFailure::Open => true,
            StoreFailure::Bounded(bound) => so_far + estimate <= bound,
            StoreFailure::Closed => false,
        };
        if !allowed {
            self.refused += 1;
            return Err(GateError::Down);
        }
        self.allowed += 1;
        self.amount = self.amount + estimate;
        if matches!(mode, StoreFailure::Bounded(_)) {
            self.by_tenant.insert(tenant.to_owned(), so_far + estimate);
        }
        Ok(())
    }

    /// What was allowed and then not promised after all: nobody has it.
    pub(super) fn take_back(&mut self, tenant: &str, estimate: Money) {
        self.allowed = self.allowed.saturating_sub(1);
        self.amount = (self.amount - estimate).max(Money::ZERO);
        if let Some(amount) = self.by_tenant.get_mut(tenant) {
            *amount = (*amount - estimate).max(Money::ZERO);
        }
    }
}

impl World {
    /// Whether the store counts as down.
    pub(super) fn is_down(&self) -> bool {
        self.store.health().is_down()
    }

    /// The store cannot be reached: from now on nobody waits for it.
    pub(super) fn lost(&self, error: &StoreError) {
        self.outages.spool.accept();
        // Who sees that it is down finds the outage begun: what is kept in it is not forgotten again.
        let mut current = self.outages.current();
        if self.store.health().is_lost(&error.to_string()) {
            *current = Current { since: Some(self.clock.now()), ..Current::default() };
            tracing::error!(reason = %error, mode = ?self.outages.mode, "Store down");
        }
    }

    /// A check without a decision.
    pub(super) fn check_in_outage(&self, request: &Arc<Request>) -> Result<Decision, GateError> {
        self.outages.current().allow(self.outages.mode, request.tenant.as_str(), request.estimate)?;
        Ok(Decision::degraded(request.clone()))
    }

    /// A reservation without a decision. `None`: the store is back.
    pub(super) async fn promise(self: &Arc<Self>, promised: &Promised) -> Result<Option<Made>, GateError> {
        Ok(match self.keep_once(Entry::reserve(promised)).await? {
            Kept::Before(Some(first)) => Some(Made::Before(first)),
            Kept::Now | Kept::Before(None) => Some(Made::Now),
            Kept::NotNeeded => None,
        })
    }

    /// Keeps what is to be in the books later. Tells whether it did: not if the store is back.
    pub(super) async fn keep(&self, entry: &Entry) -> Result<bool, GateError> {
        Self::is_kept(self.outages.spool.append(entry.record()).await)
    }

    /// Keeps what ends a reservation that another host has promised, until that is in the books.
    pub(super) async fn keep_waiting(&self, entry: &Entry) -> Result<bool, GateError> {
        // An operation is prolonged again and again, and ends once: that must find room.
        let most = if matches!(entry, Entry::Extend { .. }) { MOST_WAITING / 2 } else { MOST_WAITING };
        Self::is_kept(self.outages.spool.append_always(entry.record(), most).await)
    }

    fn is_kept(appended: Result<(), SpoolError>) -> Result<bool, GateError> {
        match appended {
            Ok(()) => Ok(true),
            Err(SpoolError::NotNeeded) => Ok(false),
            Err(SpoolError::Overloaded) => Err(GateError::Overloaded),
            Err(SpoolError::TooManyWait) => Err(GateError::TooManyWait),
            Err(SpoolError::Full) => Err(GateError::SpoolFull),
            Err(SpoolError::Disk(error)) => {
                tracing::error!(reason = %error, "Spool not written");
                Err(GateError::Spool(error.to_string()))
            }
        }
    }
}
