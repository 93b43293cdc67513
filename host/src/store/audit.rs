//! Who changed what. The tables' triggers write the rows, so that no change is missed, an operator's SQL included; what
//! this host changes carries who asked for it, why, and when by the host's clock.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, Postgres, Transaction};

use super::{Store, StoreError};

/// On whose behalf the host changes a rule or a tenant.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// `http:admin`, `cli:root`, `worker`.
    pub actor: &'a str,
    /// In the words of whoever asked for it.
    pub reason: Option<&'a str>,
    /// The host's now.
    pub at: DateTime<Utc>,
}

/// One change.
#[derive(Clone, Debug, FromRow)]
pub struct AuditRow {
    /// Ascending in the order of the changes.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who; `sql:` and a role where it was no host.
    pub actor: String,
    /// `quota.created`, `tenant.changed`, …
    pub action: String,
    /// `tenant/acme-corp/llm/day`, or a tenant's id.
    pub subject: String,
    /// Whose tenant it concerns, where it is one's.
    pub tenant_id: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// A JSON object; nothing where it was not there.
    pub before: Option<String>,
    /// A JSON object; nothing where it is gone.
    pub after: Option<String>,
}

/// What a listing is narrowed to; `None` is everything.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only what concerns this tenant.
    pub tenant_id: Option<String>,
    /// Only these changes.
    pub action: Option<String>,
    /// Not before.
    pub since: Option<DateTime<Utc>>,
    /// At most so many, the newest.
    pub limit: i64,
}

impl Store {
    /// A transaction whose changes are `change`'s in the audit table.
    pub(super) async fn begin_change(&self, change: Change<'_>) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "SELECT set_config('tollgate.actor', $1, true), set_config('tollgate.reason', coalesce($2, ''), true),
                    set_config('tollgate.at', $3::timestamptz::text, true)",
        )
        .bind(change.actor)
        .bind(change.reason)
        .bind(change.at)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction)
    }

    /// The changes that match, the newest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT id, at, actor, action, subject, tenant_id, reason, before::text, after::text
             FROM copilot_internal.audit
             WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR action = $2)
               AND ($3::timestamptz IS NULL OR at >= $3)
             ORDER BY id DESC LIMIT $4",
        )
        .bind(&filter.tenant_id)
        .bind(&filter.action)
        .bind(filter.since)
        .bind(filter.limit)
        .fetch_all(&self.readers)
        .await?)
    }
}
