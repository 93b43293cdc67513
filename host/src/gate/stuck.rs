//! A row that somebody has locked for long, such as an administrator whose transaction is open: whoever moves its money
//! fails, and keeps nobody else of his lane waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::World;
use super::money::MoneyJob;
use crate::quota::TenantId;
use crate::store::StoreError;
use crate::store::stuck::Wanted;

/// For so long it is looked first whether a tenant's rows are free, before others of his batch may have to wait for them.
pub(super) const REMEMBERED: Duration = Duration::from_secs(10);
/// Who has a row for a statement alone has let go of it by then.
const A_STATEMENT: Duration = Duration::from_millis(100);

/// The tenants for one of whose rows a lane has waited in vain, and the transaction that had it.
#[derive(Default)]
pub(super) struct Stuck(HashMap<TenantId, (String, Instant)>);

impl World {
    /// Refuses those of `jobs` that would wait again for what the lane has waited for in vain; returns the others.
    pub(super) async fn without_stuck(&self, stuck: &mut Stuck, jobs: Vec<MoneyJob>) -> Vec<MoneyJob> {
        stuck.0.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
        if stuck.0.is_empty() {
            return jobs;
        }
        let (suspects, mut others): (Vec<MoneyJob>, Vec<MoneyJob>) =
            jobs.into_iter().partition(|job| stuck.0.contains_key(job.tenant()));
        if suspects.is_empty() {
            return others;
        }
        match self.store.guard(self.store.blockers(&wanted(&suspects))).await {
            Ok(blockers) => {
                let is_his =
                    |job: &MoneyJob, blocker: &String| stuck.0.get(job.tenant()).is_some_and(|(had, _)| had == blocker);
                let blockers = blockers.into_iter().zip(&suspects);
                let blockers = blockers.map(|(blocker, job)| blocker.filter(|had| is_his(job, had))).collect();
                others.extend(refuse(stuck, suspects, blockers));
            }
            Err(error) => fail(suspects, error),
        }
        others
    }

    /// Refuses those of `jobs`, which have waited for a row in vain, that would wait again, and remembers their tenants;
    /// returns the others, who may be told so after another try.
    pub(super) async fn refuse_stuck(&self, stuck: &mut Stuck, jobs: Vec<MoneyJob>) -> Vec<MoneyJob> {
        match self.blocked_for_long(&wanted(&jobs)).await {
            Ok(blockers) => refuse(stuck, jobs, blockers),
            Err(error) => {
                fail(jobs, error);
                Vec::new()
            }
        }
    }

    /// For each of `wanted`, a transaction that has one of its rows for longer than a statement takes.
    pub(super) async fn blocked_for_long(&self, wanted: &[Wanted]) -> Result<Vec<Option<String>>, StoreError> {
        let before = self.store.guard(self.store.blockers(wanted)).await?;
        tokio::time::sleep(A_STATEMENT).await;
        let now = self.store.guard(self.store.blockers(wanted)).await?;
        Ok(now.into_iter().zip(before).map(|(now, before)| now.filter(|had| before.as_ref() == Some(had))).collect())
    }
}

fn wanted(jobs: &[MoneyJob]) -> Vec<Wanted> {
    jobs.iter().map(MoneyJob::wanted).collect()
}

fn refuse(stuck: &mut Stuck, jobs: Vec<MoneyJob>, blockers: Vec<Option<String>>) -> Vec<MoneyJob> {
    let mut free = Vec::with_capacity(jobs.len());
    let error = Arc::new(StoreError::too_late());
    for (job, blocker) in jobs.into_iter().zip(blockers) {
        if let Some(blocker) = blocker {
            stuck.0.insert(job.tenant().clone(), (blocker, Instant::now()));
            job.fail(&error);
        } else {
            free.push(job);
        }
    }
    free
}

fn fail(jobs: Vec<MoneyJob>, error: StoreError) {
    let error = Arc::new(error);
    for job in jobs {
        job.fail(&error);
    }
}
