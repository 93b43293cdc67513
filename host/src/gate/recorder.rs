//! Writes decisions beside the hot path: in batches, so that a row is there moments after its answer. Denials and
//! failures are always written; allowed checks up to a rate, beyond which they are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};

use super::facts;
use crate::decision::Decision;
use crate::policy::Generation;
use crate::store::decisions::DecisionRow;
use crate::store::{Link, Store, StoreError};

const QUEUE: usize = 8_192;
const LARGEST_BATCH: usize = 512;
/// More rows than this at once, and the next ones wait a little for each other: a statement costs more than its rows.
const BUSY: usize = 16;
/// How long they wait. Not longer: what has been gathered is written in one go, and lanes wait for the processor meanwhile.
const GATHERING: Duration = Duration::from_millis(3);
/// Allowed checks that are stored in any one second.
const ALLOWED_PER_SECOND: u64 = 1_000;
const ATTEMPTS: u32 = 3;
/// Rows that are made in one go: the lanes have the same threads, and go first.
const AT_ONCE: usize = 16;

enum Job {
    /// Its row is made here, beside the hot path too.
    Decided(Arc<Decision>, Arc<Generation>),
    Failed(Box<DecisionRow>),
    Flush(oneshot::Sender<()>),
}

/// Takes decisions and writes them.
pub struct Recorder {
    jobs: mpsc::Sender<Job>,
    /// Somebody waits for the rows.
    hurry: Arc<Notify>,
    second: AtomicI64,
    allowed_in_second: AtomicU64,
    skipped: AtomicU64,
}

impl Recorder {
    /// Starts the task that writes on `threads`.
    pub fn start(threads: &Handle, store: Store) -> Self {
        let (jobs, arrivals) = mpsc::channel(QUEUE);
        let hurry = Arc::new(Notify::new());
        threads.spawn(write(store, arrivals, hurry.clone()));
        Self {
            jobs,
            hurry,
            second: AtomicI64::new(0),
            allowed_in_second: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        }
    }

    /// Stores an allowed check if the rate allows it; never waits.
    pub fn allowed(&self, decision: &Arc<Decision>, generation: &Arc<Generation>) {
        let at_second = decision.facts.request.at.timestamp();
        if self.second.swap(at_second, Ordering::Relaxed) != at_second {
            self.allowed_in_second.store(0, Ordering::Relaxed);
            let skipped = self.skipped.swap(0, Ordering::Relaxed);
            if skipped > 0 {
                tracing::info!(skipped, "Allowed checks beyond the stored rate");
            }
        }
        let stored = self.allowed_in_second.fetch_add(1, Ordering::Relaxed) < ALLOWED_PER_SECOND
            && self.jobs.try_send(Job::Decided(decision.clone(), generation.clone())).is_ok();
        if !stored {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stores a decision, whatever it is; waits for a place in the queue.
    pub async fn decided(&self, decision: Arc<Decision>, generation: Arc<Generation>) {
        // The task lives as long as this sender.
        let _ = self.jobs.send(Job::Decided(decision, generation)).await;
    }

    /// Stores that a policy failed; waits for a place in the queue.
    pub async fn failed(&self, row: DecisionRow) {
        let _ = self.jobs.send(Job::Failed(Box::new(row))).await;
    }

    /// Returns when everything that was given before is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.jobs.send(Job::Flush(done)).await.is_ok() {
            self.hurry.notify_one();
            let _ = written.await;
        }
    }
}

/// Cheaply if that is possible, which it is unless something fails.
async fn insert(store: &Store, link: &mut Link, rows: &[DecisionRow]) -> Result<(), StoreError> {
    let mut inserted = link.copy_decisions(rows).await;
    for _ in 1..ATTEMPTS {
        if inserted.as_ref().err().is_none_or(StoreError::is_outage) {
            break;
        }
        // The last attempt may have been carried out, whatever was heard of it.
        inserted = store.guard(store.insert_decisions(rows)).await;
    }
    inserted
}

async fn write(store: Store, mut arrivals: mpsc::Receiver<Job>, hurry: Arc<Notify>) {
    let mut jobs = Vec::with_capacity(LARGEST_BATCH);
    let mut link = store.log_link();
    while arrivals.recv_many(&mut jobs, LARGEST_BATCH).await > 0 {
        if jobs.len() > BUSY && jobs.len() < LARGEST_BATCH {
            // Asleep: otherwise each of those that come would wake this task.
            let _ = tokio::time::timeout(GATHERING, hurry.notified()).await;
            while jobs.len() < LARGEST_BATCH
                && let Ok(job) = arrivals.try_recv()
            {
                jobs.push(job);
            }
        }
        let (mut rows, mut flushed) = (Vec::with_capacity(jobs.len()), Vec::new());
        for (n, job) in jobs.drain(..).enumerate() {
            if n % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            match job {
                Job::Decided(decision, generation) => {
                    rows.push(facts::row(&decision, generation.settings_of(&decision.policy)));
                }
                Job::Failed(row) => rows.push(*row),
                Job::Flush(done) => flushed.push(done),
            }
        }
        if !rows.is_empty()
            && let Err(error) = insert(&store, &mut link, &rows).await
        {
            // One that the database does not take must not cost the others.
            let mut lost = if error.is_outage() { rows.len() } else { 0 };
            for row in rows.iter().skip(lost) {
                lost += usize::from(insert(&store, &mut link, std::slice::from_ref(row)).await.is_err());
            }
            tracing::error!(lost, reason = %error, "Decisions not stored");
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}
