//! The policy folder: `NAME.wasm` files, and the generation of policies that serves.
//!
//! A look reads the folder, prepares every policy that changed (`policy`: load, describe, settings, fixtures under
//! production limits) and then swaps one generation whole. A policy that does not hold leaves its last good version
//! serving. A request keeps the generation it began with. Who looks: the watch, SIGHUP, a timer, an administrator;
//! all of them only say that something may have changed, and the scan finds out what (`scan`).

mod at_rest;
mod candidate;
mod files;
mod generation;
mod kept;
mod memory;
mod policy;
mod promote;
mod scan;
mod standing;
mod stray;
mod swap;
mod trial;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};

use self::kept::Kept;
use self::memory::{GONE_AFTER, Memory};
use self::scan::Scan;
use super::compile::{CompileLimits, Compiler};
use super::engine::{Engine, PolicyError};

pub use self::at_rest::AtRest;
pub use self::candidate::{Candidate, CandidateStatus};
pub use self::generation::{Generation, Serving, Status};
pub use self::policy::{Edition, Policy, Session};
pub use self::promote::ChangeError;
pub use self::stray::strays;
pub use self::trial::{Inspection, Trial};
pub use self::watch::Watch;

/// The policy of tenants without a tier, and of tiers without a file.
pub const STANDARD: &str = "standard";

/// Where a data directory has the last good versions.
const LAST_GOOD: &str = "last-good";

/// Looks at a folder for somebody who waits, while it is not settled.
const LOOKS: u32 = 3;

/// How a folder's policies are compiled, and what of them survives a restart. By default in this process, and nothing.
#[derive(Debug, Default)]
pub struct Workshop {
    /// The program that compiles in a child process.
    pub program: Option<PathBuf>,
    /// What it may take.
    pub limits: CompileLimits,
    /// Where compiled code is kept.
    pub compiled: Option<PathBuf>,
    /// Where the last good version of each policy is kept.
    pub last_good: Option<PathBuf>,
}

impl Workshop {
    /// That of a host with a data directory.
    pub fn of(program: Option<PathBuf>, data_dir: &Path) -> Self {
        Self {
            program,
            limits: CompileLimits::default(),
            compiled: Some(data_dir.join("compiled")),
            last_good: Some(data_dir.join(LAST_GOOD)),
        }
    }
}

/// What a scan works with.
struct Place {
    dir: PathBuf,
    engine: Engine,
    compiler: Compiler,
    kept: Kept,
}

/// The folder and the generation that serves.
pub struct Folder {
    place: Place,
    current: ArcSwap<Generation>,
    /// Held for a whole look: one at a time.
    memory: Mutex<Memory>,
}

impl Folder {
    /// Reads the folder for the first time. Blocks while it compiles.
    ///
    /// # Errors
    /// The folder cannot be read, or it has no standard policy that holds, and had none before.
    pub fn open(dir: PathBuf, workshop: Workshop, now: DateTime<Utc>) -> Result<Self, PolicyError> {
        let Workshop { program, limits, compiled, last_good } = workshop;
        let place = Place {
            kept: Kept::new(last_good.as_deref(), &dir),
            compiler: Compiler::new(program, limits, compiled),
            engine: Engine::new()?,
            dir,
        };
        let mut memory = Memory::default();
        let scan = Scan { place: &place, serving: None, now, asked_for: true };
        let mut first = scan.run(&mut memory);
        for _ in 1..LOOKS {
            if first.is_ok() || !memory.is_unsettled() {
                break;
            }
            std::thread::sleep(GONE_AFTER);
            first = scan.run(&mut memory);
        }
        let first = first?;
        place.compiler.prune();
        let folder = Self { place, current: ArcSwap::from_pointee(first), memory: Mutex::new(memory) };
        folder.count_start();
        Ok(folder)
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The generation that serves now. Hold it for one request or batch.
    pub fn generation(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Reads the folder again for somebody who waits for the answer, and swaps the generation. Blocks while it compiles,
    /// and for another look where a file has just gone or is being written.
    ///
    /// # Errors
    /// The folder cannot be read; the last generation serves on. Single policies that do not hold
    /// are no error here: the generation's [`statuses`](Generation::statuses) tell.
    pub fn reload(&self, now: DateTime<Utc>) -> Result<Arc<Generation>, PolicyError> {
        for _ in 1..LOOKS {
            let mut memory = self.memory();
            self.scan(&mut memory, now, true)?;
            if !memory.is_unsettled() {
                return Ok(self.count_reload(&mut memory));
            }
            drop(memory);
            std::thread::sleep(GONE_AFTER);
        }
        let mut memory = self.memory();
        self.scan(&mut memory, now, true)?;
        Ok(self.count_reload(&mut memory))
    }

    /// Reads the folder again, as far as that may have become worth it; tells in how long the next look is.
    fn look(&self, now: DateTime<Utc>) -> Result<Option<Duration>, PolicyError> {
        let mut memory = self.memory();
        self.scan(&mut memory, now, false)?;
        self.count_change(&mut memory);
        Ok(memory.look_again_in())
    }

    fn scan(&self, memory: &mut Memory, now: DateTime<Utc>, asked_for: bool) -> Result<(), PolicyError> {
        let serving = self.generation();
        let next = Scan { place: &self.place, serving: Some(&serving), now, asked_for }.run(memory)?;
        self.current.store(Arc::new(next));
        Ok(())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
