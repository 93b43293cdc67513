//! The gate: the whole life of a request, told once.
//!
//! A check:
//! 1. joins a lane; the lane's next batch is whatever has arrived while the last one was decided;
//! 2. the rows of the whole batch are read in one statement, fresh: a denial is never made on anything older;
//! 3. for each request in order its tier's policy is asked;
//! 4. the host has the last word (hard limits, enforcement switched off), and answers;
//! 5. the decision is logged, and stored beside the hot path; a candidate is asked too, and changes nothing (`shadow`).
//!
//! Whatever moves money joins the lane of the rows that it touches (its pool's, else its tenant's), and there a batch is
//! 1. costs and endings, in one transaction each: what is spent is recorded, what is set aside comes back;
//! 2. reservations: decided on what the lane knows, committed only if that still holds (`reserve`).

mod breaker;
mod check;
mod facts;
mod guests;
mod known;
mod lane;
mod lines;
mod money;
mod outage;
pub mod recall;
mod recorder;
mod replay;
mod reserve;
mod shadow;
mod slow;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Mutex, oneshot};
use uuid::Uuid;

use self::breaker::Breaker;
use self::check::CheckJob;
use self::lane::{Lane, Overloaded};
use self::money::MoneyJob;
use self::outage::Made;
use self::recorder::Recorder;
use self::replay::Entry;
use self::reserve::{LaneState, ReserveJob};
use self::shadow::Shadow;
use self::slow::Slow;
use crate::clock::Clock;
use crate::decision::{Decision, PolicyRef, Request};
use crate::metrics::{self, Mode};
use crate::policy::{Folder, Generation, PolicyError};
use crate::quota::{PoolId, ResourceType, TenantId};
use crate::store::costs::{Cost, Recorded};
use crate::store::replay::Promised;
use crate::store::reservations::{End, Ended, Ending, Reservation};
use crate::store::{Store, StoreError};

pub use self::outage::{Outages, StoreFailure};
pub use self::reserve::Reserved;

/// Lanes of each kind: two keep the database busy, more only wait for each other.
const LANES: usize = 2;
const QUEUE: usize = 1_024;
const LARGEST_BATCH: usize = 256;
/// How long a request waits for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The store can go and come between two looks, but not for ever.
const TRIES: usize = 3;

/// Which resource types are enforced.
#[derive(Clone, Copy, Debug)]
pub struct Enforcement {
    /// `ENFORCE_E2B_QUOTAS`.
    pub e2b: bool,
    /// `ENFORCE_COST_QUOTAS`: every type but e2b.
    pub others: bool,
}

impl Enforcement {
    /// Whether this type is.
    pub fn of(self, resource_type: &ResourceType) -> bool {
        if resource_type.as_str() == ResourceType::E2B { self.e2b } else { self.others }
    }
}

/// Why there is no decision.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GateError {
    /// The queue is full.
    #[error("more requests than the gate can answer in time")]
    Overloaded,
    /// The store did not do what it was asked.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The store cannot be reached, and the mode refuses.
    #[error("the store cannot be reached")]
    Down,
    /// The store cannot be reached, and there is no more room for what must not be lost.
    #[error("the store cannot be reached, and the spool is full")]
    SpoolFull,
    /// The store cannot be reached, and the spool cannot be written.
    #[error("the store cannot be reached, and the spool cannot be written: {0}")]
    Spool(String),
    /// The policy failed, and `on_error` denies.
    #[error("policy {}: {error}", policy.name)]
    Policy {
        /// Which one.
        policy: PolicyRef,
        /// Its kind and what was wrong.
        error: PolicyError,
        /// Found in the decision log.
        decision_id: Uuid,
    },
}

impl From<Overloaded> for GateError {
    fn from(_: Overloaded) -> Self {
        Self::Overloaded
    }
}

impl GateError {
    fn outage(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) if error.is_outage() => Some(error),
            _ => None,
        }
    }
}

