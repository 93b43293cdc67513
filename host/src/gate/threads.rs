//! Threads for the lanes alone: what a lane waits for reaches it at once, and not behind the connections that it has just
//! answered.

use tokio::runtime::{Builder, Handle, Runtime};

use super::LANES;

/// The lanes' own runtime. It ends with the last of them, whatever they are doing then.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// Half of the processors, the rest is the connections'; a thread for each lane of a kind is enough. Where the system
    /// gives none, lanes run among the connections.
    pub(super) fn start() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let built = Builder::new_multi_thread()
            .worker_threads((processors / 2).clamp(1, LANES))
            .thread_name("lanes")
            .enable_all()
            .build();
        let unbuilt = |error: std::io::Error| tracing::warn!(reason = %error, "The lanes have no threads of their own");
        Self(built.map_err(unbuilt).ok())
    }

    /// Where to start lanes.
    pub(super) fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The last lane drops it, in one of its threads: it cannot wait for itself.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
