//! Admissions: money set aside in the step that decides, on exactly the rows that the policies saw.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::subjects::{Standing, Subject, newest_closed, quotas_that_apply};
use super::{Link, Store, StoreError, column};
use crate::money::Money;
use crate::quota::{ClosedWindow, QuotaRow, ResourceType, TenantId, UserId};

/// Money that is to be set aside.
#[derive(Clone, Debug)]
pub struct NewReservation {
    /// The reservation's id, which is its decision's, too.
    pub id: Uuid,
    /// Who is charged.
    pub tenant: TenantId,
    /// On whose behalf.
    pub user: Option<UserId>,
    /// What is bought.
    pub resource_type: ResourceType,
    /// The caller's idempotency id.
    pub request_id: Option<String>,
    /// Digest of what the caller sent.
    pub body: String,
    /// Expected cost.
    pub estimate: Money,
    /// Set aside: the estimate, or what the policy allowed at most.
    pub held: Money,
    /// The request's time.
    pub created_at: DateTime<Utc>,
    /// When the host gives it back; at most 24 hours after `created_at`.
    pub expires_at: DateTime<Utc>,
    /// The quotas that hold it, each in one of its windows.
    pub holds: Vec<(Uuid, DateTime<Utc>)>,
    /// Which policy decided.
    pub policy_name: String,
    /// `sha256:…`.
    pub policy_digest: String,
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
const ADMIT: &str = concat!(
    "WITH subject AS MATERIALIZED (
         SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
              WITH ORDINALITY AS s (tenant_id, user_id, resource_type, tier, pool, n)
     ), pair AS MATERIALIZED (
         SELECT * FROM unnest($7::bigint[], $8::uuid[]) AS p (n, quota)
     ), change AS MATERIALIZED (
         SELECT * FROM unnest($9::uuid[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
                              $15::timestamptz[], $16::timestamptz[], $17::bigint[],
                              $18::bigint[], $19::bigint[], $20::bigint[], $21::timestamptz[])
              AS c (id, limit_nanos, hard_nanos, spend_nanos, held_nanos, admitted, period_start, closed_start, closed_nanos,
                    new_spend, new_held, new_admitted, new_start)
     ), asked AS MATERIALIZED (
         SELECT * FROM unnest($27::uuid[], $28::text[], $29::text[], $30::text[], $31::text[], $32::text[], $33::bigint[],
                              $34::bigint[], $35::timestamptz[], $36::timestamptz[], $37::text[], $38::text[], $39::text[], $40::text[])
              AS a (id, tenant_id, user_id, resource_type, request_id, body, estimate, held, created_at, expires_at,
                    quota_ids, window_starts, policy_name, policy_digest)
     ), locked AS MATERIALIZED (
         SELECT * FROM copilot_internal.cost_quotas q WHERE q.id = ANY ($9) ORDER BY q.id FOR UPDATE
     ), applying AS MATERIALIZED (
         SELECT s.n, q.id AS quota FROM subject s
         LEFT JOIN copilot_internal.tenants t ON t.tenant_id = s.tenant_id
         CROSS JOIN LATERAL (",
    quotas_that_apply!(),
    ") AS q
     ), same AS MATERIALIZED (
         SELECT (SELECT count(*) FROM locked AS q JOIN change AS c USING (id) ",
    newest_closed!(),
    "           WHERE ((q.limit_usd * 1000000000)::bigint, (q.hard_limit_usd * 1000000000)::bigint,
                       (q.current_spend_usd * 1000000000)::bigint, (q.held_usd * 1000000000)::bigint, q.admitted_count,
                       q.period_start, closed.window_start, (closed.spend_usd * 1000000000)::bigint)
                      IS NOT DISTINCT FROM
                      (c.limit_nanos, c.hard_nanos, c.spend_nanos, c.held_nanos, c.admitted,
                       c.period_start, c.closed_start, c.closed_nanos)) = (SELECT count(*) FROM change)
            AND NOT EXISTS (
                SELECT FROM subject s LEFT JOIN copilot_internal.tenants t ON t.tenant_id = s.tenant_id
                WHERE (t.tier, t.pool) IS DISTINCT FROM (s.tier, s.pool))
            AND (SELECT count(*) FROM applying) = (SELECT count(*) FROM pair)
            AND NOT EXISTS (
                SELECT FROM applying a WHERE NOT EXISTS (SELECT FROM pair p WHERE p.n = a.n AND p.quota = a.quota))
            AND NOT EXISTS (
                SELECT FROM asked a JOIN copilot_internal.reservations r
                  ON r.tenant_id = a.tenant_id AND r.request_id = a.request_id AND r.request_id IS NOT NULL) AS ok
     ), reserved AS (
         INSERT INTO copilot_internal.reservations
             (id, tenant_id, user_id, resource_type, request_id, body, estimate_usd, held_usd, created_at, expires_at,
              quota_ids, window_starts, policy_name, policy_digest)
         SELECT id, tenant_id, user_id, resource_type, request_id, body, estimate * 0.000000001, held * 0.000000001,
                created_at, expires_at, quota_ids::uuid[], window_starts::timestamptz[], policy_name, policy_digest
         FROM asked WHERE (SELECT ok FROM same)
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
         SET current_spend_usd = c.new_spend * 0.000000001, held_usd = c.new_held * 0.000000001,
             admitted_count = c.new_admitted, period_start = c.new_start, updated_at = $1
         FROM change c WHERE q.id = c.id AND (SELECT ok FROM same)
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
    let pairs = || {
        let numbered = subjects.iter().zip(1_i64..);
        numbered.flat_map(|((_, standing), n)| standing.quotas.iter().map(move |quota| (n, quota.id)))
    };
    let answer = sqlx::query_scalar(ADMIT)
        .bind(now)
        .bind(column(subjects, |(subject, _)| subject.tenant.as_str()))
        .bind(column(subjects, |(subject, _)| subject.user.as_ref().map(UserId::as_str)))
        .bind(column(subjects, |(subject, _)| subject.resource_type.as_str()))
        .bind(column(subjects, |(_, standing)| standing.tier.as_ref().map(crate::quota::Tier::as_str)))
        .bind(column(subjects, |(_, standing)| standing.pool.as_ref().map(crate::quota::PoolId::as_str)))
        .bind(pairs().map(|(n, _)| n).collect::<Vec<_>>())
        .bind(pairs().map(|(_, quota)| quota).collect::<Vec<_>>())
        .bind(column(rows, |row| row.seen.id))
        .bind(column(rows, |row| row.seen.limit.nanos()))
        .bind(column(rows, |row| row.seen.hard_limit.map(Money::nanos)))
        .bind(column(rows, |row| row.seen.spend.nanos()))
        .bind(column(rows, |row| row.seen.held.nanos()))
        .bind(column(rows, |row| count(row.seen.admitted)))
        .bind(column(rows, |row| row.seen.period_start))
        .bind(column(rows, |row| row.seen.newest_closed.map(|(start, _)| start)))
        .bind(column(rows, |row| row.seen.newest_closed.map(|(_, spend)| spend.nanos())))
        .bind(column(rows, |row| row.written.spend.nanos()))
        .bind(column(rows, |row| row.written.held.nanos()))
        .bind(column(rows, |row| count(row.written.admitted)))
        .bind(column(rows, |row| row.written.period_start))
        .bind(column(closed, |window| window.quota_id))
        .bind(column(closed, |window| window.start))
        .bind(column(closed, |window| window.spend.nanos()))
        .bind(column(closed, |window| window.held.nanos()))
        .bind(column(closed, |window| count(window.admitted)))
        .bind(column(reservations, |new| new.id))
        .bind(column(reservations, |new| new.tenant.as_str()))
        .bind(column(reservations, |new| new.user.as_ref().map(UserId::as_str)))
        .bind(column(reservations, |new| new.resource_type.as_str()))
        .bind(column(reservations, |new| new.request_id.as_deref()))
        .bind(column(reservations, |new| new.body.as_str()))
        .bind(column(reservations, |new| new.estimate.nanos()))
        .bind(column(reservations, |new| new.held.nanos()))
        .bind(column(reservations, |new| new.created_at))
        .bind(column(reservations, |new| new.expires_at))
        // Lists of different lengths make no array of two dimensions; as texts they do.
        .bind(column(reservations, |new| list(new.holds.iter().map(|(quota, _)| quota.to_string()))))
        .bind(column(reservations, |new| {
            list(new.holds.iter().map(|(_, start)| format!("\"{}\"", start.to_rfc3339())))
        }))
        .bind(column(reservations, |new| new.policy_name.as_str()))
        .bind(column(reservations, |new| new.policy_digest.as_str()))
        .fetch_one(connection)
        .await;
    match answer {
        // The same request id through another host, after this statement's snapshot was taken, and no quota made it wait.
        Err(sqlx::Error::Database(error)) if error.constraint() == Some(ONCE_PER_REQUEST_ID) => Ok(false),
        answer => Ok(answer?),
    }
}

fn count(admitted: u64) -> i64 {
    i64::try_from(admitted).unwrap_or(i64::MAX)
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("{{{}}}", items.collect::<Vec<_>>().join(","))
}

impl Link {
    /// Commits the admission if everything is as its policies saw it; tells whether it did. One statement.
    ///
    /// # Errors
    /// The database does not answer; then it is not known whether the admission was committed.
    pub async fn admit(&mut self, admission: &Admission, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let admitted = admit(self.connection().await?, admission, now).await;
        self.after(admitted)
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
