//! Every step, on the reference.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest_state_machine::ReferenceStateMachine;

use super::calendar::DAY;
use super::reference::{Expected, Key, Model, Quota, State};
use super::steps::{self, Actual, Sent, Spent, Step};

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Sent;

    fn init_state() -> BoxedStrategy<Self> {
        let model = |(now, quotas, pools): (i64, Vec<(Key, i64)>, Vec<_>)| {
            let mut model = Self::new(now);
            model.pools.extend(pools);
            for (key, limit) in quotas {
                model.set_quota(key, limit, None);
            }
            model
        };
        steps::beginning().prop_map(model).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Sent> {
        steps::sent().boxed()
    }

    fn preconditions(model: &Self, sent: &Sent) -> bool {
        match &sent.step {
            Step::ReserveAgain { .. } => !model.asked.is_empty(),
            Step::Settle { .. } | Step::Release { .. } | Step::Extend { .. } => !model.reservations.is_empty(),
            Step::CostAgain { .. } => !model.costs.is_empty(),
            Step::SetLimitBySql { .. } | Step::DeleteQuota { .. } => !model.quotas.is_empty(),
            Step::AddQuotaBySql { key, .. } => !model.quotas.contains_key(key),
            _ => true,
        }
    }

    fn apply(mut model: Self, sent: &Sent) -> Self {
        model.expected = model.step(&sent.step);
        let standing: Vec<_> = model.quotas.keys().flat_map(|key| model.crossed(key)).collect();
        model.possible_alerts.extend(standing);
        model
    }
}

impl Model {
    fn step(&mut self, step: &Step) -> Expected {
        match step {
            Step::Check(ask) => return self.check(ask),
            Step::Reserve(ask) => return self.reserve(ask),
            Step::ReserveAgain { which, other } => {
                let mut ask = which.get(&self.asked).clone();
                ask.usd += i64::from(*other);
                return self.reserve(&ask);
            }
            Step::Settle { which, actual } => return self.settle(which.index(self.reservations.len()), *actual),
            Step::Release { which } => return self.release(which.index(self.reservations.len())),
            Step::Extend { which, ttl } => return self.extend(which.index(self.reservations.len()), *ttl),
            Step::Cost { cost, ago } => {
                let at = ago.map(|ago| self.now - ago);
                return self.cost(&Spent { at, ..cost.clone() });
            }
            Step::CostAgain { which, other } => {
                let mut cost = which.get(&self.costs).0.clone();
                cost.usd += i64::from(*other);
                return self.cost(&cost);
            }
            Step::SetQuota { key, limit, hard } => {
                self.set_quota(*key, *limit, *hard);
                let crossed = self.crossed(key);
                self.due_alerts.extend(crossed);
            }
            Step::SetLimitBySql { which, limit } => {
                let key = self.touch(*which);
                self.quotas.entry(key).and_modify(|quota| quota.limit = *limit);
            }
            Step::AddQuotaBySql { key, limit, spend } => {
                self.set_quota(*key, *limit, None);
                self.windows.insert((self.made, key.3.start(self.now)), (*spend, 0));
            }
            Step::DeleteQuota { which, .. } => {
                let key = self.touch(*which);
                self.quotas.remove(&key);
            }
            Step::SetPool { tenant, pool, .. } => {
                self.pools.remove(tenant);
                self.pools.extend(pool.map(|pool| (*tenant, pool)));
            }
            Step::Advance(by) => self.now += by,
            Step::ToNextWindow(period) => self.now = period.end(period.start(self.now)).unwrap_or(self.now),
            Step::Expire | Step::RollOver => {}
        }
        Expected::Nothing
    }

    fn touch(&mut self, which: Index) -> Key {
        *self.touched.insert(**which.get(&self.quotas.keys().collect::<Vec<_>>()))
    }

    /// The quota that the last step was about.
    pub fn touched(&self) -> Key {
        self.touched.expect("a step about a quota")
    }

