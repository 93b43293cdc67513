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
use super::plan::plan;
use super::promise::Promise;
use super::refusal::{GaveBack, answer_repeated, refuse};
use super::{GateError, Reply, World};
use crate::decision::{Decision, Request};
use crate::money::Money;
use crate::origin::Current;
use crate::policy::Generation;
use crate::quota::TenantId;
use crate::store::admission::Locked;
use crate::store::reservations::Reservation;
use crate::store::subjects::{Standing, Subject};
use crate::store::{Link, StoreError};

/// How often a batch is decided again before its callers are told to come back.
const ROUNDS: usize = 8;
/// After a loss to another host, so many batches lock their rows before they decide.
const BATCHES_THAT_LOCK: u32 = 16;

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
    lock_first: u32,
}

impl LaneState {
    pub(super) fn new(link: Link) -> Self {
        Self { link, known: Known::default(), lock_first: 0 }
    }
}

/// Answers every job, or returns those that wait for the next batch.
pub(super) async fn reserve_batch(world: &World, state: &mut LaneState, jobs: Vec<ReserveJob>) -> Vec<ReserveJob> {
    let generation = world.policies.generation();
    let mut pending = jobs;
    let mut left = Vec::new();
    // Subjects that were read for this batch, after its requests had come.
    let mut fresh: HashSet<Subject> = HashSet::new();
    let mut gave_back = GaveBack::default();
    for _ in 0..ROUNDS {
        if pending.is_empty() {
            return left;
        }
        let round = Round { world, generation: &generation, state: &mut *state, fresh: &mut fresh };
        let outcome = round.run(std::mem::take(&mut pending)).await;
        left.extend(outcome.left);
        for job in outcome.alone {
            left.extend(Box::pin(reserve_batch(world, state, vec![job])).await);
        }
        if let Some((error, jobs)) = outcome.failed {
            let error = Arc::new(error);
            for job in jobs {
                state.known.forget(&job.subject());
                job.fail(&error);
            }
        }
        pending = outcome.again;
        pending.extend(refuse(world, state, &mut fresh, &mut gave_back, outcome.denied).await);
    }
    for job in pending {
        let _ = job.reply.send(Err(GateError::Overloaded));
    }
    left
}

struct Round<'a> {
    world: &'a World,
    generation: &'a Arc<Generation>,
    state: &'a mut LaneState,
    fresh: &'a mut HashSet<Subject>,
}

#[derive(Default)]
struct Outcome {
    /// The store did not answer, and whom that concerns.
    failed: Option<(StoreError, Vec<ReserveJob>)>,
    /// Denied on rows that were read for this batch.
    denied: Vec<(ReserveJob, Decision)>,
    /// To be decided again.
    again: Vec<ReserveJob>,
    left: Vec<ReserveJob>,
    /// One of them breaks a constraint: each for itself, so that the others are admitted.
    alone: Vec<ReserveJob>,
}

impl Round<'_> {
    async fn run(self, jobs: Vec<ReserveJob>) -> Outcome {
        let Self { world, generation, state, fresh } = self;
        let subjects: HashSet<Subject> = jobs.iter().map(ReserveJob::subject).collect();
        let subjects: Vec<Subject> = subjects.into_iter().collect();
        let mut locked = None;
        match read(world, state, &subjects, &mut locked).await {
            Ok(standings) => {
                for (subject, standing) in standings {
                    world.pools.learn(&subject.tenant, standing.pool.as_ref());
                    state.known.learn(&subject, &standing);
                    fresh.insert(subject);
                }
            }
            Err(error) => return Outcome { failed: Some((error, jobs)), ..Outcome::default() },
        }
        let plan = {
            let requests = jobs.len();
            world.run_guests(requests, || plan(world, generation, &state.known, jobs))
        };
        for (job, undecided) in plan.failed {
            for job in answer_repeated(world, vec![job]).await {
                let (error, row) = *undecided.clone();
                world.recorder.failed(row).await;
                let _ = job.reply.send(Err(error));
            }
        }
        let mut outcome = Outcome { left: plan.left, ..Outcome::default() };
        for (job, decision) in plan.denied {
            if fresh.contains(&job.subject()) {
                outcome.denied.push((job, decision));
            } else {
                state.known.forget(&job.subject());
                outcome.again.push(job);
            }
        }
        if plan.admitted.is_empty() {
            if let Some(rows) = locked
                && let Err(error) = rows.give_up().await
            {
                // Nothing was written; the connection is gone, and its locks with it.
                tracing::warn!(reason = %error, "Locks not given back");
            }
            return outcome;
        }
        let now = world.clock.now();
        let committed = match locked {
            Some(rows) => world.store.guard(rows.admit(&plan.admission, now)).await,
            None => state.link.admit(&plan.admission, now).await,
        };
        let is_committed = matches!(committed, Ok(true));
        match committed {
            Ok(true) => {
                for change in plan.admission.rows {
                    state.known.wrote(change.written);
                }
                let mut answers = Vec::with_capacity(plan.admitted.len());
                for ((job, decision), new) in plan.admitted.into_iter().zip(plan.admission.reservations) {
                    let decision = world.record(generation, decision).await;
                    let held = Some((new.held, new.expires_at));
                    answers.push((job.reply, Ok(Reserved::Decided { decision, held })));
                }
                world.threads.answer(answers);
            }
            Ok(false) => {
                // Another host was here, an administrator, or the same request id.
                state.lock_first = BATCHES_THAT_LOCK;
                for (subject, _) in &plan.admission.subjects {
                    state.known.forget(subject);
                }
                let jobs = plan.admitted.into_iter().map(|(job, _)| job).collect();
                outcome.again.extend(answer_repeated(world, jobs).await);
            }
            Err(StoreError::Refused(_)) if plan.admitted.len() > 1 => {
                outcome.alone = plan.admitted.into_iter().map(|(job, _)| job).collect();
            }
            Err(error) => {
                // It is not known whether it was committed: nobody is decided again under the same id.
                outcome.failed = Some((error, plan.admitted.into_iter().map(|(job, _)| job).collect()));
            }
        }
        if !is_committed {
            // They were denied beside holds that are not there now, or on rows that are older than what has happened since.
            outcome.again.extend(outcome.denied.drain(..).map(|(job, _)| job));
            fresh.clear();
        }
        outcome
    }
}

/// Reads what the lane does not know; where it locks first, everything, into `locked`.
async fn read(
    world: &World,
    state: &mut LaneState,
    subjects: &[Subject],
    locked: &mut Option<Locked>,
) -> Result<Vec<(Subject, Standing)>, StoreError> {
    if state.lock_first > 0 {
        state.lock_first -= 1;
        let rows = locked.insert(world.store.guard(world.store.lock(subjects)).await?);
        let standings = world.store.guard(rows.standings(subjects)).await?;
        return Ok(subjects.iter().cloned().zip(standings).collect());
    }
    let unknown = subjects.iter().filter(|subject| state.known.standing(subject).is_none());
    let unknown: Vec<Subject> = unknown.cloned().collect();
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let standings = state.link.standings(&unknown).await?;
    Ok(unknown.into_iter().zip(standings).collect())
}
