//! A reservation that is made without a decision: what its caller is told, and what its id tells other hosts.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::decision::{Request, made_at};
use crate::money::Money;
use crate::store::replay::Promised;

/// How long a reservation lives at most, extensions included. The store sees to it; without the store, this does.
pub const LONGEST: TimeDelta = TimeDelta::hours(24);
/// What ends one waits a little longer for the host that has promised it.
pub(super) const PATIENCE: TimeDelta = TimeDelta::hours(25);
/// How far the clock of the host that has promised it may be ahead of this one's.
const SKEW: TimeDelta = TimeDelta::minutes(1);

/// The id of a reservation that is only promised: told apart, so that another host knows that it may not be in the books.
pub(super) fn promised_id(id: Uuid) -> Uuid {
    uuid::Builder::from_custom_bytes(id.into_bytes()).into_uuid()
}

/// Whether another host may have promised it, and not brought it into the books yet. The id says when it was made: what is
/// older than anybody's patience, or of a time that is still to come, is nobody's.
pub(super) fn may_be_promised(id: Uuid, now: DateTime<Utc>) -> bool {
    let is_recent = |at| now - PATIENCE <= at && at <= now + SKEW;
    id.get_version_num() == 8 && made_at(id).is_some_and(is_recent)
}

/// A reservation that was made without a decision, as its caller is told.
#[derive(Clone, Debug)]
pub struct Promise {
    /// Its id.
    pub id: Uuid,
    /// What is held.
    pub held: Money,
    /// When the host gives it back.
    pub expires_at: DateTime<Utc>,
}

/// A reservation without a decision.
pub(super) enum Made {
    /// Just now.
    Now,
    /// Before, under the same request id.
    Before(Promise),
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
}
