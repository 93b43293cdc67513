//! The gate: the whole life of a request, told once.
//!
//! A check:
//! 1. joins the lane of its tenant; the lane's next batch is whatever has arrived while the last one was decided;
//! 2. the rows of the whole batch are read in one statement, fresh: a denial is never made on anything older;
//! 3. for each request in order its tier's policy is asked, in an instance of its own;
//! 4. the host has the last word (hard limits, enforcement switched off), and answers;
//! 5. the decision is logged, and stored beside the hot path.
//!
//! A cost joins a lane too; the lane's batch is written in one transaction, each cost once and in full.

mod facts;
mod lane;
mod lines;
mod recorder;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use uuid::Uuid;

use self::lane::{Lane, Overloaded};
use self::recorder::Recorder;
use crate::clock::Clock;
use crate::decision::{Decision, Facts, PolicyRef, Request, Verdict};
use crate::policy::manifest::OnError;
use crate::policy::{Folder, Generation, Policy, PolicyError};
use crate::quota::{ResourceType, TenantId};
use crate::store::costs::{Cost, Recorded};
use crate::store::decisions::DecisionRow;
use crate::store::subjects::{Standing, Subject};
use crate::store::{Store, StoreError};

/// Lanes of each kind: two keep the database busy, more only wait for each other.
const LANES: usize = 2;
const QUEUE: usize = 1_024;
const LARGEST_BATCH: usize = 128;
/// Guest time of one batch; the rest of it waits for the next one, so that slow policies stall nobody for long.
const GUEST_TIME: Duration = Duration::from_millis(20);

/// Which resource types are enforced.
#[derive(Clone, Copy, Debug)]
pub struct Enforcement {
    /// `ENFORCE_E2B_QUOTAS`.
    pub e2b: bool,
    /// `ENFORCE_COST_QUOTAS`: every type but e2b.
    pub others: bool,
}

impl Enforcement {
    fn of(self, resource_type: &ResourceType) -> bool {
        if resource_type.as_str() == ResourceType::E2B { self.e2b } else { self.others }
    }
}

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
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

struct CheckJob {
    request: Arc<Request>,
    reply: Reply<Decision>,
}

struct CostJob {
    cost: Cost,
    reply: Reply<Recorded>,
}

/// What the lanes work with.
struct World {
    store: Store,
    policies: Arc<Folder>,
    recorder: Recorder,
    enforcement: Enforcement,
    clock: Clock,
}

/// Decides requests and records costs.
pub struct Gate {
    world: Arc<World>,
    checks: [Lane<CheckJob>; LANES],
    costs: [Lane<CostJob>; LANES],
    hasher: RandomState,
}

impl Gate {
    /// Starts the lanes. Needs a tokio runtime with threads.
    pub fn start(store: Store, policies: Arc<Folder>, enforcement: Enforcement, clock: Clock) -> Self {
        let recorder = Recorder::start(store.clone());
        let world = Arc::new(World { store, policies, recorder, enforcement, clock });
        let checks = || {
            let world = world.clone();
            Lane::start(QUEUE, LARGEST_BATCH, move |batch| check_batch(world.clone(), batch))
        };
        let costs = || {
            let world = world.clone();
            Lane::start(QUEUE, LARGEST_BATCH, move |batch| cost_batch(world.clone(), batch))
        };
        Self {
            checks: std::array::from_fn(|_| checks()),
            costs: std::array::from_fn(|_| costs()),
            world: world.clone(),
            hasher: RandomState::new(),
        }
    }

    /// Whether the request would be allowed now. Changes no money.
    ///
    /// # Errors
    /// There is no decision; see [`GateError`].
    pub async fn check(&self, request: Request) -> Result<Decision, GateError> {
        lines::asked(&request);
        let lane = self.lane(&request.tenant);
        let (reply, answer) = oneshot::channel();
        self.checks[lane].submit(CheckJob { request: Arc::new(request), reply })?;
        let decision = answer.await.map_err(|_| GateError::Overloaded)??;
        lines::decided(&decision);
        Ok(decision)
    }

    /// Records what an operation really cost, in full and once.
    ///
    /// # Errors
    /// It was not recorded, or was recorded before with another body; see [`GateError`].
    pub async fn record_cost(&self, cost: Cost) -> Result<Recorded, GateError> {
        let lane = self.lane(&cost.tenant);
        let (reply, answer) = oneshot::channel();
        self.costs[lane].submit(CostJob { cost, reply })?;
        answer.await.map_err(|_| GateError::Overloaded)?
    }

    /// Returns when every decision that was answered is in the decision log.
    pub async fn flush(&self) {
        self.world.recorder.flush().await;
    }

    fn lane(&self, tenant: &TenantId) -> usize {
        usize::try_from(self.hasher.hash_one(tenant) % LANES as u64).unwrap_or_default()
    }
}

