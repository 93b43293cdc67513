//! The questions: those of the fixtures, then boundaries, then random ones from a seed.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Plan, Question, with_request};
use crate::decision::{Facts, Request};
use crate::money::Money;
use crate::period::Period;
use crate::quota::{PoolId, Quota, QuotaKey, ResourceType, Scope, TenantId, Tier, UserId};

const DOLLAR: i64 = 1_000_000_000;
/// Limits that matter: the smallest, some dollars, the largest.
const LIMITS: [i64; 4] = [1, 50 * DOLLAR, 3 * DOLLAR + 1, Money::MAX.nanos()];
/// Before and after the turn of an hour, a day, a week, a month and a leap day.
const INSTANTS: [i64; 5] =
    [1_767_528_000_000, 1_767_571_199_999, 1_767_571_200_000, 1_769_903_999_999, 1_835_395_200_000];
/// Pairs that the shipped policies know, beside those of the fixtures.
const ATTRIBUTES: [(&str, &str); 3] = [("priority", "high"), ("priority", "low"), ("model", "large")];
const ADMITTED: [u64; 5] = [0, 1, 99, 100, 1_000_000_000];

/// An endless source of questions; the same plan gives the same ones.
pub(super) struct Questions<'a> {
    plan: &'a Plan,
    attributes: Vec<(String, String)>,
    /// All that come before the random ones, last first.
    first: Vec<Question>,
    random: u64,
}

impl<'a> Questions<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let known = plan.known.iter().flat_map(|question| question.facts.request.attributes.iter().cloned());
        let mut attributes: Vec<_> = ATTRIBUTES.map(own).into_iter().chain(known).collect();
        attributes.sort();
        attributes.dedup();
        let mut first: Vec<_> = plan.known.iter().cloned().chain(boundaries(plan)).collect();
        first.reverse();
        Self { plan, attributes, first, random: plan.seed }
    }

    pub(super) fn next(&mut self) -> Question {
        if let Some(question) = self.first.pop() {
            return question;
        }
        let mut question = if !self.plan.known.is_empty() && self.below(2) == 0 {
            let known = self.below(self.plan.known.len());
            self.plan.known[known].clone()
        } else {
            self.fresh()
        };
        for _ in 0..=self.below(3) {
            self.vary(&mut question);
        }
        let estimate = self.amount_near(&question);
        with_request(&question, |request| request.estimate = estimate)
    }

    /// Splitmix64: any seed will do, and no dependency.
    fn bits(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// 0 to `count` - 1.
    pub(super) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.bits() % count.max(1) as u64).unwrap_or_default()
    }

    /// An amount at which a policy may change its mind: what remains of a quota, its limit, a little beside them, or any.
    pub(super) fn amount_near(&mut self, question: &Question) -> Money {
        let quotas = &question.facts.quotas;
        let estimate = question.facts.request.estimate.nanos();
        let near = match self.below(8) {
            0..=3 if !quotas.is_empty() => {
                let quota = &quotas[self.below(quotas.len())];
                let ceiling = quota.hard_limit.filter(|_| self.below(3) == 0).unwrap_or(quota.limit);
                let (ceiling, spend, held) = (ceiling.nanos(), quota.spend.nanos(), quota.held.nanos());
                [ceiling - spend - held, ceiling, ceiling - estimate - held, ceiling / 2, spend][self.below(5)]
            }
            4 => estimate,
            5 => LIMITS[self.below(LIMITS.len())],
            // As many small amounts as large ones.
            _ => i64::try_from((self.bits() >> 1) >> self.below(63)).unwrap_or_default(),
        };
        let beside = [0, 1, -1, DOLLAR, -DOLLAR][self.below(5)];
        amount(near.saturating_add(beside))
    }

    fn fresh(&mut self) -> Question {
        let mut question = plain(self.plan, Vec::new());
        let at = instant(INSTANTS[self.below(INSTANTS.len())]);
        let resource = ["llm", "e2b", "gpu"][self.below(3)];
        let has_user = self.below(2) == 0;
        let has_pool = self.below(2) == 0;
        question = with_request(&question, |request| {
            request.at = at;
            request.resource_type = ResourceType::parse(resource).unwrap_or_else(|_| request.resource_type.clone());
            request.user = UserId::parse("u-42").ok().filter(|_| has_user);
        });
        question.facts.pool = PoolId::parse("eu-team").ok().filter(|_| has_pool);
        question.facts.tier = Tier::parse("pro").ok().filter(|_| self.below(2) == 0);
        for (scope, id, applies) in [
            (Scope::Tenant, "acme-corp", true),
            (Scope::User, "acme-corp/u-42", has_user),
            (Scope::Pool, "eu-team", has_pool),
            (Scope::Global, "*", true),
        ] {
            for period in Period::ALL {
                if applies && self.below(6) == 0 {
                    let limit = LIMITS[self.below(LIMITS.len())];
                    let request = question.facts.request.clone();
                    question.facts.quotas_mut().push(quota(&request, (scope, id, period), limit));
                }
            }
        }
        question
    }

    /// Changes one thing.
    fn vary(&mut self, question: &mut Question) {
        let attribute = self.below(self.attributes.len());
        let attribute = self.attributes[attribute].clone();
        let count = question.facts.quotas.len();
        if count == 0 || self.below(4) == 0 {
            *question = with_request(question, |request| {
                match request.attributes.iter_mut().find(|(name, _)| *name == attribute.0) {
                    Some(pair) if *pair == attribute => request.attributes.retain(|pair| *pair != attribute),
                    Some(pair) => *pair = attribute,
                    None => request.attributes.push(attribute),
                }
            });
            return;
        }
        let near = self.amount_near(question);
        let index = self.below(count);
        let (kind, is_there, admitted) = (self.below(6), self.below(2) == 0, ADMITTED[self.below(ADMITTED.len())]);
        let quota = &mut question.facts.quotas_mut()[index];
        match kind {
            0 | 1 => quota.spend = near,
            2 => quota.held = near,
            3 => quota.previous_spend = Some(near).filter(|_| is_there),
            4 => quota.hard_limit = Some(near).filter(|amount| is_there && *amount > Money::ZERO),
            _ => quota.admitted = admitted,
        }
    }
}

