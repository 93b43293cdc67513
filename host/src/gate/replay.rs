//! The end of an outage: what was kept goes into the books, in its order and each once, and then the store counts as up.
//!
//! Everything in the spool may have been carried out already: before its reply was lost, or in a replay that did not come
//! to its end. The ids of reservations and costs tell.

use std::collections::HashSet;
use std::sync::Arc;

use super::entry::{Entry, Step};
use super::outage::Current;
use super::promise::PATIENCE;
use super::{GateError, World};
use crate::money::Money;
use crate::spool::Mark;
use crate::store::ledger::Posted;
use crate::store::reservations::End;
use crate::store::{Link, StoreError};

/// How often a step is tried where the store is slow, such as while another host's replay has the rows. A replay that
/// gives up begins anew: on a busy machine, two of them could keep each other from their ends.
const TRIES: u32 = 10;

/// What a replay came to.
#[derive(Debug, Default)]
struct Report {
    replayed: usize,
    rejected: usize,
    /// Records that are kept for later.
    waiting: Vec<Vec<u8>>,
    amount: Money,
    over: HashSet<String>,
}

impl Report {
    fn posted<'a>(&mut self, amount: Money, quotas: impl IntoIterator<Item = &'a Posted>) {
        self.amount = self.amount + amount;
        for Posted { row, .. } in quotas {
            if row.spend > row.limit {
                let key = &row.key;
                self.over.insert(format!("{} {} {} {}", key.scope, key.scope_id, key.resource_type, key.period));
            }
        }
    }
}

impl World {
    /// The store answers again: brings the books up to date, and then it counts as up.
    pub(super) async fn recover(&self) -> Result<(), GateError> {
        let mut report = Report::default();
        let replayed = self.replay(&mut report).await;
        match &replayed {
            Ok(()) => self.tell(&report),
            // What waits is taken after all.
            Err(_) => self.outages.spool.accept(),
        }
        replayed
    }

    async fn replay(&self, report: &mut Report) -> Result<(), GateError> {
        let store = |error| GateError::Store(Arc::new(error));
        let disk = |error: std::io::Error| GateError::Spool(error.to_string());
        let mut link = self.store.link_in_outage();
        let (mut done, were_there) = (Mark::default(), self.outages.spool.records());
        loop {
            // Behind what was there is what came meanwhile: new records must not overtake that for ever.
            let holds = done.records() as u64 >= were_there;
            if holds {
                self.outages.spool.hold().await.map_err(disk)?;
            }
            let records;
            (records, done) = self.outages.spool.read(done).await.map_err(disk)?;
            if holds && records.is_empty() {
                let (health, waiting) = (self.store.health().clone(), report.waiting.clone());
                if self.outages.spool.finish(done, waiting, move || health.is_back()).await.map_err(disk)? {
                    break;
                }
            }
            for step in self.steps(records, report).await? {
                self.carry_out(&mut link, step, report).await.map_err(store)?;
            }
        }
        Ok(())
    }

    /// Tries what waits for reservations that another host has promised and not yet brought into the books.
    pub(super) async fn try_waiting(&self) -> Result<(), GateError> {
        let disk = |error: std::io::Error| GateError::Spool(error.to_string());
        let (mut mark, mut report, mut link) = (Mark::default(), Report::default(), self.store.link());
        loop {
            let records;
            (records, mark) = self.outages.spool.read(mark).await.map_err(disk)?;
            if records.is_empty() {
                break;
            }
            for step in self.steps(records, &mut report).await? {
                let done = self.carry_out(&mut link, step, &mut report).await;
                done.map_err(|error| GateError::Store(Arc::new(error)))?;
            }
        }
        if report.waiting.len() < mark.records() {
            self.outages.spool.replace(mark, report.waiting).await.map_err(disk)?;
        }
        Ok(())
    }

    async fn steps(&self, records: Vec<Vec<u8>>, report: &mut Report) -> Result<Vec<Step>, GateError> {
        let mut steps: Vec<Step> = Vec::new();
        for record in records {
            let entry = serde_json::from_slice(&record).map_err(|error| error.to_string());
            match entry.and_then(Step::of) {
                Ok(step) => steps.push(step),
                Err(fault) => self.reject(record, &fault, report).await?,
            }
        }
        // What a reservation needs is that it is there before anything else of it; the rest commutes.
        steps.sort_by_key(Step::rank);
        let mut joined: Vec<Step> = Vec::new();
        for step in steps {
            let alone = match joined.last_mut() {
                Some(last) => last.join(step).err(),
                None => Some(step),
            };
            joined.extend(alone);
        }
        Ok(joined)
    }

