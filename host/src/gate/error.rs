//! Why there is no decision.

use std::sync::Arc;

use uuid::Uuid;

use super::lane::Overloaded;
use crate::decision::PolicyRef;
use crate::policy::PolicyError;
use crate::store::StoreError;

/// Why there is no decision.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GateError {
    /// The queue is full.
    #[error("more requests than the gate can answer in time")]
    Overloaded,
    /// The store did not do what it was asked.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The reservation has ended, as far as this host knows while the store cannot be reached; and how.
    #[error("the reservation is {0}")]
    Ended(&'static str),
    /// The reservation may be one that another host has promised, and too many wait for such already.
    #[error("it is in no book yet, and too many wait already for what other gates have promised; try again")]
    TooManyWait,
    /// The store cannot be reached, and the mode refuses.
    #[error("the store cannot be reached")]
    Down,
    /// The store cannot be reached, and there is no more room for what must not be lost.
    #[error("the store cannot be reached, and the spool is full")]
    SpoolFull,
    /// The store cannot be reached, and the spool cannot be written.
    #[error("the store cannot be reached, and the spool cannot be written: {0}")]
    Spool(String),
    /// The policy failed, and `on_error` denies.
    #[error("policy {}: {error}", policy.name)]
    Policy {
        /// Which one.
        policy: PolicyRef,
        /// Its kind and what was wrong.
        error: PolicyError,
        /// Found in the decision log.
        decision_id: Uuid,
    },
}

impl From<Overloaded> for GateError {
    fn from(_: Overloaded) -> Self {
        Self::Overloaded
    }
}

impl GateError {
    pub(super) fn outage(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) if error.is_outage() => Some(error),
            _ => None,
        }
    }
}
