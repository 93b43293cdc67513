//! A folder at rest: what a command changes, without serving from it. Trouble with other policies of the folder is no
//! reason to refuse: a way back is wanted most when something is broken.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::files::{self, Files};
use super::kept::Kept;
use super::promote::{ChangeError, no_candidate, refused_candidate};
use super::swap::Live;
use super::{LAST_GOOD, Place};
use crate::policy::compile::Compiler;
use crate::policy::engine::{Engine, PolicyError};

/// A policy folder from which nothing is served here.
pub struct AtRest {
    place: Place,
}

impl AtRest {
    /// The folder of hosts that keep their last good versions below `data_dir`.
    ///
    /// # Errors
    /// There is no such folder, or no engine.
    pub fn open(dir: PathBuf, compiler: Compiler, data_dir: &Path) -> Result<Self, PolicyError> {
        files::list(&dir)?;
        let kept = Kept::new(Some(&data_dir.join(LAST_GOOD)), &dir);
        Ok(Self { place: Place { kept, compiler, engine: Engine::new()?, dir } })
    }

    /// As [`Folder::promote`](super::Folder::promote) does it; tells the digest of what is live then.
    ///
    /// # Errors
    /// As there. What hosts serve in the place of a broken file is known from their data directory only.
    pub fn promote(&self, name: &str, digest: Option<&str>, now: DateTime<Utc>) -> Result<String, ChangeError> {
        if !self.place.dir.join(format!("{name}.next.wasm")).exists() {
            return Err(no_candidate(name));
        }
        let files = Files::read_candidate(&self.place.dir, name).map_err(|error| refused_candidate(name, &error))?;
        let candidate = self.place.prepare(name, &files, now).map_err(|error| refused_candidate(name, &error))?;
        let live = self.live(name, now);
        if matches!(live, Live::Lost) {
            return Err(ChangeError::Conflict(format!(
                "{name}.wasm does not hold, and what hosts serve in its place is not known here, so there would be no \
                 way back: name a host's data directory with --data-dir, or promote over HTTP, \
                 POST /v1/policies/{name}/promote"
            )));
        }
        self.place.promote(name, digest, &candidate, live)?;
        Ok(candidate.reference.digest.to_string())
    }

    /// As [`Folder::rollback`](super::Folder::rollback) does it; tells the digest of what is live then.
    ///
    /// # Errors
    /// As there.
    pub fn rollback(&self, name: &str, digest: Option<&str>, now: DateTime<Utc>) -> Result<String, ChangeError> {
        self.place.roll_back(name, digest, self.live(name, now), now)
    }

    fn live(&self, name: &str, now: DateTime<Utc>) -> Live {
        Live::of_folder(&self.place, name, |files| self.place.prepare(name, files, now).is_ok())
    }
}
