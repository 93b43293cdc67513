//! A scan: what the folder holds now, against what is remembered of it, becomes the next generation.
//!
//! 1. The files are listed. A policy whose file is missing serves until a later scan misses it too.
//! 2. Each policy's files are read. What serves already is left as it is.
//! 3. What was refused and would be refused again is not prepared again. What may pass by itself is tried again, each
//!    time after a longer pause.
//! 4. The rest passes the gate or is refused, and then what served before serves on: from the last generation or, at a
//!    start, from what was kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};

use super::candidate::Candidate;
use super::files::{self, Files};
use super::generation::Generation;
use super::memory::{GONE_AFTER, Memory};
use super::policy::{Policy, Prepared, within};
use super::{Place, STANDARD, stray};
use crate::policy::engine::PolicyError;

/// One scan.
pub(super) struct Scan<'a> {
    pub(super) place: &'a Place,
    pub(super) serving: Option<&'a Generation>,
    pub(super) now: DateTime<Utc>,
    /// Somebody waits for the answer: what may pass is tried without a pause.
    pub(super) asked_for: bool,
}

impl Scan<'_> {
    /// The next generation; `memory` learns.
    pub(super) fn run(&self, memory: &mut Memory) -> Result<Generation, PolicyError> {
        let listing = files::list(&self.place.dir)?;
        memory.see(&stray::among(&listing), self.serving.is_none());
        let mut next = Draft::default();
        let mut names = listing.live.clone();
        match self.serving {
            Some(serving) => names.extend(serving.policies.keys().cloned()),
            None => names.extend(self.place.kept.names()),
        }
        for name in names {
            if listing.live.contains(&name) {
                memory.missing_since.remove(&name);
                self.live(memory, &mut next, &name);
            } else {
                self.missing(memory, &mut next, &name);
            }
        }
        for name in &listing.candidates {
            self.candidate(memory, &mut next, name);
        }
        memory.refusals.retain(|stem, _| match stem.strip_suffix(".next") {
            Some(name) => listing.candidates.contains(name),
            None => listing.live.contains(stem) || stem == STANDARD,
        });
        let standard = match (next.policies.get(STANDARD), next.refused.get(STANDARD)) {
            (Some(standard), _) => standard.clone(),
            (None, Some(error)) => return Err(within("standard.wasm", error.clone())),
            (None, None) => {
                return Err(PolicyError::Load(format!("{} has no standard.wasm", self.place.dir.display())));
            }
        };
        let Draft { policies, refused, unserved, candidates, refused_candidates } = next;
        Ok(Generation { standard, policies, refused, unserved, candidates, refused_candidates })
    }

    /// What serves under a name: in the last generation or, at a start, as it was kept.
    fn last_good(&self, name: &str) -> Option<Arc<Policy>> {
        if let Some(serving) = self.serving {
            return serving.policies.get(name).cloned();
        }
        let files = self.place.kept.load(name)?;
        match self.place.prepare(name, &files, self.now) {
            Ok(policy) => Some(Arc::new(policy)),
            Err(error) => {
                tracing::error!(policy = name, reason = %error, "Last good version does not hold any more");
                None
            }
        }
    }

    fn live(&self, memory: &mut Memory, next: &mut Draft, name: &str) {
        let serving = self.serving.and_then(|serving| serving.policies.get(name));
        let prepared = self.prepare(
            memory,
            name,
            serving,
            || Files::read(&self.place.dir, name),
            |policy, files| {
                tracing::info!(policy = name, digest = %policy.reference.digest, "Policy live");
                self.place.kept.keep(name, files);
            },
        );
        match prepared {
            Ok(policy) => {
                next.policies.insert(name.to_owned(), policy);
            }
            Err(error) => {
                if let Some(policy) = self.last_good(name) {
                    next.policies.insert(name.to_owned(), policy);
                } else if self.serving.is_none_or(|serving| serving.unserved.contains(name)) {
                    next.unserved.insert(name.to_owned());
                }
                next.refused.insert(name.to_owned(), error);
            }
        }
    }

    fn missing(&self, memory: &mut Memory, next: &mut Draft, name: &str) {
        if name == STANDARD {
            // Without it nobody without a tier could be answered: the file may go, the policy stays.
            if let Some(policy) = self.last_good(name) {
                next.policies.insert(name.to_owned(), policy);
                let gone = "standard.wasm is gone from the folder; its last version serves on";
                let error = memory.refuse(name, None, PolicyError::Load(gone.to_owned()));
                next.refused.insert(name.to_owned(), error);
            }
            return;
        }
        let since = *memory.missing_since.entry(name.to_owned()).or_insert_with(Instant::now);
        if since.elapsed() < GONE_AFTER
            && let Some(policy) = self.last_good(name)
        {
            next.policies.insert(name.to_owned(), policy);
            return;
        }
        tracing::info!(policy = name, "Policy gone");
        memory.missing_since.remove(name);
        self.place.kept.forget(name);
    }

    fn candidate(&self, memory: &mut Memory, next: &mut Draft, name: &str) {
        let running = self.serving.and_then(|serving| serving.candidates.get(name));
        let stem = format!("{name}.next");
        let read = || Files::read_candidate(&self.place.dir, name);
        let prepared = self.prepare(memory, &stem, running.map(|running| &running.policy), read, |policy, _| {
            tracing::info!(policy = stem, digest = %policy.reference.digest, "Candidate runs in shadow");
        });
        match (prepared, running) {
            (Ok(policy), Some(running)) if Arc::ptr_eq(&policy, &running.policy) => {
                next.candidates.insert(name.to_owned(), running.clone());
            }
            (Ok(policy), _) => {
                next.candidates.insert(name.to_owned(), Candidate::new(policy));
            }
            (Err(error), _) => {
                next.refused_candidates.insert(name.to_owned(), error);
            }
        }
    }

    /// The policy of the files that `read` gives: `serving`, if they are still the same, else one that passed the gate.
    fn prepare(
        &self,
        memory: &mut Memory,
        stem: &str,
        serving: Option<&Arc<Policy>>,
        read: impl FnOnce() -> Result<Files, PolicyError>,
        passed: impl FnOnce(&Policy, &Files),
    ) -> Prepared {
        let files = match read() {
            Ok(files) => files,
            Err(error) => return Err(memory.refuse(stem, None, error)),
        };
        let source = files.digest();
        if let Some(policy) = serving.filter(|policy| *policy.edition.files == source) {
            memory.refusals.remove(stem);
            return Ok(policy.clone());
        }
        if let Some(error) = memory.would_refuse_again(stem, &source, self.asked_for) {
            return Err(error);
        }
        let name = stem.trim_end_matches(".next");
        match self.place.prepare(name, &files, self.now) {
            Ok(policy) => {
                memory.refusals.remove(stem);
                passed(&policy, &files);
                Ok(Arc::new(policy))
            }
            Err(error) => Err(memory.refuse(stem, Some(source), error)),
        }
    }
}

/// A generation in the making.
#[derive(Default)]
struct Draft {
    policies: BTreeMap<String, Arc<Policy>>,
    refused: BTreeMap<String, PolicyError>,
    unserved: BTreeSet<String>,
    candidates: BTreeMap<String, Candidate>,
    refused_candidates: BTreeMap<String, PolicyError>,
}
