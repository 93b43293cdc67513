//! Shadows: candidates are asked what the live policies were asked, after the answer, and change nothing.
//!
//! They run on a thread of their own, from a queue of their own. When it is full, decisions are dropped and counted:
//! the gate never waits for a shadow.

use tokio::sync::mpsc;

use crate::decision::{Decision, Facts, PolicyRef};
use crate::policy::folder::Candidate;
use crate::policy::{Generation, PolicyError};
use crate::store::Store;
use crate::store::shadows::{Disagreement, Said};

const QUEUE: usize = 1_024;
const LARGEST_BATCH: usize = 64;
/// Disagreements of one candidate that this host stores; beyond them it only counts.
const MOST_STORED: u64 = 10_000;

struct Job {
    candidate: Candidate,
    facts: Facts,
    live: PolicyRef,
    said: Said,
}

/// Takes decisions for the candidates.
pub(super) struct Shadow {
    jobs: mpsc::Sender<Job>,
}

impl Shadow {
    /// Starts the task that asks them.
    pub(super) fn start(store: Store) -> Self {
        let (jobs, arrivals) = mpsc::channel(QUEUE);
        tokio::spawn(compare(store, arrivals));
        Self { jobs }
    }

    /// Has the candidate asked as well, if there is one. Never waits.
    pub(super) fn ask(&self, generation: &Generation, decision: &Decision) {
        let Some(candidate) = generation.candidate_for(decision.facts.tier.as_ref()) else { return };
        let Ok(place) = self.jobs.try_reserve() else {
            candidate.dropped();
            return;
        };
        place.send(Job {
            candidate: candidate.clone(),
            facts: decision.facts.clone(),
            live: decision.policy.clone(),
            said: said(decision),
        });
    }
}

async fn compare(store: Store, mut arrivals: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(LARGEST_BATCH);
    while arrivals.recv_many(&mut jobs, LARGEST_BATCH).await > 0 {
        let batch = std::mem::take(&mut jobs);
        let asked = tokio::task::spawn_blocking(move || batch.into_iter().filter_map(Job::run).collect::<Vec<_>>());
        let Ok(disagreements) = asked.await else { continue };
        if !disagreements.is_empty()
            && let Err(error) = store.insert_disagreements(&disagreements).await
        {
            tracing::warn!(lost = disagreements.len(), reason = %error, "Disagreements not stored");
        }
    }
}

impl Job {
    /// Asks the candidate; what is to be stored, if the two disagree.
    fn run(self) -> Option<Disagreement> {
        let Self { candidate, facts, live, said: live_said } = self;
        let policy = candidate.policy().reference().clone();
        let request = facts.request.clone();
        let candidate_said = match candidate.policy().decide(&facts) {
            // As the host would have had it: hard limits count.
            Ok(verdict) => said(&Decision::new(facts, policy.clone(), verdict, true)),
            Err(error) => {
                let said = failed(&error);
                candidate.failed(error);
                said
            }
        };
        let agreed = (live_said.outcome, &live_said.code) == (candidate_said.outcome, &candidate_said.code);
        let number = candidate.compared(agreed)?;
        (number <= MOST_STORED).then(|| Disagreement {
            decision_id: request.id,
            decided_at: request.at,
            tenant_id: request.tenant.to_string(),
            resource_type: request.resource_type.to_string(),
            policy_name: policy.name.to_string(),
            live_digest: live.digest.to_string(),
            live: live_said,
            candidate_digest: policy.digest.to_string(),
            candidate: candidate_said,
        })
    }
}

/// What a decision says, whether or not it is enforced.
fn said(decision: &Decision) -> Said {
    match decision.denial() {
        None => Said { outcome: "allowed", code: None, reason: None },
        Some(denial) => {
            Said { outcome: "denied", code: Some(denial.code.clone()), reason: Some(denial.reason.clone()) }
        }
    }
}

fn failed(error: &PolicyError) -> Said {
    Said { outcome: "failed", code: Some(error.kind().to_owned()), reason: Some(error.to_string()) }
}
