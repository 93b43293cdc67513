//! A round of a batch of reservations: read, decide, commit.

use std::collections::HashSet;
use std::sync::Arc;

use super::World;
use super::plan::{Plan, plan};
use super::refusal::{GaveBack, answer_repeated};
use super::reserve::{LaneState, ReserveJob, Reserved};
use crate::decision::{Decision, Denial};
use crate::policy::Generation;
use crate::store::StoreError;
use crate::store::admission::Locked;
use crate::store::subjects::{Standing, Subject};

/// After a loss to another host, so many batches lock their rows before they decide.
const BATCHES_THAT_LOCK: u32 = 16;

pub(super) struct Round<'a> {
    pub(super) world: &'a World,
    pub(super) generation: &'a Arc<Generation>,
    pub(super) state: &'a mut LaneState,
    /// Subjects that were read for this batch, after its requests had come.
    pub(super) fresh: &'a mut HashSet<Subject>,
    pub(super) gave_back: &'a mut GaveBack,
}

#[derive(Default)]
pub(super) struct Outcome {
    /// The store did not answer, and whom that concerns.
    pub(super) failed: Option<(StoreError, Vec<ReserveJob>)>,
    /// Denied on rows that were read for this batch.
    pub(super) denied: Vec<(ReserveJob, Decision)>,
    /// To be decided again.
    pub(super) again: Vec<ReserveJob>,
    pub(super) left: Vec<ReserveJob>,
    /// One of them breaks a constraint: each for itself, so that the others are admitted.
    pub(super) alone: Vec<ReserveJob>,
}

impl Round<'_> {
    pub(super) async fn run(mut self, jobs: Vec<ReserveJob>) -> Outcome {
        let subjects: HashSet<Subject> = jobs.iter().map(ReserveJob::subject).collect();
        let subjects: Vec<Subject> = subjects.into_iter().collect();
        let mut locked = None;
        match read(self.world, self.state, &subjects, &mut locked).await {
            Ok(standings) => {
                for (subject, standing) in standings {
                    self.world.pools.learn(&subject.tenant, standing.pool.as_ref());
                    self.state.known.learn(&subject, &standing);
                    self.fresh.insert(subject);
                }
            }
            Err(error) => return Outcome { failed: Some((error, jobs)), ..Outcome::default() },
        }
        let mut plan = {
            let requests = jobs.len();
            self.world.run_guests(requests, || plan(self.world, self.generation, &self.state.known, jobs))
        };
        let failed = std::mem::take(&mut plan.failed);
        let outcome = self.commit(plan, locked).await;
        // Nobody's rows are locked any more.
        for (job, undecided) in failed {
            for job in answer_repeated(self.world, vec![job]).await {
                let (error, row) = *undecided.clone();
                self.world.recorder.failed(row).await;
                let _ = job.reply.send(Err(error));
            }
        }
        outcome
    }

    async fn commit(&mut self, mut plan: Plan, mut locked: Option<Locked>) -> Outcome {
        let mut outcome = Outcome { left: std::mem::take(&mut plan.left), ..Outcome::default() };
        for (job, decision) in std::mem::take(&mut plan.denied) {
            if self.fresh.contains(&job.subject()) {
                outcome.denied.push((job, decision));
            } else {
                self.state.known.forget(&job.subject());
                outcome.again.push(job);
            }
        }
        if plan.admitted.is_empty() {
            give_up(self.world, locked).await;
            return outcome;
        }
        // Where denials are not enforced they are told all the same, and must be as true.
        match self.tell_unenforced(&mut plan, &mut locked).await {
            Ok(true) => {}
            untold => {
                give_up(self.world, locked).await;
                let jobs: Vec<ReserveJob> = plan.admitted.into_iter().map(|(job, _)| job).collect();
                outcome.again.extend(outcome.denied.drain(..).map(|(job, _)| job));
                self.fresh.clear();
                match untold {
                    Err(error) => outcome.failed = Some((error, jobs)),
                    Ok(_) => outcome.again.extend(jobs),
                }
                return outcome;
            }
        }
        let Self { world, generation, state, fresh, .. } = self;
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

    /// Tells those who are admitted though they are denied when held money comes back. False: some of it was due and has
    /// come back, so they are to be decided again.
    async fn tell_unenforced(&mut self, plan: &mut Plan, locked: &mut Option<Locked>) -> Result<bool, StoreError> {
        let told = plan.admitted.iter().map(|(_, decision)| decision);
        let told = told.filter(|decision| decision.denial().is_some_and(Denial::waits_for_held_money));
        let there = match self.world.in_the_way(told, self.gave_back).await {
            Ok(there) => there,
            Err(error) if error.is_outage() => return Err(error),
            Err(error) => {
                // It is a note; who is admitted need not wait for it.
                tracing::warn!(reason = %error, "It is not known when held money returns");
                return Ok(true);
            }
        };
        if there.is_due() {
            // What comes back has the same rows.
            give_up(self.world, locked.take()).await;
            self.world.give_back(there).await?;
            for (subject, _) in &plan.admission.subjects {
                self.state.known.forget(subject);
            }
            return Ok(false);
        }
        there.tell(plan.admitted.iter_mut().map(|(_, decision)| decision));
        Ok(true)
    }
}

async fn give_up(world: &World, locked: Option<Locked>) {
    if let Some(rows) = locked
        && let Err(error) = world.store.guard(rows.give_up()).await
    {
        // Nothing was written; the connection is gone, and its locks with it.
        tracing::warn!(reason = %error, "Locks not given back");
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
