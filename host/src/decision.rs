//! Facts → verdict → decision: what is asked, what a policy answered, the host's last word.

mod hard_limit;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::money::Money;
use crate::quota::{PoolId, Quota, ResourceType, TenantId, Tier, UserId};

/// The code of a denial in whose way only held money stands.
const CAPACITY_HELD: &str = "capacity_held";

/// The operation that asks for money, as parsed at the door and stamped with the host's time.
#[derive(Clone, Debug)]
pub struct Request {
    /// The decision's id, UUID v7.
    pub id: Uuid,
    /// When the host received it.
    pub at: DateTime<Utc>,
    /// Who is charged.
    pub tenant: TenantId,
    /// On whose behalf.
    pub user: Option<UserId>,
    /// What is bought.
    pub resource_type: ResourceType,
    /// Expected cost, 0 or more.
    pub estimate: Money,
    /// The caller's idempotency id.
    pub request_id: Option<String>,
    /// The caller's own pairs, by name, up to 32.
    pub attributes: Vec<(String, String)>,
}

/// A new id, UUID v7: sorts by the host's time.
pub fn new_id(at: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(at.timestamp()).unwrap_or_default();
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, at.timestamp_subsec_nanos()))
}

/// The millisecond in which an id of ours was made (version 7, and 8 where it was only promised); others' ids may be of
/// any time.
pub fn made_at(id: Uuid) -> Option<DateTime<Utc>> {
    let (millis, _) = id.as_u64_pair();
    let millis = i64::try_from(millis >> 16).ok().filter(|_| matches!(id.get_version_num(), 7 | 8))?;
    DateTime::from_timestamp_millis(millis)
}

/// All that a verdict may depend on, besides the policy's settings.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The operation.
    pub request: Arc<Request>,
    /// The tenant's tier, if the gate has a row for it.
    pub tier: Option<Tier>,
    /// The tenant's pool.
    pub pool: Option<PoolId>,
    /// Every quota that applies: tenant, user, pool, global; within a scope the shortest period first.
    /// Shared by the requests that see the same.
    pub quotas: Arc<Vec<Quota>>,
}

impl Facts {
    /// The quotas, to be changed for these facts alone.
    pub fn quotas_mut(&mut self) -> &mut Vec<Quota> {
        Arc::make_mut(&mut self.quotas)
    }
}

/// What a policy answered, already checked for form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, and if `at_most` is given, for no more than that.
    Allow {
        /// Held instead of the estimate.
        at_most: Option<Money>,
        /// Kept with the decision.
        annotations: Vec<(String, String)>,
    },
    /// No.
    Deny {
        /// A stable word for programs.
        code: String,
        /// A sentence for people.
        reason: String,
        /// Index of the binding quota; within bounds.
        quota: Option<usize>,
        /// Seconds until asking again makes sense.
        retry_after_s: Option<u64>,
        /// Kept with the decision.
        annotations: Vec<(String, String)>,
    },
}

/// A decision to refuse. A value, never an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub reason: String,
    /// The quota that denies and resets last; `None` where waiting does not help (403).
    pub binding: Option<Quota>,
    /// Whole seconds, rounded up.
    pub retry_after: Option<u64>,
}

impl Denial {
    /// Whether only held money stands in the way.
    pub fn waits_for_held_money(&self) -> bool {
        self.code == CAPACITY_HELD
    }
}

/// Which policy decided: name and digest (`sha256:…`) of the bytes that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyRef {
    /// The policy's file name without `.wasm`.
    pub name: Arc<str>,
    /// Of the component's bytes.
    pub digest: Arc<str>,
}

/// The host's last word.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Yes.
    Allowed,
    /// No.
    Denied(Denial),
    /// It would have been no, but enforcement is switched off.
    Unenforced(Denial),
}

/// A decision and what it was made of.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What the policy saw. Its request carries the decision's id.
    pub facts: Facts,
    /// Which policy decided.
    pub policy: PolicyRef,
    /// The last word.
    pub outcome: Outcome,
    /// What may be spent, where the policy allowed less than the estimate.
    pub at_most: Option<Money>,
    /// Kept with the decision for its reader.
    pub annotations: Vec<(String, String)>,
    /// Nobody was asked: the store could not be reached.
    pub degraded: bool,
}

