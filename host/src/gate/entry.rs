//! What is kept in an outage: records.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::money::Money;
use crate::quota::UserId;
use crate::spool;
use crate::store::costs::Cost;
use crate::store::replay::Promised;
use crate::store::reservations::{End, Ending};

/// One record of the spool. Its form is read by later versions: fields may come, none may go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Entry {
    Reserve {
        id: Uuid,
        tenant: String,
        user: Option<String>,
        resource_type: String,
        request_id: Option<String>,
        body: String,
        estimate_nanos: i64,
        at: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    },
    Settle {
        id: Uuid,
        tenant: String,
        actual_nanos: i64,
        at: DateTime<Utc>,
    },
    Release {
        id: Uuid,
        tenant: String,
        at: DateTime<Utc>,
    },
    Extend {
        id: Uuid,
        tenant: String,
        until: DateTime<Utc>,
        at: DateTime<Utc>,
    },
    Cost {
        id: Uuid,
        tenant: String,
        user: Option<String>,
        resource_type: String,
        cost_id: String,
        actual_nanos: i64,
        occurred_at: DateTime<Utc>,
        recorded_at: DateTime<Utc>,
        attributes: String,
        body: String,
    },
}

impl Entry {
    pub(super) fn reserve(promised: &Promised) -> Self {
        Self::Reserve {
            id: promised.id,
            tenant: promised.tenant.to_string(),
            user: promised.user.as_ref().map(UserId::to_string),
            resource_type: promised.resource_type.to_string(),
            request_id: promised.request_id.clone(),
            body: promised.body.clone(),
            estimate_nanos: promised.estimate.nanos(),
            at: promised.created_at,
            expires_at: promised.expires_at,
        }
    }

    /// As the spool keeps it.
    pub(super) fn record(&self) -> Vec<u8> {
        // Strings, numbers and times always have a form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whose money it sets aside without a decision, and how much.
    pub(super) fn promises(&self) -> Option<(&str, Money)> {
        match self {
            Self::Reserve { tenant, estimate_nanos, .. } => Some((tenant, Money::from_nanos(*estimate_nanos))),
            _ => None,
        }
    }

    pub(super) fn end(ending: &Ending) -> Self {
        let (id, tenant, at) = (ending.id, ending.tenant.to_string(), ending.at);
        match ending.end {
            End::Settle(actual) => Self::Settle { id, tenant, actual_nanos: actual.nanos(), at },
            End::Release | End::Expire => Self::Release { id, tenant, at },
        }
    }

    pub(super) fn cost(cost: &Cost) -> Self {
        Self::Cost {
            id: cost.id,
            tenant: cost.tenant.to_string(),
            user: cost.user.as_ref().map(UserId::to_string),
            resource_type: cost.resource_type.to_string(),
            cost_id: cost.cost_id.clone(),
            actual_nanos: cost.actual.nanos(),
            occurred_at: cost.occurred_at,
            recorded_at: cost.recorded_at,
            attributes: cost.attributes.clone(),
            body: cost.body.clone(),
        }
    }
}

/// Since when the first record of a spool's file has waited for the store; `None` where none does.
pub fn waiting_since(path: &Path) -> Option<DateTime<Utc>> {
    let record = spool::oldest(path).ok().flatten()?;
    Some(match serde_json::from_slice(&record).ok()? {
        Entry::Reserve { at, .. } | Entry::Settle { at, .. } | Entry::Release { at, .. } | Entry::Extend { at, .. } => {
            at
        }
        Entry::Cost { recorded_at, .. } => recorded_at,
    })
}
