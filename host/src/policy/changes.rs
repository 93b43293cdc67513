//! Waiting for an author's next change. As for the folder of a host, events are hints: whoever waited looks for himself.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// A look without any hint: a folder may be one that has no events, or be made again.
const EVERY: Duration = Duration::from_secs(1);
/// Files that belong together come together.
const QUIET: Duration = Duration::from_millis(50);

/// Hints that something has changed in some folders.
pub struct Changes {
    hints: Receiver<()>,
    /// Sees as long as it lives.
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// Of what lies directly in these folders. Where the system gives no events, there are looks at intervals.
    pub fn of(folders: &BTreeSet<PathBuf>) -> Self {
        let (tell, hints) = mpsc::channel();
        let told = move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = tell.send(());
            }
        };
        let mut watcher = notify::recommended_watcher(told).ok();
        for folder in folders {
            if let Some(watcher) = &mut watcher {
                let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
            }
        }
        Self { hints, _watcher: watcher }
    }

    /// Returns when something may have changed, and what comes with it has come too.
    pub fn wait(&self) {
        match self.hints.recv_timeout(EVERY) {
            Ok(()) => while self.hints.recv_timeout(QUIET).is_ok() {},
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // Without a watcher nobody hints.
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(EVERY),
        }
    }
}
