//! The gate: the whole life of a request, told once.
//!
//! A check:
//! 1. joins a lane; the lane's next batch is whatever has arrived while the last one was decided;
//! 2. the rows of the whole batch are read in one statement, fresh: a denial is never made on anything older;
//! 3. for each request in order its tier's policy is asked;
//! 4. the host has the last word (hard limits, enforcement switched off), and answers;
//! 5. the decision is logged, and stored beside the hot path.
//!
//! Whatever moves money joins the lane of the rows that it touches (its pool's, else its tenant's), and there a batch is
//! 1. costs and endings, in one transaction each: what is spent is recorded, what is set aside comes back;
//! 2. reservations: decided on what the lane knows, committed only if that still holds (`reserve`).

mod check;
mod facts;
mod guests;
mod known;
mod lane;
mod lines;
mod money;
mod recorder;
mod reserve;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Mutex, oneshot};
use uuid::Uuid;

use self::check::CheckJob;
use self::lane::{Lane, Overloaded};
use self::money::MoneyJob;
use self::recorder::Recorder;
use self::reserve::{LaneState, ReserveJob};
use crate::clock::Clock;
use crate::decision::{Decision, PolicyRef, Request};
use crate::metrics::{self, Mode};
use crate::policy::{Folder, Generation, PolicyError};
use crate::quota::{PoolId, ResourceType, TenantId};
use crate::store::costs::{Cost, Recorded};
use crate::store::reservations::{End, Ended, Ending, Reservation};
use crate::store::{Store, StoreError};

pub use self::reserve::Reserved;

/// Lanes of each kind: two keep the database busy, more only wait for each other.
const LANES: usize = 2;
const QUEUE: usize = 1_024;
const LARGEST_BATCH: usize = 256;

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

type Reply<T> = oneshot::Sender<Result<T, GateError>>;

/// What the lanes work with.
struct World {
    store: Store,
    policies: Arc<Folder>,
    recorder: Recorder,
    enforcement: Enforcement,
    clock: Clock,
    pools: Pools,
    /// The last batch's guests took their time.
    guests_are_slow: AtomicBool,
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
    checks: [Lane<CheckJob>; LANES],
    money: [Lane<MoneyJob>; LANES],
    hasher: RandomState,
}

impl Gate {
    /// Starts the lanes. Needs a tokio runtime with threads.
    pub fn start(store: Store, policies: Arc<Folder>, enforcement: Enforcement, clock: Clock) -> Arc<Self> {
        let recorder = Recorder::start(store.clone());
        let world = Arc::new(World {
            store,
            policies,
            recorder,
            enforcement,
            clock,
            pools: Pools::default(),
            guests_are_slow: AtomicBool::new(false),
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
        lines::asked(&request);
        let lane = &self.checks[self.lane(&request.tenant)];
        let (started, resource) = (Instant::now(), request.resource_type.clone());
        let answer = send(lane, |reply| CheckJob { request: Arc::new(request), reply }).await;
        let outcome = answer.as_ref().ok().map(|decision: &Arc<Decision>| &decision.outcome);
        metrics::decided(resource.as_str(), outcome, Mode::Check, started.elapsed());
        let decision = answer?;
        lines::decided(&decision);
        Ok(decision)
    }

    /// Decides, and in the same step sets the estimate aside for `ttl`. `body` is a digest of what the caller sent.
    ///
    /// # Errors
    /// There is no decision; see [`GateError`]. Where the store did not answer, money may have been set aside.
    pub async fn reserve(&self, request: Request, ttl: TimeDelta, body: Arc<str>) -> Result<Reserved, GateError> {
        lines::asked(&request);
        let lane = &self.money[self.lane(&request.tenant)];
        let (started, resource) = (Instant::now(), request.resource_type.clone());
        let job = |reply| MoneyJob::Reserve(ReserveJob { request: Arc::new(request), ttl, body, reply });
        let answer = send(lane, job).await;
        let outcome = match &answer {
            Ok(Reserved::Decided { decision, .. }) => Some(&decision.outcome),
            // Not decided now.
            Ok(Reserved::Repeated(_)) => return answer,
            Err(_) => None,
        };
        metrics::decided(resource.as_str(), outcome, Mode::Reserve, started.elapsed());
        let reserved = answer?;
        if let Reserved::Decided { decision, .. } = &reserved {
            lines::decided(decision);
        }
        Ok(reserved)
    }

    /// Ends a reservation: what it holds becomes spend, or comes back. `None` where there is no such reservation.
    ///
    /// # Errors
    /// The store did not answer; sending it again is safe.
    pub async fn end(&self, tenant: TenantId, id: Uuid, end: End) -> Result<Option<Ended>, GateError> {
        let lane = &self.money[self.lane(&tenant)];
        send(lane, |reply| MoneyJob::End(Ending { id, tenant, end }, reply)).await
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
    ) -> Result<Option<Reservation>, GateError> {
        let extended = self.world.store.extend(tenant, id, until, now).await;
        extended.map_err(|error| GateError::Store(Arc::new(error)))
    }

    /// Records what an operation really cost, in full and once.
    ///
    /// # Errors
    /// It was not recorded, or was recorded before with another body; see [`GateError`].
    pub async fn record_cost(&self, cost: Cost) -> Result<Recorded, GateError> {
        let lane = &self.money[self.lane(&cost.tenant)];
        send(lane, |reply| MoneyJob::Cost(cost, reply)).await
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

    /// Requests that share rows share a lane: those of a pool, else of a tenant.
    fn lane(&self, tenant: &TenantId) -> usize {
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
    answer.await.map_err(|_| GateError::Overloaded)?
}

impl World {
    /// Keeps a decision for its readers.
    async fn record(&self, generation: &Arc<Generation>, decision: Decision) -> Arc<Decision> {
        let decision = Arc::new(decision);
        self.recorder.decided(decision.clone(), generation.clone()).await;
        decision
    }
}
