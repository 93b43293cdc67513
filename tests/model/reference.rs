//! What the books must be, told in the plainest way: no batches, no rows that roll over, no job that expires anything.
//! A window is a function of time, and so is whether a reservation still holds its money.

use std::collections::{BTreeMap, BTreeSet};

use super::calendar::Period;
use super::steps::{Ask, Spent};

/// Scope, scope id, resource type, period.
pub type Key = (&'static str, &'static str, &'static str, Period);

#[derive(Clone, Debug)]
pub struct Quota {
    /// A quota that is deleted and made again is another one.
    pub number: u32,
    pub limit: i64,
    pub hard_limit: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Held,
    Settled(i64),
    Released,
}

#[derive(Clone, Debug)]
pub struct Reservation {
    pub ask: Ask,
    pub state: State,
    pub late: bool,
    pub created: i64,
    pub expires: i64,
    /// Which quotas hold its money, each in which window.
    pub holds: Vec<(u32, i64)>,
}

/// How one quota stands in its open window. Money of a reservation whose time is over may or may not be back yet.
#[derive(Clone, Debug)]
pub struct View {
    pub key: Key,
    pub limit: i64,
    pub spend: i64,
    pub held: i64,
    pub due: i64,
}

/// What the last step must have been answered.
#[derive(Clone, Debug)]
pub enum Expected {
    Nothing,
    Allowed { views: Vec<View> },
    Reserved { number: usize, views: Vec<View> },
    Repeated { number: usize },
    Denied { code: &'static str, retry_after: BTreeMap<Key, Option<i64>>, binding: Vec<View> },
    Conflict,
    Gone,
    Recorded { usd: i64, overrun: i64, late: Option<bool>, duplicate: bool, views: Vec<View> },
    Released { usd: i64, duplicate: bool },
    Extended { until: i64 },
}

/// Quota, window, threshold, limit.
pub type Alert = (u32, i64, i64, i64);

#[derive(Clone, Debug)]
pub struct Model {
    pub now: i64,
    pub pools: BTreeMap<&'static str, &'static str>,
    pub quotas: BTreeMap<Key, Quota>,
    pub made: u32,
    /// Spend and admissions of every window of every quota.
    pub windows: BTreeMap<(u32, i64), (i64, i64)>,
    pub reservations: Vec<Reservation>,
    /// Requests with an id, to be sent again.
    pub asked: Vec<Ask>,
    pub costs: Vec<(Spent, i64)>,
    /// The last cost that was sent, and the quota that the last step was about.
    pub sent_cost: Option<Spent>,
    pub touched: Option<Key>,
    /// Alerts that must be there, and those that may.
    pub due_alerts: BTreeSet<Alert>,
    pub possible_alerts: BTreeSet<Alert>,
    pub expected: Expected,
}

impl Model {
    pub fn new(now: i64) -> Self {
        Self {
            now,
            pools: BTreeMap::new(),
            quotas: BTreeMap::new(),
            made: 0,
            windows: BTreeMap::new(),
            reservations: Vec::new(),
            asked: Vec::new(),
            costs: Vec::new(),
            sent_cost: None,
            touched: None,
            due_alerts: BTreeSet::new(),
            possible_alerts: BTreeSet::new(),
            expected: Expected::Nothing,
        }
    }

    pub fn is_live(&self, reservation: &Reservation) -> bool {
        reservation.state == State::Held && reservation.expires > self.now
    }

    /// Set aside in a window, by reservations that `count`.
    fn held(&self, window: (u32, i64), count: impl Fn(&Reservation) -> bool) -> i64 {
        let holds = |reservation: &&Reservation| count(reservation) && reservation.holds.contains(&window);
        self.reservations.iter().filter(holds).map(|reservation| reservation.ask.usd).sum()
    }

    pub fn held_now(&self, window: (u32, i64)) -> i64 {
        self.held(window, |reservation| self.is_live(reservation))
    }

    pub fn applying(&self, tenant: &str, user: Option<&str>, resource: &str) -> Vec<Key> {
        let applies = |key: &Key| {
            key.2 == resource
                && match key.0 {
                    "tenant" => key.1 == tenant,
                    "user" => user.is_some_and(|user| key.1 == format!("{tenant}/{user}")),
                    "pool" => self.pools.get(tenant) == Some(&key.1),
                    _ => true,
                }
        };
        self.quotas.keys().copied().filter(applies).collect()
    }

    pub fn open(&self, key: &Key) -> (u32, i64) {
        (self.quotas[key].number, key.3.start(self.now))
    }

    fn view(&self, key: &Key) -> View {
        let window = self.open(key);
        let due = self.held(window, |reservation| reservation.state == State::Held && reservation.expires <= self.now);
        let spend = self.windows.get(&window).map_or(0, |window| window.0);
        View { key: *key, limit: self.quotas[key].limit, spend, held: self.held_now(window), due }
    }

    pub fn views(&self, keys: &[Key]) -> Vec<View> {
        keys.iter().map(|key| self.view(key)).collect()
    }

    pub fn charge(&mut self, quota: u32, window: i64, usd: i64, operations: i64) {
        let total = self.windows.entry((quota, window)).or_default();
        (total.0, total.1) = (total.0 + usd, total.1 + operations);
        if usd > 0
            && let Some((key, _)) =
                self.quotas.iter().find(|(key, q)| q.number == quota && key.3.start(self.now) == window)
        {
            let crossed = self.crossed(&key.clone());
            self.due_alerts.extend(crossed);
        }
    }

    pub fn crossed(&self, key: &Key) -> Vec<Alert> {
        let (view, (number, window)) = (self.view(key), self.open(key));
        let is_crossed = |threshold: &i64| view.spend * 100 >= view.limit * threshold;
        [80, 90, 100].into_iter().filter(is_crossed).map(|each| (number, window, each, view.limit)).collect()
    }

    /// Whether `ask` fits into every quota that applies; the denial where it does not.
    pub fn denial(&self, ask: &Ask) -> Option<Expected> {
        let views = self.views(&self.applying(ask.tenant, ask.user, ask.resource));
        let over = |limit: &dyn Fn(&View) -> Option<i64>| -> Vec<View> {
            let over = |view: &&View| limit(view).is_some_and(|limit| view.spend + view.held + ask.usd > limit);
            let exceeded: Vec<View> = views.iter().filter(over).cloned().collect();
            let last = exceeded.iter().map(|view| self.resets(&view.key)).max();
            exceeded.into_iter().filter(|view| Some(self.resets(&view.key)) == last).collect()
        };
        let exceeded = over(&|view| Some(view.limit));
        let hard = over(&|view| self.quotas[&view.key].hard_limit);
        let only_held = |limit: &dyn Fn(&View) -> Option<i64>| {
            let over = |view: &&View| limit(view).is_some_and(|limit| view.spend + view.held + ask.usd > limit);
            views.iter().filter(over).all(|view| limit(view).is_some_and(|limit| view.spend + ask.usd <= limit))
        };
        let limits_held = only_held(&|view| Some(view.limit));
        let all_held = limits_held && only_held(&|view| self.quotas[&view.key].hard_limit);
        // Each is empty, or of one time of reset: what resets last binds.
        let resets = |views: &[View]| views.first().map(|view| self.resets(&view.key));
        let (code, binding) = match (exceeded.is_empty(), resets(&exceeded) < resets(&hard)) {
            (true, false) => return None,
            (_, true) if all_held => ("capacity_held", hard),
            (_, true) => ("hard_limit_exceeded", hard),
            (false, false) if all_held => ("capacity_held", exceeded),
            (false, false) => ("limit_exceeded", exceeded),
        };
        let after = |key: &Key| {
            let holding = |each: &&Reservation| self.is_live(each) && each.holds.contains(&self.open(key));
            let expiries = self.reservations.iter().filter(holding).map(|each| each.expires);
            let end = key.3.end(key.3.start(self.now));
            let then = if code == "capacity_held" { expiries.chain(end).min() } else { end };
            then.map(|then| (then - self.now + 999) / 1_000)
        };
        let retry_after = binding.iter().map(|view| (view.key, after(&view.key))).collect();
        Some(Expected::Denied { code, retry_after, binding })
    }

    fn resets(&self, key: &Key) -> i64 {
        key.3.end(key.3.start(self.now)).unwrap_or(i64::MAX)
    }

    pub fn reserve(&mut self, ask: &Ask) -> Expected {
        if ask.id.is_some() {
            self.asked.push(ask.clone());
            let first = |each: &Reservation| each.ask.id == ask.id && each.ask.tenant == ask.tenant;
            if let Some(number) = self.reservations.iter().position(first) {
                let is_same = self.reservations[number].ask == *ask;
                return if is_same { Expected::Repeated { number } } else { Expected::Conflict };
            }
        }
        if let Some(denied) = self.denial(ask) {
            return denied;
        }
        let keys = self.applying(ask.tenant, ask.user, ask.resource);
        let (views, holds) = (self.views(&keys), keys.iter().map(|key| self.open(key)).collect::<Vec<_>>());
        for &(quota, window) in &holds {
            self.charge(quota, window, 0, 1);
        }
        let expires = self.now + ask.ttl * 1_000;
        let state = State::Held;
        self.reservations.push(Reservation { ask: ask.clone(), state, late: false, created: self.now, expires, holds });
        Expected::Reserved { number: self.reservations.len() - 1, views }
    }
}
