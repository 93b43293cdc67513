//! A policy that passed its gate: it loads, knows its settings, and its fixtures hold under the limits of production.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::files::Files;
use super::trial::Trial;
use crate::decision::{Facts, PolicyRef, Verdict};
use crate::policy::compile::Compiler;
use crate::policy::engine::{self, Compiled, Engine, PolicyError};
use crate::policy::manifest::OnError;

/// A policy that passed its own fixtures, with the operator's settings.
pub struct Policy {
    pub(super) reference: PolicyRef,
    compiled: Compiled,
    settings: Vec<(String, String)>,
    on_error: OnError,
    pub(super) summary: String,
    pub(super) version: String,
    pub(super) since: DateTime<Utc>,
    /// How many fixtures it passed.
    pub(super) cases: usize,
    pub(super) edition: Edition,
}

/// A policy as its files have it: another component, other settings or other limits make another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Edition {
    /// Whose policy it is.
    pub name: Arc<str>,
    /// Digest of the component, its manifest and its fixtures: what a scan compares.
    pub files: Arc<str>,
}

impl Policy {
    /// Name and digest.
    pub fn reference(&self) -> &PolicyRef {
        &self.reference
    }

    /// Name and digest of all its files.
    pub fn edition(&self) -> &Edition {
        &self.edition
    }

    /// What happens to a request when it fails.
    pub fn on_error(&self) -> OnError {
        self.on_error
    }

    /// The operator's values and the defaults, as the policy gets them.
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// One decision.
    ///
    /// # Errors
    /// The guest failed; see [`PolicyError`].
    pub fn decide(&self, facts: &Facts) -> Result<Verdict, PolicyError> {
        self.compiled.decide(facts, &self.settings)
    }

    /// For the decisions of one tenant within one batch.
    pub fn session(&self) -> Session<'_> {
        Session { policy: self, instance: self.compiled.session() }
    }

    /// The gate before the gate.
    pub(super) fn prepare(
        engine: &Engine,
        workshop: &Compiler,
        name: &str,
        files: &Files,
        now: DateTime<Utc>,
    ) -> Result<Self, PolicyError> {
        let trial = Trial::of(engine, workshop, name, files)?;
        let cases = trial.pass()?;
        let Trial { manifest, compiled, description, settings, .. } = trial;
        Ok(Self {
            reference: PolicyRef { name: name.into(), digest: compiled.digest().clone() },
            compiled,
            settings,
            on_error: manifest.on_error,
            summary: description.summary,
            version: description.version,
            since: now,
            cases,
            edition: Edition { name: name.into(), files: files.digest().into() },
        })
    }
}

/// A policy's instance for the decisions of one tenant within one batch.
pub struct Session<'a> {
    policy: &'a Policy,
    instance: engine::Session<'a>,
}

impl<'a> Session<'a> {
    /// Whose.
    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// One decision.
    ///
    /// # Errors
    /// The guest failed; the next call gets a new instance.
    pub fn decide(&mut self, facts: &Facts) -> Result<Verdict, PolicyError> {
        self.instance.decide(facts, &self.policy.settings)
    }
}

/// Names the file or part in which a load error lies; other kinds name themselves.
pub(super) fn within(part: &str, error: PolicyError) -> PolicyError {
    match error {
        PolicyError::Load(fault) => PolicyError::Load(format!("{part}: {fault}")),
        PolicyError::Unready(fault) => PolicyError::Unready(format!("{part}: {fault}")),
        other => other,
    }
}

pub(super) type Prepared = Result<Arc<Policy>, PolicyError>;
