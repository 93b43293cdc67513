//! Running a batch's guests: whose instance, for how long, and what happens when one fails.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{GateError, World, facts};
use crate::decision::{Decision, Facts, Outcome, PolicyRef, Verdict};
use crate::metrics;
use crate::policy::manifest::OnError;
use crate::policy::{Generation, Policy, PolicyError, Session, Stopwatch};
use crate::quota::TenantId;
use crate::store::decisions::DecisionRow;

/// Guest time of one batch; the rest of it waits for the next one, so that slow policies stall nobody for long.
const GUEST_TIME: Duration = Duration::from_millis(20);
/// A guest that takes longer is slow.
const SLOW_GUEST: Duration = Duration::from_micros(200);

/// No decision, and the row that tells of it.
pub(super) type Undecided = Box<(GateError, DecisionRow)>;

/// Runs the guests of one batch. Decisions of one tenant that follow each other share an instance, those of two never do.
pub(super) struct Guests<'a> {
    world: &'a World,
    generation: &'a Generation,
    session: Option<(TenantId, Session<'a>)>,
    started: Instant,
    /// When the last guest had ended: one look at the clock for all who want to know.
    now: Instant,
}

impl<'a> Guests<'a> {
    pub(super) fn new(world: &'a World, generation: &'a Generation) -> Self {
        let started = Instant::now();
        Self { world, generation, session: None, started, now: started }
    }

    /// The batch has had its time: the rest waits for the next one, so that slow policies stall nobody for long.
    pub(super) fn are_out_of_time(&self) -> bool {
        self.now.duration_since(self.started) > GUEST_TIME
    }

    pub(super) fn decide(&mut self, facts: Facts) -> Result<Decision, Undecided> {
        let policy = match self.generation.for_tier(facts.tier.as_ref()) {
            Ok(policy) => policy,
            Err(error) => return self.without_policy(facts, error.clone()),
        };
        let tenant = &facts.request.tenant;
        if let Err(paused) = self.world.breaker.admit(policy.edition(), tenant, facts.request.at) {
            return conclude(self.world, self.generation, policy, facts, Err(paused));
        }
        let fits =
            |(owner, session): &(TenantId, Session<'a>)| owner == tenant && std::ptr::eq(session.policy(), policy);
        let mut session = match self.session.take().filter(fits) {
            Some((_, session)) => session,
            None => policy.session(),
        };
        let watch = Stopwatch::start();
        let verdict = self.world.run_guest(tenant, || session.decide(&facts));
        self.now = Instant::now();
        let took = self.now.duration_since(watch.started());
        self.world.slow.learn(tenant, took, || watch.worked());
        metrics::evaluated(&policy.reference().name, took);
        match &verdict {
            Ok(_) => self.world.breaker.succeeded(policy.edition(), tenant),
            Err(error) => self.world.breaker.failed(policy.edition(), tenant, error, facts.request.at),
        }
        self.session = Some((tenant.clone(), session));
        conclude(self.world, self.generation, policy, facts, verdict)
    }
}

impl Guests<'_> {
    /// The tier's policy was refused, and no earlier version of it serves.
    fn without_policy(&self, facts: Facts, error: PolicyError) -> Result<Decision, Undecided> {
        let name = facts.tier.as_ref().map_or("", crate::quota::Tier::as_str);
        let policy = PolicyRef { name: name.into(), digest: "refused".into() };
        let enforced = self.world.enforcement.of(&facts.request.resource_type);
        let deny = Verdict::Deny {
            code: "policy_failed".to_owned(),
            reason: error.to_string(),
            quota: None,
            retry_after_s: None,
            annotations: Vec::new(),
        };
        let decision = Decision::new(facts, policy.clone(), deny, enforced);
        if !enforced {
            return Ok(decision);
        }
        let row = facts::failed(&decision, &[], &error);
        let decision_id = decision.facts.request.id;
        Err(Box::new((GateError::Policy { policy, error, decision_id }, row)))
    }
}

/// The decision that a policy's verdict makes; what happens when it failed is the operator's choice.
fn conclude(
    world: &World,
    generation: &Generation,
    policy: &Policy,
    facts: Facts,
    verdict: Result<Verdict, PolicyError>,
) -> Result<Decision, Undecided> {
    let enforced = world.enforcement.of(&facts.request.resource_type);
    let error = match verdict {
        Ok(verdict) => return Ok(Decision::new(facts, policy.reference().clone(), verdict, enforced)),
        Err(error) => error,
    };
    metrics::policy_failed(&policy.reference().name, error.kind());
    // What is paused was not run; the breaker has told of it once.
    if !matches!(error, PolicyError::Paused(_)) {
        tracing::error!(
            policy = &*policy.reference().name,
            kind = error.kind(),
            reason = %error,
            decisionId = %facts.request.id,
            tenantId = facts.request.tenant.as_str(),
            "Policy failed"
        );
    }
    let annotation = ("policy_failed".to_owned(), error.kind().to_owned());
    let allow = || Verdict::Allow { at_most: None, annotations: vec![annotation.clone()] };
    match policy.on_error() {
        OnError::Standard if let Ok(verdict) = generation.standard().decide(&facts) => {
            let mut decision = Decision::new(facts, generation.standard().reference().clone(), verdict, enforced);
            decision.annotations.push(annotation);
            Ok(decision)
        }
        OnError::Standard | OnError::Deny if enforced => {
            let undecided = Decision::new(facts, policy.reference().clone(), allow(), enforced);
            let row = facts::failed(&undecided, policy.settings(), &error);
            let decision_id = undecided.facts.request.id;
            Err(Box::new((GateError::Policy { policy: policy.reference().clone(), error, decision_id }, row)))
        }
        // Where nothing is enforced, a broken policy stops nobody either; the answer says that it would have.
        OnError::Standard | OnError::Deny => {
            let deny = Verdict::Deny {
                code: "policy_failed".to_owned(),
                reason: error.to_string(),
                quota: None,
                retry_after_s: None,
                annotations: vec![annotation],
            };
            Ok(Decision::new(facts, policy.reference().clone(), deny, enforced))
        }
        OnError::Allow => Ok(Decision::new(facts, policy.reference().clone(), allow(), enforced)),
    }
}

/// Whether the caller is told no.
pub(super) fn is_denied(decision: &Decision) -> bool {
    matches!(decision.outcome, Outcome::Denied(_))
}

impl World {
    /// Runs one guest. One that is known to be slow is no business of the runtime's other tasks: they move away first.
    fn run_guest<T>(&self, tenant: &TenantId, run: impl FnOnce() -> T) -> T {
        if self.slow.contains(tenant) { tokio::task::block_in_place(run) } else { run() }
    }

    /// Runs the guests of `requests` requests. Moving the runtime's other tasks away costs more than a quick guest takes,
    /// so that is done only while guests are slow.
    pub(super) fn run_guests<T>(&self, requests: usize, run: impl FnOnce() -> T) -> T {
        let watch = Stopwatch::start();
        let answer =
            if self.guests_are_slow.load(Ordering::Relaxed) { tokio::task::block_in_place(run) } else { run() };
        let usual = SLOW_GUEST * u32::try_from(requests).unwrap_or(u32::MAX);
        // What has passed is known without a call of the system, and is never less.
        let are_slow = watch.started().elapsed() > usual && watch.worked() > usual;
        self.guests_are_slow.store(are_slow, Ordering::Relaxed);
        answer
    }
}