async fn check_batch(world: Arc<World>, batch: Vec<CheckJob>) -> Vec<CheckJob> {
    let mut subjects: Vec<Subject> = Vec::new();
    let mut places: HashMap<Subject, usize> = HashMap::new();
    let place_of: Vec<usize> = batch
        .iter()
        .map(|job| {
            let subject = Subject {
                tenant: job.request.tenant.clone(),
                user: job.request.user.clone(),
                resource_type: job.request.resource_type.clone(),
            };
            *places.entry(subject).or_insert_with_key(|subject| {
                subjects.push(subject.clone());
                subjects.len() - 1
            })
        })
        .collect();
    let standings = match world.store.standings(&subjects).await {
        Ok(standings) => standings,
        Err(error) => {
            let error = Arc::new(error);
            for job in batch {
                let _ = job.reply.send(Err(GateError::Store(error.clone())));
            }
            return Vec::new();
        }
    };
    let generation = world.policies.generation();
    let (mut unwritten, mut left) = (Vec::new(), Vec::new());
    // Guests run here, up to their deadline: the runtime moves its other tasks elsewhere meanwhile.
    tokio::task::block_in_place(|| {
        let started = Instant::now();
        for (job, place) in batch.into_iter().zip(place_of) {
            if started.elapsed() > GUEST_TIME {
                left.push(job);
                continue;
            }
            let (answer, row) = match decide(&world, &generation, &standings[place], job.request) {
                Ok((decision, policy)) if decision.denial().is_none() => {
                    let second = decision.facts.request.at.timestamp();
                    world.recorder.allowed(second, || facts::row(&decision, policy.settings()));
                    (Ok(decision), None)
                }
                Ok((decision, policy)) => {
                    let row = facts::row(&decision, policy.settings());
                    (Ok(decision), world.recorder.now(row))
                }
                Err(undecided) => {
                    let (error, row) = *undecided;
                    (Err(error), world.recorder.now(row))
                }
            };
            unwritten.extend(row);
            let _ = job.reply.send(answer);
        }
    });
    for row in unwritten {
        world.recorder.always(row).await;
    }
    left
}

/// Asks the tier's policy; what happens when it fails is the operator's choice.
fn decide<'a>(
    world: &World,
    generation: &'a Generation,
    standing: &Standing,
    request: Arc<Request>,
) -> Result<(Decision, &'a Policy), Box<(GateError, DecisionRow)>> {
    let enforced = world.enforcement.of(&request.resource_type);
    let facts = Facts {
        quotas: standing.quotas.iter().map(|row| row.at(request.at)).collect(),
        tier: standing.tier.clone(),
        pool: standing.pool.clone(),
        request,
    };
    let policy = generation.for_tier(facts.tier.as_ref());
    let error = match policy.decide(&facts) {
        Ok(verdict) => return Ok((Decision::new(facts, policy.reference().clone(), verdict, enforced), policy)),
        Err(error) => error,
    };
    tracing::error!(
        policy = &*policy.reference().name,
        kind = error.kind(),
        reason = %error,
        decisionId = %facts.request.id,
        tenantId = facts.request.tenant.as_str(),
        "Policy failed"
    );
    let annotation = ("policy_failed".to_owned(), error.kind().to_owned());
    let allow = || Verdict::Allow { at_most: None, annotations: vec![annotation.clone()] };
    match policy.on_error() {
        OnError::Allow => Ok((Decision::new(facts, policy.reference().clone(), allow(), enforced), policy)),
        OnError::Deny if !enforced => Ok((Decision::new(facts, policy.reference().clone(), allow(), enforced), policy)),
        OnError::Standard if let Ok(verdict) = generation.standard().decide(&facts) => {
            let standard = generation.standard();
            Ok((Decision::new(facts, standard.reference().clone(), verdict, enforced), standard))
        }
        OnError::Standard | OnError::Deny => {
            let failed = Decision::new(facts, policy.reference().clone(), allow(), enforced);
            let row = facts::failed(&failed, policy.settings(), &error);
            let decision_id = failed.facts.request.id;
            Err(Box::new((GateError::Policy { policy: policy.reference().clone(), error, decision_id }, row)))
        }
    }
}

async fn cost_batch(world: Arc<World>, batch: Vec<CostJob>) -> Vec<CostJob> {
    let (costs, replies): (Vec<Cost>, Vec<Reply<Recorded>>) =
        batch.into_iter().map(|job| (job.cost, job.reply)).unzip();
    let now = world.clock.now();
    match world.store.record_costs(&costs, now).await {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer.map_err(|error| GateError::Store(Arc::new(error))));
            }
        }
        // One of them breaks a constraint: each for itself, so that the others are recorded.
        Err(StoreError::Refused(_)) if costs.len() > 1 => {
            for (cost, reply) in costs.into_iter().zip(replies) {
                let answer = match world.store.record_costs(std::slice::from_ref(&cost), now).await {
                    Ok(mut answers) => answers.pop().unwrap_or(Err(StoreError::Refused("no answer".to_owned()))),
                    Err(error) => Err(error),
                };
                let _ = reply.send(answer.map_err(|error| GateError::Store(Arc::new(error))));
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for reply in replies {
                let _ = reply.send(Err(GateError::Store(error.clone())));
            }
        }
    }
    Vec::new()
}
