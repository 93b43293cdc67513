//! A lane: one batch in flight, and whatever arrives meanwhile is the next one. Nothing waits on purpose.

use std::future::Future;

use tokio::sync::mpsc;

/// The queue is full, or its worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overloaded;

/// Sends jobs to the task that runs them in batches. The task ends when the lane is dropped and its queue is empty.
#[derive(Debug)]
pub struct Lane<Job> {
    jobs: mpsc::Sender<Job>,
}

impl<Job: Send + 'static> Lane<Job> {
    /// Starts the task. `run` gets 1 to `largest_batch` jobs in the order of their arrival, and returns those that it
    /// leaves for the next batch. It is never cancelled: a statement that is under way is finished.
    pub fn start<Run, Running>(queue: usize, largest_batch: usize, mut run: Run) -> Self
    where
        Run: FnMut(Vec<Job>) -> Running + Send + 'static,
        Running: Future<Output = Vec<Job>> + Send,
    {
        let (jobs, mut arrivals) = mpsc::channel(queue);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            loop {
                let room = largest_batch.saturating_sub(batch.len());
                if batch.is_empty() {
                    if arrivals.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                } else {
                    while batch.len() < largest_batch
                        && let Ok(job) = arrivals.try_recv()
                    {
                        batch.push(job);
                    }
                }
                batch = run(batch).await;
            }
        });
        Self { jobs }
    }

    /// Puts a job into the next batch.
    ///
    /// # Errors
    /// [`Overloaded`]: the queue is full. It does not wait: an answer that comes too late is none.
    pub fn submit(&self, job: Job) -> Result<(), Overloaded> {
        self.jobs.try_send(job).map_err(|_| Overloaded)
    }
}
