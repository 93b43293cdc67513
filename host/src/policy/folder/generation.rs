//! A generation: the policies that serve together, the candidates beside them, and why other files do not serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::STANDARD;
use super::candidate::{Candidate, CandidateStatus};
use super::policy::Policy;
use crate::decision::PolicyRef;
use crate::policy::engine::PolicyError;
use crate::quota::Tier;

/// The policies that serve together, and why others do not.
pub struct Generation {
    pub(super) standard: Arc<Policy>,
    /// All of them, the standard one too.
    pub(super) policies: BTreeMap<String, Arc<Policy>>,
    pub(super) refused: BTreeMap<String, PolicyError>,
    /// Those of the refused that never had a version that holds: the host does not know what served before.
    pub(super) unserved: BTreeSet<String>,
    /// They run in shadow.
    pub(super) candidates: BTreeMap<String, Candidate>,
    pub(super) refused_candidates: BTreeMap<String, PolicyError>,
}

impl Generation {
    /// The policy for a tier: its own, or the standard one where it has no file.
    ///
    /// # Errors
    /// The tier had a file when the host started, it does not hold, and no good version of it was kept: the standard policy
    /// was not meant for this tier, and may allow what its own would not. Otherwise what served before serves on.
    pub fn for_tier(&self, tier: Option<&Tier>) -> Result<&Policy, &PolicyError> {
        let Some(name) = tier.map(Tier::as_str) else { return Ok(&self.standard) };
        match (self.policies.get(name), self.refused.get(name)) {
            (Some(policy), _) => Ok(policy),
            (None, Some(error)) if self.unserved.contains(name) => Err(error),
            (None, _) => Ok(&self.standard),
        }
    }

    /// The candidate that runs in shadow for a tier: its own, or that of the standard policy where that one serves it.
    pub fn candidate_for(&self, tier: Option<&Tier>) -> Option<&Candidate> {
        if self.candidates.is_empty() {
            return None;
        }
        let own = tier
            .map(Tier::as_str)
            .filter(|name| self.policies.contains_key(*name) || self.candidates.contains_key(*name));
        self.candidates.get(own.unwrap_or(STANDARD))
    }

    /// The standard policy.
    pub fn standard(&self) -> &Policy {
        &self.standard
    }

    /// The settings of a policy that decided in this generation.
    pub fn settings_of(&self, policy: &PolicyRef) -> &[(String, String)] {
        self.policies.get(&*policy.name).map_or(&[], |policy| policy.settings())
    }

    /// How many files of the folder do not serve, and neither run in shadow.
    pub fn refused(&self) -> usize {
        self.refused.len() + self.refused_candidates.len()
    }

    /// Every policy that serves, runs in shadow or was refused, by name.
    pub fn statuses(&self) -> Vec<Status> {
        let served = self.policies.keys().chain(self.refused.keys());
        let names: BTreeSet<&String> =
            served.chain(self.candidates.keys()).chain(self.refused_candidates.keys()).collect();
        names
            .into_iter()
            .map(|name| Status {
                name: name.clone(),
                serving: self.policies.get(name).map(|policy| Serving {
                    digest: policy.reference.digest.clone(),
                    since: policy.since,
                    version: policy.version.clone(),
                    summary: policy.summary.clone(),
                    cases: policy.cases,
                }),
                last_error: self.refused.get(name).cloned(),
                candidate: match (self.candidates.get(name), self.refused_candidates.get(name)) {
                    (Some(candidate), _) => Some(candidate.status()),
                    (None, Some(error)) => Some(CandidateStatus::refused(error.clone())),
                    (None, None) => None,
                },
            })
            .collect()
    }
}

/// How one policy of the folder stands.
pub struct Status {
    /// File name without `.wasm`.
    pub name: String,
    /// What serves under this name.
    pub serving: Option<Serving>,
    /// Why the file that lies there now does not.
    pub last_error: Option<PolicyError>,
    /// What `NAME.next.wasm` does.
    pub candidate: Option<CandidateStatus>,
}

/// A version that serves.
pub struct Serving {
    /// Of the component's bytes.
    pub digest: Arc<str>,
    /// When it went live here.
    pub since: DateTime<Utc>,
    /// The policy's own words.
    pub version: String,
    /// The policy's own words.
    pub summary: String,
    /// How many fixtures it passed.
    pub cases: usize,
}
