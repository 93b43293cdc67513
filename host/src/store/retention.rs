//! The decision log's days: a partition for each, made ahead of time and dropped when it is too old.
//!
//! Each function is a transaction that gives up rather than wait: behind a lock that is waited for, everybody else's
//! statements wait too. Whoever is told no comes again.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{Postgres, Transaction};

use super::{Store, StoreError};

/// Of the hosts of a database, one at a time changes which days there are.
const LOCK: i64 = 0x7011_9a7e_0008;

impl Store {
    /// The days that have a partition, oldest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn days_of_decisions(&self) -> Result<Vec<NaiveDate>, StoreError> {
        Ok(sqlx::query_scalar(
            r"SELECT to_date(substr(c.relname, 11), 'YYYY_MM_DD') AS day
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = 'copilot_internal.decisions'::regclass AND c.relname ~ '^decisions_\d{4}_\d\d_\d\d$'
              ORDER BY day",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The day by the database's clock.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn today(&self) -> Result<NaiveDate, StoreError> {
        Ok(sqlx::query_scalar("SELECT current_date").fetch_one(&self.pool).await?)
    }

    /// Makes a day's partition, if it is not there. False: another host is at it.
    ///
    /// # Errors
    /// The database does not answer, or somebody reads the default partition at this moment ([`StoreError::Slow`]).
    pub async fn make_day_of_decisions(&self, day: NaiveDate) -> Result<bool, StoreError> {
        let Some(mut alone) = self.alone_with_days().await? else { return Ok(false) };
        sqlx::query("SELECT copilot_internal.make_day_of_decisions($1)").bind(day).execute(&mut *alone).await?;
        alone.commit().await?;
        Ok(true)
    }

    /// Drops a day with its decisions, if it is there. False: another host is at it.
    ///
    /// # Errors
    /// The database does not answer, or somebody reads the log at this moment ([`StoreError::Slow`]).
    pub async fn drop_day_of_decisions(&self, day: NaiveDate) -> Result<bool, StoreError> {
        let Some(mut alone) = self.alone_with_days().await? else { return Ok(false) };
        sqlx::query("SELECT copilot_internal.drop_day_of_decisions($1)").bind(day).execute(&mut *alone).await?;
        alone.commit().await?;
        Ok(true)
    }

    /// A transaction of the one who changes the days now.
    async fn alone_with_days(&self) -> Result<Option<Transaction<'static, Postgres>>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SET LOCAL lock_timeout = '100ms'").execute(&mut *transaction).await?;
        let alone: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").bind(LOCK).fetch_one(&mut *transaction).await?;
        Ok(alone.then_some(transaction))
    }

    /// Deletes some of what is older than `before` and in no day's partition: disagreements with candidates, and decisions
    /// that came when their day was gone. Tells how many there were.
    ///
    /// # Errors
    /// The database does not answer; then none was deleted.
    pub async fn delete_old_decisions(&self, before: DateTime<Utc>, most: i64) -> Result<u64, StoreError> {
        // Of two hosts that delete, each takes rows of its own.
        let deleted: i64 = sqlx::query_scalar(
            "WITH late AS (
                 DELETE FROM copilot_internal.decisions_default WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM copilot_internal.decisions_default WHERE decided_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
                 RETURNING 1
             ), disagreed AS (
                 DELETE FROM copilot_internal.policy_disagreements WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM copilot_internal.policy_disagreements WHERE decided_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
                 RETURNING 1
             )
             SELECT (SELECT count(*) FROM late) + (SELECT count(*) FROM disagreed)",
        )
        .bind(before)
        .bind(most)
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(deleted).unwrap_or_default())
    }

    /// How many decisions are in no day's partition.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn decisions_of_no_day(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM copilot_internal.decisions_default").fetch_one(&self.pool).await?)
    }
}
