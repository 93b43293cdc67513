//! Disagreements between a live policy and the candidate that ran in shadow beside it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, StoreError, column};

/// What one of the two said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `allowed`, `denied`, or of a candidate `failed`.
    pub outcome: &'static str,
    /// Of the denial or the failure.
    pub code: Option<String>,
    /// Of the denial or the failure.
    pub reason: Option<String>,
}

/// One decision on which the two disagree.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// The decision's id.
    pub decision_id: Uuid,
    /// The request's time.
    pub decided_at: DateTime<Utc>,
    /// Who was charged.
    pub tenant_id: String,
    /// What was asked for.
    pub resource_type: String,
    /// The live policy and the candidate's name.
    pub policy_name: String,
    /// The live policy's.
    pub live_digest: String,
    /// What stood.
    pub live: Said,
    /// The candidate's.
    pub candidate_digest: String,
    /// What would have stood.
    pub candidate: Said,
}

impl Store {
    /// Writes disagreements; one that is there already stays as it is. Locks nothing that others wait for.
    ///
    /// # Errors
    /// The database does not answer; then none was written.
    pub async fn insert_disagreements(&self, rows: &[Disagreement]) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO copilot_internal.policy_disagreements
                 (decision_id, decided_at, tenant_id, resource_type, policy_name, live_digest, live_outcome, live_code,
                  candidate_digest, candidate_outcome, candidate_code, candidate_reason)
             SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                  $8::text[], $9::text[], $10::text[], $11::text[], $12::text[])
             ON CONFLICT DO NOTHING",
        )
        .bind(column(rows, |row| row.decision_id))
        .bind(column(rows, |row| row.decided_at))
        .bind(column(rows, |row| row.tenant_id.as_str()))
        .bind(column(rows, |row| row.resource_type.as_str()))
        .bind(column(rows, |row| row.policy_name.as_str()))
        .bind(column(rows, |row| row.live_digest.as_str()))
        .bind(column(rows, |row| row.live.outcome))
        .bind(column(rows, |row| row.live.code.as_deref()))
        .bind(column(rows, |row| row.candidate_digest.as_str()))
        .bind(column(rows, |row| row.candidate.outcome))
        .bind(column(rows, |row| row.candidate.code.as_deref()))
        .bind(column(rows, |row| row.candidate.reason.as_deref()))
        .execute(&self.log)
        .await?;
        Ok(())
    }
}