/// What became of something that moves money.
#[derive(Debug)]
pub enum Told<T> {
    /// It is in the books.
    Done(T),
    /// It will be: the store cannot be reached, and it is kept on this host's disk.
    Kept,
}

type Reply<T> = oneshot::Sender<Result<T, GateError>>;

/// What the lanes work with.
struct World {
    store: Store,
    policies: Arc<Folder>,
    recorder: Recorder,
    shadow: Shadow,
    enforcement: Enforcement,
    clock: Clock,
    pools: Pools,
    outages: Outages,
    /// The last batch's guests took their time.
    guests_are_slow: AtomicBool,
    breaker: Breaker,
    slow: Slow,
}

/// Which pool a tenant was in when it was last read: tells the lane, nothing else.
#[derive(Default)]
struct Pools(RwLock<HashMap<TenantId, PoolId>>);

impl Pools {
    fn of(&self, tenant: &TenantId) -> Option<PoolId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    fn learn(&self, tenant: &TenantId, pool: Option<&PoolId>) {
        if self.of(tenant).as_ref() == pool {
            return;
        }
        let mut pools = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match pool {
            Some(pool) => pools.insert(tenant.clone(), pool.clone()),
            None => pools.remove(tenant),
        };
    }
}

/// Decides requests and moves money.
pub struct Gate {
    world: Arc<World>,
    /// The last of each is for tenants with slow policies.
    checks: [Lane<CheckJob>; LANES + 1],
    money: [Lane<MoneyJob>; LANES + 1],
    hasher: RandomState,
}

impl Gate {
    /// Starts the lanes. Needs a tokio runtime with threads.
    ///
    /// Where the spool holds what an earlier outage has left, the store counts as down until that is in the books.
    pub fn start(
        store: Store,
        policies: Arc<Folder>,
        enforcement: Enforcement,
        clock: Clock,
        outages: Outages,
    ) -> Arc<Self> {
        if outages.spool().records() > 0 {
            store.health().is_lost("what an earlier outage has left is not in the books yet");
        }
        let (recorder, shadow) = (Recorder::start(store.clone()), Shadow::start(store.clone()));
        let world = Arc::new(World {
            store,
            policies,
            recorder,
            shadow,
            enforcement,
            clock,
            pools: Pools::default(),
            outages,
            guests_are_slow: AtomicBool::new(false),
            breaker: Breaker::default(),
            slow: Slow::default(),
        });
        let checks = |world: Arc<World>| {
            let link = Arc::new(Mutex::new(world.store.link()));
            Lane::start(QUEUE, LARGEST_BATCH, move |batch| check::batch(world.clone(), Arc::clone(&link), batch))
        };
        let money = |world: Arc<World>| {
            let state = Arc::new(Mutex::new(LaneState::new(world.store.link())));
            Lane::start(QUEUE, LARGEST_BATCH, move |batch| money::batch(world.clone(), Arc::clone(&state), batch))
        };
        Arc::new(Self {
            checks: std::array::from_fn(|_| checks(world.clone())),
            money: std::array::from_fn(|_| money(world.clone())),
            world,
            hasher: RandomState::new(),
        })
    }

    /// Whether the request would be allowed now. Changes no money.
    ///
    /// # Errors
    /// There is no decision; see [`GateError`].
    pub async fn check(&self, request: Request) -> Result<Arc<Decision>, GateError> {
        let (started, resource) = (Instant::now(), request.resource_type.clone());
        let decided = self.decide(request).await;
        let outcome = decided.as_ref().ok().map(|decision| &decision.outcome);
        metrics::decided(resource.as_str(), outcome, Mode::Check, started.elapsed());
        decided
    }

    async fn decide(&self, request: Request) -> Result<Arc<Decision>, GateError> {
        lines::asked(&request);
        let request = Arc::new(request);
        if !self.world.is_down() {
            let lane = &self.checks[self.lane(&request.tenant)];
            let decided = send(lane, |reply| CheckJob { request: request.clone(), reply }).await;
            if !self.is_lost(&decided) {
                let decision = decided?;
                lines::decided(&decision);
                return Ok(decision);
            }
        }
        let decision = self.world.check_in_outage(&request)?;
        lines::degraded(&decision);
        Ok(Arc::new(decision))
    }

