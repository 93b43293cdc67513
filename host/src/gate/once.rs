//! What this host keeps in an outage, once under each id of its callers'.
//!
//! 1. Whoever comes first takes the id, and only then does its record go to the disk.
//! 2. Whoever comes meanwhile with the same id waits for what becomes of that, and is told the same.
//! 3. What was not kept gives its id back, and the next one is the first.
//!
//! A host knows what it has kept itself since it was started. Of all else the books tell, when they can be reached again.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use super::entry::Entry;
use super::outage::Current;
use super::promise::Promise;
use super::{GateError, World};
use crate::money::Money;
use crate::origin;
use crate::store::StoreError;

/// What a caller names, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Id {
    Request(String, String),
    Cost(String, String),
    /// A settle may come after a release: it is recorded late. So each is once.
    Settle(String, Uuid),
    Release(String, Uuid),
}

/// Costs and ends are known for so long as no more ids are: then the books alone tell, so that a long outage does not take
/// the memory that it takes of the disk. Reservations are known for ever: two of them would both be held.
const MOST_KNOWN: usize = 100_000;

/// What was said first under an id.
#[derive(Clone, Debug)]
struct First {
    /// Two that say the same are the same.
    said: String,
    /// What it was promised.
    promise: Option<Promise>,
    /// While it is on its way to the disk: what becomes of it.
    coming: Option<Outcome>,
}

/// Whether it was kept, once that is known.
type Outcome = watch::Receiver<Option<Result<bool, GateError>>>;

/// What was kept in the outage that lasts, or is about to be. No more than the spool has room for.
#[derive(Debug, Default)]
pub(super) struct Heard(HashMap<Id, First>);

/// What became of something that was to be kept.
pub(super) enum Kept {
    Now,
    /// It had been before, under the same id.
    Before(Option<Promise>),
    /// The store is back.
    NotNeeded,
}

impl World {
    /// Keeps what is to be in the books later, once for its id. It does so even if the caller has gone: whoever asks again
    /// with the same id must find what is on the disk.
    pub(super) async fn keep_once(self: &Arc<Self>, entry: Entry) -> Result<Kept, GateError> {
        let mut named = named(&entry);
        let (first, outcome) = {
            let mut current = self.outages.current();
            if let Some(how) = current.heard.has_ended(&entry) {
                return Err(GateError::Ended(how));
            }
            if !current.heard.has_room_for(named.as_ref()) {
                named = None;
            }
            if let Some(first) = named.as_ref().and_then(|(id, _)| current.heard.0.get(id)) {
                (Some(first.clone()), first.coming.clone())
            } else {
                (None, Some(self.begin(&mut current, entry, named.clone())?))
            }
        };
        if let Some(mut outcome) = outcome {
            let kept = outcome.wait_for(Option::is_some).await.ok().and_then(|kept| kept.clone());
            if !kept.unwrap_or(Err(GateError::Overloaded))? {
                return Ok(Kept::NotNeeded);
            }
        }
        match (first, named) {
            (Some(first), Some((id, new))) if first.said != new.said => Err(id.conflict(&first)),
            (Some(first), _) => Ok(Kept::Before(first.promise)),
            (None, _) => Ok(Kept::Now),
        }
    }

    /// Takes the id, and sends the record on its way.
    fn begin(
        self: &Arc<Self>,
        current: &mut Current,
        entry: Entry,
        named: Option<(Id, First)>,
    ) -> Result<Outcome, GateError> {
        if let Some((tenant, estimate)) = entry.promises() {
            current.allow(self.outages.mode(), tenant, estimate)?;
        }
        let (told, outcome) = watch::channel(None);
        let id = named.map(|(id, first)| {
            current.heard.0.insert(id.clone(), First { coming: Some(outcome.clone()), ..first });
            id
        });
        let world = self.clone();
        tokio::spawn(origin::Current::get().during(async move {
            let kept = world.keep(&entry).await;
            world.became(&entry, id, &kept, &told);
            told.send_replace(Some(kept));
        }));
        Ok(outcome)
    }

    /// It is on the disk, or it is as if it had never come.
    fn became(
        &self,
        entry: &Entry,
        id: Option<Id>,
        kept: &Result<bool, GateError>,
        told: &watch::Sender<Option<Result<bool, GateError>>>,
    ) {
        let mut current = self.outages.current();
        let is_kept = matches!(kept, Ok(true));
        if !is_kept && let Some((tenant, estimate)) = entry.promises() {
            current.take_back(tenant, estimate);
        }
        // Another outage may have begun meanwhile, and the id be somebody else's.
        let is_this =
            |first: &First| first.coming.as_ref().is_some_and(|coming| coming.same_channel(&told.subscribe()));
        let Some(id) = id else { return };
        match current.heard.0.get_mut(&id).filter(|first| is_this(first)) {
            Some(first) if is_kept => first.coming = None,
            Some(_) => drop(current.heard.0.remove(&id)),
            None => {}
        }
    }
}

impl Heard {
    /// Whether this is known already, or may be from now on.
    fn has_room_for(&self, named: Option<&(Id, First)>) -> bool {
        self.0.len() < MOST_KNOWN
            || named.is_none_or(|(id, _)| matches!(id, Id::Request(..)) || self.0.contains_key(id))
    }

    /// How the reservation has ended that a record is about, where that makes the record void.
    fn has_ended(&self, entry: &Entry) -> Option<&'static str> {
        let is_kept = |id: Id| self.0.get(&id).is_some_and(|first| first.coming.is_none());
        match entry {
            // The day that a reservation may live is over.
            Entry::Extend { until, at, .. } if until <= at => Some("expired"),
            Entry::Extend { id, tenant, .. } | Entry::Release { id, tenant, .. }
                if is_kept(Id::Settle(tenant.clone(), *id)) =>
            {
                Some("settled")
            }
            Entry::Extend { id, tenant, .. } if is_kept(Id::Release(tenant.clone(), *id)) => Some("released"),
            _ => None,
        }
    }
}

/// The id of a record, and what it says under that.
fn named(entry: &Entry) -> Option<(Id, First)> {
    let (id, said, promise) = match entry {
        Entry::Reserve { id, tenant, request_id, body, estimate_nanos, expires_at, .. } => {
            let promise = Promise { id: *id, held: Money::from_nanos(*estimate_nanos), expires_at: *expires_at };
            (Id::Request(tenant.clone(), request_id.clone()?), body.clone(), Some(promise))
        }
        Entry::Cost { tenant, cost_id, body, .. } => (Id::Cost(tenant.clone(), cost_id.clone()), body.clone(), None),
        Entry::Settle { id, tenant, actual_nanos, .. } => {
            (Id::Settle(tenant.clone(), *id), Money::from_nanos(*actual_nanos).to_string(), None)
        }
        Entry::Release { id, tenant, .. } => (Id::Release(tenant.clone(), *id), String::new(), None),
        Entry::Extend { .. } => return None,
    };
    Some((id, First { said, promise, coming: None }))
}

impl Id {
    /// As the store would say it.
    fn conflict(&self, first: &First) -> GateError {
        GateError::Store(Arc::new(StoreError::Conflict(match self {
            Self::Request(_, id) => format!("requestId {id:?} was used with another body"),
            Self::Cost(_, id) => format!("costId {id:?} was recorded with another body"),
            Self::Settle(..) | Self::Release(..) => {
                format!("the reservation was settled before, with {}", first.said)
            }
        })))
    }
}
