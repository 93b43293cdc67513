//! The watch: a thread that looks at the folder when something happens there, when it is told to, and now and then.
//!
//! Events are hints: they may be lost, doubled or about something else, and a folder may be one that has none. The
//! folder itself is watched, never a file: editors and deployments replace files. And its parent, where the folder
//! appears again after it was deleted, or where a link is pointed elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::Folder;
use crate::clock::Clock;

/// A look without any hint.
const EVERY: Duration = Duration::from_secs(30);
/// Files that belong together come together: a look begins when it has been quiet for so long,
const QUIET: Duration = Duration::from_millis(50);
/// or when it has not been for so long.
const LONGEST_UNREST: Duration = Duration::from_millis(400);
/// After a folder that could not be read.
const AFTER_AN_ERROR: Duration = Duration::from_secs(1);

enum Hint {
    Look,
    Stop,
}

/// Watches until it is dropped.
pub struct Watch {
    hints: Sender<Hint>,
}

impl Watch {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread. That it gives no events is told to the log, and looks at intervals remain.
    pub fn start(folder: Arc<Folder>, clock: Clock) -> std::io::Result<Self> {
        let (hints, arrivals) = mpsc::channel();
        let events = hints.clone();
        thread::Builder::new().name("policy-watch".into()).spawn(move || {
            let mut eyes = Eyes::new(folder.dir(), events);
            watch(&folder, &clock, &mut eyes, &arrivals);
        })?;
        Ok(Self { hints })
    }

    /// Something may have changed: look soon.
    pub fn look(&self) {
        let _ = self.hints.send(Hint::Look);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.hints.send(Hint::Stop);
    }
}

fn watch(folder: &Folder, clock: &Clock, eyes: &mut Eyes, hints: &Receiver<Hint>) {
    let mut last_error = None;
    loop {
        // First the eyes, then the look: what happens in between is seen.
        eyes.open();
        let wait = match folder.look(clock.now()) {
            Ok(again) => {
                last_error = None;
                again.map_or(EVERY, |again| again.min(EVERY))
            }
            Err(error) => {
                if last_error.as_ref() != Some(&error) {
                    tracing::error!(reason = %error, "Policy folder not read; what serves goes on");
                }
                last_error = Some(error);
                AFTER_AN_ERROR
            }
        };
        match hints.recv_timeout(wait) {
            Ok(Hint::Look) => {}
            Err(RecvTimeoutError::Timeout) => continue,
            Ok(Hint::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
        let unrest = Instant::now();
        while unrest.elapsed() < LONGEST_UNREST {
            match hints.recv_timeout(QUIET) {
                Ok(Hint::Look) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Ok(Hint::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// What sees events.
struct Eyes {
    watcher: Option<RecommendedWatcher>,
    dir: PathBuf,
    parent: Option<PathBuf>,
    /// Which folder and which parent are watched: paths stay, and what lies there changes.
    seen: [Option<(u64, u64)>; 2],
}

impl Eyes {
    fn new(dir: &Path, hints: Sender<Hint>) -> Self {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let (ours, parent) = (dir.clone(), dir.parent().map(Path::to_owned));
        let above = parent.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            let is_hint = event.as_ref().map_or(true, |event| {
                let is_reading =
                    matches!(event.kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write));
                // Of what else happens beside the folder nothing is ours.
                let is_elsewhere = !event.paths.is_empty()
                    && event.paths.iter().all(|path| *path != ours && path.parent() == above.as_deref());
                !is_reading && !is_elsewhere
            });
            if is_hint {
                let _ = hints.send(Hint::Look);
            }
        };
        let watcher = notify::recommended_watcher(tell);
        if let Err(error) = &watcher {
            tracing::warn!(reason = %error, "No events of the policy folder; it is read every 30 s");
        }
        Self { watcher: watcher.ok(), dir, parent, seen: [None, None] }
    }

    /// Watches what lies at our paths now.
    fn open(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for (path, seen) in [Some(&self.dir), self.parent.as_ref()].into_iter().zip(&mut self.seen) {
            let Some(path) = path else { continue };
            let is = fs::metadata(path).ok().map(|folder| (folder.dev(), folder.ino()));
            if is == *seen {
                continue;
            }
            if seen.take().is_some() {
                // Fails where it went by itself, with the folder.
                let _ = watcher.unwatch(path);
            }
            if is.is_some() {
                match watcher.watch(path, RecursiveMode::NonRecursive) {
                    Ok(()) => *seen = is,
                    Err(error) => {
                        tracing::warn!(path = %path.display(), reason = %error, "Not watched; it is read every 30 s");
                        // Not again and again: the next folder of this path may be another matter.
                        *seen = is;
                    }
                }
            }
        }
    }
}
