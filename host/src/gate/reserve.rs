//! A batch of reservations: decided on what the lane knows, committed only if that still holds.
//!
//! 1. What the lane does not know is read. A lane that has been losing to other hosts locks the rows first.
//! 2. Every request is decided in order, each on the rows as those before it leave them.
//! 3. What is allowed is committed by one statement, if the rows are those that the policies saw. If they are not,
//!    nothing was written, everything is read again and decided again.
//! 4. What is denied on rows that were not read for this batch is read and decided again.
//! 5. Whoever was admitted before under the same request id is told so again.
//! 6. Where held money stands in the way, what has expired is given back before anybody is refused.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::known::Known;
use super::money::MoneyJob;
use super::promise::Promise;
use super::refusal::{GaveBack, refuse};
use super::round::Round;
use super::stuck::Stuck;
use super::{GateError, Reply, World};
use crate::decision::{Decision, Request};
use crate::money::Money;
use crate::origin::Current;
use crate::quota::TenantId;
use crate::store::reservations::Reservation;
use crate::store::subjects::Subject;
use crate::store::{Link, StoreError};

/// How often a batch is decided again before its callers are told to come back.
const ROUNDS: usize = 8;

/// Money set aside, or the decision that it is not.
#[derive(Debug)]
pub enum Reserved {
    /// Decided now: allowed, and then set aside, or denied.
    Decided {
        /// The decision.
        decision: Arc<Decision>,
        /// Where it is allowed: the amount and when the host gives it back.
        held: Option<(Money, DateTime<Utc>)>,
    },
    /// The same request id with the same body: the first admission.
    Repeated(Box<Reservation>),
    /// The same, where the first one was promised while the store could not be reached.
    Promised(Promise),
}

pub(super) struct ReserveJob {
    pub(super) request: Arc<Request>,
    pub(super) ttl: TimeDelta,
    pub(super) body: Arc<str>,
    /// What is logged while it is decided is its request's.
    pub(super) origin: Current,
    pub(super) reply: Reply<Reserved>,
}

impl ReserveJob {
    pub(super) fn subject(&self) -> Subject {
        Subject::of(&self.request)
    }

    /// Two jobs of the same one are the same request; without a request id each is its own.
    pub(super) fn idempotency(&self) -> (TenantId, String) {
        let id = self.request.request_id.clone().unwrap_or_else(|| self.request.id.to_string());
        (self.request.tenant.clone(), id)
    }

    pub(super) fn fail(self, error: &Arc<StoreError>) {
        let _ = self.reply.send(Err(GateError::Store(error.clone())));
    }
}

/// What a lane keeps from batch to batch.
pub(super) struct LaneState {
    pub(super) link: Link,
    pub(super) known: Known,
    pub(super) stuck: Stuck,
    pub(super) lock_first: u32,
}

impl LaneState {
    pub(super) fn new(link: Link) -> Self {
        Self { link, known: Known::default(), stuck: Stuck::default(), lock_first: 0 }
    }
}

/// Answers every job, or returns those that wait for the next batch.
pub(super) async fn reserve_batch(world: &World, state: &mut LaneState, jobs: Vec<ReserveJob>) -> Vec<ReserveJob> {
    let generation = world.policies.generation();
    let mut pending = jobs;
    let mut left = Vec::new();
    let mut fresh: HashSet<Subject> = HashSet::new();
    let mut gave_back = GaveBack::default();
    // Where they have waited for a row in vain, those that need not wait for it are decided again.
    let mut may_wait = true;
    for _ in 0..ROUNDS {
        if pending.is_empty() {
            return left;
        }
        let round =
            Round { world, generation: &generation, state: &mut *state, fresh: &mut fresh, gave_back: &mut gave_back };
        let outcome = round.run(std::mem::take(&mut pending)).await;
        left.extend(outcome.left);
        for job in outcome.alone {
            left.extend(Box::pin(reserve_batch(world, state, vec![job])).await);
        }
        pending = outcome.again;
        if let Some((error, jobs)) = outcome.failed {
            for job in &jobs {
                state.known.forget(&job.subject());
            }
            if error.is_locked() && may_wait {
                may_wait = false;
                let jobs = jobs.into_iter().map(MoneyJob::Reserve).collect();
                let free = world.refuse_stuck(&mut state.stuck, jobs).await;
                pending.extend(free.into_iter().filter_map(MoneyJob::reserve));
            } else {
                let error = Arc::new(error);
                for job in jobs {
                    job.fail(&error);
                }
            }
        }
        pending.extend(refuse(world, state, &mut fresh, &mut gave_back, outcome.denied).await);
    }
    for job in pending {
        let _ = job.reply.send(Err(GateError::Overloaded));
    }
    left
}
