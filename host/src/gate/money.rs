//! A batch of whatever moves money: first what frees and charges, then what sets aside.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::lane::Job;
use super::reserve::{LaneState, ReserveJob, reserve_batch};
use super::{GateError, Reply, World};
use crate::quota::TenantId;
use crate::store::StoreError;
use crate::store::costs::{Cost, Recorded};
use crate::store::reservations::{Ended, Ending};
use crate::store::stuck::Wanted;
use crate::store::subjects::Subject;

pub(super) enum MoneyJob {
    Reserve(ReserveJob),
    End(Ending, Reply<Option<Ended>>),
    Cost(Cost, Reply<Recorded>),
}

impl Job for MoneyJob {
    fn refuse(self) {
        match self {
            Self::Reserve(job) => drop(job.reply.send(Err(GateError::Overloaded))),
            Self::End(_, reply) => drop(reply.send(Err(GateError::Overloaded))),
            Self::Cost(_, reply) => drop(reply.send(Err(GateError::Overloaded))),
        }
    }
}

impl MoneyJob {
    pub(super) fn tenant(&self) -> &TenantId {
        match self {
            Self::Reserve(job) => &job.request.tenant,
            Self::End(ending, _) => &ending.tenant,
            Self::Cost(cost, _) => &cost.tenant,
        }
    }

    /// Whose quotas it is about to lock.
    pub(super) fn wanted(&self) -> Wanted {
        match self {
            Self::Reserve(job) => Wanted::Subject(job.subject()),
            Self::End(ending, _) => Wanted::Reservation(ending.id),
            Self::Cost(cost, _) => Wanted::Subject(Subject {
                tenant: cost.tenant.clone(),
                user: cost.user.clone(),
                resource_type: cost.resource_type.clone(),
            }),
        }
    }

    fn cost(self) -> Option<(Cost, Reply<Recorded>)> {
        if let Self::Cost(cost, reply) = self { Some((cost, reply)) } else { None }
    }

    fn end(self) -> Option<(Ending, Reply<Option<Ended>>)> {
        if let Self::End(ending, reply) = self { Some((ending, reply)) } else { None }
    }

    pub(super) fn reserve(self) -> Option<ReserveJob> {
        if let Self::Reserve(job) = self { Some(job) } else { None }
    }

    pub(super) fn fail(self, error: &Arc<StoreError>) {
        match self {
            Self::Reserve(job) => job.fail(error),
            Self::End(_, reply) => drop(reply.send(Err(GateError::Store(error.clone())))),
            Self::Cost(_, reply) => drop(reply.send(Err(GateError::Store(error.clone())))),
        }
    }
}

/// Answers every job, or returns those that wait for the next batch.
pub(super) async fn batch(world: Arc<World>, state: Arc<Mutex<LaneState>>, jobs: Vec<MoneyJob>) -> Vec<MoneyJob> {
    // Its lane's alone; a lock only so that it outlives the batch.
    let mut state = state.lock().await;
    let (mut costs, mut endings, mut reserves, mut left) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut ending, mut asking) = (HashSet::new(), HashSet::new());
    for job in world.without_stuck(&mut state.stuck, jobs).await {
        // Nobody waits any more, and nobody was told: not doing it is the better half.
        // What names the same reservation or request id twice is done one after the other, so in two batches.
        match job {
            MoneyJob::Cost(_, reply) if reply.is_closed() => {}
            MoneyJob::End(_, reply) if reply.is_closed() => {}
            MoneyJob::Reserve(job) if job.reply.is_closed() => {}
            MoneyJob::Cost(cost, reply) => costs.push((cost, reply)),
            MoneyJob::End(end, reply) if ending.insert(end.id) => endings.push((end, reply)),
            MoneyJob::Reserve(job) if asking.insert(job.idempotency()) => reserves.push(job),
            again => left.push(again),
        }
    }
    if !costs.is_empty() {
        record(&world, &mut state, costs, true).await;
    }
    if !endings.is_empty() {
        // Those before may have waited for a row that these need, too.
        let endings = endings.into_iter().map(|(ending, reply)| MoneyJob::End(ending, reply)).collect();
        let endings = world.without_stuck(&mut state.stuck, endings).await;
        end(&world, &mut state, endings.into_iter().filter_map(MoneyJob::end).collect(), true).await;
    }
    if !reserves.is_empty() {
        let reserves = reserves.into_iter().map(MoneyJob::Reserve).collect();
        let reserves = world.without_stuck(&mut state.stuck, reserves).await;
        let reserves = reserves.into_iter().filter_map(MoneyJob::reserve).collect();
        let again = reserve_batch(&world, &mut state, reserves).await;
        left.extend(again.into_iter().map(MoneyJob::Reserve));
    }
    left
}

