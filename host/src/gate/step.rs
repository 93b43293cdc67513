//! The steps that carry out what was kept in an outage, several records at once where one statement can.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::entry::Entry;
use crate::money::Money;
use crate::quota::{ResourceType, TenantId, UserId};
use crate::store::costs::Cost;
use crate::store::replay::Promised;
use crate::store::reservations::{End, Ending};

const LARGEST_BATCH: usize = 128;

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

    /// Takes out the records of tenants that `is_later` names. What is left, if anything is; and those.
    pub(super) fn part(self, is_later: impl Fn(&TenantId) -> bool) -> (Option<Self>, Vec<Entry>) {
        fn apart<T>(all: Vec<T>, is_later: impl Fn(&T) -> bool) -> [Vec<T>; 2] {
            let (later, now) = all.into_iter().partition(is_later);
            [now, later]
        }
        let [now, later] = match self {
            Self::Reserve(all) => apart(all, |one| is_later(&one.tenant)).map(Self::Reserve),
            Self::End(all) => apart(all, |one| is_later(&one.tenant)).map(Self::End),
            Self::Cost(all) => apart(all, |one| is_later(&one.tenant)).map(Self::Cost),
            Self::Extend { ref tenant, .. } if is_later(tenant) => return (None, self.entries()),
            Self::Extend { .. } => return (Some(self), Vec::new()),
        };
        (Some(now).filter(|now| now.len() > 0), later.entries())
    }

    /// Whose the first record is.
    pub(super) fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Reserve(all) => all.first().map(|one| &one.tenant),
            Self::End(all) => all.first().map(|one| &one.tenant),
            Self::Cost(all) => all.first().map(|one| &one.tenant),
            Self::Extend { tenant, .. } => Some(tenant),
        }
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