impl Decision {
    /// Allowed without asking a policy, since the store cannot be reached.
    pub fn degraded(request: Arc<Request>) -> Self {
        Self {
            facts: Facts { request, tier: None, pool: None, quotas: Arc::default() },
            policy: PolicyRef { name: "".into(), digest: "".into() },
            outcome: Outcome::Allowed,
            at_most: None,
            annotations: Vec::new(),
            degraded: true,
        }
    }

    /// The host's last word on a verdict: hard limits hold whatever the policy says, and a denial
    /// becomes a note where enforcement is off.
    pub fn new(facts: Facts, policy: PolicyRef, verdict: Verdict, enforced: bool) -> Self {
        let (denial, at_most, annotations) = match verdict {
            Verdict::Allow { at_most, annotations } => {
                let amount = at_most.unwrap_or(facts.request.estimate);
                (hard_limit::exceeded(&facts, amount), at_most, annotations)
            }
            Verdict::Deny { code, reason, quota, retry_after_s, annotations } => {
                let binding = quota.and_then(|index| facts.quotas.get(index)).cloned();
                let until_reset = || seconds_until(facts.request.at, binding.as_ref()?.window.end?);
                // Without a quota waiting does not help, whatever the policy says.
                let retry_after = binding.as_ref().and_then(|_| retry_after_s.or_else(until_reset));
                let denial = Denial { code, reason, binding, retry_after };
                let hard = hard_limit::exceeded(&facts, facts.request.estimate);
                (Some(hard_limit::binding_of_both(denial, hard, facts.request.at)), None, annotations)
            }
        };
        let outcome = match denial {
            None => Outcome::Allowed,
            Some(denial) if enforced => Outcome::Denied(denial),
            Some(denial) => Outcome::Unenforced(denial),
        };
        Self { facts, policy, outcome, at_most, annotations, degraded: false }
    }

    /// The quota with the least remaining.
    pub fn tightest(&self) -> Option<&Quota> {
        self.facts.quotas.iter().min_by_key(|quota| quota.remaining())
    }

    /// Whether it refuses while money is held of a quota that may be why: some of it may come back before the window ends.
    pub fn is_held_back(&self) -> bool {
        self.held_back_by().next().is_some()
    }

    /// The quotas for whose held money a request is refused, each with the start of its window: the binding one is not all
    /// that may be in the way. None where waiting does not help.
    pub fn held_back_by(&self) -> impl Iterator<Item = (Uuid, DateTime<Utc>)> {
        let binding = self.denial().and_then(|denial| denial.binding.as_ref()).map(|quota| quota.id);
        let estimate = self.facts.request.estimate;
        let is_in_the_way = move |quota: &&Quota| {
            let ceiling = quota.hard_limit.map_or(quota.limit, |ceiling| ceiling.min(quota.limit));
            binding == Some(quota.id) || quota.spend + quota.held + estimate > ceiling
        };
        let held = self.facts.quotas.iter().filter(|quota| quota.held > Money::ZERO);
        held.filter(move |quota| binding.is_some() && is_in_the_way(quota)).map(|quota| (quota.id, quota.window.start))
    }

    /// Tells a refused caller to come back when held money does, where only that stands in the way: `expiry` is when
    /// the first reservation of a quota expires.
    pub fn held_money_returns(&mut self, expiry: impl Fn(&Quota) -> Option<DateTime<Utc>>) {
        let now = self.facts.request.at;
        let (Outcome::Denied(denial) | Outcome::Unenforced(denial)) = &mut self.outcome else { return };
        if !denial.waits_for_held_money() {
            return;
        }
        let Some(quota) = &denial.binding else { return };
        let first = expiry(quota).into_iter().chain(quota.window.end).min();
        denial.retry_after = first.and_then(|at| seconds_until(now, at));
    }

    /// The denial, enforced or not.
    pub fn denial(&self) -> Option<&Denial> {
        match &self.outcome {
            Outcome::Allowed => None,
            Outcome::Denied(denial) | Outcome::Unenforced(denial) => Some(denial),
        }
    }
}

/// Whole seconds from `now` to `then`, rounded up, at least one: asking again at once never helps.
fn seconds_until(now: DateTime<Utc>, then: DateTime<Utc>) -> Option<u64> {
    let millis = (then - now).num_milliseconds().max(1);
    u64::try_from(millis).ok().map(|millis| millis.div_ceil(1000))
}
