//! Promotion: a candidate becomes the live policy, by its digest; and the way back.
//!
//! 1. What would go live is tried: a refusal leaves the folder as it was.
//! 2. What serves is found: in the folder, or where last good versions are kept if another file lies there now.
//! 3. The folder changes, so that whoever watches it follows: other hosts, and the next start. What served is
//!    `NAME.previous.wasm` then, with its texts, and a rollback exchanges the two.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::files::Files;
use super::policy::Policy;
use super::swap::{self, Live};
use super::{Folder, Generation, Place, STANDARD};
use crate::policy::engine::{self, PolicyError};

/// Why the folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// As things stand it cannot be done; the sentence says what would have to be.
    #[error("{0}")]
    Conflict(String),
    /// What would go live does not pass its gate.
    #[error("{file} was refused: {error}")]
    Refused {
        /// `NAME.next.wasm` or `NAME.previous.wasm`.
        file: String,
        /// What the gate before the gate says of it.
        error: PolicyError,
    },
    /// The folder was not read or written.
    #[error("{0}")]
    Failed(String),
}

impl From<PolicyError> for ChangeError {
    fn from(error: PolicyError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Folder {
    /// `NAME.next.wasm` becomes `NAME.wasm`, with the texts of its own that it has. Blocks.
    ///
    /// # Errors
    /// There is no candidate that passed its gate, it has another digest than `digest`, what serves could not be kept, or
    /// the folder is not ours to write.
    pub fn promote(
        &self,
        name: &str,
        digest: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Arc<Generation>, ChangeError> {
        let mut memory = self.memory();
        self.scan(&mut memory, now, true)?;
        let generation = self.generation();
        let Some(candidate) = generation.candidates.get(name) else {
            return Err(match generation.refused_candidates.get(name) {
                Some(error) => refused_candidate(name, error),
                None => no_candidate(name),
            });
        };
        let live = Live::of_host(&self.place, name, generation.policies.get(name));
        if matches!(live, Live::Lost) {
            return Err(ChangeError::Conflict(format!(
                "what serves as {name} is neither in the folder nor in the data directory, so there would be no way \
                 back; put the {name}.wasm that serves back first, or rename {name}.next.wasm to {name}.wasm"
            )));
        }
        self.place.promote(name, digest, &candidate.policy, live)?;
        self.scan(&mut memory, now, true)?;
        self.count_change(&mut memory);
        self.expect(name, &candidate.policy.reference.digest)
    }

    /// `NAME.previous.wasm` and what serves change places, with their texts. Blocks.
    ///
    /// # Errors
    /// There is nothing to go back to, it does not hold any more, or the folder is not ours to write.
    pub fn rollback(
        &self,
        name: &str,
        digest: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Arc<Generation>, ChangeError> {
        let mut memory = self.memory();
        self.scan(&mut memory, now, true)?;
        let live = Live::of_host(&self.place, name, self.generation().policies.get(name));
        let previous = self.place.roll_back(name, digest, live, now)?;
        self.scan(&mut memory, now, true)?;
        self.count_change(&mut memory);
        self.expect(name, &previous)
    }

    /// The files are in place; that they also serve is for the gate to say.
    fn expect(&self, name: &str, digest: &str) -> Result<Arc<Generation>, ChangeError> {
        let generation = self.generation();
        if generation.policies.get(name).is_some_and(|policy| &*policy.reference.digest == digest) {
            return Ok(generation);
        }
        let why = generation.refused.get(name).map_or_else(|| "another file is there".to_owned(), ToString::to_string);
        Err(ChangeError::Conflict(format!("{name}.wasm is {digest} now, and does not serve: {why}")))
    }
}

pub(super) fn no_candidate(name: &str) -> ChangeError {
    ChangeError::Conflict(format!("{name} has no candidate; put one into the folder as {name}.next.wasm"))
}

pub(super) fn refused_candidate(name: &str, error: &PolicyError) -> ChangeError {
    ChangeError::Refused { file: format!("{name}.next.wasm"), error: error.clone() }
}

impl Place {
    /// The candidate, which has been tried, goes live in the place of `live`.
    pub(super) fn promote(
        &self,
        name: &str,
        wanted: Option<&str>,
        candidate: &Policy,
        live: Live,
    ) -> Result<(), ChangeError> {
        let promoted = &*candidate.reference.digest;
        if let Some(wanted) = wanted.filter(|wanted| **wanted != *promoted) {
            return Err(ChangeError::Conflict(format!("the candidate for {name} is {promoted}, not {wanted}")));
        }
        let is_the_same = |files: Files| files.digest() == *candidate.edition.files;
        if !Files::read_candidate(&self.dir, name).is_ok_and(is_the_same) {
            return Err(ChangeError::Conflict(format!("{name}.next.wasm has just changed; look at it and try again")));
        }
        swap::promote(&self.dir, name, live).map_err(|error| {
            let what = format!("{name}.next.wasm ({promoted}) as {name}.wasm");
            swap::unwritten(&error, &what)
        })
    }

    /// The previous version is tried, and goes live in the place of `live`; tells its digest.
    pub(super) fn roll_back(
        &self,
        name: &str,
        wanted: Option<&str>,
        live: Live,
        now: DateTime<Utc>,
    ) -> Result<String, ChangeError> {
        let stem = format!("{name}.previous");
        if !self.dir.join(format!("{stem}.wasm")).exists() {
            return Err(self.nothing_to_go_back_to(name));
        }
        let refused = |error| ChangeError::Refused { file: format!("{stem}.wasm"), error };
        let files = Files::read(&self.dir, &stem).map_err(refused)?;
        let previous = engine::digest(&files.component);
        if let Some(wanted) = wanted.filter(|wanted| **wanted != *previous) {
            return Err(ChangeError::Conflict(format!("the previous version of {name} is {previous}, not {wanted}")));
        }
        self.prepare(name, &files, now).map_err(refused)?;
        swap::exchange(&self.dir, name, files, live)
            .map_err(|error| swap::unwritten(&error, &format!("the earlier {name}.wasm ({previous})")))?;
        Ok(previous)
    }

    fn nothing_to_go_back_to(&self, name: &str) -> ChangeError {
        let mut fault = format!("{name} has nothing to go back to: there is no {name}.previous.wasm");
        if name != STANDARD && self.dir.join(format!("{name}.wasm")).exists() {
            fault.push_str("; remove ");
            fault.push_str(name);
            fault.push_str(".wasm, and the standard policy decides for the tier again");
        }
        ChangeError::Conflict(fault)
    }

    /// The gate before the gate, with what this folder's policies are compiled with.
    pub(super) fn prepare(&self, name: &str, files: &Files, now: DateTime<Utc>) -> Result<Policy, PolicyError> {
        Policy::prepare(&self.engine, &self.compiler, name, files, now)
    }
}