    /// Decides, and in the same step sets the estimate aside for `ttl`. `body` is a digest of what the caller sent.
    ///
    /// # Errors
    /// There is no decision; see [`GateError`]. Where the store did not answer, money may have been set aside.
    pub async fn reserve(&self, request: Request, ttl: TimeDelta, body: Arc<str>) -> Result<Reserved, GateError> {
        let (started, resource) = (Instant::now(), request.resource_type.clone());
        let reserved = self.set_aside(request, ttl, body).await;
        let outcome = match &reserved {
            Ok(Reserved::Decided { decision, .. }) => Some(&decision.outcome),
            // Not decided now.
            Ok(Reserved::Repeated(_) | Reserved::Promised(_)) => return reserved,
            Err(_) => None,
        };
        metrics::decided(resource.as_str(), outcome, Mode::Reserve, started.elapsed());
        reserved
    }

    async fn set_aside(&self, request: Request, ttl: TimeDelta, body: Arc<str>) -> Result<Reserved, GateError> {
        lines::asked(&request);
        let mut request = Arc::new(request);
        // Where the store was asked, it may know this reservation; where not, its id says that it does not.
        let mut was_asked = false;
        for _ in 0..TRIES {
            if !self.world.is_down() {
                was_asked = true;
                let lane = &self.money[self.lane(&request.tenant)];
                let (request, body) = (request.clone(), body.clone());
                let job = |reply| MoneyJob::Reserve(ReserveJob { request, ttl, body, reply });
                let reserved = send(lane, job).await;
                if !self.is_lost(&reserved) {
                    if let Ok(Reserved::Decided { decision, .. }) = &reserved {
                        lines::decided(decision);
                    }
                    return reserved;
                }
            }
            if !was_asked {
                let id = replay::promised_id(request.id);
                request = Arc::new(Request { id, ..(*request).clone() });
            }
            let expires_at = request.at + ttl;
            match self.world.promise(&Promised::of(&request, &body, expires_at), &request).await? {
                Some(Made::Now) => {
                    let decision = Arc::new(Decision::degraded(request.clone()));
                    lines::degraded(&decision);
                    return Ok(Reserved::Decided { decision, held: Some((request.estimate, expires_at)) });
                }
                Some(Made::Before(first)) => return Ok(Reserved::Promised(Box::new(first))),
                // The store has come back in this moment.
                None => {}
            }
        }
        Err(GateError::Overloaded)
    }

    /// Ends a reservation: what it holds becomes spend, or comes back. `None` where there is no such reservation.
    ///
    /// # Errors
    /// The store did not answer; sending it again is safe.
    pub async fn end(&self, tenant: TenantId, id: Uuid, end: End) -> Result<Told<Option<Ended>>, GateError> {
        let ending = Ending { id, tenant, end };
        for _ in 0..TRIES {
            if !self.world.is_down() {
                let lane = &self.money[self.lane(&ending.tenant)];
                let ended = send(lane, |reply| MoneyJob::End(ending.clone(), reply)).await;
                if !self.is_lost(&ended) {
                    let is_unknown = matches!(ended, Ok(None)) && replay::is_promised(ending.id);
                    let entry = Entry::end(&ending, self.world.clock.now());
                    if is_unknown && self.world.keep_waiting(&entry).await? {
                        return Ok(Told::Kept);
                    }
                    return ended.map(Told::Done);
                }
            }
            if self.world.keep(&Entry::end(&ending, self.world.clock.now())).await? {
                return Ok(Told::Kept);
            }
        }
        Err(GateError::Overloaded)
    }

