//! A batch of checks: read once, decided one by one, nothing written but the decision log.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use super::guests::{Guests, Undecided};
use super::lane::Job;
use super::refusal::GaveBack;
use super::{GateError, Reply, World};
use crate::decision::{Decision, Facts, Request};
use crate::origin::Current;
use crate::policy::Generation;
use crate::quota::Quota;
use crate::store::subjects::{Standing, Subject};
use crate::store::{Link, StoreError};

pub(super) struct CheckJob {
    pub(super) request: Arc<Request>,
    /// What is logged while it is decided is its request's.
    pub(super) origin: Current,
    pub(super) reply: Reply<Arc<Decision>>,
}

impl CheckJob {
    fn subject(&self) -> Subject {
        Subject::of(&self.request)
    }
}

impl Job for CheckJob {
    fn refuse(self) {
        let _ = self.reply.send(Err(GateError::Overloaded));
    }
}

/// Answers every job, or returns those that wait for the next batch.
pub(super) async fn batch(world: Arc<World>, link: Arc<Mutex<Link>>, jobs: Vec<CheckJob>) -> Vec<CheckJob> {
    // Its lane's alone; a lock only so that it outlives the batch.
    let mut link = link.lock().await;
    let generation = world.policies.generation();
    let mut left = Vec::new();
    let mut held_back = decide_all(&world, &mut link, &generation, jobs, &mut left).await;
    // Held money may be due already: then it comes back, and everybody whom it stood in the way of is decided again.
    let mut gave_back = GaveBack::default();
    while !held_back.is_empty() {
        let (jobs, mut decisions): (Vec<CheckJob>, Vec<Decision>) = held_back.into_iter().unzip();
        match world.when_held_money_returns(&mut decisions, &mut gave_back).await {
            Ok(true) => held_back = decide_all(&world, &mut link, &generation, jobs, &mut left).await,
            Ok(false) => {
                for (job, decision) in jobs.into_iter().zip(decisions) {
                    let decision = world.record(&generation, decision).await;
                    let _ = job.reply.send(Ok(decision));
                }
                break;
            }
            Err(error) => {
                fail(jobs, error);
                break;
            }
        }
    }
    left
}

fn fail(jobs: Vec<CheckJob>, error: StoreError) {
    let error = Arc::new(error);
    for job in jobs {
        let _ = job.reply.send(Err(GateError::Store(error.clone())));
    }
}

/// Reads and decides; answers all but the denials in whose way held money stands, which it returns.
async fn decide_all(
    world: &World,
    link: &mut Link,
    generation: &Arc<Generation>,
    jobs: Vec<CheckJob>,
    left: &mut Vec<CheckJob>,
) -> Vec<(CheckJob, Decision)> {
    let mut subjects: Vec<Subject> = Vec::new();
    let mut places: HashMap<Subject, usize> = HashMap::new();
    let place_of: Vec<usize> = jobs
        .iter()
        .map(|job| {
            *places.entry(job.subject()).or_insert_with_key(|subject| {
                subjects.push(subject.clone());
                subjects.len() - 1
            })
        })
        .collect();
    let standings = match link.standings(&subjects).await {
        Ok(standings) => standings,
        Err(error) => {
            fail(jobs, error);
            return Vec::new();
        }
    };
    let unanswered = {
        let requests = jobs.len();
        world.run_guests(requests, || run_guests(world, generation, jobs, &place_of, &standings, left))
    };
    let mut held_back = Vec::new();
    for (job, answer) in unanswered {
        match answer {
            Ok(decision) if decision.is_held_back() => held_back.push((job, decision)),
            Ok(decision) => {
                let decision = world.record(generation, decision).await;
                let _ = job.reply.send(Ok(decision));
            }
            Err(undecided) => {
                let (error, row) = *undecided;
                world.recorder.failed(row).await;
                let _ = job.reply.send(Err(error));
            }
        }
    }
    held_back
}

/// Answers what is allowed at once; returns the rest, for which something is to be written first.
fn run_guests(
    world: &World,
    generation: &Arc<Generation>,
    jobs: Vec<CheckJob>,
    place_of: &[usize],
    standings: &[Standing],
    left: &mut Vec<CheckJob>,
) -> Vec<(CheckJob, Result<Decision, Undecided>)> {
    let mut guests = Guests::new(world, generation);
    let mut unanswered = Vec::new();
    // Requests of the same subject and the same millisecond see the same.
    let mut seen: Option<(usize, DateTime<Utc>, Arc<Vec<Quota>>)> = None;
    for (job, &place) in jobs.into_iter().zip(place_of) {
        if guests.are_out_of_time() {
            left.push(job);
            continue;
        }
        let standing = &standings[place];
        let at = job.request.at;
        let quotas = match seen.take() {
            Some((subject, instant, quotas)) if (subject, instant) == (place, at) => quotas,
            _ => Arc::new(standing.quotas.iter().map(|row| row.at(at)).collect()),
        };
        seen = Some((place, at, quotas.clone()));
        let facts =
            Facts { quotas, tier: standing.tier.clone(), pool: standing.pool.clone(), request: job.request.clone() };
        match job.origin.run(|| guests.decide(facts)) {
            Ok(decision) if decision.denial().is_none() => {
                let decision = Arc::new(decision);
                world.shadow.ask(generation, &decision);
                world.recorder.allowed(&decision, generation);
                let _ = job.reply.send(Ok(decision));
            }
            answer => unanswered.push((job, answer)),
        }
    }
    unanswered
}
