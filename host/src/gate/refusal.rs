//! Before a reservation is refused: whether it was admitted before, and whether held money is due to come back.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::World;
use super::reserve::{LaneState, ReserveJob, Reserved};
use super::stuck::REMEMBERED;
use crate::decision::Decision;
use crate::quota::TenantId;
use crate::store::StoreError;
use crate::store::reservations::{Ending, Reservation};
use crate::store::stuck::Wanted;
use crate::store::subjects::Subject;

/// Expired reservations that one statement gives back.
const DUE_AT_ONCE: i64 = 500;

/// The quotas whose expired money was given back for this batch: of one that cannot be given back nobody waits for ever.
pub(super) type GaveBack = HashSet<Uuid>;

/// The quotas whose expired money could not be given back just now, since somebody has the rows.
#[derive(Default)]
pub(super) struct StuckQuotas(Mutex<HashMap<Uuid, Instant>>);

impl StuckQuotas {
    fn current(&self) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.retain(|_, since| since.elapsed() < REMEMBERED);
        current
    }
}

/// Held money that stands in the way of denials.
#[derive(Default)]
pub(super) struct InTheWay {
    /// When the first reservation of a quota expires.
    expiries: HashMap<Uuid, DateTime<Utc>>,
    /// The quotas some of whose money is due, and was not given back for this batch.
    due: Vec<Uuid>,
}

impl InTheWay {
    /// Whether some of it is due: that is given back before anybody is told anything.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Tells those whom it denies when it comes back.
    pub(super) fn tell<'a>(&self, decisions: impl IntoIterator<Item = &'a mut Decision>) {
        for decision in decisions {
            decision.held_money_returns(|quota| self.expiries.get(&quota.id).copied());
        }
    }
}

/// Answers those whose request id was admitted before; returns the others.
pub(super) async fn answer_repeated(world: &World, jobs: Vec<ReserveJob>) -> Vec<ReserveJob> {
    let asked: Vec<(&TenantId, &str)> =
        jobs.iter().filter_map(|job| Some((&job.request.tenant, job.request.request_id.as_deref()?))).collect();
    if asked.is_empty() {
        return jobs;
    }
    let made = match world.store.guard(world.store.reservations_of(&asked)).await {
        Ok(made) => made,
        Err(error) => {
            let error = Arc::new(error);
            for job in jobs {
                job.fail(&error);
            }
            return Vec::new();
        }
    };
    let key = |first: Reservation| Some(((first.tenant_id.clone(), first.request_id.clone()?), first));
    let mut made: HashMap<_, _> = made.into_iter().filter_map(key).collect();
    let mut others = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (tenant, request_id) = job.idempotency();
        match made.remove(&(tenant.to_string(), request_id)) {
            None => others.push(job),
            Some(first) if first.body == *job.body => {
                let _ = job.reply.send(Ok(Reserved::Repeated(Box::new(first))));
            }
            Some(_) => {
                let id = job.request.request_id.clone().unwrap_or_default();
                job.fail(&Arc::new(StoreError::Conflict(format!("requestId {id:?} was used with another body"))));
            }
        }
    }
    others
}

/// Answers denials. Where held money stands in the way, expired reservations are given back first, and those requests are
/// decided again; otherwise the caller is told when the first reservation expires.
pub(super) async fn refuse(
    world: &World,
    state: &mut LaneState,
    fresh: &mut HashSet<Subject>,
    gave_back: &mut GaveBack,
    denied: Vec<(ReserveJob, Decision)>,
) -> Vec<ReserveJob> {
    let (jobs, decisions): (Vec<ReserveJob>, Vec<Decision>) = denied.into_iter().unzip();
    // Whoever was admitted before is told so, even where his own hold now fills the quota.
    let jobs = answer_repeated(world, jobs).await;
    let open: HashSet<Uuid> = jobs.iter().map(|job| job.request.id).collect();
    let mut decisions: Vec<Decision> =
        decisions.into_iter().filter(|decision| open.contains(&decision.facts.request.id)).collect();
    match world.when_held_money_returns(&mut decisions, gave_back).await {
        Ok(false) => {}
        Ok(true) => {
            for job in &jobs {
                state.known.forget(&job.subject());
                fresh.remove(&job.subject());
            }
            return jobs;
        }
        Err(error) => {
            let error = Arc::new(error);
            for job in jobs {
                job.fail(&error);
            }
            return Vec::new();
        }
    }
    let generation = world.policies.generation();
    for (job, decision) in jobs.into_iter().zip(decisions) {
        let decision = world.record(&generation, decision).await;
        let _ = job.reply.send(Ok(Reserved::Decided { decision, held: None }));
    }
    Vec::new()
}

