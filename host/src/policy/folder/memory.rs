//! What is remembered from one scan to the next, so that nothing is prepared, told or counted twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::standing::Standing;
use crate::policy::engine::PolicyError;

/// How long a file is missing before it counts as deleted: longer than editors and deployments take to replace it.
pub(super) const GONE_AFTER: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What is remembered from one scan to the next, by file name without `.wasm`.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) refusals: BTreeMap<String, Refusal>,
    pub(super) missing_since: BTreeMap<String, Instant>,
    strays: BTreeMap<String, Stray>,
    /// What the metrics know.
    pub(super) counted: Standing,
}

/// A file that nobody reads.
struct Stray {
    since: Instant,
    is_told: bool,
}

/// A file that does not hold.
pub(super) struct Refusal {
    /// Digest of the files; none where they could not be read.
    source: Option<String>,
    error: PolicyError,
    attempts: u32,
    /// When it is worth another try; never, if it will not pass by itself.
    retry_at: Option<Instant>,
}

impl Memory {
    /// In how long another look is worth it, if nothing happens before.
    pub(super) fn look_again_in(&self) -> Option<Duration> {
        let retries = self.refusals.values().filter_map(|refusal| refusal.retry_at);
        let missing = self.missing_since.values().map(|since| *since + GONE_AFTER);
        let strays = self.strays.values().filter(|stray| !stray.is_told).map(|stray| stray.since + GONE_AFTER);
        retries.chain(missing).chain(strays).min().map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// A file has just gone missing, or is being written.
    pub(super) fn is_unsettled(&self) -> bool {
        let young = self
            .refusals
            .values()
            .any(|refusal| refusal.source.is_none() && refusal.retry_at.is_some() && refusal.attempts == 1);
        young || !self.missing_since.is_empty()
    }

    /// What does not hold: the file, its content and the reason.
    pub(super) fn refused(&self) -> Vec<(String, Option<String>, PolicyError)> {
        let refusals = self.refusals.iter();
        refusals.map(|(stem, refusal)| (stem.clone(), refusal.source.clone(), refusal.error.clone())).collect()
    }

    /// Tells of each stray once. A text may come before its component: one that has just been seen is told of later,
    /// unless all have been there for long.
    pub(super) fn see(&mut self, strays: &BTreeMap<String, String>, all_are_old: bool) {
        self.strays.retain(|file, _| strays.contains_key(file));
        for (file, reason) in strays {
            let new = || Stray { since: Instant::now(), is_told: false };
            let stray = self.strays.entry(file.clone()).or_insert_with(new);
            if !stray.is_told && (all_are_old || stray.since.elapsed() >= GONE_AFTER) {
                stray.is_told = true;
                tracing::warn!(file, reason, "Nobody reads this file of the policy folder");
            }
        }
    }

    /// The reason, if these files were refused before and are not worth another try.
    pub(super) fn would_refuse_again(&self, stem: &str, source: &str, is_asked_for: bool) -> Option<PolicyError> {
        let refusal = self.refusals.get(stem).filter(|refusal| refusal.source.as_deref() == Some(source))?;
        let is_due = refusal.retry_at.is_some_and(|at| is_asked_for || at <= Instant::now());
        (!is_due).then(|| refusal.error.clone())
    }

    pub(super) fn refuse(&mut self, stem: &str, source: Option<String>, error: PolicyError) -> PolicyError {
        let before = self.refusals.remove(stem).filter(|before| before.source == source);
        // Once for each file, not for each scan.
        if before.as_ref().is_none_or(|before| before.error != error) {
            tracing::error!(policy = stem, kind = error.kind(), reason = %error, "Policy refused");
        }
        let attempts = before.map_or(1, |before| before.attempts.saturating_add(1));
        let pause = FIRST_PAUSE.saturating_mul(1 << (attempts - 1).min(12)).min(LONGEST_PAUSE);
        let retry_at = error.may_pass().then(|| Instant::now() + pause);
        self.refusals.insert(stem.to_owned(), Refusal { source, error: error.clone(), attempts, retry_at });
        error
    }
}
