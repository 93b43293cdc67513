//! Threads for the lanes alone: what a lane waits for reaches it at once, and not behind the connections that it has just
//! answered.

use tokio::runtime::{Builder, Handle, Runtime};

use super::{GateError, LANES, Reply};

/// The lanes' own runtime, which ends with the last of them, whatever they are doing then; and that of the connections.
pub(super) struct Threads {
    lanes: Option<Runtime>,
    connections: Handle,
}

impl Threads {
    /// Half of the processors, the rest is the connections'; a thread for each lane of a kind is enough. Where the system
    /// gives none, lanes run among the connections. Called among these.
    pub(super) fn start() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let built = Builder::new_multi_thread()
            .worker_threads((processors / 2).clamp(1, LANES))
            .thread_name("lanes")
            .enable_all()
            .build();
        let unbuilt = |error: std::io::Error| tracing::warn!(reason = %error, "The lanes have no threads of their own");
        Self { lanes: built.map_err(unbuilt).ok(), connections: Handle::current() }
    }

    /// Where to start lanes.
    pub(super) fn lanes(&self) -> Handle {
        self.lanes.as_ref().map_or(&self.connections, Runtime::handle).clone()
    }

    /// Gives the answers of a batch out among the connections: waking each of them from its own thread, the lane would be
    /// later for its next one.
    pub(super) fn answer<T: Send + 'static>(&self, answers: Vec<(Reply<T>, Result<T, GateError>)>) {
        self.connections.spawn(async move {
            for (reply, answer) in answers {
                // Who does not wait any more has gone away.
                let _ = reply.send(answer);
            }
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The last lane drops it, in one of its threads: it cannot wait for itself.
        if let Some(lanes) = self.lanes.take() {
            lanes.shutdown_background();
        }
    }
}
