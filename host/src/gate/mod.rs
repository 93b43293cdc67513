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

mod asking;
mod breaker;
mod check;
mod entrance;
mod entry;
mod error;
mod expiry;
mod facts;
mod guests;
mod known;
mod lane;
mod lines;
mod money;
mod once;
mod outage;
mod plan;
mod pools;
mod promise;
pub mod recall;
mod recorder;
mod refusal;
mod replay;
mod reserve;
mod round;
mod shadow;
mod slow;
mod step;
mod stuck;
mod threads;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Mutex, oneshot};

use self::asking::Asking;
use self::breaker::Breaker;
use self::check::CheckJob;
use self::lane::Lane;
use self::money::MoneyJob;
use self::pools::Pools;
use self::recorder::Recorder;
use self::refusal::StuckQuotas;
use self::reserve::LaneState;
use self::shadow::Shadow;
use self::slow::Slow;
use self::threads::Threads;
use crate::clock::Clock;
use crate::decision::Decision;
use crate::policy::{Folder, Generation};
use crate::quota::{ResourceType, TenantId};
use crate::store::{Store, StoreError};

pub use self::entry::waiting_since;
pub use self::error::GateError;
pub use self::outage::{Outages, StoreFailure};
pub use self::promise::{LONGEST, Promise};
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

/// What became of something that moves money.
#[derive(Debug)]
pub enum Told<T> {
    /// It is in the books.
    Done(T),
    /// It will be: the store cannot be reached, and it is kept on this host's disk.
    Kept {
        /// It was kept before, in this outage.
        duplicate: bool,
    },
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
    stuck_quotas: StuckQuotas,
    threads: Threads,
}

/// Decides requests and moves money.
pub struct Gate {
    world: Arc<World>,
    /// The last of each is for tenants with slow policies.
    checks: [Lane<CheckJob>; LANES + 1],
    money: [Lane<MoneyJob>; LANES + 1],
    hasher: RandomState,
    asking: Asking,
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
        let threads = Threads::start();
        let lanes = threads.lanes();
        let (recorder, shadow) = (Recorder::start(&lanes, store.clone()), Shadow::start(store.clone()));
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
            stuck_quotas: StuckQuotas::default(),
            threads,
        });
        let checks = |world: Arc<World>| {
            let link = Arc::new(Mutex::new(world.store.link()));
            Lane::start(&lanes, QUEUE, LARGEST_BATCH, move |batch| {
                check::batch(world.clone(), Arc::clone(&link), batch)
            })
        };
        let money = |world: Arc<World>| {
            let state = Arc::new(Mutex::new(LaneState::new(world.store.link())));
            Lane::start(&lanes, QUEUE, LARGEST_BATCH, move |batch| {
                money::batch(world.clone(), Arc::clone(&state), batch)
            })
        };
        Arc::new(Self {
            checks: std::array::from_fn(|_| checks(world.clone())),
            money: std::array::from_fn(|_| money(world.clone())),
            world,
            hasher: RandomState::new(),
            asking: Asking::default(),
        })
    }

    /// Brings what waits for another host's promises into the books, where that has kept them. Tells whether some of it waits
    /// for a row that somebody else has.
    ///
    /// # Errors
    /// It still waits. Doing it again is safe.
    pub async fn try_waiting(&self) -> Result<bool, GateError> {
        if self.world.is_down() || self.world.outages.spool.records() == 0 {
            return Ok(false);
        }
        self.world.try_waiting().await
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

impl World {
    /// Keeps a decision for its readers.
    async fn record(&self, generation: &Arc<Generation>, decision: Decision) -> Arc<Decision> {
        let decision = Arc::new(decision);
        self.shadow.ask(generation, &decision);
        self.recorder.decided(decision.clone(), generation.clone()).await;
        decision
    }
}