impl World {
    /// For denials in whose way held money stands: when it comes back at the latest. Where some of it is due already, it is
    /// given back and the answer is `true`: decide again.
    pub(super) async fn when_held_money_returns(
        &self,
        decisions: &mut [Decision],
        gave_back: &mut GaveBack,
    ) -> Result<bool, StoreError> {
        let there = self.in_the_way(decisions.iter(), gave_back).await?;
        if there.is_due() {
            self.give_back(there).await?;
            return Ok(true);
        }
        there.tell(decisions);
        Ok(false)
    }

    /// The held money that stands in the way of denials.
    pub(super) async fn in_the_way<'a>(
        &self,
        decisions: impl Iterator<Item = &'a Decision>,
        gave_back: &mut GaveBack,
    ) -> Result<InTheWay, StoreError> {
        let mut quotas: Vec<(Uuid, DateTime<Utc>)> = decisions.flat_map(Decision::held_back_by).collect();
        if quotas.is_empty() {
            return Ok(InTheWay::default());
        }
        quotas.sort_unstable();
        quotas.dedup();
        let expiries: HashMap<_, _> = self.store.guard(self.store.first_expiries(&quotas)).await?.into_iter().collect();
        let now = self.clock.now();
        let is_due = |quota: &Uuid| expiries.get(quota).is_some_and(|expiry| *expiry <= now);
        let stuck_quotas = self.stuck_quotas.current();
        let due = quotas.into_iter().map(|(id, _)| id);
        let due = due.filter(|id| is_due(id) && !stuck_quotas.contains_key(id) && gave_back.insert(*id)).collect();
        Ok(InTheWay { expiries, due })
    }

    /// Gives back what of it is due; but not what somebody has the rows of, for whom one batch waits and not each.
    pub(super) async fn give_back(&self, there: InTheWay) -> Result<(), StoreError> {
        match self.expire_due_of(&there.due, self.clock.now()).await {
            Err(error) if error.is_locked() => {
                tracing::warn!(reason = %error, "Expired reservations wait for a row that somebody else has");
                self.give_back_what_is_free(&there.due).await
            }
            given => given,
        }
    }

    /// Gives back what nobody has the rows of. Whoever looks at the quotas of the rest passes it by for a while.
    async fn give_back_what_is_free(&self, quotas: &[Uuid]) -> Result<(), StoreError> {
        let now = self.clock.now();
        let due = self.store.guard(self.store.due_of(quotas, now, DUE_AT_ONCE)).await?;
        let wanted: Vec<Wanted> = due.iter().map(|ending| Wanted::Reservation(ending.id)).collect();
        let blockers = self.blocked_for_long(&wanted).await?;
        let free = due.into_iter().zip(&blockers).filter(|(_, blocker)| blocker.is_none()).map(|(ending, _)| ending);
        let free: Vec<Ending> = free.collect();
        if !free.is_empty() {
            self.expire(&free, now).await?;
        }
        let mut stuck_quotas = Vec::new();
        for quota in quotas {
            if !self.store.guard(self.store.due_of(std::slice::from_ref(quota), now, 1)).await?.is_empty() {
                stuck_quotas.push((*quota, Instant::now()));
            }
        }
        self.stuck_quotas.current().extend(stuck_quotas);
        Ok(())
    }

    /// Gives back all that has expired and that these quotas hold, beside the lanes: one of them waits for it. What is due
    /// elsewhere is the worker's, however much there is.
    async fn expire_due_of(&self, quotas: &[Uuid], now: DateTime<Utc>) -> Result<(), StoreError> {
        loop {
            let due = self.store.guard(self.store.due_of(quotas, now, DUE_AT_ONCE)).await?;
            if due.is_empty() || self.expire(&due, now).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Tells how many came back. One that the tables refuse stands in nobody else's way.
    async fn expire(&self, due: &[Ending], now: DateTime<Utc>) -> Result<usize, StoreError> {
        let mut link = self.store.link();
        match link.end(due, now).await {
            Err(StoreError::Refused(_)) if due.len() > 1 => {}
            Err(StoreError::Refused(reason)) => {
                tracing::error!(reservationId = %due[0].id, reason, "An expired reservation is not given back");
                return Ok(0);
            }
            ended => return Ok(ended?.len()),
        }
        let mut ended = 0;
        for ending in due {
            ended += Box::pin(self.expire(std::slice::from_ref(ending), now)).await?;
        }
        Ok(ended)
    }

    /// The reservations whose time is over, `most` at most; but for those of some tenants.
    pub(super) async fn due(&self, now: DateTime<Utc>, most: i64, but: &[TenantId]) -> Result<Vec<Ending>, StoreError> {
        self.store.guard(self.store.due(now, most, but)).await
    }
}
