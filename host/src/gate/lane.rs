//! A lane: one batch in flight, and whatever arrives meanwhile is the next one. Nothing waits on purpose, and nothing for
//! ever: what has come while a batch takes too long is refused, so that it was certainly not done.

use std::pin::pin;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::contained::contained;

/// A batch that takes longer holds nobody up but its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// The queue is full, or its worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overloaded;

/// What is done in batches.
pub trait Job: Send + 'static {
    /// Tells its sender that it was not done and will not be.
    fn refuse(self);
}

/// Sends jobs to the task that runs them in batches. The task ends when the lane is dropped and its queue is empty.
#[derive(Debug)]
pub struct Lane<J> {
    jobs: mpsc::Sender<J>,
}

impl<J: Job> Lane<J> {
    /// Starts the task on `threads`. `run` gets 1 to `largest_batch` jobs in the order of their arrival, and returns those
    /// that it leaves for the next batch. It is never cancelled: a statement that is under way is finished.
    pub fn start<Run, Running>(threads: &Handle, queue: usize, largest_batch: usize, mut run: Run) -> Self
    where
        Run: FnMut(Vec<J>) -> Running + Send + 'static,
        Running: Future<Output = Vec<J>> + Send,
    {
        let (jobs, mut arrivals) = mpsc::channel(queue);
        threads.spawn(async move {
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
                let mut running = pin!(contained(run(batch)));
                batch = loop {
                    match tokio::time::timeout(PATIENCE, &mut running).await {
                        Ok(Some(left)) => break left,
                        // Its senders are told that they were not answered.
                        Ok(None) => {
                            tracing::error!("A batch panicked: its requests are not answered, and its lane goes on");
                            break Vec::new();
                        }
                        Err(_) => refuse_all(&mut arrivals),
                    }
                };
            }
        });
        Self { jobs }
    }

    /// Puts a job into the next batch.
    ///
    /// # Errors
    /// [`Overloaded`]: the queue is full. It does not wait: an answer that comes too late is none.
    pub fn submit(&self, job: J) -> Result<(), Overloaded> {
        self.jobs.try_send(job).map_err(|_| Overloaded)
    }
}

fn refuse_all<J: Job>(arrivals: &mut mpsc::Receiver<J>) {
    while let Ok(job) = arrivals.try_recv() {
        job.refuse();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;

    use super::*;

    /// Answers whether it was done.
    struct Errand(oneshot::Sender<bool>);

    impl Job for Errand {
        fn refuse(self) {
            let _ = self.0.send(false);
        }
    }

    fn send(lane: &Lane<Errand>) -> oneshot::Receiver<bool> {
        let (errand, answer) = oneshot::channel();
        lane.submit(Errand(errand)).expect("room");
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_a_batch_takes_too_long_is_refused_and_the_batch_is_finished() {
        let (go_on, stuck) = oneshot::channel::<()>();
        let stuck = Arc::new(Mutex::new(Some(stuck)));
        let lane = Lane::start(&Handle::current(), 8, 8, move |batch: Vec<Errand>| {
            let stuck = stuck.lock().expect("a lock").take();
            async move {
                if let Some(stuck) = stuck {
                    stuck.await.expect("somebody ends it");
                }
                for Errand(answer) in batch {
                    let _ = answer.send(true);
                }
                Vec::new()
            }
        });
        let first = send(&lane);
        // The lane takes it, and what comes now is another batch.
        while lane.jobs.capacity() < 8 {
            tokio::task::yield_now().await;
        }
        assert_eq!(send(&lane).await, Ok(false));
        go_on.send(()).expect("the batch still runs");
        assert_eq!(first.await, Ok(true));
        assert_eq!(send(&lane).await, Ok(true));
    }
}