    /// Carries out a step, again where the store is only slow, and record by record where one of them breaks a constraint.
    async fn carry_out(&self, link: &mut Link, step: Step, report: &mut Report) -> Result<(), StoreError> {
        let mut answer = self.try_step(link, &step, report).await;
        for _ in 1..TRIES {
            if !matches!(answer, Err(StoreError::Slow(_))) || !self.is_down() {
                break;
            }
            // Whoever brings more does not wait for that: another round is for him.
            self.outages.spool.accept();
            answer = self.try_step(link, &step, report).await;
        }
        match answer {
            Err(StoreError::Refused(_)) if step.len() > 1 => {
                for one in step.one_by_one() {
                    Box::pin(self.carry_out(link, one, report)).await?;
                }
            }
            Err(StoreError::Refused(fault)) => self.reject_step(step, &fault, report).await,
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        Ok(())
    }

    async fn try_step(&self, link: &mut Link, step: &Step, report: &mut Report) -> Result<(), StoreError> {
        let now = self.clock.now();
        match step {
            Step::Reserve(promised) => {
                link.keep(promised, now).await?;
            }
            Step::End(endings, at) => {
                let ended = link.end(endings, *at).await?;
                for ending in endings {
                    let answer = ended.iter().find(|ended| ended.before.id == ending.id);
                    let actual = if let End::Settle(actual) = ending.end { actual } else { Money::ZERO };
                    match answer {
                        Some(answer) if answer.now => report.posted(actual, &answer.quotas),
                        Some(answer) if answer.before.actual.is_none_or(|before| before == actual) => {}
                        Some(_) if ending.end == End::Release => {}
                        // Another host may have promised it, and will bring it into the books when it can.
                        None if now - *at < PATIENCE => {
                            report.waiting.extend(serde_json::to_vec(&Entry::end(ending, *at)));
                        }
                        found => {
                            let fault = if found.is_some() { "settled with another amount" } else { "unknown" };
                            let entry = Entry::end(ending, *at);
                            self.reject_entry(&entry, &format!("reservation {}: {fault}", ending.id), report).await;
                        }
                    }
                }
            }
            Step::Extend { id, tenant, until, at } => {
                link.extend(tenant, *id, *until, *at).await?;
            }
            Step::Cost(costs) => {
                for (cost, recorded) in costs.iter().zip(link.record_costs(costs, now).await?) {
                    match recorded {
                        Ok(recorded) if recorded.duplicate => {}
                        Ok(recorded) => report.posted(cost.actual, &recorded.quotas),
                        Err(error) => self.reject_entry(&Entry::cost(cost), &error.to_string(), report).await,
                    }
                }
            }
        }
        report.replayed += step.len();
        Ok(())
    }

    async fn reject_step(&self, step: Step, fault: &str, report: &mut Report) {
        let entries: Vec<Entry> = match step {
            Step::Reserve(all) => all.iter().map(Entry::reserve).collect(),
            Step::End(all, at) => all.iter().map(|ending| Entry::end(ending, at)).collect(),
            Step::Extend { id, tenant, until, at } => {
                vec![Entry::Extend { id, tenant: tenant.to_string(), until, at }]
            }
            Step::Cost(all) => all.iter().map(Entry::cost).collect(),
        };
        for entry in entries {
            self.reject_entry(&entry, fault, report).await;
        }
    }

    async fn reject_entry(&self, entry: &Entry, fault: &str, report: &mut Report) {
        let record = serde_json::to_vec(entry).unwrap_or_default();
        if let Err(error) = self.reject(record, fault, report).await {
            tracing::error!(reason = %error, "A rejected record is in this log only");
        }
    }

    /// What cannot be in the books is kept beside the spool, and told.
    async fn reject(&self, record: Vec<u8>, fault: &str, report: &mut Report) -> Result<(), GateError> {
        report.rejected += 1;
        tracing::error!(reason = fault, record = %String::from_utf8_lossy(&record), "A record of the outage is not in the books");
        self.outages.spool.set_aside(record).await.map_err(|error| GateError::Spool(error.to_string()))
    }

    fn tell(&self, report: &Report) {
        let current = {
            let mut current = self.outages.current();
            // The next outage has begun already: what is kept in it is its own.
            if self.is_down() { Current::default() } else { std::mem::take(&mut *current) }
        };
        let seconds = current.since.map_or(0, |since| (self.clock.now() - since).num_seconds());
        let mut over: Vec<&str> = report.over.iter().map(String::as_str).collect();
        over.sort_unstable();
        tracing::warn!(
            outageSeconds = seconds,
            allowed = current.allowed,
            allowedUsd = current.amount.to_decimal(),
            refused = current.refused,
            replayed = report.replayed,
            replayedUsd = report.amount.to_decimal(),
            rejected = report.rejected,
            waiting = report.waiting.len(),
            overLimit = %over.join(", "),
            "Store back"
        );
    }
}
