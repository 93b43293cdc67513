//! Writes decisions beside the hot path: in batches, so that a row is there moments after its answer. Denials and
//! failures are always written; allowed checks up to a rate, beyond which they are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};

use super::facts;
use crate::contained::contained;
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
/// Where somebody has the table, each takes two seconds.
const ATTEMPTS_WHERE_SLOW: u32 = 30;
/// How long a decision waits for a place in a full queue. Where nothing is written for longer, the next ones do not wait:
/// requests are answered, and what is lost is counted.
const PATIENCE: Duration = Duration::from_millis(250);
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
    shared: Arc<Shared>,
    /// Nothing was written while somebody waited for a place.
    is_stuck: AtomicBool,
    second: AtomicI64,
    allowed_in_second: AtomicU64,
    skipped: AtomicU64,
}

/// What those who give rows and the one who writes them have in common.
#[derive(Default)]
struct Shared {
    /// Somebody waits for the rows.
    hurry: Notify,
    /// Rows for which there was no place.
    lost: AtomicU64,
}

impl Recorder {
    /// Starts the task that writes on `threads`.
    pub fn start(threads: &Handle, store: Store) -> Self {
        let (jobs, arrivals) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        threads.spawn(write(store, arrivals, shared.clone()));
        Self {
            jobs,
            shared,
            is_stuck: AtomicBool::new(false),
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

    /// Stores a decision, whatever it is; waits a little for a place in the queue.
    pub async fn decided(&self, decision: Arc<Decision>, generation: Arc<Generation>) {
        self.give(Job::Decided(decision, generation)).await;
    }

    /// Stores that a policy failed; waits a little for a place in the queue.
    pub async fn failed(&self, row: DecisionRow) {
        self.give(Job::Failed(Box::new(row))).await;
    }

    async fn give(&self, job: Job) {
        let given = match self.jobs.try_send(job) {
            // The task lives as long as this sender.
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(_)) if self.is_stuck.load(Ordering::Relaxed) => false,
            Err(TrySendError::Full(job)) => tokio::time::timeout(PATIENCE, self.jobs.send(job)).await.is_ok(),
        };
        if self.is_stuck.load(Ordering::Relaxed) == given {
            self.is_stuck.store(!given, Ordering::Relaxed);
        }
        if !given {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns when everything that was given before is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.jobs.send(Job::Flush(done)).await.is_ok() {
            self.shared.hurry.notify_one();
            let _ = written.await;
        }
    }
}

/// Cheaply if that is possible, which it is unless something fails.
async fn insert(store: &Store, link: &mut Link, rows: &[DecisionRow]) -> Result<(), StoreError> {
    let mut inserted = link.copy_decisions(rows).await;
    for attempt in 1.. {
        let most = match &inserted {
            Ok(()) | Err(StoreError::Unreachable(_)) => 0,
            Err(StoreError::Slow(_)) => ATTEMPTS_WHERE_SLOW,
            Err(_) => ATTEMPTS,
        };
        if attempt >= most {
            break;
        }
        // The last attempt may have been carried out, whatever was heard of it.
        inserted = store.guard(store.insert_decisions(rows)).await;
    }
    inserted
}

/// As [`insert`]; tells how many are lost. One that the database does not take must not cost the others.
async fn insert_what_it_takes(store: &Store, link: &mut Link, rows: &[DecisionRow]) -> Result<(), (usize, StoreError)> {
    let is_of_no_row = |error: &StoreError| matches!(error, StoreError::Unreachable(_) | StoreError::Slow(_));
    let Err(error) = insert(store, link, rows).await else { return Ok(()) };
    if is_of_no_row(&error) {
        return Err((rows.len(), error));
    }
    let mut lost = 0;
    for (written, row) in rows.iter().enumerate() {
        match insert(store, link, std::slice::from_ref(row)).await {
            Err(error) if is_of_no_row(&error) => return Err((lost + rows.len() - written, error)),
            inserted => lost += usize::from(inserted.is_err()),
        }
    }
    if lost == 0 { Ok(()) } else { Err((lost, error)) }
}

async fn write(store: Store, mut arrivals: mpsc::Receiver<Job>, shared: Arc<Shared>) {
    let mut jobs = Vec::with_capacity(LARGEST_BATCH);
    let mut link = store.log_link();
    while arrivals.recv_many(&mut jobs, LARGEST_BATCH).await > 0 {
        if jobs.len() > BUSY && jobs.len() < LARGEST_BATCH {
            // Asleep: otherwise each of those that come would wake this task.
            let _ = tokio::time::timeout(GATHERING, shared.hurry.notified()).await;
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
        if !rows.is_empty() {
            // A panic costs these rows, and not those to come.
            match contained(insert_what_it_takes(&store, &mut link, &rows)).await {
                Some(Ok(())) => {}
                Some(Err((lost, error))) => tracing::error!(lost, reason = %error, "Decisions not stored"),
                None => tracing::error!(lost = rows.len(), "Decisions not stored: their writer panicked"),
            }
            let lost = shared.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::error!(lost, reason = "nothing was written for too long", "Decisions not stored");
            }
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}