/// `may_wait`: where they have waited for a row in vain, those that need not wait for it are recorded after all.
async fn record(world: &World, state: &mut LaneState, jobs: Vec<(Cost, Reply<Recorded>)>, may_wait: bool) {
    if jobs.is_empty() {
        return;
    }
    let now = world.clock.now();
    let (costs, replies): (Vec<Cost>, Vec<Reply<Recorded>>) = jobs.into_iter().unzip();
    let answers = match state.link.record_costs(&costs, now).await {
        Ok(answers) => answers,
        // One of them breaks a constraint: each for itself, so that the others are recorded.
        Err(StoreError::Refused(_)) if costs.len() > 1 => {
            for (cost, reply) in costs.into_iter().zip(replies) {
                Box::pin(record(world, state, vec![(cost, reply)], may_wait)).await;
            }
            return;
        }
        Err(error) if error.is_locked() && may_wait => {
            let jobs = costs.into_iter().zip(replies).map(|(cost, reply)| MoneyJob::Cost(cost, reply)).collect();
            let free = world.refuse_stuck(&mut state.stuck, jobs).await;
            return Box::pin(record(world, state, free.into_iter().filter_map(MoneyJob::cost).collect(), false)).await;
        }
        Err(error) => return fail(replies, error),
    };
    for quota in answers.iter().flatten().flat_map(|recorded| &recorded.quotas) {
        state.known.posted(quota);
    }
    let answers = answers.into_iter().map(|answer| answer.map_err(|error| GateError::Store(Arc::new(error))));
    world.threads.answer(replies.into_iter().zip(answers).collect());
}

/// `may_wait`: as for costs.
async fn end(world: &World, state: &mut LaneState, jobs: Vec<(Ending, Reply<Option<Ended>>)>, may_wait: bool) {
    if jobs.is_empty() {
        return;
    }
    let now = world.clock.now();
    let (endings, replies): (Vec<Ending>, Vec<Reply<Option<Ended>>>) = jobs.into_iter().unzip();
    let ended = match state.link.end(&endings, now).await {
        Ok(ended) => ended,
        Err(StoreError::Refused(_)) if endings.len() > 1 => {
            for (ending, reply) in endings.into_iter().zip(replies) {
                Box::pin(end(world, state, vec![(ending, reply)], may_wait)).await;
            }
            return;
        }
        Err(error) if error.is_locked() && may_wait => {
            let jobs = endings.into_iter().zip(replies).map(|(ending, reply)| MoneyJob::End(ending, reply)).collect();
            let free = world.refuse_stuck(&mut state.stuck, jobs).await;
            return Box::pin(end(world, state, free.into_iter().filter_map(MoneyJob::end).collect(), false)).await;
        }
        Err(error) => return fail(replies, error),
    };
    for quota in ended.iter().flat_map(|ended| &ended.quotas) {
        state.known.posted(quota);
    }
    let mut answers: HashMap<Uuid, Ended> = ended.into_iter().map(|ended| (ended.before.id, ended)).collect();
    let answer = |(ending, reply): (Ending, _)| (reply, Ok(answers.remove(&ending.id)));
    world.threads.answer(endings.into_iter().zip(replies).map(answer).collect());
}

fn fail<T>(replies: Vec<Reply<T>>, error: StoreError) {
    let error = Arc::new(error);
    for reply in replies {
        let _ = reply.send(Err(GateError::Store(error.clone())));
    }
}
