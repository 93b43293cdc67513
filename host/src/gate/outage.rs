//! While the store cannot be reached: what is allowed without asking, and what is kept for the books.
//!
//! 1. An outage begins with the first answer that says so, or with a probe that is not answered; whatever waits for the
//!    store is told at once.
//! 2. Checks and reservations are allowed, up to a bound, or refused, as the operator chose: `StoreFailure`.
//! 3. Reservations, settles, releases, extensions and costs go to the spool, and are on the disk before the answer.
//! 4. When a probe is answered, the spool is replayed (`replay`); with its last record the store counts as up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::entry::Entry;
use super::{GateError, World};
use crate::decision::{Decision, Request};
use crate::money::Money;
use crate::quota::TenantId;
use crate::spool::{Spool, SpoolError};
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
    by_tenant: HashMap<TenantId, Money>,
    /// First reservations under their request ids.
    promised: HashMap<(TenantId, String), Promised>,
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

    /// Counts a request that is allowed without a decision.
    fn allow(&self, request: &Request) -> Result<(), GateError> {
        let mut current = self.current();
        let so_far = current.by_tenant.get(&request.tenant).copied().unwrap_or_default();
        let allowed = match self.mode {
            StoreFailure::Open => true,
            StoreFailure::Bounded(bound) => so_far + request.estimate <= bound,
            StoreFailure::Closed => false,
        };
        if !allowed {
            current.refused += 1;
            return Err(GateError::Down);
        }
        current.allowed += 1;
        current.amount = current.amount + request.estimate;
        if matches!(self.mode, StoreFailure::Bounded(_)) {
            current.by_tenant.insert(request.tenant.clone(), so_far + request.estimate);
        }
        Ok(())
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
        if self.store.health().is_lost(&error.to_string()) {
            *self.outages.current() = Current { since: Some(self.clock.now()), ..Current::default() };
            tracing::error!(reason = %error, mode = ?self.outages.mode, "Store down");
        }
    }

    /// A check without a decision.
    pub(super) fn check_in_outage(&self, request: &std::sync::Arc<Request>) -> Result<Decision, GateError> {
        self.outages.allow(request)?;
        Ok(Decision::degraded(request.clone()))
    }

    /// A reservation without a decision. `None`: the store is back.
    pub(super) async fn promise(&self, promised: &Promised, request: &Request) -> Result<Option<Made>, GateError> {
        let key = promised.request_id.clone().map(|id| (promised.tenant.clone(), id));
        let first = key.as_ref().and_then(|key| self.outages.current().promised.get(key).cloned());
        if let Some(first) = first {
            if first.body != promised.body {
                let id = promised.request_id.clone().unwrap_or_default();
                let conflict = StoreError::Conflict(format!("requestId {id:?} was used with another body"));
                return Err(GateError::Store(std::sync::Arc::new(conflict)));
            }
            return Ok(Some(Made::Before(first)));
        }
        self.outages.allow(request)?;
        if !self.keep(&Entry::reserve(promised)).await? {
            return Ok(None);
        }
        if let Some(key) = key {
            self.outages.current().promised.insert(key, promised.clone());
        }
        Ok(Some(Made::Now))
    }

    /// Keeps what is to be in the books later. Tells whether it did: not if the store is back.
    pub(super) async fn keep(&self, entry: &Entry) -> Result<bool, GateError> {
        let record = serde_json::to_vec(entry).map_err(|error| GateError::Spool(error.to_string()))?;
        Self::is_kept(self.outages.spool.append(record).await)
    }

    /// Keeps what ends a reservation that another host has promised, until that is in the books.
    pub(super) async fn keep_waiting(&self, entry: &Entry) -> Result<bool, GateError> {
        let record = serde_json::to_vec(entry).map_err(|error| GateError::Spool(error.to_string()))?;
        Self::is_kept(self.outages.spool.append_always(record).await)
    }

    fn is_kept(appended: Result<(), SpoolError>) -> Result<bool, GateError> {
        match appended {
            Ok(()) => Ok(true),
            Err(SpoolError::NotNeeded) => Ok(false),
            Err(SpoolError::Overloaded) => Err(GateError::Overloaded),
            Err(SpoolError::Full) => Err(GateError::SpoolFull),
            Err(SpoolError::Disk(error)) => {
                tracing::error!(reason = %error, "Spool not written");
                Err(GateError::Spool(error.to_string()))
            }
        }
    }
}

/// A reservation without a decision.
pub(super) enum Made {
    /// Just now.
    Now,
    /// Before, under the same request id.
    Before(Promised),
}

impl Promised {
    /// What `request` is promised.
    pub(super) fn of(request: &Request, body: &str, expires_at: DateTime<Utc>) -> Self {
        Self {
            id: request.id,
            tenant: request.tenant.clone(),
            user: request.user.clone(),
            resource_type: request.resource_type.clone(),
            request_id: request.request_id.clone(),
            body: body.to_owned(),
            estimate: request.estimate,
            created_at: request.at,
            expires_at,
        }
    }

    /// Its id, for an answer.
    pub fn id(&self) -> Uuid {
        self.id
    }
}
