//! Admissions: money set aside in the step that decides, on exactly the rows that the policies saw.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::subjects::{Standing, Subject, newest_closed, quotas_that_apply};
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

/// Commits an admission if the rows, all of them and every value, are those that the policies saw, and no request id
/// is there already. Tells whether it did.
///
/// Arrays are read by index: `unnest` would make a table of each of them. Quotas come in the order of their ids, so that
/// the n-th locked row is the n-th of the arrays, or something has changed; what applies comes by subject and id.
const ADMIT: &str = concat!(
    "WITH s AS MATERIALIZED (
         SELECT n, t.tier, t.pool, x.tenant_id, ($3::text[])[n] AS user_id, ($4::text[])[n] AS resource_type
         FROM generate_series(1, cardinality($2::text[])) AS n
         CROSS JOIN LATERAL (SELECT ($2::text[])[n] AS tenant_id) AS x
         LEFT JOIN copilot_internal.tenants t ON t.tenant_id = x.tenant_id
     ), locked AS MATERIALIZED (
         SELECT * FROM copilot_internal.cost_quotas q WHERE q.id = ANY ($9) ORDER BY q.id FOR UPDATE
     ), applying AS MATERIALIZED (
         SELECT s.n::bigint AS n, q.id AS quota FROM s CROSS JOIN LATERAL (SELECT s.pool) AS t CROSS JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q ORDER BY 1, 2
     ), same AS MATERIALIZED (
         SELECT (SELECT count(*) FROM (SELECT *, row_number() OVER (ORDER BY id) AS i FROM locked) AS q ",
    newest_closed!(),
    "           WHERE (q.id, (q.limit_usd * 1000000000)::bigint, (q.hard_limit_usd * 1000000000)::bigint,
                       (q.current_spend_usd * 1000000000)::bigint, (q.held_usd * 1000000000)::bigint, q.admitted_count,
                       q.period_start, closed.window_start, (closed.spend_usd * 1000000000)::bigint,
                       (q.override_limit_usd * 1000000000)::bigint, q.override_until)
                      IS NOT DISTINCT FROM
                      (($9::uuid[])[q.i], ($10::bigint[])[q.i], ($11::bigint[])[q.i],
                       ($12::bigint[])[q.i], ($13::bigint[])[q.i], ($14::bigint[])[q.i],
                       ($15::timestamptz[])[q.i], ($16::timestamptz[])[q.i], ($17::bigint[])[q.i],
                       ($41::bigint[])[q.i], ($42::timestamptz[])[q.i])) = cardinality($9)
            AND NOT EXISTS (
                SELECT FROM s WHERE (s.tier, s.pool) IS DISTINCT FROM (($5::text[])[s.n], ($6::text[])[s.n]))
            AND ARRAY(SELECT n FROM applying) = $7::bigint[] AND ARRAY(SELECT quota FROM applying) = $8::uuid[]
            AND NOT EXISTS (
                SELECT FROM generate_series(1, cardinality($29::text[])) AS i
                JOIN copilot_internal.reservations r
                  ON r.tenant_id = ($2)[($28::bigint[])[i]] AND r.request_id = ($29)[i] AND r.request_id IS NOT NULL) AS ok
     ), reserved AS (
         INSERT INTO copilot_internal.reservations
             (id, tenant_id, user_id, resource_type, request_id, body, estimate_usd, held_usd, created_at, expires_at,
              quota_ids, window_starts, policy_name, policy_digest)
         SELECT ($27::uuid[])[i], ($2)[($28)[i]], ($3)[($28)[i]], ($4)[($28)[i]], ($29)[i], ($30::text[])[i],
                ($31::bigint[])[i] * 0.000000001, ($32::bigint[])[i] * 0.000000001,
                ($33::timestamptz[])[i], ($34::timestamptz[])[i],
                ($37::uuid[])[($35::bigint[])[i] : ($36::bigint[])[i]],
                ($38::timestamptz[])[($35)[i] : ($36)[i]], ($39::text[])[i], ($40::text[])[i]
         FROM generate_series(1, cardinality($27)) AS i WHERE (SELECT ok FROM same)
     ), closed AS (
         INSERT INTO copilot_internal.cost_quota_periods AS p
             (quota_id, window_start, scope, scope_id, resource_type, period, limit_usd, spend_usd, held_usd, admitted_count)
         SELECT q.id, w.window_start, q.scope, q.scope_id, q.resource_type, q.period, q.limit_usd,
                w.spend * 0.000000001, w.held * 0.000000001, w.admitted
         FROM unnest($22::uuid[], $23::timestamptz[], $24::bigint[], $25::bigint[], $26::bigint[])
              AS w (id, window_start, spend, held, admitted)
         JOIN locked q USING (id)
         WHERE (SELECT ok FROM same)
         ORDER BY 1, 2
         ON CONFLICT (quota_id, window_start) DO UPDATE
         SET spend_usd = p.spend_usd + excluded.spend_usd, held_usd = p.held_usd + excluded.held_usd,
             admitted_count = p.admitted_count + excluded.admitted_count
     ), updated AS (
         UPDATE copilot_internal.cost_quotas q
         SET current_spend_usd = ($18::bigint[])[i] * 0.000000001, held_usd = ($19::bigint[])[i] * 0.000000001,
             admitted_count = ($20::bigint[])[i], period_start = ($21::timestamptz[])[i], updated_at = $1
         FROM generate_series(1, cardinality($9)) AS i WHERE q.id = ($9)[i] AND (SELECT ok FROM same)
     )
     SELECT ok FROM same",
);

/// How a subject stands, its rows locked until the transaction ends. Must be the transaction's first statement.
const LOCK: &str = concat!(
    "WITH s AS MATERIALIZED (
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS s (tenant_id, user_id, resource_type, n)
     ), applies AS MATERIALIZED (
         SELECT s.n, q.id FROM s LEFT JOIN copilot_internal.tenants t ON t.tenant_id = s.tenant_id CROSS JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q
     )
     SELECT q.id FROM copilot_internal.cost_quotas q WHERE q.id = ANY (ARRAY(SELECT id FROM applies)) ORDER BY q.id FOR UPDATE"
);

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
    let answer = sqlx::query_scalar(ADMIT)
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
        sqlx::query(LOCK).bind(tenants).bind(users).bind(resources).execute(&mut *transaction).await?;
        Ok(Locked { transaction })
    }
}