/// One quota or none, everything on its edge.
fn boundaries(plan: &Plan) -> Vec<Question> {
    let mut questions = Vec::new();
    let priorities = [None, Some(("priority".to_owned(), "high".to_owned()))];
    let mut ask = |standing: Option<(i64, i64, i64)>, estimate: i64| {
        for priority in &priorities {
            let mut question = with_request(&plain(plan, priority.iter().cloned().collect()), |request| {
                request.estimate = amount(estimate);
            });
            if let Some((limit, spend, held)) = standing {
                let request = question.facts.request.clone();
                let mut quota = quota(&request, (Scope::Tenant, "acme-corp", Period::Day), limit);
                (quota.spend, quota.held) = (amount(spend), amount(held));
                question.facts.quotas_mut().push(quota);
            }
            questions.push(question);
        }
    };
    for estimate in [0, 1, DOLLAR, Money::MAX.nanos()] {
        ask(None, estimate);
    }
    for limit in LIMITS {
        for spend in [0, limit - 1, limit, limit + 1, Money::MAX.nanos()] {
            for held in [0, 1, limit] {
                let rest = limit.saturating_sub(spend).saturating_sub(held);
                for estimate in [0, 1, rest - 1, rest, rest + 1, limit, Money::MAX.nanos()] {
                    ask(Some((limit, spend, held)), estimate);
                }
            }
        }
    }
    questions
}

fn plain(plan: &Plan, attributes: Vec<(String, String)>) -> Question {
    // Both are names; a plan's own tenant would be no better one.
    let (Ok(tenant), Ok(resource_type)) = (TenantId::parse("acme-corp"), ResourceType::parse(ResourceType::LLM)) else {
        unreachable!("both are written here");
    };
    let request = Request {
        id: Uuid::nil(),
        at: instant(INSTANTS[0]),
        tenant,
        user: None,
        resource_type,
        estimate: Money::ZERO,
        request_id: None,
        attributes,
    };
    let facts = Facts { request: Arc::new(request), tier: None, pool: None, quotas: Arc::default() };
    Question { facts, settings: plan.settings.clone() }
}

fn quota(request: &Request, (scope, id, period): (Scope, &str, Period), limit: i64) -> Quota {
    Quota {
        id: Uuid::nil(),
        key: QuotaKey { scope, scope_id: id.into(), resource_type: request.resource_type.clone(), period },
        window: period.window(request.at),
        limit: Money::from_nanos(limit),
        hard_limit: None,
        spend: Money::ZERO,
        held: Money::ZERO,
        previous_spend: None,
        admitted: 0,
    }
}

fn amount(nanos: i64) -> Money {
    Money::from_nanos(nanos.clamp(0, Money::MAX.nanos()))
}

fn instant(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}
