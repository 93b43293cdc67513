//! A step of a replay: tried until it is in the books, or until it is known why it is not.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Report;
use crate::gate::World;
use crate::gate::entry::Entry;
use crate::gate::promise::PATIENCE;
use crate::gate::step::Step;
use crate::money::Money;
use crate::store::reservations::{End, Ending};
use crate::store::{Link, StoreError};

/// The records of so many tenants may be left for later in one replay. Where there are more it is the store that is slow,
/// and the outage goes on.
const MOST_SLOW: usize = 16;

impl World {
    /// Carries out a step, again where that may help, and record by record where one of them breaks a constraint or waits
    /// for a row that somebody has. The tenant of such a row is not waited for again.
    pub(super) async fn carry_out(&self, link: &mut Link, step: Step, report: &mut Report) -> Result<(), StoreError> {
        let (step, later) = step.part(|tenant| report.slow.contains(tenant));
        report.waiting.extend(later.iter().map(Entry::record));
        let Some(step) = step else { return Ok(()) };
        match self.try_patiently(link, &step, report).await {
            Ok(()) => {}
            Err(StoreError::Refused(_) | StoreError::Slow(_)) if step.len() > 1 => {
                for one in step.one_by_one() {
                    Box::pin(self.carry_out(link, one, report)).await?;
                }
            }
            Err(StoreError::Refused(fault)) => {
                for entry in step.entries() {
                    report.reject(entry.record(), fault.as_str());
                }
            }
            Err(StoreError::Slow(reason)) if report.slow.len() < MOST_SLOW => {
                tracing::warn!(reason = %reason, "A record of the outage waits for a row that somebody else has");
                report.slow.extend(step.tenant().cloned());
                report.waiting.extend(step.entries().iter().map(Entry::record));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn try_patiently(&self, link: &mut Link, step: &Step, report: &mut Report) -> Result<(), StoreError> {
        match self.try_step(link, step, report).await {
            // Another host's replay may have the rows.
            Err(StoreError::Slow(_)) if self.is_down() => {
                // Whoever brings more does not wait for that: another round is for him.
                self.outages.spool.accept();
                self.try_step(link, step, report).await
            }
            // Another host may have kept the same request id in this moment: now it is seen.
            Err(StoreError::Refused(_)) if matches!(step, Step::Reserve(one) if one.len() == 1) => {
                self.try_step(link, step, report).await
            }
            answer => answer,
        }
    }

    async fn try_step(&self, link: &mut Link, step: &Step, report: &mut Report) -> Result<(), StoreError> {
        match step {
            Step::Reserve(promised) => {
                link.keep(promised, self.clock.now()).await?;
            }
            Step::End(endings) => self.end_all(link, endings, report).await?,
            Step::Extend { id, tenant, until, at } => {
                // One whose own time is over prolongs nothing any more.
                if link.extend(tenant, *id, *until, *at).await?.is_none() && *until > self.clock.now() {
                    let extend = Entry::Extend { id: *id, tenant: tenant.to_string(), until: *until, at: *at };
                    self.wait_or_reject(&extend, *id, *at, report);
                }
            }
            Step::Cost(costs) => {
                for (cost, recorded) in costs.iter().zip(link.record_costs(costs, self.clock.now()).await?) {
                    match recorded {
                        Ok(recorded) if recorded.duplicate => {}
                        Ok(recorded) => report.posted(cost.actual, &recorded.quotas),
                        Err(error) => report.reject(Entry::cost(cost).record(), error.to_string()),
                    }
                }
            }
        }
        report.replayed += step.len();
        Ok(())
    }

    async fn end_all(&self, link: &mut Link, endings: &[Ending], report: &mut Report) -> Result<(), StoreError> {
        let ended = link.end(endings, self.clock.now()).await?;
        for ending in endings {
            let answer = ended.iter().find(|ended| ended.before.id == ending.id);
            let actual = if let End::Settle(actual) = ending.end { actual } else { Money::ZERO };
            match answer {
                Some(answer) if answer.now => report.posted(actual, &answer.quotas),
                Some(answer) if answer.before.actual.is_none_or(|before| before == actual) => {}
                Some(_) if ending.end == End::Release => {}
                Some(_) => {
                    let fault = format!("reservation {}: settled with another amount", ending.id);
                    report.reject(Entry::end(ending).record(), fault);
                }
                None => self.wait_or_reject(&Entry::end(ending), ending.id, ending.at, report),
            }
        }
        Ok(())
    }

    /// The reservation is not there: another host may have promised it, and will bring it into the books when it can.
    fn wait_or_reject(&self, entry: &Entry, id: Uuid, at: DateTime<Utc>, report: &mut Report) {
        if self.clock.now() - at < PATIENCE {
            report.waiting.push(entry.record());
        } else {
            report.reject(entry.record(), format!("reservation {id}: unknown"));
        }
    }
}
