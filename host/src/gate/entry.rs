//! What is kept in an outage: records, and the steps that carry them out, several at once where one statement can.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::money::Money;
use crate::quota::{ResourceType, TenantId, UserId};
use crate::spool;
use crate::store::costs::Cost;
use crate::store::replay::Promised;
use crate::store::reservations::{End, Ending};

const LARGEST_BATCH: usize = 128;
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

/// Records that one statement carries out.
pub(super) enum Step {
    Reserve(Vec<Promised>),
    End(Vec<Ending>),
    Extend { id: Uuid, tenant: TenantId, until: DateTime<Utc>, at: DateTime<Utc> },
    Cost(Vec<Cost>),
}

impl Step {
    pub(super) fn of(entry: Entry) -> Result<Self, String> {
        Ok(match entry {
            Entry::Reserve { id, tenant, user, resource_type, request_id, body, estimate_nanos, at, expires_at } => {
                Self::Reserve(vec![Promised {
                    id,
                    tenant: TenantId::parse(&tenant)?,
                    user: user.as_deref().map(UserId::parse).transpose()?,
                    resource_type: ResourceType::parse(&resource_type)?,
                    request_id,
                    body,
                    estimate: Money::from_nanos(estimate_nanos),
                    created_at: at,
                    expires_at,
                }])
            }
            Entry::Settle { id, tenant, actual_nanos, at } => {
                let end = End::Settle(Money::from_nanos(actual_nanos));
                Self::End(vec![Ending { id, tenant: TenantId::parse(&tenant)?, end, at }])
            }
            Entry::Release { id, tenant, at } => {
                Self::End(vec![Ending { id, tenant: TenantId::parse(&tenant)?, end: End::Release, at }])
            }
            Entry::Extend { id, tenant, until, at } => {
                Self::Extend { id, tenant: TenantId::parse(&tenant)?, until, at }
            }
            Entry::Cost {
                id,
                tenant,
                user,
                resource_type,
                cost_id,
                actual_nanos,
                occurred_at,
                recorded_at,
                attributes,
                body,
            } => Self::Cost(vec![Cost {
                id,
                tenant: TenantId::parse(&tenant)?,
                user: user.as_deref().map(UserId::parse).transpose()?,
                resource_type: ResourceType::parse(&resource_type)?,
                cost_id,
                actual: Money::from_nanos(actual_nanos),
                occurred_at,
                recorded_at,
                attributes,
                body,
            }]),
        })
    }

    /// By kind; otherwise records stay in their order.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Reserve(_) => 0,
            Self::Extend { .. } => 1,
            Self::End(_) => 2,
            Self::Cost(_) => 3,
        }
    }

    /// Adds `next` where one statement can carry out both; gives it back otherwise.
    pub(super) fn join(&mut self, next: Self) -> Result<(), Self> {
        match (self, next) {
            (Self::Reserve(batch), Self::Reserve(more)) if batch.len() < LARGEST_BATCH => {
                let is_new = |new: &Promised| {
                    batch.iter().all(|old| {
                        old.id != new.id
                            && (old.request_id.is_none()
                                || old.request_id != new.request_id
                                || old.tenant != new.tenant)
                    })
                };
                if !more.iter().all(is_new) {
                    return Err(Self::Reserve(more));
                }
                batch.extend(more);
            }
            (Self::End(batch), Self::End(more))
                if batch.len() < LARGEST_BATCH && more.iter().all(|new| batch.iter().all(|old| old.id != new.id)) =>
            {
                batch.extend(more);
            }
            (Self::Cost(batch), Self::Cost(more)) if batch.len() < LARGEST_BATCH => batch.extend(more),
            (_, next) => return Err(next),
        }
        Ok(())
    }

    pub(super) fn one_by_one(self) -> Vec<Self> {
        match self {
            Self::Reserve(all) => all.into_iter().map(|one| Self::Reserve(vec![one])).collect(),
            Self::End(all) => all.into_iter().map(|one| Self::End(vec![one])).collect(),
            Self::Cost(all) => all.into_iter().map(|one| Self::Cost(vec![one])).collect(),
            extend @ Self::Extend { .. } => vec![extend],
        }
    }

    /// As they were kept.
    pub(super) fn entries(&self) -> Vec<Entry> {
        match self {
            Self::Reserve(all) => all.iter().map(Entry::reserve).collect(),
            Self::End(all) => all.iter().map(Entry::end).collect(),
            Self::Extend { id, tenant, until, at } => {
                vec![Entry::Extend { id: *id, tenant: tenant.to_string(), until: *until, at: *at }]
            }
            Self::Cost(all) => all.iter().map(Entry::cost).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Reserve(all) => all.len(),
            Self::End(all) => all.len(),
            Self::Cost(all) => all.len(),
            Self::Extend { .. } => 1,
        }
    }
}