    fn set_quota(&mut self, key: Key, limit: i64, hard_limit: Option<i64>) {
        if let Some(quota) = self.quotas.get_mut(&key) {
            (quota.limit, quota.hard_limit) = (limit, hard_limit);
            return;
        }
        self.made += 1;
        self.quotas.insert(key, Quota { number: self.made, limit, hard_limit });
    }

    fn settle(&mut self, number: usize, actual: Actual) -> Expected {
        let first = self.reservations[number].clone();
        let held = first.ask.usd;
        let usd = match first.state {
            State::Settled(usd) if actual == Actual::Same => usd,
            _ => actual.of(held),
        };
        let mut keys = self.applying(first.ask.tenant, first.ask.user, first.ask.resource);
        let is_new = |model: &Self, key: &Key| {
            let quota = model.quotas[key].number;
            first.holds.iter().all(|hold| hold.0 != quota)
        };
        let (duplicate, late) = match first.state {
            State::Settled(before) if before != usd => return Expected::Conflict,
            State::Settled(_) => (true, first.late),
            _ => (false, !self.is_live(&first)),
        };
        if !duplicate {
            (self.reservations[number].state, self.reservations[number].late) = (State::Settled(usd), late);
            let newcomers: Vec<_> = keys.iter().filter(|key| is_new(self, key)).map(|key| self.open(key)).collect();
            for (quota, window) in first.holds.iter().copied().chain(newcomers) {
                self.charge(quota, window, usd, 0);
            }
        }
        let holding =
            |(key, quota): (&Key, &Quota)| first.holds.iter().any(|hold| hold.0 == quota.number).then_some(*key);
        keys.extend(self.quotas.iter().filter_map(holding));
        keys.sort_unstable();
        keys.dedup();
        let overrun = (usd - held).max(0);
        Expected::Recorded { usd, overrun, late: Some(late), duplicate, views: self.views(&keys) }
    }

    fn check(&self, ask: &super::steps::Ask) -> Expected {
        let views = self.views(&self.applying(ask.tenant, ask.user, ask.resource));
        self.denial(ask).unwrap_or(Expected::Allowed { views })
    }

    fn release(&mut self, number: usize) -> Expected {
        let reservation = self.reservations[number].clone();
        let duplicate = reservation.state == State::Released;
        if !duplicate && !self.is_live(&reservation) {
            return Expected::Gone;
        }
        self.reservations[number].state = State::Released;
        Expected::Released { usd: reservation.ask.usd, duplicate }
    }

    fn extend(&mut self, number: usize, ttl: i64) -> Expected {
        if !self.is_live(&self.reservations[number]) {
            return Expected::Gone;
        }
        let now = self.now;
        let reservation = &mut self.reservations[number];
        reservation.expires = reservation.expires.max((now + ttl * 1_000).min(reservation.created + DAY));
        Expected::Extended { until: reservation.expires }
    }

    fn cost(&mut self, cost: &Spent) -> Expected {
        self.sent_cost = Some(cost.clone());
        let keys = self.applying(cost.tenant, cost.user, cost.resource);
        let first = self.costs.iter().find(|(first, _)| (first.tenant, first.id) == (cost.tenant, cost.id));
        let duplicate = first.is_some();
        if first.is_some_and(|(first, _)| first != cost) {
            return Expected::Conflict;
        }
        let at = cost.at.unwrap_or(self.now);
        let is_late = keys.iter().any(|key| key.3.start(at) < key.3.start(self.now));
        if !duplicate {
            self.costs.push((cost.clone(), at));
            for key in &keys {
                self.charge(self.quotas[key].number, key.3.start(at), cost.usd, 1);
            }
        }
        let late = (!duplicate).then_some(is_late);
        Expected::Recorded { usd: cost.usd, overrun: 0, late, duplicate, views: self.views(&keys) }
    }
}
