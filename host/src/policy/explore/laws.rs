//! What no policy should do: fail, answer the same question in two ways, or allow more where it denies less.

use super::questions::Questions;
use super::{Compiled, Money, Question, with_request};
use crate::decision::{Decision, Outcome, PolicyRef, Verdict};
use crate::policy::failure::PolicyError;

/// A busy machine makes a guest late: it is late when it is so each time.
const TRIES: usize = 3;
/// Questions beside each one that ask for more or less.
const BESIDE: usize = 6;

/// What a policy broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// It gave no verdict; the kind of its failure.
    Failure(&'static str),
    /// Asked twice, it answered differently.
    Differs,
    /// It allows a larger estimate where it denies a smaller one.
    Estimate,
    /// It allows where more is spent, and denies where less is.
    Spend,
}

/// How a law was broken.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) law: Law,
    /// A sentence for the author.
    pub(super) told: String,
}

/// What is higher in the second of two questions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raise {
    /// There is no second one.
    Nothing,
    /// The estimate, to this.
    Estimate(Money),
    /// The spend of the quota with this index, to this.
    Spend(usize, Money),
}

/// One question, or two of which the second asks for more.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    pub(super) question: Question,
    pub(super) raise: Raise,
}

impl Suspect {
    /// The second question.
    pub(super) fn raised(&self) -> Question {
        match self.raise {
            Raise::Nothing => self.question.clone(),
            Raise::Estimate(estimate) => with_request(&self.question, |request| request.estimate = estimate),
            Raise::Spend(index, spend) => with_spend(&self.question, index, spend),
        }
    }

    /// Whether the second one does ask for more.
    pub(super) fn is_a_raise(&self) -> bool {
        match self.raise {
            Raise::Nothing => true,
            Raise::Estimate(estimate) => estimate > self.question.facts.request.estimate,
            Raise::Spend(index, spend) => {
                self.question.facts.quotas.get(index).is_some_and(|quota| spend > quota.spend)
            }
        }
    }
}

fn with_spend(question: &Question, index: usize, spend: Money) -> Question {
    let mut changed = question.clone();
    if let Some(quota) = changed.facts.quotas_mut().get_mut(index) {
        quota.spend = spend;
    }
    changed
}

/// Asks in an instance that has seen nothing else.
pub(super) fn ask(policy: &Compiled, question: &Question) -> Result<Verdict, PolicyError> {
    let mut verdict = policy.decide(&question.facts, &question.settings);
    for _ in 1..TRIES {
        if !matches!(verdict, Err(PolicyError::Timeout(_))) {
            break;
        }
        verdict = policy.decide(&question.facts, &question.settings);
    }
    verdict
}

/// How the policy breaks a law on this, if it does.
pub(super) fn broken(policy: &Compiled, suspect: &Suspect) -> Option<Broken> {
    let first = match ask(policy, &suspect.question) {
        Ok(verdict) => verdict,
        Err(error) => {
            let law = Law::Failure(error.kind());
            return Some(Broken { law, told: format!("it gives no verdict: {error}") });
        }
    };
    if matches!(suspect.raise, Raise::Nothing) {
        return differs(policy, &suspect.question, &first);
    }
    if !suspect.is_a_raise() || is_allowed(&suspect.question, &first) {
        return None;
    }
    let raised = suspect.raised();
    let second = ask(policy, &raised).ok()?;
    if !is_allowed(&raised, &second) {
        return None;
    }
    let request = &suspect.question.facts.request;
    Some(match suspect.raise {
        Raise::Spend(index, spend) => {
            let quota = &suspect.question.facts.quotas[index];
            let told = format!(
                "it denies where {} of the {}'s {} is spent, and allows where {spend} is",
                quota.spend, quota.key.scope, quota.key.period
            );
            Broken { law: Law::Spend, told }
        }
        Raise::Estimate(estimate) => {
            let told = format!("it denies {}, and allows {estimate}", request.estimate);
            Broken { law: Law::Estimate, told }
        }
        Raise::Nothing => return None,
    })
}

/// Within a batch one instance answers a tenant's requests: what it remembers must change nothing.
fn differs(policy: &Compiled, question: &Question, first: &Verdict) -> Option<Broken> {
    let mut session = policy.session();
    (0..2).find_map(|_| {
        let again = match session.decide(&question.facts, &question.settings) {
            Ok(verdict) if verdict == *first => return None,
            Ok(verdict) => shown(&verdict),
            // Late on a busy machine: it is told by `ask`, if it is so each time.
            Err(PolicyError::Timeout(_)) => return None,
            Err(error) => error.to_string(),
        };
        let told = format!("asked again, it answers {again} instead of {}", shown(first));
        Some(Broken { law: Law::Differs, told })
    })
}

/// Whether a caller would be let through: with the host's last word.
fn is_allowed(question: &Question, verdict: &Verdict) -> bool {
    let policy = PolicyRef { name: "explored".into(), digest: "".into() };
    matches!(Decision::new(question.facts.clone(), policy, verdict.clone(), true).outcome, Outcome::Allowed)
}

fn shown(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allow { at_most: None, .. } => "allow".to_owned(),
        Verdict::Allow { at_most: Some(amount), .. } => format!("allow at most {amount}"),
        Verdict::Deny { code, reason, .. } => format!("deny ({code}: {reason})"),
    }
}

/// Pairs of this question and one that asks for more or less.
pub(super) fn raises(question: &Question, questions: &mut Questions<'_>) -> Vec<Suspect> {
    let estimate = question.facts.request.estimate;
    let of_estimate = |other: Money| {
        let (low, high) = (estimate.min(other), estimate.max(other));
        let question = with_request(question, |request| request.estimate = low);
        Suspect { question, raise: Raise::Estimate(high) }
    };
    let of_spend = |index: usize, other: Money| {
        let spend = question.facts.quotas[index].spend;
        let (low, high) = (spend.min(other), spend.max(other));
        Suspect { question: with_spend(question, index, low), raise: Raise::Spend(index, high) }
    };
    (0..BESIDE)
        .map(|turn| match question.facts.quotas.len() {
            count if count > 0 && turn % 2 == 0 => {
                let index = questions.below(count);
                of_spend(index, questions.amount_near(question))
            }
            _ => of_estimate(questions.amount_near(question)),
        })
        .filter(Suspect::is_a_raise)
        .collect()
}
