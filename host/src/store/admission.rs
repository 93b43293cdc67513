//! Admissions: money set aside in the step that decides, on exactly the rows that the policies saw.

mod statement;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::subjects::{Standing, Subject};
use super::{Link, Store, StoreError, column};
use crate::decision::{PolicyRef, Request};
use crate::money::Money;
use crate::quota::{ClosedWindow, QuotaRow, UserId};

/// Money that is to be set aside.
#[derive(Clone, Debug)]
pub struct NewReservation {
    /// Who asked for what; the reservation's id is its decision's, too.
    pub request: Arc<Request>,
    /// Its place in [`Admission::subjects`].
    pub subject: usize,
    /// Digest of what the caller sent.
    pub body: Arc<str>,
    /// Set aside: the estimate, or what the policy allowed at most.
    pub held: Money,
    /// When the host gives it back; at most 24 hours after the request.
    pub expires_at: DateTime<Utc>,
    /// The quotas that hold it, each in one of its windows.
    pub holds: Vec<(Uuid, DateTime<Utc>)>,
    /// Which policy decided.
    pub policy: PolicyRef,
}

/// A row as the policies saw it, and as it is to be after them.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// As it must still be when the statement has locked it.
    pub seen: QuotaRow,
    /// As it is written then.
    pub written: QuotaRow,
}

/// What a batch admits, and all that its policies saw.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// Who asked for what, and the tier, pool and quotas that they had.
    pub subjects: Vec<(Subject, Standing)>,
    /// Every quota of every subject, once.
    pub rows: Vec<RowChange>,
    /// Windows that the batch closed.
    pub closed: Vec<ClosedWindow>,
    /// The reservations.
    pub reservations: Vec<NewReservation>,
}

/// A transaction that holds the locks of a batch's rows.
pub struct Locked {
    transaction: sqlx::Transaction<'static, sqlx::Postgres>,
}

impl Locked {
    /// How `subjects` stand, now and until the end of the transaction.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn standings(&mut self, subjects: &[Subject]) -> Result<Vec<Standing>, StoreError> {
        super::subjects::read(&mut self.transaction, subjects).await
    }

    /// As [`Link::admit`], on the locked rows, and commits.
    ///
    /// # Errors
    /// The database does not answer; then it is not known whether the admission was committed.
    pub async fn admit(mut self, admission: &Admission, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let admitted = admit(&mut self.transaction, admission, now).await?;
        self.transaction.commit().await?;
        Ok(admitted)
    }

    /// Gives the locks back.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn give_up(self) -> Result<(), StoreError> {
        Ok(self.transaction.rollback().await?)
    }
}

/// The constraint that makes a request id one reservation.
const ONCE_PER_REQUEST_ID: &str = "reservations_once_per_request_id";

