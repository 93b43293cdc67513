//! The decision log: every denial, and allowed checks up to a rate, with the facts that the policy saw.

mod copying;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Store, StoreError, column};
use crate::decision::made_at;
use crate::money::Money;

/// A decision as it is stored.
#[derive(Clone, Debug)]
pub struct DecisionRow {
    /// The decision's id, UUID v7.
    pub id: Uuid,
    /// The request's time.
    pub decided_at: DateTime<Utc>,
    /// Who is charged.
    pub tenant_id: String,
    /// On whose behalf.
    pub user_id: Option<String>,
    /// What was asked for.
    pub resource_type: String,
    /// Expected cost.
    pub estimate: Money,
    /// The caller's idempotency id.
    pub request_id: Option<String>,
    /// `allowed`, `denied`, `unenforced`, `failed`.
    pub outcome: &'static str,
    /// Of the denial, or the kind of the policy's failure.
    pub code: Option<String>,
    /// Of the denial or the failure.
    pub reason: Option<String>,
    /// The binding quota.
    pub quota_id: Option<Uuid>,
    /// Which policy decided.
    pub policy_name: String,
    /// `sha256:…`.
    pub policy_digest: String,
    /// What the policy saw, as a JSON object.
    pub facts: String,
}

/// A decision as it is read back.
#[derive(Clone, Debug, FromRow)]
pub struct StoredDecision {
    /// The decision's id.
    pub id: Uuid,
    /// The request's time.
    pub decided_at: DateTime<Utc>,
    /// Who was charged.
    pub tenant_id: String,
    /// On whose behalf.
    pub user_id: Option<String>,
    /// What was asked for.
    pub resource_type: String,
    /// Expected cost in nano-dollars.
    pub estimate_nanos: i64,
    /// The caller's idempotency id.
    pub request_id: Option<String>,
    /// `allowed`, `denied`, `unenforced`, `failed`.
    pub outcome: String,
    /// Of the denial or failure.
    pub code: Option<String>,
    /// Of the denial or failure.
    pub reason: Option<String>,
    /// The binding quota.
    pub quota_id: Option<Uuid>,
    /// Which policy decided.
    pub policy_name: String,
    /// `sha256:…`.
    pub policy_digest: String,
    /// What the policy saw, as JSON text.
    pub facts: String,
}

/// What a listing is narrowed to; `None` is everything.
#[derive(Clone, Debug)]
pub struct DecisionFilter {
    /// Of one tenant.
    pub tenant_id: Option<String>,
    /// `allowed`, `denied`, `unenforced`, `failed`.
    pub outcome: Option<String>,
    /// Not before this.
    pub since: Option<DateTime<Utc>>,
    /// At most so many, newest first.
    pub limit: i64,
}

/// Which decisions are read again.
#[derive(Clone, Debug)]
pub struct Span {
    /// Not before this.
    pub since: DateTime<Utc>,
    /// Not after this, so that reading ends while a host goes on writing.
    pub until: DateTime<Utc>,
    /// Of one tenant.
    pub tenant_id: Option<String>,
}

macro_rules! stored_columns {
    () => {
        "SELECT id, decided_at, tenant_id, user_id, resource_type, (estimate_usd * 1000000000)::bigint AS estimate_nanos,
                request_id, outcome, code, reason, quota_id, policy_name, policy_digest, facts
         FROM copilot_internal.decisions"
    };
}

/// The columns of a [`DecisionRow`], in the order in which `copying` writes them.
macro_rules! columns {
    () => {
        "id, decided_at, tenant_id, user_id, resource_type, estimate_usd, request_id, outcome, code, reason,
         quota_id, policy_name, policy_digest, facts"
    };
}
use columns;

impl Store {
    /// Writes decisions; one that is there already stays as it is.
    ///
    /// # Errors
    /// The database does not answer; then none was written.
    pub async fn insert_decisions(&self, rows: &[DecisionRow]) -> Result<(), StoreError> {
        sqlx::query(concat!(
            "INSERT INTO copilot_internal.decisions (",
            columns!(),
            ")
             SELECT id, decided_at, tenant_id, user_id, resource_type, nanos * 0.000000001, request_id, outcome, code, reason,
                    quota_id, policy_name, policy_digest, facts
             FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[],
                         $8::text[], $9::text[], $10::text[], $11::uuid[], $12::text[], $13::text[], $14::text[])
                  AS d (id, decided_at, tenant_id, user_id, resource_type, nanos, request_id, outcome, code, reason,
                        quota_id, policy_name, policy_digest, facts)
             ON CONFLICT (id, decided_at) DO NOTHING"
        ))
        .bind(column(rows, |row| row.id))
        .bind(column(rows, |row| row.decided_at))
        .bind(column(rows, |row| row.tenant_id.as_str()))
        .bind(column(rows, |row| row.user_id.as_deref()))
        .bind(column(rows, |row| row.resource_type.as_str()))
        .bind(column(rows, |row| row.estimate.nanos()))
        .bind(column(rows, |row| row.request_id.as_deref()))
        .bind(column(rows, |row| row.outcome))
        .bind(column(rows, |row| row.code.as_deref()))
        .bind(column(rows, |row| row.reason.as_deref()))
        .bind(column(rows, |row| row.quota_id))
        .bind(column(rows, |row| row.policy_name.as_str()))
        .bind(column(rows, |row| row.policy_digest.as_str()))
        .bind(column(rows, |row| row.facts.as_str()))
        .execute(&self.log)
        .await?;
        Ok(())
    }

    /// The decisions that match, newest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn decisions(&self, filter: &DecisionFilter) -> Result<Vec<StoredDecision>, StoreError> {
        Ok(sqlx::query_as(concat!(
            stored_columns!(),
            " WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR outcome = $2)
                AND ($3::timestamptz IS NULL OR decided_at >= $3)
              ORDER BY decided_at DESC, id DESC LIMIT $4"
        ))
        .bind(&filter.tenant_id)
        .bind(&filter.outcome)
        .bind(filter.since)
        .bind(filter.limit)
        .fetch_all(&self.readers)
        .await?)
    }

    /// The decisions of a span that are later than `after`, oldest first: `most`, and those of the same instant as the
    /// last of them. A page, so that no statement takes long however many there are; in the order of the index, so that
    /// none sorts what is left.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn decisions_after(
        &self,
        span: &Span,
        after: Option<DateTime<Utc>>,
        most: i64,
    ) -> Result<Vec<StoredDecision>, StoreError> {
        let first = || span.since - TimeDelta::microseconds(1);
        Ok(sqlx::query_as(concat!(
            stored_columns!(),
            " WHERE decided_at > $1 AND decided_at <= $2 AND ($3::text IS NULL OR tenant_id = $3)
              ORDER BY decided_at FETCH FIRST ($4) ROWS WITH TIES"
        ))
        .bind(after.unwrap_or_else(first))
        .bind(span.until)
        .bind(&span.tenant_id)
        .bind(most)
        .fetch_all(&self.readers)
        .await?)
    }

    /// One decision. Its id says when it was made, so only that day is searched.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn decision(&self, id: Uuid) -> Result<Option<StoredDecision>, StoreError> {
        let made_at = made_at(id);
        Ok(sqlx::query_as(concat!(
            stored_columns!(),
            " WHERE id = $1 AND decided_at >= coalesce($2, '-infinity') AND decided_at < coalesce($3, 'infinity')
              LIMIT 1"
        ))
        .bind(id)
        .bind(made_at)
        .bind(made_at.map(|at| at + TimeDelta::milliseconds(1)))
        .fetch_optional(&self.pool)
        .await?)
    }
}
