//! Waiting for what will be so: a look every few milliseconds, and an end to it.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

/// After so long something has gone wrong for good.
pub const PATIENCE: Duration = Duration::from_mins(2);

pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time(what, looking).await;
}

/// What `work` comes to: for what would wait for ever if it broke.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("not in {PATIENCE:?}: {what}"))
}

/// Waits until somebody takes connections there. A socket has its name from `bind` on, and refuses until `listen`.
pub async fn until_listening(socket: &Path) {
    until(&format!("{} listens", socket.display()), || async { UnixStream::connect(socket).await.is_ok() }).await;
}