async fn admit(connection: &mut PgConnection, admission: &Admission, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let Admission { subjects, rows, closed, reservations } = admission;
    // As the statement wants them: rows by id, what applies by subject and id.
    let mut rows: Vec<&RowChange> = rows.iter().collect();
    rows.sort_unstable_by_key(|row| row.seen.id);
    let numbered = subjects.iter().zip(1_i64..);
    let mut applying: Vec<(i64, Uuid)> =
        numbered.flat_map(|((_, standing), n)| standing.quotas.iter().map(move |quota| (n, quota.id))).collect();
    applying.sort_unstable();
    // Lists of different lengths make no array of two dimensions: they go one after the other, each with its bounds.
    let mut held_until = 0_i64;
    let bounds: Vec<(i64, i64)> = reservations
        .iter()
        .map(|new| {
            let from = held_until + 1;
            held_until += count(new.holds.len());
            (from, held_until)
        })
        .collect();
    let holds = || reservations.iter().flat_map(|new| &new.holds);
    let has_ids = reservations.iter().any(|new| new.request.request_id.is_some());
    let answer = sqlx::query_scalar(statement::admit(!closed.is_empty(), has_ids))
        .bind(now)
        .bind(column(subjects, |(subject, _)| subject.tenant.as_str()))
        .bind(column(subjects, |(subject, _)| subject.user.as_ref().map(UserId::as_str)))
        .bind(column(subjects, |(subject, _)| subject.resource_type.as_str()))
        .bind(column(subjects, |(_, standing)| standing.tier.as_ref().map(crate::quota::Tier::as_str)))
        .bind(column(subjects, |(_, standing)| standing.pool.as_ref().map(crate::quota::PoolId::as_str)))
        .bind(column(&applying, |(n, _)| *n))
        .bind(column(&applying, |(_, quota)| *quota))
        .bind(column(&rows, |row| row.seen.id))
        .bind(column(&rows, |row| row.seen.limit.nanos()))
        .bind(column(&rows, |row| row.seen.hard_limit.map(Money::nanos)))
        .bind(column(&rows, |row| row.seen.spend.nanos()))
        .bind(column(&rows, |row| row.seen.held.nanos()))
        .bind(column(&rows, |row| count(row.seen.admitted)))
        .bind(column(&rows, |row| row.seen.period_start))
        .bind(column(&rows, |row| row.seen.newest_closed.map(|(start, _)| start)))
        .bind(column(&rows, |row| row.seen.newest_closed.map(|(_, spend)| spend.nanos())))
        .bind(column(&rows, |row| row.written.spend.nanos()))
        .bind(column(&rows, |row| row.written.held.nanos()))
        .bind(column(&rows, |row| count(row.written.admitted)))
        .bind(column(&rows, |row| row.written.period_start))
        .bind(column(closed, |window| window.quota_id))
        .bind(column(closed, |window| window.start))
        .bind(column(closed, |window| window.spend.nanos()))
        .bind(column(closed, |window| window.held.nanos()))
        .bind(column(closed, |window| count(window.admitted)))
        .bind(column(reservations, |new| new.request.id))
        .bind(column(reservations, |new| count(new.subject + 1)))
        .bind(column(reservations, |new| new.request.request_id.as_deref()))
        .bind(column(reservations, |new| &*new.body))
        .bind(column(reservations, |new| new.request.estimate.nanos()))
        .bind(column(reservations, |new| new.held.nanos()))
        .bind(column(reservations, |new| new.request.at))
        .bind(column(reservations, |new| new.expires_at))
        .bind(column(&bounds, |(from, _)| *from))
        .bind(column(&bounds, |(_, to)| *to))
        .bind(holds().map(|(quota, _)| *quota).collect::<Vec<_>>())
        .bind(holds().map(|(_, start)| *start).collect::<Vec<_>>())
        .bind(column(reservations, |new| &*new.policy.name))
        .bind(column(reservations, |new| &*new.policy.digest))
        .bind(column(&rows, |row| row.seen.temporary.map(|temporary| temporary.limit.nanos())))
        .bind(column(&rows, |row| row.seen.temporary.map(|temporary| temporary.until)))
        .bind(column(&rows, |row| row.seen.key.period.as_str()))
        .fetch_one(connection)
        .await;
    match answer {
        // The same request id through another host, after this statement's snapshot was taken, and no quota made it wait.
        Err(sqlx::Error::Database(error)) if error.constraint() == Some(ONCE_PER_REQUEST_ID) => Ok(false),
        answer => Ok(answer?),
    }
}

fn count<T>(number: T) -> i64
where
    i64: TryFrom<T>,
{
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Link {
    /// Commits the admission if everything is as its policies saw it; tells whether it did. One statement.
    ///
    /// # Errors
    /// The database does not answer; then it is not known whether the admission was committed.
    pub async fn admit(&mut self, admission: &Admission, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let mut connection = self.take().await?;
        let admitted = self.guard(admit(&mut connection, admission, now)).await;
        self.give_back(connection, admitted)
    }
}

impl Store {
    /// Locks every quota of `subjects`, in key order.
    ///
    /// # Errors
    /// The database does not answer, or does not give the locks in time.
    pub async fn lock(&self, subjects: &[Subject]) -> Result<Locked, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let (tenants, users, resources) = super::subjects::columns(subjects);
        sqlx::query(statement::LOCK).bind(tenants).bind(users).bind(resources).execute(&mut *transaction).await?;
        Ok(Locked { transaction })
    }
}
