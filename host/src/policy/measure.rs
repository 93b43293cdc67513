//! What a decision takes: time in the engine that serves, instructions and memory in one that counts.

use std::time::{Duration, Instant};

use super::bindings;
use super::compile::Compiler;
use super::engine::{Compiled, Engine, PolicyError};
use super::explore::Question;
use super::failure::{classify, unfit};
use super::limits::Limits;
use super::sandbox::Moment;

/// Decisions before the measured ones.
const WARM_UP: usize = 50;
/// Fewer than these say nothing about the slowest of a hundred.
const LEAST: usize = 500;

/// Nanoseconds of one decision in a new instance, instantiation included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Half are quicker.
    pub median: u64,
    /// 99 in a hundred are quicker.
    pub p99: u64,
    /// How many were measured.
    pub decisions: usize,
}

/// The most that any of the questions took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Instructions, instantiation included: the same at each run.
    pub fuel: u64,
    /// Linear memory in bytes.
    pub memory: u64,
}

/// Times decisions on `questions` in turn, for about `long`.
///
/// # Errors
/// The policy failed on one of them.
pub fn times(policy: &Compiled, questions: &[Question], long: Duration) -> Result<Times, PolicyError> {
    let mut taken = Vec::new();
    let started = Instant::now();
    for (turn, question) in questions.iter().cycle().enumerate() {
        let asked = Instant::now();
        policy.decide(&question.facts, &question.settings)?;
        if turn >= WARM_UP {
            taken.push(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        if taken.len() >= LEAST && started.elapsed() > long {
            break;
        }
    }
    taken.sort_unstable();
    let at = |percent: usize| taken.get(taken.len() * percent / 100).copied().unwrap_or_default();
    Ok(Times { median: at(50), p99: at(99), decisions: taken.len() })
}

/// An engine that counts instructions.
pub struct Counter(Engine);

impl Counter {
    /// A second engine, beside the one that serves.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn new() -> Result<Self, PolicyError> {
        Ok(Self(Engine::counting()?))
    }

    /// Counts what each of `questions` takes, each in a new instance.
    ///
    /// # Errors
    /// The component does not load, or fails on one of them.
    pub fn costs(
        &self,
        workshop: &Compiler,
        bytes: &[u8],
        limits: Limits,
        questions: &[Question],
    ) -> Result<Costs, PolicyError> {
        let policy = self.0.compile_by(&workshop.without_child(), bytes, limits)?;
        let mut most = Costs::default();
        for question in questions {
            let costs = count(&policy, question)?;
            most = Costs { fuel: most.fuel.max(costs.fuel), memory: most.memory.max(costs.memory) };
        }
        Ok(most)
    }
}

fn count(compiled: &Compiled, question: &Question) -> Result<Costs, PolicyError> {
    let Limits { memory_mib, timeout, .. } = compiled.limits;
    let Question { facts, settings } = question;
    let mut store = compiled.store(Moment { at: facts.request.at, id: facts.request.id });
    let lost = |error: wasmtime::Error| PolicyError::Load(format!("cannot count: {error:#}"));
    store.set_fuel(u64::MAX).map_err(lost)?;
    // Counting makes it slower: a policy that is in time where it serves must be so here.
    let deadline = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).saturating_mul(10);
    store.set_epoch_deadline(deadline);
    let policy = compiled.pre.instantiate(&mut store).map_err(|error| unfit(&error, compiled.limits))?;
    let settings = bindings::pairs(settings);
    let answer =
        bindings::with_facts(facts, &settings, |facts| policy.tollgate_policy_decider().call_decide(&mut store, facts));
    let answer = answer.map_err(|error| classify(&error, compiled.limits))?;
    bindings::verdict(answer, facts).map_err(PolicyError::BadAnswer)?;
    let fuel = u64::MAX - store.get_fuel().map_err(lost)?;
    let budget = memory_mib as usize * (1 << 20);
    let memory = budget.saturating_sub(store.data().memory_left) as u64;
    Ok(Costs { fuel, memory })
}
