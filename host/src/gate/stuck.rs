//! A row that somebody has locked for long, such as an administrator whose transaction is open: whoever moves its money
//! fails, and keeps nobody else of his lane waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::World;
use super::money::MoneyJob;
use crate::quota::TenantId;
use crate::store::StoreError;

/// For so long it is looked first whether a tenant's rows are free, before others of his batch may have to wait for them.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The tenants for one of whose rows a lane has waited in vain.
#[derive(Default)]
pub(super) struct Stuck(HashMap<TenantId, Instant>);

impl Stuck {
    fn remembers(&self, tenant: &TenantId) -> bool {
        self.0.get(tenant).is_some_and(|since| since.elapsed() < REMEMBERED)
    }
}

impl World {
    /// Refuses those of `jobs` that would wait again for what the lane has waited for in vain; returns the others.
    pub(super) async fn without_stuck(&self, stuck: &mut Stuck, jobs: Vec<MoneyJob>) -> Vec<MoneyJob> {
        if stuck.0.is_empty() {
            return jobs;
        }
        let (suspects, mut others): (Vec<MoneyJob>, Vec<MoneyJob>) =
            jobs.into_iter().partition(|job| stuck.remembers(job.tenant()));
        if suspects.is_empty() {
            return others;
        }
        others.extend(self.refuse_stuck(stuck, suspects).await);
        others
    }

    /// Refuses those of `jobs` that would wait for a row, and remembers their tenants; returns the others.
    pub(super) async fn refuse_stuck(&self, stuck: &mut Stuck, jobs: Vec<MoneyJob>) -> Vec<MoneyJob> {
        let wanted: Vec<_> = jobs.iter().map(MoneyJob::wanted).collect();
        let are_stuck = match self.store.guard(self.store.are_stuck(&wanted)).await {
            Ok(are_stuck) => are_stuck,
            Err(error) => {
                let error = Arc::new(error);
                for job in jobs {
                    job.fail(&error);
                }
                return Vec::new();
            }
        };
        let mut free = Vec::with_capacity(jobs.len());
        let error = Arc::new(StoreError::too_late());
        for (job, is_stuck) in jobs.into_iter().zip(are_stuck) {
            if is_stuck {
                stuck.0.insert(job.tenant().clone(), Instant::now());
                job.fail(&error);
            } else {
                free.push(job);
            }
        }
        stuck.0.retain(|_, since| since.elapsed() < REMEMBERED);
        free
    }
}
