//! The end of an outage: what was kept goes into the books, in its order and each once, and then the store counts as up.
//!
//! Everything in the spool may have been carried out already: before its reply was lost, or in a replay that did not come
//! to its end. The ids of reservations and costs tell.

mod carrying;
mod prolonged;

use std::collections::HashSet;
use std::sync::Arc;

use super::outage::Current;
use super::step::Step;
use super::{GateError, World};
use crate::contained::contained;
use crate::money::Money;
use crate::quota::TenantId;
use crate::spool::Mark;
use crate::store::StoreError;
use crate::store::ledger::Posted;

/// Rounds for what comes meanwhile; then new records wait until the last one is over.
const ROUNDS: u32 = 8;
/// So few records are a last round: who brings more does not wait for long.
const FEW: u64 = 256;

/// What a replay came to.
#[derive(Debug, Default)]
struct Report {
    replayed: usize,
    /// Records that cannot be in the books, and why.
    rejected: Vec<(Vec<u8>, String)>,
    rejections: usize,
    /// Records that are kept for later.
    waiting: Vec<Vec<u8>>,
    /// Tenants for one of whose rows the store was slow.
    slow: HashSet<TenantId>,
    amount: Money,
    over: HashSet<String>,
}

impl Report {
    fn reject(&mut self, record: Vec<u8>, fault: impl Into<String>) {
        self.rejected.push((record, fault.into()));
    }

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
        let panicked =
            || Err(GateError::Store(Arc::new(StoreError::Refused("a row cannot be read: it panicked".to_owned()))));
        let replayed = contained(Box::pin(self.replay(&mut report))).await.unwrap_or_else(panicked);
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
        let (mut done, mut end, mut round) = (Mark::default(), self.outages.spool.records(), 1);
        loop {
            let (there, past) = (self.outages.spool.records(), done.records() as u64);
            if past >= end {
                // What came meanwhile is the next round.
                (end, round) = (there, round + 1);
            }
            // New records must not overtake the last one for ever.
            let is_last = round > ROUNDS || round > 1 && there.saturating_sub(past) <= FEW;
            if is_last {
                self.outages.spool.hold().await.map_err(disk)?;
            }
            let records;
            (records, done) = self.outages.spool.read(done).await.map_err(disk)?;
            if is_last && records.is_empty() {
                self.set_aside(report).await;
                let (health, waiting) = (self.store.health().clone(), report.waiting.clone());
                if self.outages.spool.finish(done, waiting, move || health.is_back()).await.map_err(disk)? {
                    break;
                }
            }
            for step in self.steps(records, report) {
                self.carry_out(&mut link, step, report).await.map_err(store)?;
            }
        }
        Ok(())
    }

    /// Tries what waits for reservations that another host has promised and not yet brought into the books. Tells whether
    /// some of it waits for a row that somebody else has.
    pub(super) async fn try_waiting(&self) -> Result<bool, GateError> {
        let disk = |error: std::io::Error| GateError::Spool(error.to_string());
        let (mut mark, mut report, mut link) = (Mark::default(), Report::default(), self.store.link());
        loop {
            let records;
            (records, mark) = self.outages.spool.read(mark).await.map_err(disk)?;
            if records.is_empty() {
                break;
            }
            for step in self.steps(records, &mut report) {
                let done = self.carry_out(&mut link, step, &mut report).await;
                done.map_err(|error| GateError::Store(Arc::new(error)))?;
            }
        }
        if report.waiting.len() < mark.records() {
            self.set_aside(&mut report).await;
            self.outages.spool.replace(mark, report.waiting).await.map_err(disk)?;
        }
        Ok(!report.slow.is_empty())
    }

    fn steps(&self, records: Vec<Vec<u8>>, report: &mut Report) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for record in records {
            let entry = serde_json::from_slice(&record).map_err(|error| error.to_string());
            match entry.and_then(Step::of) {
                Ok(step) => steps.push(step),
                Err(fault) => report.reject(record, fault),
            }
        }
        // What a reservation needs is that it is there before anything else of it; the rest commutes.
        steps.sort_by_key(Step::rank);
        prolonged::prolong(&mut steps, self.clock.now());
        let mut joined: Vec<Step> = Vec::new();
        for step in steps {
            let alone = match joined.last_mut() {
                Some(last) => last.join(step).err(),
                None => Some(step),
            };
            joined.extend(alone);
        }
        joined
    }

    /// What cannot be in the books is told, and kept beside the spool, when this is about to lose it. A disk that does not
    /// take it keeps nobody in the outage.
    async fn set_aside(&self, report: &mut Report) {
        let mut records = Vec::new();
        for (record, fault) in std::mem::take(&mut report.rejected) {
            tracing::error!(
                reason = fault,
                record = %String::from_utf8_lossy(&record),
                "A record of the outage is not in the books"
            );
            records.push(record);
        }
        report.rejections += records.len();
        if !records.is_empty()
            && let Err(error) = self.outages.spool.set_aside(records).await
        {
            tracing::error!(reason = %error, "Records that are not in the books are in this log only");
        }
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
            rejected = report.rejections,
            waiting = report.waiting.len(),
            overLimit = %over.join(", "),
            "Store back"
        );
    }
}