    /// Prolongs a reservation until `until`, 24 hours after it was made at most. `None` where it is not held.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn extend(
        &self,
        tenant: &TenantId,
        id: Uuid,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Told<Option<Reservation>>, GateError> {
        for _ in 0..TRIES {
            if !self.world.is_down() {
                let extended = self.world.store.link().extend(tenant, id, until, now).await;
                match extended {
                    Err(error) if error.is_outage() => self.world.lost(&error),
                    answer => return answer.map(Told::Done).map_err(|error| GateError::Store(Arc::new(error))),
                }
            }
            if self.world.keep(&Entry::Extend { id, tenant: tenant.to_string(), until, at: now }).await? {
                return Ok(Told::Kept);
            }
        }
        Err(GateError::Overloaded)
    }

    /// Records what an operation really cost, in full and once.
    ///
    /// # Errors
    /// It was not recorded, or was recorded before with another body; see [`GateError`].
    pub async fn record_cost(&self, cost: Cost) -> Result<Told<Recorded>, GateError> {
        for _ in 0..TRIES {
            if !self.world.is_down() {
                let lane = &self.money[self.lane(&cost.tenant)];
                let recorded = send(lane, |reply| MoneyJob::Cost(cost.clone(), reply)).await;
                if !self.is_lost(&recorded) {
                    return recorded.map(Told::Done);
                }
            }
            if self.world.keep(&Entry::cost(&cost)).await? {
                return Ok(Told::Kept);
            }
        }
        Err(GateError::Overloaded)
    }

    /// Brings what waits for another host's promises into the books, where that has kept them.
    ///
    /// # Errors
    /// It still waits. Doing it again is safe.
    pub async fn try_waiting(&self) -> Result<(), GateError> {
        if self.world.is_down() || self.world.outages.spool.records() == 0 {
            return Ok(());
        }
        self.world.try_waiting().await
    }

    /// Whether an answer says that the store cannot be reached; then nobody waits for it from now on.
    fn is_lost<T>(&self, answer: &Result<T, GateError>) -> bool {
        let outage = answer.as_ref().err().and_then(GateError::outage);
        outage.inspect(|error| self.world.lost(error)).is_some()
    }

    /// What it does while the store cannot be reached.
    pub fn outages(&self) -> &Outages {
        &self.world.outages
    }

    /// The store did not answer a probe: from now on nobody waits for it.
    pub fn lost(&self, error: &StoreError) {
        self.world.lost(error);
    }

    /// The store answers a probe again: brings the books up to date, and then it counts as up.
    ///
    /// # Errors
    /// It did not come to its end, and the store still counts as down. Doing it again is safe.
    pub async fn recover(&self) -> Result<(), GateError> {
        self.world.recover().await
    }

    /// Gives back what reservations hold whose time is over; tells how many there were.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn expire_due(&self) -> Result<usize, StoreError> {
        self.world.expire_due(self.world.clock.now()).await
    }

    /// Returns when every decision that was answered is in the decision log.
    pub async fn flush(&self) {
        self.world.recorder.flush().await;
    }

    /// Requests that share rows share a lane: those of a pool, else of a tenant. Whose policy is slow is in nobody's way.
    fn lane(&self, tenant: &TenantId) -> usize {
        if self.world.slow.contains(tenant) {
            return LANES;
        }
        let hash = match self.world.pools.of(tenant) {
            Some(pool) => self.hasher.hash_one(pool),
            None => self.hasher.hash_one(tenant),
        };
        usize::try_from(hash % LANES as u64).unwrap_or_default()
    }
}

async fn send<Job: Send + 'static, T>(lane: &Lane<Job>, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, GateError> {
    let (reply, answer) = oneshot::channel();
    lane.submit(job(reply))?;
    // Whatever it is that takes so long, its answer would come too late; the lane skips whom nobody waits for.
    let answered = tokio::time::timeout(ANSWER_WITHIN, answer).await;
    answered.map_err(|_| GateError::Overloaded)?.map_err(|_| GateError::Overloaded)?
}

impl World {
    /// Keeps a decision for its readers.
    async fn record(&self, generation: &Arc<Generation>, decision: Decision) -> Arc<Decision> {
        let decision = Arc::new(decision);
        self.shadow.ask(generation, &decision);
        self.recorder.decided(decision.clone(), generation.clone()).await;
        decision
    }
}
